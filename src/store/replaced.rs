//! The tokens that newer tokens have replaced, as this process knows them.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::names::{ClientId, OrgId};

/// The most replaced tokens that a process remembers. A pass of the sweep finds the others.
const MOST_NOTED: usize = 100_000;

/// The replaced tokens that this process knows, with the times of their ends.
#[derive(Default)]
pub(crate) struct Replaced(Mutex<BTreeMap<(OrgId, ClientId), Timestamp>>);

impl Replaced {
    /// Notes a replaced token, so that a tick deletes it at its end.
    pub(crate) fn note(&self, org: &OrgId, client: &ClientId, end: Timestamp) {
        let mut noted = self.lock();
        if noted.len() < MOST_NOTED {
            noted.insert((org.clone(), client.clone()), end);
        }
    }

    /// Forgets a token that is deleted, or has its name again.
    pub(crate) fn forget(&self, org: &OrgId, client: &ClientId) {
        self.lock().remove(&(org.clone(), client.clone()));
    }

    /// Returns the tokens whose end has come.
    pub(crate) fn due(&self) -> Vec<(OrgId, ClientId)> {
        let now = Timestamp::now();
        self.lock().iter().filter(|(_, end)| **end <= now).map(|(token, _)| token.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(OrgId, ClientId), Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
