//! The revocations that this process did not complete.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::names::{ClientId, OrgId};

/// The most interrupted revocations that a process remembers. The retries of the host, or the next process, finish the
/// others.
const MOST_NOTED: usize = 100_000;

/// The tokens of the revocations that this process did not complete.
#[derive(Default)]
pub(crate) struct Interrupted(Mutex<BTreeSet<(OrgId, ClientId)>>);

impl Interrupted {
    /// Notes a revocation, so that the next tick finishes it.
    pub(crate) fn note(&self, org: &OrgId, client: &ClientId) {
        let mut noted = self.lock();
        if noted.len() < MOST_NOTED {
            noted.insert((org.clone(), client.clone()));
        }
    }

    /// Forgets a revocation.
    pub(crate) fn forget(&self, org: &OrgId, client: &ClientId) {
        self.lock().remove(&(org.clone(), client.clone()));
    }

    /// Whether a revocation was noted.
    pub(crate) fn contains(&self, org: &OrgId, client: &ClientId) -> bool {
        self.lock().contains(&(org.clone(), client.clone()))
    }

    /// Returns the tokens of the noted revocations.
    pub(crate) fn noted(&self) -> Vec<(OrgId, ClientId)> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<(OrgId, ClientId)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
