//! Locks by name, for engines that read a stored value before they write it.
//!
//! Architecture invariant: a name that nobody holds or waits for uses no memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

type Held = HashMap<String, Arc<RwLock<()>>>;

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
    _lock: Lock,
    _claim: Claim,
}

#[expect(dead_code, reason = "the guards are only held")]
enum Lock {
    Exclusive(OwnedRwLockWriteGuard<()>),
    Shared(OwnedRwLockReadGuard<()>),
}

/// A holder of a lock, or a waiter.
struct Claim {
    locks: KeyedLocks,
    name: String,
    lock: Arc<RwLock<()>>,
}

impl KeyedLocks {
    /// Waits for the lock of this name, and holds it alone.
    pub async fn lock(&self, name: impl Into<String>) -> KeyedGuard {
        let claim = self.claim(name.into());
        KeyedGuard { _lock: Lock::Exclusive(claim.lock.clone().write_owned().await), _claim: claim }
    }

    /// Waits for the lock of this name, and holds it together with other callers of `share`.
    pub async fn share(&self, name: impl Into<String>) -> KeyedGuard {
        let claim = self.claim(name.into());
        KeyedGuard { _lock: Lock::Shared(claim.lock.clone().read_owned().await), _claim: claim }
    }

    fn claim(&self, name: String) -> Claim {
        let lock = self.held().entry(name.clone()).or_default().clone();
        Claim { locks: self.clone(), name, lock }
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

    #[tokio::test]
    async fn a_shared_name_excludes_only_the_callers_that_hold_it_alone() {
        let locks = KeyedLocks::default();
        let is_free = async |name| tokio::time::timeout(Duration::from_millis(5), locks.lock(name)).await.is_ok();
        let shared = (locks.share("a").await, locks.share("a").await);
        assert!(!is_free("a").await && is_free("b").await);
        drop(shared);
        let alone = locks.lock("a").await;
        assert!(tokio::time::timeout(Duration::from_millis(5), locks.share("a")).await.is_err());
        drop(alone);
        drop(locks.share("a").await);
        assert!(locks.held().is_empty());
    }
}
