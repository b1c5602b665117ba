//! Limits of background work, such as the periodic tick, and of revocations while Astra fails.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::api::Patience;
use super::error::Error;
use super::names::OrgId;

/// After Astra fails for an organization, background work skips that organization for this long. This avoids delaying
/// others and adding load to a failing Astra. The pause is shorter than the minute between two ticks.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a tick waits for one WAL entry or token, whatever the `request_timeout` of its config. The host cancels a
/// tick after 90 seconds, and the tick must reach the next entry before that.
const PATIENCE: Duration = Duration::from_secs(45);

/// When Astra last failed, per org.
#[derive(Default)]
pub(crate) struct Backoff {
    failed: Mutex<HashMap<OrgId, Instant>>,
    /// The orgs whose last revocation failed.
    trials: Mutex<HashMap<OrgId, Trials>>,
}

/// The revocations of an org while Astra fails for it.
struct Trials {
    /// Whether a revocation calls Astra.
    is_running: bool,
    /// When Astra failed to list all tokens for a revocation.
    list_failed: Option<Instant>,
}

/// A revocation that the host repeats. In an outage, thousands of leases expire, and the host tries to revoke each of
/// them six times. So while Astra fails for an org, one revocation at a time makes one request.
pub(crate) struct Trial<'a> {
    backoff: &'a Backoff,
    org: &'a OrgId,
    /// Whether Astra had failed for the org before.
    is_failing: bool,
    /// Whether this is the revocation that calls Astra.
    is_running: AtomicBool,
}

impl Trial<'_> {
    /// Whether this is the revocation that calls Astra. Of the first revocations that fail, one goes on.
    fn is_running(&self, trials: &mut HashMap<OrgId, Trials>) -> bool {
        if !trials.contains_key(self.org) {
            trials.insert(self.org.clone(), Trials { is_running: true, list_failed: None });
            self.is_running.store(true, Ordering::Relaxed);
        }
        self.is_running.load(Ordering::Relaxed)
    }

    /// Notes the success of the revocation.
    pub(crate) fn succeed(self) {
        self.backoff.trials().remove(self.org);
    }
}

impl Patience for Trial<'_> {
    fn may_retry(&self) -> bool {
        self.is_running(&mut self.backoff.trials()) && !self.is_failing
    }

    fn may_list(&self) -> bool {
        let mut trials = self.backoff.trials();
        let is_running = self.is_running(&mut trials);
        let Some(trials) = trials.get_mut(self.org).filter(|_| is_running) else { return false };
        if trials.list_failed.is_some_and(|time| time.elapsed() < PAUSE) {
            return false;
        }
        // Until the list succeeds.
        trials.list_failed = Some(Instant::now());
        true
    }

    fn note_list(&self) {
        if let Some(trials) = self.backoff.trials().get_mut(self.org) {
            trials.list_failed = None;
        }
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if self.is_running.load(Ordering::Relaxed)
            && let Some(trials) = self.backoff.trials().get_mut(self.org)
        {
            trials.is_running = false;
        }
    }
}

impl Backoff {
    /// Fails if Astra failed for this org a moment ago.
    ///
    /// # Errors
    /// [`Error::NotYet`].
    pub(crate) fn require_over(&self, org: &OrgId) -> Result<(), Error> {
        match self.failed().get(org) {
            Some(time) if time.elapsed() < PAUSE => Err(Error::NotYet(
                "Astra failed for this organization less than 30 seconds ago; a later tick retries".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Begins a revocation that the host repeats.
    ///
    /// # Errors
    /// [`Error::NotYet`], if Astra fails for the org and another revocation is trying.
    pub(crate) fn try_revocation<'a>(&'a self, org: &'a OrgId) -> Result<Trial<'a>, Error> {
        let mut trials = self.trials();
        let failing = trials.get_mut(org);
        let is_failing = failing.is_some();
        if failing.is_some_and(|trials| std::mem::replace(&mut trials.is_running, true)) {
            return Err(Error::NotYet(
                "Astra fails for this organization, and another revocation is trying; a later attempt can succeed"
                    .into(),
            ));
        }
        Ok(Trial { backoff: self, org, is_failing, is_running: AtomicBool::new(is_failing) })
    }

    /// Records the result of background work for an org.
    pub(crate) fn note(&self, org: &OrgId, error: Option<&Error>) {
        match error {
            None => {
                self.failed().remove(org);
            }
            Some(Error::Api(_) | Error::RootCall { .. } | Error::OutOfTime(_)) => {
                self.failed().insert(org.clone(), Instant::now());
            }
            Some(_) => {}
        }
    }

    fn trials(&self) -> MutexGuard<'_, HashMap<OrgId, Trials>> {
        self.trials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, HashMap<OrgId, Instant>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs work of a tick, with a time limit.
///
/// # Errors
/// The errors of the work, and [`Error::OutOfTime`].
pub(crate) async fn in_tick<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or(Err(Error::OutOfTime(PATIENCE)))
}
