//! Finds the orgs of a mount by their names.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::OrgId;

/// The orgs of all configs, by their names.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) ids: BTreeSet<OrgId>,
    /// By the current logical name.
    pub(super) named: BTreeMap<String, BTreeSet<OrgId>>,
    /// By a former logical name.
    pub(super) formerly_named: BTreeMap<String, BTreeSet<OrgId>>,
    /// By Astra's id of the organization, in lower case. If the organization is not known, the key is the empty text.
    pub(super) astra: BTreeMap<String, BTreeSet<OrgId>>,
}

impl Directory {
    /// Whether an org has a config.
    pub(super) fn has(&self, org: &OrgId) -> bool {
        self.ids.contains(org)
    }

    /// Returns all orgs that have a config.
    pub(super) fn ids(&self) -> impl Iterator<Item = &OrgId> {
        self.ids.iter()
    }

    /// Returns the orgs whose configs belong to this organization of Astra.
    pub(super) fn of_astra(&self, astra_org_id: &str) -> impl Iterator<Item = &OrgId> + use<'_> {
        let orgs = if astra_org_id.is_empty() { None } else { self.astra.get(&astra_org_id.to_ascii_lowercase()) };
        orgs.into_iter().flatten()
    }

    /// Returns the orgs whose configs have no known organization.
    pub(super) fn not_known(&self) -> impl Iterator<Item = &OrgId> {
        self.astra.get("").into_iter().flatten()
    }
}
