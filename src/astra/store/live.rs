//! The live tokens of the roles that have a limit (`max_tokens`), so that a mint need not look for them.
//!
//! Each has an entry `live/<org_id>/<role_name>/<client_id>`. It is written before its token and removed after it, so there
//! can be too many of them, when a process ends in between or storage fails, and never too few. Their ids are kept in
//! memory, where a process lists them once for each role, at its first mint. So a mint costs one small entry, however
//! many tokens there are, and one of a role without a limit costs nothing. Only when a role is full are the ids
//! looked at whose tokens may be gone: not more than the limit, and each of them once.
//!
//! One entry for each token, and not one with all ids of a role: what a mint writes would grow with the limit, and a role
//! may have more tokens than an entry can hold when it gets its limit. No count in memory alone: each new process would
//! have to read the whole inventory.
//!
//! A role that gets a limit while it has tokens is the one case in which the inventory is read, by the write of the role.

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

/// Entries read or written at the same time.
const CONCURRENT: usize = 32;

type RoleKey = (OrgId, RoleName);

/// What this process knows of the roles that have a limit.
#[derive(Default)]
pub(super) struct Live {
    rosters: Mutex<HashMap<RoleKey, Roster>>,
}

/// The live tokens of one role.
#[derive(Default)]
struct Roster {
    /// Whether `ids` holds all that is stored.
    loaded: bool,
    ids: BTreeSet<ClientId>,
    /// Those of `ids` whose token may be gone.
    unsure: BTreeSet<ClientId>,
    /// Each mint on its way has a clone.
    places: Arc<()>,
    /// Held while entries are listed, or looked at.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A place among the live tokens of a role, for a token that is not stored yet. Free again when it is dropped.
pub(crate) struct Place(#[expect(dead_code, reason = "only its clones are counted")] Arc<()>);

/// What a mint is told of the limit of its role.
pub(crate) enum Reserved {
    /// There is room.
    Place(Place),
    /// There is none.
    Full {
        /// Number of live tokens.
        live: usize,
        /// Number of tokens that are being minted.
        minting: usize,
    },
}

impl Store {
    /// Takes a place among the live tokens of a role that has a limit.
    pub(crate) async fn reserve(&self, role: &Role) -> Result<Reserved, Error> {
        let (key, limit) = (key_of(role), role.max_tokens as usize);
        if let Some(room @ Reserved::Place(_)) = self.live.take(&key, limit) {
            return Ok(room);
        }
        let turn = self.live.open(&key);
        let _turn = turn.lock().await;
        loop {
            match self.live.take(&key, limit) {
                None => self.load_roster(&key).await?,
                Some(Reserved::Full { .. }) if self.live.is_unsure(&key) => self.drop_dead(&key).await?,
                Some(reserved) => return Ok(reserved),
            }
        }
    }

    /// Begins to count the tokens of a role. No token may be stored meanwhile.
    pub(crate) fn begin_count(&self, role: &Role) {
        self.live.open(&key_of(role));
    }

    /// Counts the tokens that a role has already.
    pub(crate) async fn count(&self, role: &Role) -> Result<(), Error> {
        let key = key_of(role);
        let counted = self.note_all(&key).await;
        match &counted {
            Ok(()) => self.live.change(&key, |roster| roster.loaded = true).unwrap_or_default(),
            Err(_) => self.live.forget(&key),
        }
        counted
    }

    /// Forgets the count of a role that has no limit any more. Entries that cannot be removed do no harm.
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

    /// Counts a token that was found although it was not minted here, if its role has a limit.
    pub(crate) async fn count_found(&self, org: &OrgId, token: &Token) -> Result<(), Error> {
        match self.role(org, &token.role_name).await? {
            Some(role) if role.max_tokens > 0 => self.note_live(&key_of(&role), token.client_id.clone()).await,
            _ => Ok(()),
        }
    }

    /// Counts a token that is about to be stored, if its role has a limit by now.
    pub(super) async fn enter(&self, token: &Token, place: Option<Place>) -> Result<(), Error> {
        let key = (token.org_id.clone(), token.role_name.clone());
        if self.live.enter(&key, &token.client_id, place) {
            self.storage.put_json(&entry(&key, &token.client_id), &json!({})).await?;
        }
        Ok(())
    }

    /// Counts a token no more, if it is gone; else it is looked at when its role is full.
    pub(super) async fn leave(&self, org: &OrgId, client: &ClientId, is_gone: bool) {
        let Some(key) = self.live.role_of(org, client) else { return };
        if is_gone && self.storage.delete(&entry(&key, client)).await.is_ok() {
            self.live.change(&key, |roster| roster.remove(client));
        } else {
            self.live.suspect(org, client);
        }
    }

    async fn load_roster(&self, key: &RoleKey) -> Result<(), Error> {
        let clients: Vec<_> = leaves(self.storage.list(&folder(key)).await?)
            .map(|client| ClientId::stored(from_segment(&client)))
            .collect();
        self.live.open(key);
        self.live.change(key, |roster| {
            for client in clients {
                roster.add_unsure(client);
            }
            roster.loaded = true;
        });
        Ok(())
    }

    /// Removes those whose tokens are gone.
    async fn drop_dead(&self, key: &RoleKey) -> Result<(), Error> {
        let unsure = self.live.change(key, |roster| mem::take(&mut roster.unsure)).unwrap_or_default();
        let look = |client: ClientId| async move {
            if !self.is_live(&key.0, &client).await? {
                self.storage.delete(&entry(key, &client)).await?;
                self.live.change(key, |roster| roster.remove(&client));
            }
            Ok::<_, Error>(())
        };
        let looked = stream::iter(unsure.clone()).map(Ok).try_for_each_concurrent(CONCURRENT, look).await;
        if looked.is_err() {
            self.live.change(key, |roster| {
                let left: BTreeSet<_> = unsure.intersection(&roster.ids).cloned().collect();
                roster.unsure.extend(left);
            });
        }
        looked
    }

    async fn is_live(&self, org: &OrgId, client: &ClientId) -> Result<bool, Error> {
        // A token has its record as long as it lives.
        let Some(record) = self.record(org, client).await? else { return Ok(false) };
        Ok(self.token(&record.token_id).await?.is_some_and(|token| token.client_id == *client))
    }

    /// Counts the tokens of a role that are in the inventory.
    async fn note_all(&self, key: &RoleKey) -> Result<(), Error> {
        let mut after = Some(String::new());
        while let Some(start) = after {
            let (page, next) = self.records_of(&key.0, &start).await?;
            let clients =
                page.into_iter().filter(|(_, record)| record.role_name == key.1).map(|(client, _)| Ok(client));
            stream::iter(clients).try_for_each_concurrent(CONCURRENT, |client| self.note_live(key, client)).await?;
            after = next;
        }
        Ok(())
    }

    async fn note_live(&self, key: &RoleKey, client: ClientId) -> Result<(), Error> {
        self.storage.put_json(&entry(key, &client), &json!({})).await?;
        self.live.change(key, |roster| roster.add_unsure(client));
        Ok(())
    }
}

impl Live {
    /// Forgets what is not certain any more because another node changed a key.
    pub(super) fn invalidate(&self, key: &str) {
        let mut parts = key.splitn(4, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("live"), Some(org), Some(role)) => {
                let key = (OrgId::stored(from_segment(org)), RoleName::stored(from_segment(role)));
                self.lock().get_mut(&key).into_iter().for_each(Roster::reload);
            }
            // It may have no limit any more. Where it has one, the next mint lists its tokens anew.
            (Some("role"), Some(_), _) => {
                let named = |role: &RoleKey| role_key(&role.0, &role.1) == key;
                self.lock().retain(|key, roster| !named(key) || Arc::strong_count(&roster.places) > 1);
            }
            (Some("client"), Some(org), Some(client)) => {
                self.suspect(&OrgId::stored(from_segment(org)), &ClientId::stored(from_segment(client)));
            }
            _ => self.lock().values_mut().for_each(Roster::reload),
        }
    }

    /// Takes a place if there is one; `None` if the tokens are not known.
    fn take(&self, key: &RoleKey, limit: usize) -> Option<Reserved> {
        let rosters = self.lock();
        let roster = rosters.get(key).filter(|roster| roster.loaded)?;
        let (live, minting) = (roster.ids.len(), Arc::strong_count(&roster.places) - 1);
        if live + minting < limit {
            return Some(Reserved::Place(Place(roster.places.clone())));
        }
        Some(Reserved::Full { live, minting })
    }

    /// Puts a token in the place of its mint. Returns whether it is counted.
    fn enter(&self, key: &RoleKey, client: &ClientId, place: Option<Place>) -> bool {
        let mut rosters = self.lock();
        let has_place = place.is_some();
        // Not before the lock is held, or another mint could take it as well.
        drop(place);
        let Some(roster) = rosters.get_mut(key) else { return has_place };
        roster.unsure.remove(client);
        roster.ids.insert(client.clone());
        true
    }

    fn role_of(&self, org: &OrgId, client: &ClientId) -> Option<RoleKey> {
        let rosters = self.lock();
        let mut known = rosters.iter().filter(|(key, roster)| key.0 == *org && roster.ids.contains(client));
        known.next().map(|(key, _)| key.clone())
    }

    fn suspect(&self, org: &OrgId, client: &ClientId) {
        for (key, roster) in &mut *self.lock() {
            if key.0 == *org && roster.ids.contains(client) {
                roster.unsure.insert(client.clone());
            }
        }
    }

    /// Begins to keep the tokens of a role, if that was not begun yet. Returns what is held while they are looked at.
    fn open(&self, key: &RoleKey) -> Arc<tokio::sync::Mutex<()>> {
        self.lock().entry(key.clone()).or_default().turn.clone()
    }

    fn is_unsure(&self, key: &RoleKey) -> bool {
        self.lock().get(key).is_some_and(|roster| !roster.unsure.is_empty())
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
    fn add_unsure(&mut self, client: ClientId) {
        if self.ids.insert(client.clone()) {
            self.unsure.insert(client);
        }
    }

    fn remove(&mut self, client: &ClientId) {
        self.ids.remove(client);
        self.unsure.remove(client);
    }

    /// Lists the entries anew before the next mint, and looks at all ids when the role is full.
    fn reload(&mut self) {
        self.loaded = false;
        self.unsure.clone_from(&self.ids);
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
