//! A bounded cache of stored entries that never returns an outdated value.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

/// Entries that were read from storage. If an entry is not in the cache, it may still be in storage.
pub(super) struct Cache<V> {
    state: Mutex<State<V>>,
}

struct State<V> {
    entries: LruCache<String, Arc<V>>,
    /// Increases with each change. The cache rejects a value whose load started before the last change.
    generation: Generation,
}

/// The result of a look-up in the cache.
pub(super) enum Cached<V> {
    Hit(Arc<V>),
    /// The entry is not in the cache. After loading the entry, pass the generation to [`Cache::insert`].
    Miss(Generation),
}

/// The number of changes so far.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) struct Generation(u64);

impl<V> Cache<V> {
    /// Returns an empty cache for this many entries.
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self { state: Mutex::new(State { entries: LruCache::new(capacity), generation: Generation::default() }) }
    }

    /// Looks up an entry.
    pub(super) fn get(&self, key: &str) -> Cached<V> {
        let mut state = self.lock();
        match state.entries.get(key) {
            Some(value) => Cached::Hit(value.clone()),
            None => Cached::Miss(state.generation),
        }
    }

    /// Stores a loaded value, unless an entry has changed since the load started.
    pub(super) fn insert(&self, key: &str, value: &Arc<V>, generation: Generation) {
        let mut state = self.lock();
        if state.generation == generation {
            state.entries.put(key.to_owned(), value.clone());
        }
    }

    /// Drops an entry that has changed.
    pub(super) fn forget(&self, key: &str) {
        let mut state = self.lock();
        state.generation.0 += 1;
        state.entries.pop(key);
    }

    /// Drops all entries.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.generation.0 += 1;
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

    fn has(cache: &Cache<u8>, key: &str) -> bool {
        matches!(cache.get(key), Cached::Hit(_))
    }

    #[test]
    fn a_value_loaded_before_a_change_is_not_cached() {
        let cache = cache();
        let Cached::Miss(generation) = cache.get("a") else { panic!("not empty") };
        cache.forget("a");
        cache.insert("a", &Arc::new(1), generation);
        assert!(!has(&cache, "a"));
    }

    #[test]
    fn the_cache_is_bounded_and_drops_changed_entries() {
        let cache = cache();
        for key in ["a", "b", "c"] {
            let Cached::Miss(generation) = cache.get(key) else { panic!("already cached") };
            cache.insert(key, &Arc::new(1), generation);
        }
        assert!(!has(&cache, "a") && has(&cache, "b") && has(&cache, "c"));
        cache.forget("b");
        assert!(!has(&cache, "b") && has(&cache, "c"));
        cache.clear();
        assert!(!has(&cache, "c"));
    }

    /// One step of a request or a change. Steps of different requests and nodes can run in any order.
    #[derive(Clone, Debug)]
    enum Step {
        /// This request looks up the entry in the cache.
        LookUp(usize),
        /// This request has missed the cache, and reads the entry from storage.
        Load(usize),
        /// This request stores the loaded value in the cache.
        Insert(usize),
        /// This node or another node writes the entry to storage.
        Write,
        /// The cache gets the invalidation of the oldest write that it does not know yet.
        Invalidate,
        /// Other entries fill the cache.
        Fill,
    }

    fn step() -> impl Strategy<Value = Step> {
        let request = 0..4_usize;
        prop_oneof![
            request.clone().prop_map(Step::LookUp),
            request.clone().prop_map(Step::Load),
            request.prop_map(Step::Insert),
            Just(Step::Write),
            Just(Step::Invalidate),
            Just(Step::Fill),
        ]
    }

    proptest! {
        /// After the cache got the invalidation of a write, no request gets an older value from the cache.
        #[test]
        fn reads_writes_and_invalidations_in_any_order_leave_no_old_value(steps in proptest::collection::vec(step(), 0..60)) {
            let cache = cache();
            let (mut stored, mut known) = (0_u8, 0_u8);
            let mut requests: [(Option<Generation>, Option<Arc<u8>>); 4] = [(None, None), (None, None), (None, None), (None, None)];
            for step in steps {
                match step {
                    Step::LookUp(n) => match cache.get("key") {
                        Cached::Hit(value) => {
                            prop_assert!(*value >= known, "got {} after the invalidation of {}", value, known);
                            requests[n] = (None, None);
                        }
                        Cached::Miss(generation) => requests[n] = (Some(generation), None),
                    },
                    Step::Load(n) if requests[n].0.is_some() => requests[n].1 = Some(Arc::new(stored)),
                    Step::Insert(n) => {
                        if let (Some(generation), Some(value)) = std::mem::take(&mut requests[n]) {
                            cache.insert("key", &value, generation);
                        }
                    }
                    Step::Write => stored += 1,
                    Step::Invalidate if known < stored => {
                        known += 1;
                        cache.forget("key");
                    }
                    Step::Fill => {
                        for other in ["one", "two"] {
                            if let Cached::Miss(generation) = cache.get(other) {
                                cache.insert(other, &Arc::new(0), generation);
                            }
                        }
                    }
                    Step::Load(_) | Step::Invalidate => {}
                }
            }
        }
    }
}
