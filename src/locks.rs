//! The locks of a mount: every lock that is held across a call of the storage or Astra, except the locks inside the
//! store, and the turn of the revocations of an org during an outage (see `outage`), which is taken last.
//!
//! | lock | guards | held by | held across calls of Astra |
//! | --- | --- | --- | --- |
//! | [`tidy`](Locks::tidy) | the tidies of one org | a tidy, from the first call to the last; no other task waits for it | yes, of this org |
//! | [`rotation`](Locks::rotation) | the rotations of one org | a rotation of the root token, from the first call to the last | yes, of this org |
//! | [`static_role`](Locks::static_role) | one static role | a change or a rotation of a static role, from the first call to the last | yes, of this org |
//! | [`role`](Locks::role) | one stored role | each change of a role, from the read to the write; a rotation of a static role that uses it, while it stores the static role | no |
//! | [`token`](Locks::token) | one stored token and its record | the mint of a named token until the caller has the token, the revocation and deletion of a token, an undo, a change of the record | yes, of this org |
//! | [`storing_token`](Locks::storing_token) | the set of stored tokens of one org | shared: a mint while it stores its token; alone: the deletion of a config, and a role that gets a limit | no |
//! | [`configs`](Locks::configs) | all configs, because no two configs may have the same logical name | each change of a config, from the read to the write | no |
//!
//! To prevent deadlocks, a task that needs several locks takes them in the order of this table.

use futures_util::FutureExt as _;
use vault_plugin_sdk::locks::{KeyedGuard, KeyedLocks};

use super::names::{OrgId, RoleName};

/// The locks of one mount.
#[derive(Default)]
pub(crate) struct Locks {
    keyed: KeyedLocks,
}

impl Locks {
    /// Locks the tidies of an org; `None` if a tidy of the org is running.
    pub(crate) fn tidy(&self, org: &OrgId) -> Option<KeyedGuard> {
        // Without the budget of the task: a task that has used it up would not get a free lock.
        tokio::task::unconstrained(self.keyed.lock(format!("tidy/{org}"))).now_or_never()
    }

    /// Locks the rotations of an org.
    pub(crate) async fn rotation(&self, org: &OrgId) -> KeyedGuard {
        self.keyed.lock(format!("rotation/{org}")).await
    }

    /// Locks a static role.
    pub(crate) async fn static_role(&self, org: &OrgId, name: &RoleName) -> KeyedGuard {
        self.keyed.lock(format!("static-role/{org}:{name}")).await
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

    /// Locks the set of stored tokens of an org, shared. Its config is not deleted until the guard is dropped.
    pub(crate) async fn storing_token(&self, org: &OrgId) -> KeyedGuard {
        self.keyed.share(format!("stored/{org}")).await
    }

    /// Locks the set of stored tokens of an org, alone. No token of the org is stored until the guard is dropped.
    pub(crate) async fn no_token_stored(&self, org: &OrgId) -> KeyedGuard {
        self.keyed.lock(format!("stored/{org}")).await
    }
}
