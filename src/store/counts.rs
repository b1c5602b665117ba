//! Numbers of live tokens, by org, so that no caller must count the tokens.
//!
//! A live token is a token with a record. The sweep sees all records about once an hour. Between two passes, each record that
//! this process writes or deletes changes the numbers. Until the first pass is complete, a number is not known.
//!
//! An undo, a tidy and the revocation of a lease can each delete the same token, and an undo can delete a token that was never
//! stored. So the numbers are the sizes of sets. A set has a hash of eight bytes for each token.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::names::{ClientId, OrgId};

/// The numbers of live tokens.
#[derive(Default)]
pub(crate) struct TokenCounts(Mutex<State>);

#[derive(Default)]
struct State {
    orgs: HashMap<OrgId, Count>,
    /// Whether a pass over all records is complete. An org without a number then has no tokens.
    is_complete: bool,
    hasher: RandomState,
}

#[derive(Default)]
struct Count {
    /// `None` until the first pass is complete.
    live: Option<HashSet<u64>>,
    /// The pass that counts the tokens of this org.
    pass: Option<Pass>,
}

/// The sweep's pass over the records of one org.
#[derive(Default)]
struct Pass {
    seen: HashSet<u64>,
    /// The records that were deleted during the pass. The sweep can have read them before.
    deleted: HashSet<u64>,
}

impl TokenCounts {
    /// Returns the number of live tokens of an org, if it is known.
    pub(crate) fn live(&self, org: &OrgId) -> Option<usize> {
        let state = self.lock();
        match state.orgs.get(org) {
            Some(count) => count.live.as_ref().map(HashSet::len),
            None => state.is_complete.then_some(0),
        }
    }

    /// Notes that a record was written.
    pub(super) fn stored(&self, org: &OrgId, client: &ClientId) {
        let mut state = self.lock();
        let hash = state.hasher.hash_one(client);
        if state.is_complete && !state.orgs.contains_key(org) {
            state.orgs.insert(org.clone(), Count { live: Some(HashSet::new()), pass: None });
        }
        let Some(count) = state.orgs.get_mut(org) else { return };
        count.live.as_mut().map(|live| live.insert(hash));
        if let Some(pass) = &mut count.pass {
            pass.deleted.remove(&hash);
            pass.seen.insert(hash);
        }
    }

    /// Notes that a record was deleted, or that there is no such record.
    pub(super) fn deleted(&self, org: &OrgId, client: &ClientId) {
        let mut state = self.lock();
        let hash = state.hasher.hash_one(client);
        let Some(count) = state.orgs.get_mut(org) else { return };
        count.live.as_mut().map(|live| live.remove(&hash));
        if let Some(pass) = &mut count.pass {
            pass.seen.remove(&hash);
            pass.deleted.insert(hash);
        }
    }

    /// Begins a pass over the records of an org, before the first of them is read.
    pub(crate) fn begin(&self, org: &OrgId) {
        self.lock().orgs.entry(org.clone()).or_default().pass = Some(Pass::default());
    }

    /// Counts the next record of a pass.
    pub(crate) fn see(&self, org: &OrgId, client: &ClientId) {
        let mut state = self.lock();
        let hash = state.hasher.hash_one(client);
        if let Some(pass) = state.orgs.get_mut(org).and_then(|count| count.pass.as_mut())
            && !pass.deleted.contains(&hash)
        {
            pass.seen.insert(hash);
        }
    }

    /// Ends the pass over the records of an org.
    pub(crate) fn end(&self, org: &OrgId) {
        if let Some(count) = self.lock().orgs.get_mut(org)
            && let Some(pass) = count.pass.take()
        {
            count.live = Some(pass.seen);
        }
    }

    /// Notes that a pass over the records of all orgs is complete.
    pub(crate) fn complete(&self) {
        self.lock().is_complete = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ClientId {
        ClientId::stored(text)
    }

    /// The sweep reads a page of records at once, and records of the page change before the sweep counts them.
    #[test]
    fn a_pass_counts_the_changes_of_records_that_were_read_and_of_those_that_were_not() {
        let (counts, org) = (TokenCounts::default(), OrgId::stored("org"));
        assert_eq!(counts.live(&org), None);
        counts.begin(&org);
        counts.see(&org, &id("b"));
        counts.see(&org, &id("d"));
        counts.stored(&org, &id("a"));
        counts.stored(&org, &id("e"));
        counts.deleted(&org, &id("b"));
        counts.deleted(&org, &id("g"));
        for client in ["e", "f", "g"] {
            counts.see(&org, &id(client));
        }
        assert_eq!(counts.live(&org), None, "the pass is not complete");
        counts.end(&org);
        assert_eq!(counts.live(&org), Some(4), "a, d, e and f");
        counts.begin(&org);
        assert_eq!(counts.live(&org), Some(4), "the next pass is not complete");
    }

    #[test]
    fn a_token_that_is_stored_or_deleted_twice_counts_once() {
        let (counts, org) = (TokenCounts::default(), OrgId::stored("org"));
        counts.complete();
        assert_eq!(counts.live(&org), Some(0));
        counts.deleted(&org, &id("a"));
        for client in ["a", "b", "a"] {
            counts.stored(&org, &id(client));
        }
        assert_eq!(counts.live(&org), Some(2));
        for client in ["a", "a", "never stored"] {
            counts.deleted(&org, &id(client));
        }
        assert_eq!(counts.live(&org), Some(1));
        counts.stored(&org, &id("a"));
        assert_eq!(counts.live(&org), Some(2));
    }
}
