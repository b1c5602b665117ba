//! The Astra roles of a role.
//!
//! The Go plugin and older versions know one Astra role only, in the member `role_id`.

use std::collections::BTreeSet;

use super::entries::Role;

impl Role {
    /// Returns the ids of the roles in Astra. If an older version or the Go plugin has changed `role_id`, that id replaces all.
    pub(crate) fn role_ids(&self) -> &[String] {
        if self.role_ids.first() == Some(&self.role_id) { &self.role_ids } else { std::slice::from_ref(&self.role_id) }
    }

    /// Sets the ids of the roles in Astra. Each id counts once.
    pub(crate) fn set_role_ids(&mut self, ids: Vec<String>) {
        let mut seen = BTreeSet::new();
        let ids: Vec<String> = ids.into_iter().filter(|id| seen.insert(id.clone())).collect();
        let Some(first) = ids.first() else { return };
        self.role_id.clone_from(first);
        self.role_ids = if ids.len() > 1 { ids } else { Vec::new() };
    }

    /// Whether the role has several Astra roles.
    pub(crate) fn has_several(&self) -> bool {
        self.role_ids().len() > 1
    }

    /// Whether one of the Astra roles is not among those that Astra lists, by their ids in lower case.
    pub(crate) fn lacks_one_of(&self, listed: &BTreeSet<String>) -> bool {
        self.role_ids().iter().any(|id| !listed.contains(&id.to_ascii_lowercase()))
    }
}
