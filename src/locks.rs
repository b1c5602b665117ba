//! The locks of a mount: every lock that is held across a call of storage or Astra, except those inside the store.
//!
//! | lock | guards | held by | held across calls of Astra |
//! | --- | --- | --- | --- |
//! | [`rotation`](Locks::rotation) | the rotations of one org | a rotation of the root token, from the first call to the last | yes, of this org |
//! | [`role`](Locks::role) | one stored role | each change of a role, from the read to the write | no |
//! | [`token`](Locks::token) | one stored token and its record | the mint of a named token until the caller has the token, the revocation and deletion of a token, an undo, a change of the record | yes, of this org |
//! | [`configs`](Locks::configs) | all configs, because no two configs may have the same logical name | each change of a config, from the read to the write | no |
//! | [`storing_token`](Locks::storing_token) | the set of stored tokens: shared by those who store a token, exclusive for those who need that set to stand still | a mint while it stores its token; the deletion of a config; a role that gets a limit | no |
//!
//! Whoever needs several of them takes them in the order of this table. So no two tasks wait for each other.

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
    /// Waits for the rotations of an org.
    pub(crate) async fn rotation(&self, org: &OrgId) -> KeyedGuard {
        self.keyed.lock(format!("rotation/{org}")).await
    }

    /// Waits for a role.
    pub(crate) async fn role(&self, org: &OrgId, name: &RoleName) -> KeyedGuard {
        self.keyed.lock(format!("role/{org}:{name}")).await
    }

    /// Waits for a stored token. `id` is the id of the token in Vault.
    pub(crate) async fn token(&self, id: &str) -> KeyedGuard {
        self.keyed.lock(format!("token/{id}")).await
    }

    /// Waits for all configs.
    pub(crate) async fn configs(&self) -> KeyedGuard {
        self.keyed.lock("configs").await
    }

    /// Waits until tokens may be stored. The config of the token stays until the guard is dropped.
    pub(crate) async fn storing_token(&self) -> RwLockReadGuard<'_, ()> {
        self.stored_tokens.read().await
    }

    /// Waits until no token is being stored. None is stored until the guard is dropped.
    pub(crate) async fn no_token_stored(&self) -> RwLockWriteGuard<'_, ()> {
        self.stored_tokens.write().await
    }
}
