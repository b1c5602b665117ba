//! Counts the live tokens of each role that has a limit (`max_tokens`).
//!
//! Each counted token has an entry `live/<org_id>/<role_name>/<client_id>`. This entry is written before the token and
//! deleted after the token. If the process stops in between, or storage fails, an entry without a token can remain. So
//! there can be too many entries, but never too few.
//!
//! The cost of a mint does not grow with the number of tokens. A process lists the entries of a role once, at its first
//! mint, and keeps the client ids in memory. After that, a mint writes one small entry; if the role has no limit, it
//! writes none. If the role is full, the mint verifies the counted tokens that may be deleted, each of them once.
//!
//! Two simpler designs do not work. One entry with all client ids of a role would grow with the limit, and could exceed
//! the size limit of an entry. A count in memory only would make each new process read the whole inventory.
//!
//! The inventory is read in one case only: a role write sets a limit, and the role already has tokens.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use vault_plugin_sdk::logical::StorageExt as _;

use super::base::{Store, log_skipped};
use super::entries::{Kind, Role, Token};
use super::keys::{RoleKey, leaves, live_folder, live_key};
use super::roster::{Place, Reserved};
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId, RoleName, from_segment};

/// How many entries are read or written at the same time.
const CONCURRENT: usize = 32;

impl Store {
    /// Reserves a place among the live tokens of a role that has a limit. If the new token replaces a token, that token does
    /// not count, and neither do the replaced tokens that are deleted within seconds: many names can be replaced one after
    /// the other. Other replaced tokens count, so their number has a bound.
    pub(crate) async fn reserve(&self, role: &Role, replaces: Option<&ClientId>) -> Result<Reserved, Error> {
        let (key, limit) = (key_of(role), role.max_tokens as usize);
        let mut leaving = BTreeSet::new();
        if let Some(old) = replaces {
            leaving = self.replaced.ending(&role.org_id);
            leaving.insert(old.clone());
        }
        if let Some(reserved @ Reserved::Place(_)) = self.live.try_reserve(&key, limit, &leaving) {
            return Ok(reserved);
        }
        let load_lock = self.live.track(&key);
        let _guard = load_lock.lock().await;
        loop {
            match self.live.try_reserve(&key, limit, &leaving) {
                None => self.load_roster(&key).await?,
                Some(Reserved::Full { .. }) if self.live.has_unverified(&key) => self.remove_deleted(&key).await?,
                Some(Reserved::Full { live, minting, .. }) => {
                    let replaced = self.live.count(&key, &self.replaced.all(&role.org_id));
                    return Ok(Reserved::Full { live, minting, replaced });
                }
                Some(reserved) => return Ok(reserved),
            }
        }
    }

    /// Returns the number of live tokens and the limit of at most `most` roles, as this process knows them.
    pub(crate) fn known_limits(&self, most: usize) -> Vec<(OrgId, RoleName, [usize; 2])> {
        self.live.limits(most)
    }

    /// Starts counting the new tokens of a role. The caller makes sure that no token is stored during this call.
    pub(crate) fn begin_count(&self, role: &Role) {
        self.live.track(&key_of(role));
    }

    /// Counts the existing tokens of a role.
    pub(crate) async fn count(&self, role: &Role) -> Result<(), Error> {
        let key = key_of(role);
        let counted = self.count_existing(&key).await;
        match &counted {
            Ok(()) => self.live.change(&key, |roster| roster.loaded = true).unwrap_or_default(),
            Err(_) => self.live.forget(&key),
        }
        counted
    }

    /// Stops counting the tokens of a role that has no limit any more. An entry that cannot be deleted does no harm.
    pub(crate) async fn end_count(&self, role: &Role) {
        let key = key_of(role);
        self.live.forget(&key);
        let remove = |client: String| {
            let entry = live_key(&key, &ClientId::stored(from_segment(&client)));
            async move { self.storage.delete(&entry).await }
        };
        let removed = match self.storage.list(&live_folder(&key)).await {
            Ok(clients) => stream::iter(leaves(clients)).map(Ok).try_for_each_concurrent(CONCURRENT, remove).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(org_id = %role.org_id, role_name = %role.role_name, error = %error,
                "left entries that count the tokens of a role without a limit");
        }
    }

    /// Counts a stored token that this engine did not mint, if the role of the token has a limit.
    pub(crate) async fn count_found(&self, org: &OrgId, token: &Token) -> Result<(), Error> {
        self.count_in_role(org, &token.role_name, &token.client_id).await
    }

    pub(super) async fn count_in_role(&self, org: &OrgId, role: &RoleName, client: &ClientId) -> Result<(), Error> {
        let (role, reason) = readable(self.role(org, role).await)?;
        // The limit of a role that cannot be read is not known. When the role is written again, its tokens are counted.
        reason.iter().for_each(log_skipped);
        match role {
            Some(role) if role.max_tokens > 0 => self.count_unverified(&key_of(&role), client.clone()).await,
            _ => Ok(()),
        }
    }

    /// Counts a token before it is stored, if its role has a limit. The role may have got the limit during the mint.
    pub(super) async fn count_new(&self, token: &Token, place: Option<Place>) -> Result<(), Error> {
        let key = (token.org_id.clone(), token.role_name.clone());
        if self.live.count_new(&key, &token.client_id, place) {
            self.storage.put_json(&live_key(&key, &token.client_id), &json!({})).await?;
        }
        Ok(())
    }

    /// Stops counting a deleted token.
    pub(super) async fn uncount(&self, org: &OrgId, client: &ClientId) {
        let Some(key) = self.live.role_of(org, client) else { return };
        if self.storage.delete(&live_key(&key, client)).await.is_ok() {
            self.live.change(&key, |roster| roster.remove(client));
        }
    }

    async fn load_roster(&self, key: &RoleKey) -> Result<(), Error> {
        let clients: Vec<_> = leaves(self.storage.list(&live_folder(key)).await?)
            .map(|client| ClientId::stored(from_segment(&client)))
            .collect();
        self.live.track(key);
        self.live.change(key, |roster| {
            for client in clients {
                roster.add_unverified(client);
            }
            roster.loaded = true;
        });
        Ok(())
    }

    /// Stops counting the unverified tokens that are deleted.
    async fn remove_deleted(&self, key: &RoleKey) -> Result<(), Error> {
        let verification = self.live.verify(key);
        let verify = |client: ClientId| {
            let verification = &verification;
            async move {
                let is_live = self.is_live(&key.0, &client).await?;
                if !is_live {
                    self.storage.delete(&live_key(key, &client)).await?;
                }
                verification.done(&client, is_live);
                Ok::<_, Error>(())
            }
        };
        stream::iter(verification.tokens()).map(Ok).try_for_each_concurrent(CONCURRENT, verify).await
    }

    async fn is_live(&self, org: &OrgId, client: &ClientId) -> Result<bool, Error> {
        // A live token always has a record.
        let (record, reason) = readable(self.record(org, client).await)?;
        // A token whose entries cannot be read may be live.
        let Some(record) = record else { return Ok(reason.is_some()) };
        // If the revocation of a token was interrupted, the token has a record and no entry, and may be live.
        if record.shows_interruption(client) {
            return Ok(true);
        }
        self.may_store(&record.token_id, client).await
    }

    /// Counts the tokens of a role that have a record.
    async fn count_existing(&self, key: &RoleKey) -> Result<(), Error> {
        let mut pages = self.records_of(&key.0, "");
        while let Some(page) = pages.try_next().await? {
            let clients = page
                .into_iter()
                .filter(|(_, record)| record.role_name == key.1 && record.kind == Kind::Lease)
                .map(|(client, _)| Ok(client));
            stream::iter(clients)
                .try_for_each_concurrent(CONCURRENT, |client| self.count_unverified(key, client))
                .await?;
        }
        Ok(())
    }

    async fn count_unverified(&self, key: &RoleKey, client: ClientId) -> Result<(), Error> {
        // Counted in memory first: if the host drops this future, the entry may be stored.
        self.live.change(key, |roster| roster.add_unverified(client.clone()));
        Ok(self.storage.put_json(&live_key(key, &client), &json!({})).await?)
    }
}

fn key_of(role: &Role) -> RoleKey {
    (role.org_id.clone(), role.role_name.clone())
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use serde_json::Value;
    use vault_plugin_sdk::logical::Storage as _;
    use vault_plugin_sdk::testing::{HostFault, MemoryStorage, mount};

    use super::super::entries::Record;
    use super::*;

    fn role(org: &str, max_tokens: u32) -> Role {
        let role = Role::new(OrgId::stored(org), RoleName::stored("reader"), "id".to_owned());
        Role { max_tokens, ..role }
    }

    fn token(org: &str, client: &str) -> Token {
        let token = json!({"clientId": client, "secret": "s", "orgId": org, "roleName": "reader", "roles": [],
            "token": "t", "generatedOn": "", "logicalName": "", "metadata": Value::Null});
        serde_json::from_value(token).unwrap()
    }

    /// A store with a role that has a limit of one token, and with that token.
    async fn full() -> (Store, Arc<MemoryStorage>) {
        let (mount, storage, _) = mount();
        let store = Store::new(&mount);
        assert!(put(&store, "org", "client").await);
        (store, storage)
    }

    /// Stores a token as a mint does, if its role is not full.
    async fn put(store: &Store, org: &str, client: &str) -> bool {
        let Reserved::Place(place) = store.reserve(&role(org, 1), None).await.unwrap() else { return false };
        let token = token(org, client);
        store.put_token(client, &token, &Record::of(client, &token), Some(place)).await.unwrap();
        true
    }

    async fn delete(store: &Store, client: &str) -> Result<(), Error> {
        store.delete_token(client, &OrgId::stored("org"), &ClientId::stored(client)).await
    }

    /// Drops a future while its n-th storage call hangs after its effect. Returns false if it makes fewer calls.
    async fn is_dropped_at(n: usize, storage: &MemoryStorage, work: impl Future) -> bool {
        storage.inject(HostFault::HangsAt(n));
        let is_dropped = tokio::time::timeout(Duration::from_millis(2), work).await.is_err();
        storage.heal();
        is_dropped
    }

    /// The host drops a tick that deletes a token. The next tick finds no token, and does nothing.
    #[tokio::test]
    async fn a_dropped_deletion_loses_no_place() {
        for n in 1.. {
            let (store, storage) = full().await;
            if !is_dropped_at(n, &storage, delete(&store, "client")).await {
                assert!(n > 3, "a deletion makes {n} storage calls");
                break;
            }
            if storage.keys().iter().any(|key| key.starts_with("token/") || key.starts_with("client/")) {
                delete(&store, "client").await.unwrap();
            }
            assert!(put(&store, "org", "next").await, "dropped at call {n}");
        }
    }

    /// The caller of a mint hangs up while the counted tokens are verified.
    #[tokio::test]
    async fn a_dropped_verification_loses_no_place() {
        for n in 1.. {
            let (store, storage) = full().await;
            // The deletion of the token reached the storage, but not its answer.
            for key in storage.keys().into_iter().filter(|key| !key.starts_with("live/")) {
                storage.delete(&key).await.unwrap();
            }
            store.invalidate("client/org/client");
            if !is_dropped_at(n, &storage, store.reserve(&role("org", 1), None)).await {
                assert!(n > 2, "a verification makes {n} storage calls");
                break;
            }
            assert!(put(&store, "org", "next").await, "dropped at call {n}");
        }
    }

    /// The tick finds a token of a role with a limit, and the host drops the tick.
    #[tokio::test]
    async fn a_found_token_is_counted_also_if_the_tick_is_dropped() {
        let (store, storage) = full().await;
        delete(&store, "client").await.unwrap();
        store.put_role(&role("org", 1)).await.unwrap();
        let found = token("org", "found");
        let org = OrgId::stored("org");
        storage.put_json("token/found", &found).await.unwrap();
        store.put_record(&org, &found.client_id, &Record::of("found", &found)).await.unwrap();
        assert!(is_dropped_at(2, &storage, store.count_found(&org, &found)).await);
        assert!(!put(&store, "org", "next").await, "the role has two tokens");
    }

    /// Prints the time of deletions in a mount with many limited roles. Times depend on the machine, so it has no bar.
    #[tokio::test]
    async fn deletions_do_not_wait_for_the_rosters_of_other_orgs() {
        for others in [10, 10_000] {
            let (mount, ..) = mount();
            let store = Store::new(&mount);
            for n in 0..others {
                store.begin_count(&role(&format!("org{n}"), 1));
            }
            let start = Instant::now();
            for n in 0..200 {
                delete(&store, &format!("client{n}")).await.unwrap();
            }
            println!("200 deletions with {others} limited roles of other orgs: {:?}", start.elapsed());
        }
    }
}
