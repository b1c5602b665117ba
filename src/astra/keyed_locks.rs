//! KeyedLocks by name, for those who read before they write. A lock that nobody has or waits for takes no room.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// KeyedLocks by name.
#[derive(Default)]
pub(crate) struct KeyedLocks {
    held: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A lock that is held until this is dropped.
pub(crate) struct KeyedGuard {
    // Dropped first: only after it can the claim see that nobody else is there.
    _lock: OwnedMutexGuard<()>,
    _claim: Claim,
}

/// One that has the lock, or waits for it.
struct Claim {
    locks: Arc<KeyedLocks>,
    name: String,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl KeyedLocks {
    /// Waits for the lock of this name.
    pub(crate) async fn lock(self: &Arc<Self>, name: impl Into<String>) -> KeyedGuard {
        let name = name.into();
        let lock = self.held().entry(name.clone()).or_default().clone();
        let claim = Claim { locks: self.clone(), name, lock };
        KeyedGuard { _lock: claim.lock.clone().lock_owned().await, _claim: claim }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        // Two are the map's and this one. New ones are only made under the same lock.
        if Arc::strong_count(&self.lock) == 2 {
            held.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_name_is_held_once_and_leaves_nothing_behind() {
        let locks = Arc::new(KeyedLocks::default());
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        // A waiter that gives up, and one that gets it.
        assert!(tokio::time::timeout(Duration::from_millis(5), locks.lock("a")).await.is_err());
        let waiter = tokio::spawn({
            let locks = locks.clone();
            async move { locks.lock("a").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(first);
        drop(waiter.await.unwrap());
        assert_eq!(locks.held().keys().collect::<Vec<_>>(), ["b"]);
    }
}
