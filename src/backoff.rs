//! Limits of background work: work without a waiting caller, such as the periodic tick.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

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
