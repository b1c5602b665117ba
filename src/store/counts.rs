//! Numbers of live tokens, by org, so that no caller must count the tokens.
//!
//! The sweep counts while it checks all records, about once an hour. Between two passes, each mint and each deletion of this
//! process changes the numbers. Until the first pass is complete, a number is not known.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::names::{ClientId, OrgId};

/// How many deletions are remembered. A lease whose token was deleted is revoked later, which deletes the token once more.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(8192).unwrap();

/// The numbers of live tokens.
pub(crate) struct TokenCounts(Mutex<State>);

struct State {
    orgs: HashMap<OrgId, Count>,
    /// Whether a pass over all records is complete. An org without a number then has no tokens.
    is_complete: bool,
    deleted: LruCache<ClientId, ()>,
}

#[derive(Default)]
struct Count {
    /// `None` until the first pass is complete.
    live: Option<u64>,
    /// The pass that counts the tokens of this org.
    pass: Option<Pass>,
}

/// The sweep's pass over the records of one org, which are in order of their client ids.
struct Pass {
    last: ClientId,
    seen: u64,
}

impl TokenCounts {
    /// Returns the number of live tokens of an org, if it is known.
    pub(crate) fn live(&self, org: &OrgId) -> Option<u64> {
        let state = self.lock();
        match state.orgs.get(org) {
            Some(count) => count.live,
            None => state.is_complete.then_some(0),
        }
    }

    /// Counts a new token.
    pub(super) fn added(&self, org: &OrgId, client: &ClientId) {
        let mut state = self.lock();
        state.deleted.pop(client);
        state.change(org, client, 1);
    }

    /// Counts the deletion of a token.
    pub(super) fn removed(&self, org: &OrgId, client: &ClientId) {
        let mut state = self.lock();
        if state.deleted.put(client.clone(), ()).is_none() {
            state.change(org, client, -1);
        }
    }

    /// Begins a pass over the records of an org.
    pub(crate) fn begin(&self, org: &OrgId) {
        let pass = Pass { last: ClientId::default(), seen: 0 };
        self.lock().orgs.entry(org.clone()).or_default().pass = Some(pass);
    }

    /// Counts the next record of a pass.
    pub(crate) fn see(&self, org: &OrgId, client: &ClientId) {
        if let Some(pass) = self.lock().orgs.get_mut(org).and_then(|count| count.pass.as_mut()) {
            pass.last.clone_from(client);
            pass.seen += 1;
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

impl Default for TokenCounts {
    fn default() -> Self {
        // A bounded cache would allocate its memory at once.
        let mut deleted = LruCache::unbounded();
        deleted.resize(REMEMBERED);
        Self(Mutex::new(State { orgs: HashMap::new(), is_complete: false, deleted }))
    }
}

impl State {
    fn change(&mut self, org: &OrgId, client: &ClientId, by: i64) {
        if self.is_complete && !self.orgs.contains_key(org) {
            self.orgs.insert(org.clone(), Count { live: Some(0), pass: None });
        }
        let Some(count) = self.orgs.get_mut(org) else { return };
        if let Some(live) = &mut count.live {
            *live = live.saturating_add_signed(by);
        }
        // The pass sees a later token itself, or does not find it.
        if let Some(pass) = count.pass.as_mut().filter(|pass| *client <= pass.last) {
            pass.seen = pass.seen.saturating_add_signed(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ClientId {
        ClientId::stored(text)
    }

    #[test]
    fn a_pass_counts_changes_before_its_position_and_none_after() {
        let (counts, org) = (TokenCounts::default(), OrgId::stored("org"));
        assert_eq!(counts.live(&org), None);
        counts.begin(&org);
        counts.see(&org, &id("b"));
        counts.see(&org, &id("d"));
        counts.added(&org, &id("a"));
        counts.added(&org, &id("e"));
        counts.removed(&org, &id("b"));
        counts.see(&org, &id("e"));
        assert_eq!(counts.live(&org), None, "the pass is not complete");
        counts.end(&org);
        assert_eq!(counts.live(&org), Some(3), "a, d and e");
    }

    #[test]
    fn a_token_that_is_deleted_twice_counts_once() {
        let (counts, org) = (TokenCounts::default(), OrgId::stored("org"));
        counts.complete();
        assert_eq!(counts.live(&org), Some(0));
        for client in ["a", "b"] {
            counts.added(&org, &id(client));
        }
        counts.removed(&org, &id("a"));
        counts.removed(&org, &id("a"));
        assert_eq!(counts.live(&org), Some(1));
        counts.added(&org, &id("a"));
        counts.removed(&org, &id("a"));
        assert_eq!(counts.live(&org), Some(1));
    }
}
