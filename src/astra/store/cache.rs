//! A bounded cache of stored entries that never goes stale.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Entries that were read from storage. Nothing is known of those that are not in here.
pub(super) struct Cache<V> {
    state: Mutex<State<V>>,
}

struct State<V> {
    entries: LruCache<String, Arc<V>>,
    /// Counts the changes. A value that was loaded before a change is not kept after it.
    generation: u64,
}

/// What a load is begun with: proof that nothing changed since.
#[derive(Clone, Copy)]
pub(super) struct Ticket(u64);

impl<V> Cache<V> {
    /// Returns an empty cache for this many entries.
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self { state: Mutex::new(State { entries: LruCache::new(capacity), generation: 0 }) }
    }

    /// Returns an entry, or what a load of it has to begin with.
    pub(super) fn get(&self, key: &str) -> Result<Arc<V>, Ticket> {
        let mut state = self.lock();
        state.entries.get(key).cloned().ok_or(Ticket(state.generation))
    }

    /// Keeps what was loaded, unless something changed since the load began.
    pub(super) fn insert(&self, key: &str, value: &Arc<V>, ticket: Ticket) {
        let mut state = self.lock();
        if state.generation == ticket.0 {
            state.entries.put(key.to_owned(), value.clone());
        }
    }

    /// Forgets an entry that has changed.
    pub(super) fn forget(&self, key: &str) {
        let mut state = self.lock();
        state.generation += 1;
        state.entries.pop(key);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.generation += 1;
        state.entries.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State<V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache() -> Cache<u8> {
        Cache::new(NonZeroUsize::new(2).expect("not zero"))
    }

    #[test]
    fn a_value_that_was_loaded_before_a_change_is_not_kept() {
        let cache = cache();
        let Err(ticket) = cache.get("a") else { panic!("empty") };
        cache.forget("a");
        cache.insert("a", &Arc::new(1), ticket);
        assert!(cache.get("a").is_err());
    }

    #[test]
    fn it_is_bounded_and_forgets_what_changed() {
        let cache = cache();
        for key in ["a", "b", "c"] {
            let Err(ticket) = cache.get(key) else { panic!("empty") };
            cache.insert(key, &Arc::new(1), ticket);
        }
        assert!(cache.get("a").is_err() && cache.get("b").is_ok() && cache.get("c").is_ok());
        cache.forget("b");
        assert!(cache.get("b").is_err() && cache.get("c").is_ok());
        cache.clear();
        assert!(cache.get("c").is_err());
    }

    /// What happens to one entry, in pieces that other requests and other nodes come between.
    #[derive(Clone, Debug)]
    enum Step {
        /// This request asks the cache.
        Ask(usize),
        /// This request, which found nothing in the cache, reads the storage.
        Load(usize),
        /// This request keeps what it read.
        Keep(usize),
        /// A request of this node, or another node, writes the storage.
        Write,
        /// The cache hears of the oldest change that it has not heard of.
        Hear,
        /// Other entries come and go.
        Crowd,
    }

    fn step() -> impl Strategy<Value = Step> {
        let request = 0..4_usize;
        prop_oneof![
            request.clone().prop_map(Step::Ask),
            request.clone().prop_map(Step::Load),
            request.prop_map(Step::Keep),
            Just(Step::Write),
            Just(Step::Hear),
            Just(Step::Crowd),
        ]
    }

    proptest! {
        /// Once a change was heard of, no request gets what was there before it, whatever was under way meanwhile.
        #[test]
        fn no_order_of_reads_writes_and_invalidations_leaves_an_old_value(steps in proptest::collection::vec(step(), 0..60)) {
            let cache = cache();
            let (mut stored, mut heard) = (0_u8, 0_u8);
            let mut requests: [(Option<Ticket>, Option<Arc<u8>>); 4] = [(None, None), (None, None), (None, None), (None, None)];
            for step in steps {
                match step {
                    Step::Ask(n) => match cache.get("key") {
                        Ok(value) => {
                            prop_assert!(*value >= heard, "{} after a change to {} was heard of", value, heard);
                            requests[n] = (None, None);
                        }
                        Err(ticket) => requests[n] = (Some(ticket), None),
                    },
                    Step::Load(n) if requests[n].0.is_some() => requests[n].1 = Some(Arc::new(stored)),
                    Step::Keep(n) => {
                        if let (Some(ticket), Some(value)) = std::mem::take(&mut requests[n]) {
                            cache.insert("key", &value, ticket);
                        }
                    }
                    Step::Write => stored += 1,
                    Step::Hear if heard < stored => {
                        heard += 1;
                        cache.forget("key");
                    }
                    Step::Crowd => {
                        for other in ["one", "two"] {
                            if let Err(ticket) = cache.get(other) {
                                cache.insert(other, &Arc::new(0), ticket);
                            }
                        }
                    }
                    Step::Load(_) | Step::Hear => {}
                }
            }
        }
    }
}
