//! The tokens that newer tokens have replaced, as this process knows them.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::names::{ClientId, OrgId};

/// The most replaced tokens that a process remembers. A pass of the sweep finds the others.
const MOST_NOTED: usize = 100_000;

/// The replaced tokens that this process knows.
#[derive(Default)]
pub(crate) struct Replaced(Mutex<BTreeMap<(OrgId, ClientId), Noted>>);

/// A replaced token.
#[derive(Clone, Copy)]
struct Noted {
    /// When the token ends.
    end: Timestamp,
    undo: Undo,
}

/// How long the mint of the newer token can be undone. The undo gives the name back to the replaced token.
#[derive(Clone, Copy)]
enum Undo {
    /// It can.
    Open,
    /// It can until this time, because the host can drop the answer.
    Until(Instant),
    /// It cannot, as far as this process knows.
    Over,
}

impl Noted {
    fn can_be_undone(&self) -> bool {
        match self.undo {
            Undo::Open => true,
            Undo::Until(time) => Instant::now() < time,
            Undo::Over => false,
        }
    }
}

impl Replaced {
    /// Notes a replaced token, so that a tick deletes it at its end.
    pub(crate) fn note(&self, org: &OrgId, client: &ClientId, end: Timestamp) {
        self.set(org, client, |known| match known {
            Some(Noted { undo: Undo::Over, .. }) | None => Noted { end, undo: Undo::Over },
            // The mint knows better.
            Some(known) => known,
        });
    }

    /// Lets a token live until [`settle`](Self::settle) or [`end_undo`](Self::end_undo): the mint that replaces it can be undone.
    pub(crate) fn hold(&self, org: &OrgId, client: &ClientId) {
        let end = |known: Option<Noted>| known.map_or(Timestamp::MAX, |known| known.end);
        self.set(org, client, |known| Noted { end: end(known), undo: Undo::Open });
    }

    /// Notes the end of a token whose successor was handed out. Until `window` is over, the token lives on.
    pub(crate) fn settle(&self, org: &OrgId, client: &ClientId, end: Timestamp, window: Duration) {
        self.set(org, client, |_| Noted { end, undo: Undo::Until(Instant::now() + window) });
    }

    /// Notes that the mint of the newer token is not undone, or has been undone without an effect on this token.
    pub(crate) fn end_undo(&self, org: &OrgId, client: &ClientId) {
        if let Some(noted) = self.lock().get_mut(&(org.clone(), client.clone())) {
            noted.undo = Undo::Over;
        }
    }

    /// Notes that a token could not be deleted at its end.
    pub(crate) fn note_failure(&self, org: &OrgId, client: &ClientId) {
        if let Some(noted) = self.lock().get_mut(&(org.clone(), client.clone()))
            && !noted.can_be_undone()
        {
            noted.undo = Undo::Over;
        }
    }

    /// Forgets a token that is deleted, or has its name again.
    pub(crate) fn forget(&self, org: &OrgId, client: &ClientId) {
        self.lock().remove(&(org.clone(), client.clone()));
    }

    /// Returns true if this process can still undo the mint that replaced a token.
    pub(crate) fn can_be_undone(&self, org: &OrgId, client: &ClientId) -> bool {
        self.lock().get(&(org.clone(), client.clone())).is_some_and(Noted::can_be_undone)
    }

    /// Returns the tokens whose end has come.
    pub(crate) fn due(&self) -> Vec<(OrgId, ClientId)> {
        let now = Timestamp::now();
        let is_due = |noted: &Noted| noted.end <= now && !noted.can_be_undone();
        self.lock().iter().filter(|(_, noted)| is_due(noted)).map(|(token, _)| token.clone()).collect()
    }

    /// Returns the tokens of an org that are deleted within seconds: their end has come, and no deletion has failed.
    pub(super) fn ending(&self, org: &OrgId) -> BTreeSet<ClientId> {
        let now = Timestamp::now();
        self.of(org, |noted| noted.end <= now && matches!(noted.undo, Undo::Until(_)))
    }

    /// Returns the replaced tokens of an org.
    pub(super) fn all(&self, org: &OrgId) -> BTreeSet<ClientId> {
        self.of(org, |_| true)
    }

    fn of(&self, org: &OrgId, is_wanted: impl Fn(&Noted) -> bool) -> BTreeSet<ClientId> {
        let noted = self.lock();
        let tokens = noted.range((org.clone(), ClientId::stored(""))..).take_while(|((of, _), _)| of == org);
        tokens.filter(|(_, noted)| is_wanted(noted)).map(|((_, client), _)| client.clone()).collect()
    }

    fn set(&self, org: &OrgId, client: &ClientId, noted: impl FnOnce(Option<Noted>) -> Noted) {
        let (key, mut all) = ((org.clone(), client.clone()), self.lock());
        let known = all.get(&key).copied();
        if known.is_some() || all.len() < MOST_NOTED {
            all.insert(key, noted(known));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(OrgId, ClientId), Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
