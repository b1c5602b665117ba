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

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;

use super::{Role, Store, Token, leaves, role_key};
use crate::astra::error::Error;
use crate::astra::names::{ClientId, OrgId, RoleName, from_segment, segment};
use crate::sdk::logical::StorageExt as _;

pub(super) const LIVE: &str = "live/";

/// How many entries are read or written at the same time.
const CONCURRENT: usize = 32;

type RoleKey = (OrgId, RoleName);

/// The rosters of the roles that have a limit.
#[derive(Default)]
pub(super) struct Live {
    rosters: Mutex<HashMap<RoleKey, Roster>>,
}

/// The live tokens of one role.
#[derive(Default)]
struct Roster {
    /// Whether `ids` holds every stored entry of the role.
    loaded: bool,
    ids: BTreeSet<ClientId>,
    /// The ids in `ids` whose token may be deleted.
    unverified: BTreeSet<ClientId>,
    /// Each unfinished mint holds a clone, so the strong count is the number of unfinished mints plus one.
    places: Arc<()>,
    /// Held while the entries are loaded or verified.
    load_lock: Arc<tokio::sync::Mutex<()>>,
}

/// A reserved place among the live tokens of a role, for a token that is not stored yet. Dropping it frees the place.
pub(crate) struct Place(#[expect(dead_code, reason = "only its clones are counted")] Arc<()>);

/// The result of a reservation.
pub(crate) enum Reserved {
    /// The role has fewer live tokens than its limit.
    Place(Place),
    /// The role has as many live tokens as its limit allows.
    Full {
        /// Number of live tokens.
        live: usize,
        /// Number of unfinished mints.
        minting: usize,
    },
}

impl Store {
    /// Reserves a place among the live tokens of a role that has a limit.
    pub(crate) async fn reserve(&self, role: &Role) -> Result<Reserved, Error> {
        let (key, limit) = (key_of(role), role.max_tokens as usize);
        if let Some(reserved @ Reserved::Place(_)) = self.live.try_reserve(&key, limit) {
            return Ok(reserved);
        }
        let load_lock = self.live.track(&key);
        let _guard = load_lock.lock().await;
        loop {
            match self.live.try_reserve(&key, limit) {
                None => self.load_roster(&key).await?,
                Some(Reserved::Full { .. }) if self.live.has_unverified(&key) => self.remove_deleted(&key).await?,
                Some(reserved) => return Ok(reserved),
            }
        }
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
            let entry = entry(&key, &ClientId::stored(from_segment(&client)));
            async move { self.storage.delete(&entry).await }
        };
        let removed = match self.storage.list(&folder(&key)).await {
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
        match self.role(org, &token.role_name).await? {
            Some(role) if role.max_tokens > 0 => self.count_unverified(&key_of(&role), token.client_id.clone()).await,
            _ => Ok(()),
        }
    }

    /// Counts a token before it is stored, if its role has a limit. The role may have got the limit during the mint.
    pub(super) async fn count_new(&self, token: &Token, place: Option<Place>) -> Result<(), Error> {
        let key = (token.org_id.clone(), token.role_name.clone());
        if self.live.count_new(&key, &token.client_id, place) {
            self.storage.put_json(&entry(&key, &token.client_id), &json!({})).await?;
        }
        Ok(())
    }

    /// Stops counting a deleted token. If the token may still exist, marks it as unverified.
    pub(super) async fn uncount(&self, org: &OrgId, client: &ClientId, is_deleted: bool) {
        let Some(key) = self.live.role_of(org, client) else { return };
        if is_deleted && self.storage.delete(&entry(&key, client)).await.is_ok() {
            self.live.change(&key, |roster| roster.remove(client));
        } else {
            self.live.mark_unverified(org, client);
        }
    }

    async fn load_roster(&self, key: &RoleKey) -> Result<(), Error> {
        let clients: Vec<_> = leaves(self.storage.list(&folder(key)).await?)
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
        let unverified = self.live.change(key, |roster| mem::take(&mut roster.unverified)).unwrap_or_default();
        let verify = |client: ClientId| async move {
            if !self.is_live(&key.0, &client).await? {
                self.storage.delete(&entry(key, &client)).await?;
                self.live.change(key, |roster| roster.remove(&client));
            }
            Ok::<_, Error>(())
        };
        let verified = stream::iter(unverified.clone()).map(Ok).try_for_each_concurrent(CONCURRENT, verify).await;
        if verified.is_err() {
            self.live.change(key, |roster| {
                let left: BTreeSet<_> = unverified.intersection(&roster.ids).cloned().collect();
                roster.unverified.extend(left);
            });
        }
        verified
    }

    async fn is_live(&self, org: &OrgId, client: &ClientId) -> Result<bool, Error> {
        // A live token always has a record.
        let Some(record) = self.record(org, client).await? else { return Ok(false) };
        Ok(self.token(&record.token_id).await?.is_some_and(|token| token.client_id == *client))
    }

    /// Counts the tokens of a role that have a record.
    async fn count_existing(&self, key: &RoleKey) -> Result<(), Error> {
        let mut after = Some(String::new());
        while let Some(start) = after {
            let (page, next) = self.records_of(&key.0, &start).await?;
            let clients =
                page.into_iter().filter(|(_, record)| record.role_name == key.1).map(|(client, _)| Ok(client));
            stream::iter(clients)
                .try_for_each_concurrent(CONCURRENT, |client| self.count_unverified(key, client))
                .await?;
            after = next;
        }
        Ok(())
    }

    async fn count_unverified(&self, key: &RoleKey, client: ClientId) -> Result<(), Error> {
        self.storage.put_json(&entry(key, &client), &json!({})).await?;
        self.live.change(key, |roster| roster.add_unverified(client));
        Ok(())
    }
}

impl Live {
    /// Marks as unverified, or drops, the data that another node may have changed with this key.
    pub(super) fn invalidate(&self, key: &str) {
        let mut parts = key.splitn(4, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("live"), Some(org), Some(role)) => {
                let key = (OrgId::stored(from_segment(org)), RoleName::stored(from_segment(role)));
                self.lock().get_mut(&key).into_iter().for_each(Roster::require_reload);
            }
            // The role may have no limit any more. If it has one, the next mint loads its entries again.
            (Some("role"), Some(_), _) => {
                let is_changed = |role: &RoleKey| role_key(&role.0, &role.1) == key;
                self.lock().retain(|key, roster| !is_changed(key) || Arc::strong_count(&roster.places) > 1);
            }
            (Some("client"), Some(org), Some(client)) => {
                self.mark_unverified(&OrgId::stored(from_segment(org)), &ClientId::stored(from_segment(client)));
            }
            _ => self.lock().values_mut().for_each(Roster::require_reload),
        }
    }

    /// Reserves a place, if the role is not full. Returns `None` if the roster is not loaded.
    fn try_reserve(&self, key: &RoleKey, limit: usize) -> Option<Reserved> {
        let rosters = self.lock();
        let roster = rosters.get(key).filter(|roster| roster.loaded)?;
        let (live, minting) = (roster.ids.len(), Arc::strong_count(&roster.places) - 1);
        if live + minting < limit {
            return Some(Reserved::Place(Place(roster.places.clone())));
        }
        Some(Reserved::Full { live, minting })
    }

    /// Counts a token, and frees the place of its mint. Returns whether the token needs an entry.
    fn count_new(&self, key: &RoleKey, client: &ClientId, place: Option<Place>) -> bool {
        let mut rosters = self.lock();
        let has_place = place.is_some();
        // Dropped under the lock. Otherwise another mint could get the place before the token is counted.
        drop(place);
        let Some(roster) = rosters.get_mut(key) else { return has_place };
        roster.unverified.remove(client);
        roster.ids.insert(client.clone());
        true
    }

    fn role_of(&self, org: &OrgId, client: &ClientId) -> Option<RoleKey> {
        let rosters = self.lock();
        let mut found = rosters.iter().filter(|(key, roster)| key.0 == *org && roster.ids.contains(client));
        found.next().map(|(key, _)| key.clone())
    }

    fn mark_unverified(&self, org: &OrgId, client: &ClientId) {
        for (key, roster) in &mut *self.lock() {
            if key.0 == *org && roster.ids.contains(client) {
                roster.unverified.insert(client.clone());
            }
        }
    }

    /// Starts tracking the live tokens of a role. Returns the mutex to hold while they are loaded or verified.
    fn track(&self, key: &RoleKey) -> Arc<tokio::sync::Mutex<()>> {
        self.lock().entry(key.clone()).or_default().load_lock.clone()
    }

    fn has_unverified(&self, key: &RoleKey) -> bool {
        self.lock().get(key).is_some_and(|roster| !roster.unverified.is_empty())
    }

    fn change<T>(&self, key: &RoleKey, change: impl FnOnce(&mut Roster) -> T) -> Option<T> {
        self.lock().get_mut(key).map(change)
    }

    fn forget(&self, key: &RoleKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RoleKey, Roster>> {
        self.rosters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Roster {
    fn add_unverified(&mut self, client: ClientId) {
        if self.ids.insert(client.clone()) {
            self.unverified.insert(client);
        }
    }

    fn remove(&mut self, client: &ClientId) {
        self.ids.remove(client);
        self.unverified.remove(client);
    }

    /// Makes the next mint load the entries again. If the role is full then, all its tokens are verified.
    fn require_reload(&mut self) {
        self.loaded = false;
        self.unverified.clone_from(&self.ids);
    }
}

fn key_of(role: &Role) -> RoleKey {
    (role.org_id.clone(), role.role_name.clone())
}

pub(super) fn entry(role: &RoleKey, client: &ClientId) -> String {
    format!("{}{}", folder(role), segment(client.as_str()))
}

fn folder((org, role): &RoleKey) -> String {
    format!("{LIVE}{}/{}/", segment(org.as_str()), segment(role.as_str()))
}
