//! The live tokens of the roles with a limit, as this process knows them.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::keys::{RoleKey, role_key};
use crate::names::{ClientId, OrgId, RoleName, from_segment};

/// The rosters of the roles that have a limit.
#[derive(Default)]
pub(super) struct Live {
    rosters: Mutex<Rosters>,
}

/// By org, so that a deletion looks only at the roles of its org.
#[derive(Default)]
struct Rosters(HashMap<OrgId, HashMap<RoleName, Roster>>);

/// The live tokens of one role.
#[derive(Default)]
pub(super) struct Roster {
    /// Whether `ids` holds every stored entry of the role.
    pub(super) loaded: bool,
    pub(super) ids: BTreeSet<ClientId>,
    /// The limit at the last mint; 0 before the first.
    limit: usize,
    /// The ids in `ids` whose token may be deleted.
    pub(super) unverified: BTreeSet<ClientId>,
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
        /// Number of live tokens that newer tokens have replaced.
        replaced: usize,
    },
}

/// A deletion of a token. The host can drop its future at any time.
#[must_use = "the token is marked when the deletion is dropped"]
pub(super) struct Deleting<'a> {
    live: &'a Live,
    org: &'a OrgId,
    client: &'a ClientId,
}

/// The verification of the unverified tokens of a role. The host can drop its future at any time.
#[must_use = "the tokens are unverified again when the verification is dropped"]
pub(super) struct Verification<'a> {
    live: &'a Live,
    key: &'a RoleKey,
    /// The tokens that are not verified yet.
    left: Mutex<BTreeSet<ClientId>>,
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
                for (org, roles) in &mut self.lock().0 {
                    roles.retain(|role, roster| role_key(org, role) != key || Arc::strong_count(&roster.places) > 1);
                }
            }
            (Some("client"), Some(org), Some(client)) => {
                self.mark_unverified(&OrgId::stored(from_segment(org)), &ClientId::stored(from_segment(client)));
            }
            _ => self.lock().0.values_mut().flat_map(HashMap::values_mut).for_each(Roster::require_reload),
        }
    }

    /// Reserves a place, if the role is not full. The tokens in `leaving` do not count. Returns `None` if the roster is not
    /// loaded.
    pub(super) fn try_reserve(&self, key: &RoleKey, limit: usize, leaving: &BTreeSet<ClientId>) -> Option<Reserved> {
        let mut rosters = self.lock();
        let roster = rosters.get_mut(key).filter(|roster| roster.loaded)?;
        roster.limit = limit;
        let (live, minting) = (roster.ids.len(), Arc::strong_count(&roster.places) - 1);
        if live + minting < limit + roster.count(leaving) {
            return Some(Reserved::Place(Place(roster.places.clone())));
        }
        Some(Reserved::Full { live, minting, replaced: 0 })
    }

    /// Returns how many of these tokens the role has.
    pub(super) fn count(&self, key: &RoleKey, clients: &BTreeSet<ClientId>) -> usize {
        self.lock().get(key).map_or(0, |roster| roster.count(clients))
    }

    /// Returns the number of live tokens and the limit of at most `most` roles that had a mint.
    pub(super) fn limits(&self, most: usize) -> Vec<(OrgId, RoleName, [usize; 2])> {
        let rosters = self.lock();
        let roles =
            rosters.0.iter().flat_map(|(org, roles)| roles.iter().map(move |(role, roster)| (org, role, roster)));
        let known = roles.filter(|(.., roster)| roster.loaded && roster.limit > 0).take(most);
        known.map(|(org, role, roster)| (org.clone(), role.clone(), [roster.ids.len(), roster.limit])).collect()
    }

    /// Counts a token, and frees the place of its mint. Returns whether the token needs an entry.
    pub(super) fn count_new(&self, key: &RoleKey, client: &ClientId, place: Option<Place>) -> bool {
        let mut rosters = self.lock();
        let has_place = place.is_some();
        // Dropped under the lock. Otherwise another mint could get the place before the token is counted.
        drop(place);
        let Some(roster) = rosters.get_mut(key) else { return has_place };
        roster.unverified.remove(client);
        roster.ids.insert(client.clone());
        true
    }

    pub(super) fn role_of(&self, org: &OrgId, client: &ClientId) -> Option<RoleKey> {
        let rosters = self.lock();
        let mut found = rosters.0.get(org)?.iter().filter(|(_, roster)| roster.ids.contains(client));
        found.next().map(|(role, _)| (org.clone(), role.clone()))
    }

    /// Starts the deletion of a token. However the deletion ends, the token counts as unverified if it still counts.
    pub(super) fn deleting<'a>(&'a self, org: &'a OrgId, client: &'a ClientId) -> Deleting<'a> {
        Deleting { live: self, org, client }
    }

    fn mark_unverified(&self, org: &OrgId, client: &ClientId) {
        for roster in self.lock().0.get_mut(org).into_iter().flat_map(HashMap::values_mut) {
            if roster.ids.contains(client) {
                roster.unverified.insert(client.clone());
            }
        }
    }

    /// Takes the unverified tokens of a role. The tokens that are not verified then stay unverified.
    pub(super) fn verify<'a>(&'a self, key: &'a RoleKey) -> Verification<'a> {
        let taken = self.change(key, |roster| mem::take(&mut roster.unverified)).unwrap_or_default();
        Verification { live: self, key, left: Mutex::new(taken) }
    }

    /// Starts tracking the live tokens of a role. Returns the mutex to hold while they are loaded or verified.
    pub(super) fn track(&self, key: &RoleKey) -> Arc<tokio::sync::Mutex<()>> {
        let (org, role) = key.clone();
        self.lock().0.entry(org).or_default().entry(role).or_default().load_lock.clone()
    }

    pub(super) fn has_unverified(&self, key: &RoleKey) -> bool {
        self.lock().get(key).is_some_and(|roster| !roster.unverified.is_empty())
    }

    pub(super) fn change<T>(&self, key: &RoleKey, change: impl FnOnce(&mut Roster) -> T) -> Option<T> {
        self.lock().get_mut(key).map(change)
    }

    pub(super) fn forget(&self, key: &RoleKey) {
        let mut rosters = self.lock();
        if let Some(roles) = rosters.0.get_mut(&key.0) {
            roles.remove(&key.1);
            if roles.is_empty() {
                rosters.0.remove(&key.0);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rosters> {
        self.rosters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rosters {
    fn get(&self, key: &RoleKey) -> Option<&Roster> {
        self.0.get(&key.0)?.get(&key.1)
    }

    fn get_mut(&mut self, key: &RoleKey) -> Option<&mut Roster> {
        self.0.get_mut(&key.0)?.get_mut(&key.1)
    }
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        self.live.mark_unverified(self.org, self.client);
    }
}

impl Verification<'_> {
    /// Returns the tokens to verify.
    pub(super) fn tokens(&self) -> Vec<ClientId> {
        self.left().iter().cloned().collect()
    }

    /// Notes that a token was verified. A deleted token does not count any more.
    pub(super) fn done(&self, client: &ClientId, is_live: bool) {
        self.left().remove(client);
        if !is_live {
            self.live.change(self.key, |roster| roster.remove(client));
        }
    }

    fn left(&self) -> MutexGuard<'_, BTreeSet<ClientId>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Verification<'_> {
    fn drop(&mut self) {
        let left = mem::take(&mut *self.left());
        self.live.change(self.key, |roster| {
            let left = left.into_iter().filter(|client| roster.ids.contains(client));
            roster.unverified.extend(left);
        });
    }
}

impl Roster {
    pub(super) fn add_unverified(&mut self, client: ClientId) {
        if self.ids.insert(client.clone()) {
            self.unverified.insert(client);
        }
    }

    fn count(&self, clients: &BTreeSet<ClientId>) -> usize {
        clients.iter().filter(|client| self.ids.contains(*client)).count()
    }

    pub(super) fn remove(&mut self, client: &ClientId) {
        self.ids.remove(client);
        self.unverified.remove(client);
    }

    /// Makes the next mint load the entries again. If the role is full then, all its tokens are verified.
    pub(super) fn require_reload(&mut self) {
        self.loaded = false;
        self.unverified.clone_from(&self.ids);
    }
}
