//! The entry `client-index`, whose presence says that the inventory is complete, and the cursor of the sweep.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::names::{ClientId, OrgId};

/// Key of [`ClientIndex`].
pub(super) const CLIENT_INDEX: &str = "client-index";

/// The position of the sweep.
#[derive(Default)]
pub(crate) struct Cursor {
    /// The last token that the sweep has checked; `None` at the start of a pass.
    pub(crate) last: Option<(OrgId, ClientId)>,
    /// The orgs of this pass. `None` means all.
    pub(crate) orgs: Option<BTreeSet<OrgId>>,
    /// The orgs whose tokens could not be deleted in this pass.
    pub(crate) missed: BTreeSet<OrgId>,
    /// Whether this pass began at the first org. The first pass of a process begins at any org.
    pub(crate) is_whole: bool,
    /// Whether a pass of this process has checked all records. Until then, the sweep also looks for revocations that an
    /// earlier process did not complete.
    pub(crate) has_passed: bool,
    /// When the next pass starts.
    pub(crate) rest_until: Option<Instant>,
}

/// The entry `client-index`. Its presence means that every live token has a record, unless it cannot have one.
#[derive(Serialize, Deserialize)]
pub(crate) struct ClientIndex {
    /// Version of the format of the inventory.
    pub(super) version: u32,
    /// Ids of some stored tokens that cannot have a record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) left_out: Vec<String>,
}

/// The entry `client-index`, once it was read or written.
#[derive(Default)]
pub(super) struct Inventory(Mutex<Option<Arc<ClientIndex>>>);

impl Inventory {
    /// Drops the entry, because another node changed it.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn known(&self) -> Option<Arc<ClientIndex>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps the entry in memory.
    pub(super) fn keep(&self, index: ClientIndex) -> Arc<ClientIndex> {
        let index = Arc::new(index);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(index.clone());
        index
    }
}
