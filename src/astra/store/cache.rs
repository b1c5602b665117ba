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
}
