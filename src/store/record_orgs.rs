//! The orgs that have records, so that a page of the inventory does not list them anew.
//!
//! An org whose last record was deleted stays. Searching it in vain does no harm.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::names::OrgId;

/// The orgs that have records, once they were listed.
#[derive(Default)]
pub(super) struct RecordOrgs(Mutex<State>);

#[derive(Default)]
struct State {
    orgs: BTreeSet<OrgId>,
    /// Whether all orgs with records are in `orgs`.
    is_complete: bool,
    /// How often the orgs were forgotten.
    forgotten: u64,
}

/// A list of the orgs that has begun.
pub(super) struct Reading(u64);

impl RecordOrgs {
    /// Returns the orgs, if all are known.
    pub(super) fn known(&self) -> Option<Vec<OrgId>> {
        let state = self.lock();
        state.is_complete.then(|| state.orgs.iter().cloned().collect())
    }

    /// Adds an org that gets a record.
    pub(super) fn add(&self, org: &OrgId) {
        let mut state = self.lock();
        if !state.orgs.contains(org) {
            state.orgs.insert(org.clone());
        }
    }

    /// Drops the orgs: another node may have changed all of them.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        state.forgotten += 1;
        state.is_complete = false;
    }

    /// Begins a list of the orgs. Pass the result to [`RecordOrgs::complete`].
    pub(super) fn read(&self) -> Reading {
        Reading(self.lock().forgotten)
    }

    /// Adds all orgs of a list.
    pub(super) fn complete(&self, reading: Reading, orgs: &[OrgId]) {
        let mut state = self.lock();
        if state.forgotten == reading.0 {
            state.orgs.extend(orgs.iter().cloned());
            state.is_complete = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
