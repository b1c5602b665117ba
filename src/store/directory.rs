//! Finds the orgs of a mount by their names, and keeps the names up to date.
//!
//! A process reads all configs once, at the first use. After that, each change of a config is one change of the
//! directory. If a change is not known, such as a change by another node, the org is marked, and the next use reads this
//! org again.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::entries::Config;
use super::root::second_of_day;
use crate::names::{ClientId, OrgId};

/// The orgs of all configs, by their names.
#[derive(Clone, Default)]
pub(crate) struct Directory {
    /// The names of each org that has a config.
    orgs: BTreeMap<OrgId, Names>,
    /// By the current logical name.
    named: BTreeMap<String, BTreeSet<OrgId>>,
    /// By a former logical name.
    formerly_named: BTreeMap<String, BTreeSet<OrgId>>,
    /// By Astra's id of the organization, in lower case. If the organization is not known, the key is the empty text.
    astra: BTreeMap<String, BTreeSet<OrgId>>,
    /// By the time at which the engine rotates the root token on its own.
    rotations: BTreeSet<(Timestamp, OrgId)>,
    /// By the second of the day at which the engine asks for the dates of the root token.
    daily: BTreeSet<(u32, OrgId)>,
}

/// The names in a config, and when its root token is rotated. The names of a config that cannot be parsed are not known, but its `org_id` stays in use.
#[derive(Clone, Default)]
pub(super) struct Names {
    logical_name: String,
    former_names: Vec<String>,
    /// Astra's id of the organization, in lower case; `None` if the config cannot be parsed.
    astra_org_id: Option<String>,
    /// Client id of the root token, if it is known.
    root_id: Option<Box<str>>,
    root: RootTimes,
}

/// The times of the root token in the config of an org. `None` if a time is not known, or if the event has not happened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct RootTimes {
    /// When Astra made the root token.
    pub(crate) created: Option<Timestamp>,
    /// When the root token expires.
    pub(crate) expires: Option<Timestamp>,
    /// When the engine rotates the root token on its own. In the past if the rotation fails.
    pub(crate) next_rotation: Option<Timestamp>,
    /// When the engine stopped rotating on its own.
    pub(crate) stopped: Option<Timestamp>,
}

/// A planned rotation that is later than this has failed. A tick starts a rotation, and the next tick tries again.
const LATE: SignedDuration = SignedDuration::from_hours(1);

impl RootTimes {
    /// Returns the times in a config.
    fn of(config: &Config) -> Self {
        let root = &config.root;
        Self {
            created: root.created_at,
            expires: root.expires_at,
            next_rotation: config.next_rotation(),
            stopped: root.stopped_at,
        }
    }

    /// Returns when the root token expires, unless a rotation is planned before.
    pub(crate) fn expires_without_rotation(&self, now: Timestamp) -> Option<Timestamp> {
        let is_planned = |expiry: &Timestamp| {
            self.next_rotation.is_some_and(|next| next < *expiry && now.duration_since(next) <= LATE)
        };
        self.expires.filter(|expiry| !is_planned(expiry))
    }
}

/// An org that has a config, as a list shows it.
#[derive(Clone, Copy)]
pub(crate) struct Listed<'a> {
    pub(crate) org: &'a OrgId,
    pub(crate) logical_name: &'a str,
    /// Whether the config can be read.
    pub(crate) is_readable: bool,
    pub(crate) root: RootTimes,
}

impl From<&Config> for Names {
    fn from(config: &Config) -> Self {
        Self {
            logical_name: config.logical_name.clone(),
            former_names: config.former_names.clone(),
            astra_org_id: Some(config.astra_org_id.to_ascii_lowercase()),
            root_id: config.root_id().map(Box::from),
            root: RootTimes::of(config),
        }
    }
}

impl Directory {
    /// Whether an org has a config.
    pub(super) fn has(&self, org: &OrgId) -> bool {
        self.orgs.contains_key(org)
    }

    /// Returns all orgs that have a config.
    pub(super) fn ids(&self) -> impl Iterator<Item = &OrgId> {
        self.orgs.keys()
    }

    /// Returns the number of orgs.
    pub(crate) fn len(&self) -> usize {
        self.orgs.len()
    }

    /// Returns the org with this id.
    pub(crate) fn get(&self, org: &OrgId) -> Option<Listed<'_>> {
        self.orgs.get_key_value(org).map(listed)
    }

    /// Returns the orgs after this id, sorted by their ids. All orgs come after the empty id.
    pub(crate) fn after(&self, org: &OrgId) -> impl Iterator<Item = Listed<'_>> + use<'_> {
        self.orgs.range((Bound::Excluded(org.clone()), Bound::Unbounded)).map(listed)
    }

    /// Returns the orgs with this logical name.
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &OrgId> + use<'_> {
        self.named.get(name).into_iter().flatten()
    }

    /// Returns the orgs with this former logical name.
    pub(super) fn formerly_named(&self, name: &str) -> impl Iterator<Item = &OrgId> + use<'_> {
        self.formerly_named.get(name).into_iter().flatten()
    }

    /// Returns all logical names with their orgs.
    pub(super) fn all_named(&self) -> impl Iterator<Item = (&String, &BTreeSet<OrgId>)> {
        self.named.iter()
    }

    /// Returns the orgs whose configs belong to this organization of Astra.
    pub(super) fn of_astra(&self, astra_org_id: &str) -> impl Iterator<Item = &OrgId> + use<'_> {
        let orgs = if astra_org_id.is_empty() { None } else { self.astra.get(&astra_org_id.to_ascii_lowercase()) };
        orgs.into_iter().flatten()
    }

    /// Returns the orgs whose configs hold the root token with this client id.
    pub(super) fn of_root(&self, client: &ClientId) -> impl Iterator<Item = &OrgId> + use<'_> {
        let id = client.clone();
        let has_root = move |names: &Names| names.root_id.as_deref() == Some(id.as_str());
        self.orgs.iter().filter(move |(_, names)| has_root(names)).map(|(org, _)| org)
    }

    /// Returns the orgs whose configs have no known organization.
    pub(super) fn not_known(&self) -> impl Iterator<Item = &OrgId> {
        self.astra.get("").into_iter().flatten()
    }

    /// Returns the orgs whose root token the engine must have rotated by `now`.
    pub(super) fn to_rotate(&self, now: Timestamp) -> impl Iterator<Item = &OrgId> {
        self.rotations.iter().take_while(move |(time, _)| *time <= now).map(|(_, org)| org)
    }

    /// Returns the orgs that have their second of the day in a range.
    pub(super) fn in_seconds(&self, seconds: Range<u32>) -> impl Iterator<Item = &OrgId> {
        let end = |second| (second, OrgId::stored(""));
        self.daily.range(end(seconds.start)..end(seconds.end.max(seconds.start))).map(|(_, org)| org)
    }

    /// Whether the config of an org belongs to another organization of Astra than this one.
    pub(super) fn is_of_another(&self, org: &OrgId, astra_org_id: &str) -> bool {
        let of = self.orgs.get(org).and_then(|names| names.astra_org_id.as_deref()).unwrap_or_default();
        !of.is_empty() && !astra_org_id.is_empty() && !of.eq_ignore_ascii_case(astra_org_id)
    }

    /// Replaces the names of an org. `None` removes the org.
    pub(super) fn set(&mut self, org: &OrgId, names: Option<Names>) {
        if let Some(old) = self.orgs.remove(org) {
            self.daily.remove(&(second_of_day(org), org.clone()));
            if let Some(time) = old.root.next_rotation {
                self.rotations.remove(&(time, org.clone()));
            }
            self.each_name(&old, |index, name| {
                if let Some(orgs) = index.get_mut(name)
                    && orgs.remove(org)
                    && orgs.is_empty()
                {
                    index.remove(name);
                }
            });
        }
        if let Some(names) = names {
            self.daily.insert((second_of_day(org), org.clone()));
            self.rotations.extend(names.root.next_rotation.map(|time| (time, org.clone())));
            self.each_name(&names, |index, name| {
                index.entry(name.to_owned()).or_default().insert(org.clone());
            });
            self.orgs.insert(org.clone(), names);
        }
    }

    fn each_name(&mut self, names: &Names, mut change: impl FnMut(&mut BTreeMap<String, BTreeSet<OrgId>>, &str)) {
        if !names.logical_name.is_empty() {
            change(&mut self.named, &names.logical_name);
        }
        for name in &names.former_names {
            change(&mut self.formerly_named, name);
        }
        if let Some(id) = &names.astra_org_id {
            change(&mut self.astra, id);
        }
    }
}

fn listed<'a>((org, names): (&'a OrgId, &'a Names)) -> Listed<'a> {
    let Names { logical_name, astra_org_id, root, .. } = names;
    Listed { org, logical_name, is_readable: astra_org_id.is_some(), root: *root }
}

/// The directory of this process, and which parts of it may be outdated.
#[derive(Default)]
pub(super) struct LiveDirectory {
    state: Mutex<State>,
    /// Held while configs are read, so that concurrent callers wait for one read.
    pub(super) read_lock: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// `None` until all configs were read.
    directory: Option<Arc<Directory>>,
    /// The orgs that must be read again, each with the time of its latest change.
    changed: BTreeMap<OrgId, Time>,
    /// When all configs may have changed.
    all_changed: Time,
    /// Increases with each change.
    now: Time,
}

/// Orders the changes of configs and the reads of configs.
#[derive(Clone, Copy, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Time(u64);

/// What a caller needs before it can use the directory.
pub(super) enum Wanted {
    /// Nothing: no config has changed since it was read.
    Nothing(Arc<Directory>),
    /// The names of these orgs.
    Some(Time, Vec<OrgId>),
    /// The names of all orgs.
    All(Time),
}

impl LiveDirectory {
    /// Returns the directory, or what to read first. Pass what was read to [`LiveDirectory::put`] or
    /// [`LiveDirectory::put_all`].
    pub(super) fn get(&self) -> Wanted {
        let state = self.lock();
        match &state.directory {
            None => Wanted::All(state.now),
            Some(directory) if state.changed.is_empty() => Wanted::Nothing(directory.clone()),
            Some(_) => Wanted::Some(state.now, state.changed.keys().cloned().collect()),
        }
    }

    /// Stores the names of orgs that were read after `start`. Skips orgs that have changed since.
    pub(super) fn put(&self, start: Time, orgs: Vec<(OrgId, Option<Names>)>) {
        let mut state = self.lock();
        for (org, names) in orgs {
            if state.changed.get(&org).is_some_and(|time| *time <= start) {
                state.set(&org, names);
            }
        }
    }

    /// Stores a directory that was read after `start`, unless all configs have changed since. The orgs that have changed
    /// since are read again.
    pub(super) fn put_all(&self, start: Time, directory: Arc<Directory>) {
        let mut state = self.lock();
        if state.all_changed <= start {
            state.changed.retain(|_, time| *time > start);
            state.directory = Some(directory);
        }
    }

    /// Marks an org whose config may have changed.
    pub(super) fn mark(&self, org: &OrgId) {
        self.lock().mark(org);
    }

    /// Drops the directory: all configs may have changed.
    pub(super) fn clear(&self) {
        let mut state = self.lock();
        state.now.0 += 1;
        state.all_changed = state.now;
        state.directory = None;
        state.changed.clear();
    }

    /// Returns the time at which a write of a config starts. Pass it to [`LiveDirectory::written`].
    pub(super) fn time(&self) -> Time {
        self.lock().now
    }

    /// Applies a write of a config by this process. `None` means that the config was deleted. If the config may have
    /// changed again since `start`, marks the org instead.
    pub(super) fn written(&self, org: &OrgId, names: Option<Names>, start: Time) {
        let mut state = self.lock();
        let has_changed = state.all_changed > start || state.changed.get(org).is_some_and(|time| *time > start);
        // While all configs are being read, the old config may have been read already.
        if has_changed || state.directory.is_none() {
            state.mark(org);
        } else {
            state.set(org, names);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mark(&mut self, org: &OrgId) {
        self.now.0 += 1;
        self.changed.insert(org.clone(), self.now);
    }

    fn set(&mut self, org: &OrgId, names: Option<Names>) {
        self.changed.remove(org);
        if let Some(directory) = &mut self.directory {
            Arc::make_mut(directory).set(org, names);
        }
    }
}
