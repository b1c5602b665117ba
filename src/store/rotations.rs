//! A static role as it is stored, and when each static role needs work.
//!
//! The times are in memory, so that a tick reads only the static roles that are due.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::entries::Metadata;
use super::json;
use crate::clock;
use crate::names::{ClientId, OrgId, RoleName};

/// Folder of the static roles.
pub(super) const STATIC_ROLES: &str = "static-role/";

/// Pauses after failed work on a static role: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// The most deletions that are kept while the static roles are read. After more deletions, they are read again.
const MOST_DELETED: usize = 10_000;

/// `static-role/<org_id>/<name>`: a token that a schedule replaces.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct StaticRole {
    /// The org.
    pub(crate) org_id: OrgId,
    /// Name of the static role.
    pub(crate) name: RoleName,
    /// The role of its tokens.
    pub(crate) role_name: RoleName,
    /// How long a token is the current one.
    #[serde(with = "json::nanoseconds")]
    pub(crate) rotation_period: Duration,
    /// How long a token stays live after its rotation; `None` for a tenth of the period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) overlap: Option<Overlap>,
    /// The pairs that the operator gave.
    #[serde(default, with = "json::nullable")]
    pub(crate) metadata: Metadata,
    /// The pairs of the tokens: those of the operator, and the defaults of the role at the time of the last write.
    #[serde(default, with = "json::nullable")]
    pub(crate) token_metadata: Metadata,
    /// Display name of the caller who wrote the static role last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) display_name: String,
    /// Identity entity of this caller; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) entity_id: String,
    /// Path of the mount at the last write, for descriptions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) mount_point: String,
    /// The current token. `None` before the first rotation has succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<CurrentToken>,
    /// The replaced tokens that are still live, the latest one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) former: Vec<FormerToken>,
    /// Whether the static role is being deleted. Its tokens are deleted first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_deleted: bool,
}

/// A time of overlap.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Overlap(#[serde(with = "json::nanoseconds")] pub(crate) Duration);

/// The token that a read of a static role returns.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct CurrentToken {
    pub(crate) client_id: ClientId,
    /// When it became the current one.
    #[serde(with = "json::known_time")]
    pub(crate) since: Timestamp,
    /// When another token replaces it.
    #[serde(with = "json::known_time")]
    pub(crate) until: Timestamp,
}

/// A replaced token.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct FormerToken {
    pub(crate) client_id: ClientId,
    /// When it is deleted.
    #[serde(with = "json::known_time")]
    pub(crate) until: Timestamp,
}

impl StaticRole {
    /// Returns a static role without settings, for a write to fill in.
    pub(crate) fn new(org_id: OrgId, name: RoleName) -> Self {
        Self {
            org_id,
            name,
            role_name: RoleName::default(),
            rotation_period: Duration::ZERO,
            overlap: None,
            metadata: Metadata::new(),
            token_metadata: Metadata::new(),
            display_name: String::new(),
            entity_id: String::new(),
            mount_point: String::new(),
            current: None,
            former: Vec::new(),
            is_deleted: false,
        }
    }

    /// Returns the latest replaced token, if it is still live.
    pub(crate) fn previous(&self) -> Option<&FormerToken> {
        self.former.last()
    }

    /// Returns how long a token stays live after its rotation.
    pub(crate) fn overlap(&self) -> Duration {
        self.overlap.map_or(self.rotation_period / 10, |overlap| overlap.0)
    }

    /// Returns the tokens of the static role.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &ClientId> {
        self.current.iter().map(|current| &current.client_id).chain(self.former.iter().map(|former| &former.client_id))
    }

    /// Returns when the static role needs work.
    pub(crate) fn due(&self) -> Timestamp {
        let rotation = match &self.current {
            Some(current) if !self.is_deleted => current.until,
            _ => Timestamp::MIN,
        };
        self.former.iter().map(|former| former.until).fold(rotation, Timestamp::min)
    }
}

/// When a static role needs work.
pub(super) struct Due {
    pub(super) time: Timestamp,
    failures: u32,
    /// The token that it is about.
    current: Option<ClientId>,
}

impl From<&StaticRole> for Due {
    fn from(role: &StaticRole) -> Self {
        let current = role.current.as_ref().map(|current| current.client_id.clone());
        Self { time: role.due(), failures: 0, current }
    }
}

type Key = (OrgId, RoleName);

/// The static roles, and the static role of each current token.
#[derive(Default)]
pub(super) struct Known {
    due: BTreeMap<Key, Due>,
    current: HashMap<ClientId, Key>,
}

impl Known {
    pub(super) fn set(&mut self, key: Key, due: Option<Due>) {
        let old = match due {
            Some(due) => {
                if let Some(client) = &due.current {
                    self.current.insert(client.clone(), key.clone());
                }
                let current = due.current.clone();
                self.due.insert(key, due).and_then(|old| old.current).filter(|old| Some(old) != current.as_ref())
            }
            None => self.due.remove(&key).and_then(|old| old.current),
        };
        old.map(|client| self.current.remove(&client));
    }

    fn note_deleted(&mut self, org: &OrgId, client: &ClientId) {
        let key = self.current.get(client).filter(|(owner, _)| owner == org);
        if let Some(due) = key.and_then(|key| self.due.get_mut(key)) {
            due.time = Timestamp::MIN;
        }
    }
}

/// When the static roles need work.
#[derive(Default)]
pub(crate) struct Schedule(Mutex<State>);

#[derive(Default)]
pub(super) struct State {
    /// `None` until the static roles were read from storage.
    pub(super) known: Option<Known>,
    /// Increases with each change. What was read before the last change is read again.
    pub(super) changes: u64,
    /// The tokens that were deleted while `known` was `None`.
    deleted: Vec<(OrgId, ClientId)>,
}

impl Schedule {
    /// Returns the static roles that need work by now.
    pub(crate) fn due(&self) -> Vec<(OrgId, RoleName)> {
        let (now, state) = (clock::now(), self.lock());
        let all = state.known.iter().flat_map(|known| &known.due);
        all.filter(|(_, due)| due.time <= now).map(|(key, _)| key.clone()).collect()
    }

    /// Returns when the next static role needs work.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.lock().known.iter().flat_map(|known| known.due.values()).map(|due| due.time).min()
    }

    /// Postpones a static role whose work has failed.
    pub(crate) fn postpone(&self, org: &OrgId, name: &RoleName) {
        if let Some(due) = self.lock().known.as_mut().and_then(|known| known.due.get_mut(&(org.clone(), name.clone())))
        {
            let pause = PAUSES.0.saturating_mul(1 << due.failures.min(16)).min(PAUSES.1);
            let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
            due.time = clock::now().saturating_add(pause).unwrap_or(Timestamp::MAX);
            due.failures = due.failures.saturating_add(1);
        }
    }

    /// Notes that a token is deleted. If it was the current one of a static role, the static role needs work at once.
    pub(super) fn note_deleted(&self, org: &OrgId, client: &ClientId) {
        let mut guard = self.lock();
        let state = &mut *guard;
        match &mut state.known {
            Some(known) => known.note_deleted(org, client),
            // The static roles may be read now, and the token may have been there when its static role was read.
            None if state.deleted.len() < MOST_DELETED => state.deleted.push((org.clone(), client.clone())),
            None => *state = State { changes: state.changes + 1, ..State::default() },
        }
    }

    /// Keeps the times that were read, unless a static role has changed since `changes`. Returns whether times are known.
    pub(super) fn learn(&self, mut read: Known, changes: u64) -> bool {
        let mut state = self.lock();
        if state.known.is_none() && state.changes == changes {
            let deleted = std::mem::take(&mut state.deleted);
            deleted.iter().for_each(|(org, client)| read.note_deleted(org, client));
            state.known = Some(read);
        }
        state.known.is_some()
    }

    /// Reads all times again before they are used.
    pub(super) fn forget(&self) {
        let mut state = self.lock();
        *state = State { changes: state.changes + 1, ..State::default() };
    }

    pub(super) fn set(&self, org: &OrgId, name: &RoleName, due: Option<Due>) {
        let mut state = self.lock();
        state.changes += 1;
        if let Some(known) = &mut state.known {
            known.set((org.clone(), name.clone()), due);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role() -> StaticRole {
        let (client_id, until) = (ClientId::stored("client"), Timestamp::MAX);
        let current = Some(CurrentToken { client_id, since: Timestamp::UNIX_EPOCH, until });
        StaticRole { current, ..StaticRole::new(OrgId::stored("org"), RoleName::stored("ci")) }
    }

    fn read() -> Known {
        let (role, mut known) = (role(), Known::default());
        known.set((role.org_id.clone(), role.name.clone()), Some(Due::from(&role)));
        known
    }

    /// The record of the token may be read before the token is deleted.
    #[test]
    fn a_token_that_is_deleted_while_the_static_roles_are_read_is_due() {
        let (schedule, [org, client]) = (Schedule::default(), ["org", "client"]);
        let delete = |org, client| schedule.note_deleted(&OrgId::stored(org), &ClientId::stored(client));
        delete(org, "other");
        delete("other", client);
        assert!(schedule.learn(read(), 0) && schedule.due().is_empty());
        schedule.forget();
        delete(org, client);
        assert!(schedule.learn(read(), 1));
        assert_eq!(schedule.due().len(), 1);
        // A read that began earlier and ends later changes nothing.
        assert!(schedule.learn(read(), 1));
        assert_eq!(schedule.due().len(), 1);
    }

    #[test]
    fn after_very_many_deletions_the_static_roles_are_read_again() {
        let (schedule, org) = (Schedule::default(), OrgId::stored("org"));
        for n in 0..=MOST_DELETED {
            schedule.note_deleted(&org, &ClientId::stored(n.to_string()));
        }
        assert!(!schedule.learn(read(), 0));
        assert!(schedule.learn(read(), 1));
    }
}
