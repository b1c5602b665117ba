//! Locks by name, for engines that read a stored value before they write it.
//!
//! Architecture invariant: a name that nobody holds or waits for uses no memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Held = HashMap<String, Arc<tokio::sync::Mutex<()>>>;

/// Locks by name. Clones share them.
///
/// ```
/// # use vault_plugin_sdk::locks::KeyedLocks;
/// # async fn write(locks: &KeyedLocks) {
/// let _guard = locks.lock("accounts/bob").await;
/// // Read "accounts/bob", change it and write it. No other writer of "accounts/bob" runs here.
/// # }
/// ```
#[derive(Clone, Default)]
pub struct KeyedLocks {
    held: Arc<Mutex<Held>>,
}

/// A held lock. Dropping it releases the lock.
#[must_use = "the lock is released when the guard is dropped"]
pub struct KeyedGuard {
    // Dropped before the claim: the claim then checks whether there are other holders or waiters.
    _lock: OwnedMutexGuard<()>,
    _claim: Claim,
}

/// A holder of a lock, or a waiter.
struct Claim {
    locks: KeyedLocks,
    name: String,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl KeyedLocks {
    /// Waits for the lock of this name.
    pub async fn lock(&self, name: impl Into<String>) -> KeyedGuard {
        let name = name.into();
        let lock = self.held().entry(name.clone()).or_default().clone();
        let claim = Claim { locks: self.clone(), name, lock };
        KeyedGuard { _lock: claim.lock.clone().lock_owned().await, _claim: claim }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut held = self.locks.held();
        // The map and this claim hold one reference each. Only code that holds the map's mutex adds a reference.
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
    async fn a_name_is_held_once_and_leaves_nothing_behind() {
        let locks = KeyedLocks::default();
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        // One waiter gives up, the other gets the lock.
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
