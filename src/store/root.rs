//! What a config stores about its root token, apart from the token itself.

use serde::{Deserialize, Serialize};

use crate::names::ClientId;

/// How many root tokens that operators wrote a config remembers. Each of them is the work of a person, so there are few.
const GIVEN_KEPT: usize = 100;

/// The member `root` of a config.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Root {
    /// Client id of the root token that the engine made in its last rotation. An operator may have written another root
    /// token since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) made: Option<ClientId>,
    /// Client ids of the root tokens that operators wrote and that rotations replaced, the latest one last. A tool that
    /// writes its config again and again still has such a root token after any number of rotations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) given: Vec<ClientId>,
}

impl Root {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Remembers a root token that an operator wrote and that a rotation replaces.
    pub(super) fn remember_given(&mut self, root: &ClientId) {
        self.given.retain(|given| given != root);
        self.given.push(root.clone());
        let surplus = self.given.len().saturating_sub(GIVEN_KEPT);
        self.given.drain(..surplus);
    }
}
