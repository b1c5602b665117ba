//! The locks of a mount: every lock that is held across a call of the storage or Astra, except the locks inside the
//! store.
//!
//! | lock | guards | held by | held across calls of Astra |
//! | --- | --- | --- | --- |
//! | [`rotation`](Locks::rotation) | the rotations of one org | a rotation of the root token, from the first call to the last | yes, of this org |
//! | [`role`](Locks::role) | one stored role | each change of a role, from the read to the write | no |
//! | [`token`](Locks::token) | one stored token and its record | the mint of a named token until the caller has the token, the revocation and deletion of a token, an undo, a change of the record | yes, of this org |
//! | [`configs`](Locks::configs) | all configs, because no two configs may have the same logical name | each change of a config, from the read to the write | no |
//! | [`storing_token`](Locks::storing_token) | the set of stored tokens | shared: a mint while it stores its token; exclusive: the deletion of a config, and a role that gets a limit | no |
//!
//! To prevent deadlocks, a task that needs several locks takes them in the order of this table.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use vault_plugin_sdk::locks::{KeyedGuard, KeyedLocks};

use super::names::{OrgId, RoleName};

/// The locks of one mount.
#[derive(Default)]
pub(crate) struct Locks {
    keyed: KeyedLocks,
    stored_tokens: RwLock<()>,
}

impl Locks {
    /// Locks the rotations of an org.
    pub(crate) async fn rotation(&self, org: &OrgId) -> KeyedGuard {
        self.keyed.lock(format!("rotation/{org}")).await
    }

    /// Locks a role.
    pub(crate) async fn role(&self, org: &OrgId, name: &RoleName) -> KeyedGuard {
        self.keyed.lock(format!("role/{org}:{name}")).await
    }

    /// Locks a stored token. `id` is the id of the token in Vault.
    pub(crate) async fn token(&self, id: &str) -> KeyedGuard {
        self.keyed.lock(format!("token/{id}")).await
    }

    /// Locks all configs.
    pub(crate) async fn configs(&self) -> KeyedGuard {
        self.keyed.lock("configs").await
    }

    /// Locks the set of stored tokens, shared. No config is deleted until the guard is dropped.
    pub(crate) async fn storing_token(&self) -> RwLockReadGuard<'_, ()> {
        self.stored_tokens.read().await
    }

    /// Locks the set of stored tokens, exclusively. No token is stored until the guard is dropped.
    pub(crate) async fn no_token_stored(&self) -> RwLockWriteGuard<'_, ()> {
        self.stored_tokens.write().await
    }
}
