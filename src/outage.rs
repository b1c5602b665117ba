//! Spares an Astra that fails: one revocation of an org at a time calls Astra, and the others wait for its result.
//!
//! In an outage, thousands of leases expire, and the host tries to revoke each of them six times. A revocation that waits
//! makes no request. If the revocation that calls Astra, the probe, succeeds, those that waited call Astra side by side.
//! If it fails, the next one becomes the probe. If several probes in a row fail, or one fails late, all that waited fail
//! as well. While Astra works, no revocation waits.
//!
//! Architecture invariant: knows neither tokens nor mints. No revocation waits for a mint or for another org.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::api::{self, Case, Patience};
use super::names::OrgId;

/// No revocation waits later than this after its start. The host cancels a revocation after 90 seconds, and the call of
/// Astra takes up to 30 seconds with the default `request_timeout`.
const LATEST: Duration = Duration::from_secs(45);

/// The first pause between two probes. Each pause is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between two probes. The host spreads its attempts over minutes, so that most would come alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// After this number of failures in a row, one failed probe decides for all that wait. An Astra that fails now and then
/// must not cost many revocations one of their six attempts.
const DECISIVE: u32 = 4;

/// How often a revocation that is not the probe repeats its call. Other calls of Astra are repeated as often.
const MOST_REPEATS: u32 = 3;

/// The outages of a mount. An org whose revocations never failed uses no memory.
#[derive(Default)]
pub(crate) struct Outages {
    orgs: Mutex<HashMap<OrgId, Arc<Outage>>>,
}

/// What is known about the Astra of one org.
#[derive(Default)]
struct Outage {
    /// Held by the probe.
    probe: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

#[derive(Clone, Default)]
struct State {
    /// The number of failed probes so far.
    failures: u32,
    /// The last failure; `None` if Astra has answered since then.
    last: Option<Failure>,
}

#[derive(Clone)]
struct Failure {
    /// The number of failures in a row.
    number: u32,
    time: Instant,
    error: api::Error,
}

/// A revocation that may call Astra. Decides which further requests the call may make.
pub(crate) struct Revocation<'a> {
    outages: &'a Outages,
    org: &'a OrgId,
    /// Time limit of one call.
    timeout: Duration,
    caller: &'a CancellationToken,
    start: Instant,
    /// The number of failed probes at the start.
    seen: u32,
    /// Set if this revocation is the probe.
    probe: Mutex<Option<Probe>>,
    /// Whether Astra failed before the start. A probe then makes each request once.
    is_trial: bool,
    /// How often this revocation was repeated.
    repeats: u32,
}

struct Probe {
    outage: Arc<Outage>,
    _turn: OwnedMutexGuard<()>,
}

impl Outages {
    /// Begins a revocation. If Astra fails for the org, first waits for the probe, or becomes the probe. Stops waiting when
    /// the caller hangs up.
    ///
    /// # Errors
    /// The last error of Astra, if a failed probe was decisive, if it takes too long, or if the caller hangs up.
    pub(crate) async fn begin<'a>(
        &'a self,
        org: &'a OrgId,
        timeout: Duration,
        caller: &'a CancellationToken,
    ) -> Result<Revocation<'a>, api::Error> {
        let outage = self.orgs().get(org).cloned();
        let before = outage.as_ref().map(|outage| outage.state().clone()).unwrap_or_default();
        let (seen, start) = (before.failures, Instant::now());
        let mut revocation = Revocation {
            outages: self,
            org,
            timeout,
            caller,
            start,
            seen,
            probe: Mutex::default(),
            is_trial: false,
            repeats: 0,
        };
        if let (Some(outage), Some(_)) = (outage, before.last) {
            revocation.wait(&outage).await?;
        }
        Ok(revocation)
    }

    fn orgs(&self) -> MutexGuard<'_, HashMap<OrgId, Arc<Outage>>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Revocation<'_> {
    /// Records the result of a call. Returns whether to call Astra again: a call that failed while another revocation was
    /// the probe, and a failed trial, wait until Astra works again, or until this revocation is the probe.
    pub(crate) async fn must_repeat(&mut self, result: &Result<(), api::Error>) -> bool {
        let Some(error) = result.as_ref().err().filter(|error| is_of_service(error.case())) else {
            // Astra answered. The refusal of one token ends an outage only if it answers the probe.
            let probe = self.probe().take();
            if let Some(outage) = self.outages.orgs().get(self.org).filter(|_| probe.is_some() || result.is_ok()) {
                outage.state().last = None;
            }
            return false;
        };
        let is_probe = self.is_probe();
        let outage = if is_probe {
            let Some(probe) = self.probe().take() else { return false };
            let mut state = probe.outage.state();
            state.failures = state.failures.wrapping_add(1);
            let number = state.last.as_ref().map_or(0, |last| last.number).saturating_add(1);
            state.last = Some(Failure { number, time: Instant::now(), error: error.clone() });
            drop(state);
            Some(probe.outage)
        } else {
            self.outages.orgs().get(self.org).cloned()
        };
        // Without a trial, the call of the probe has made all its attempts.
        let is_last = if is_probe { !self.is_trial } else { self.repeats >= MOST_REPEATS };
        let Some(outage) = outage.filter(|_| !is_last) else { return false };
        self.repeats += 1;
        self.wait(&outage).await.is_ok()
    }

    /// Waits until Astra works again, or until this revocation is the probe.
    ///
    /// # Errors
    /// The last error of Astra, if a failed probe was decisive, if it takes too long, or if the caller hangs up.
    async fn wait(&mut self, outage: &Arc<Outage>) -> Result<(), api::Error> {
        let turn = self.turn(outage).await;
        let State { failures, last } = outage.state().clone();
        let Some(failure) = last else {
            (self.seen, self.is_trial) = (failures, false);
            return Ok(());
        };
        let is_decided = failures != self.seen && (failure.number >= DECISIVE || self.start.elapsed() >= LONGEST_PAUSE);
        let Some(turn) = turn.filter(|_| !is_decided) else { return Err(failure.error) };
        let pause = FIRST_PAUSE.saturating_mul(1 << (failure.number - 1).min(16)).min(LONGEST_PAUSE);
        if self.caller.run_until_cancelled(sleep_until(failure.time + pause)).await.is_none() {
            return Err(failure.error);
        }
        self.is_trial = true;
        *self.probe() = Some(Probe { outage: outage.clone(), _turn: turn });
        Ok(())
    }

    /// Waits until no other revocation is the probe; `None` if that takes too long or the caller hangs up.
    async fn turn(&self, outage: &Outage) -> Option<OwnedMutexGuard<()>> {
        let deadline =
            (Instant::now() + self.timeout.saturating_add(LONGEST_PAUSE).min(LATEST)).min(self.start + LATEST);
        let turn = timeout_at(deadline, outage.probe.clone().lock_owned());
        self.caller.run_until_cancelled(turn).await?.ok()
    }

    /// Whether this revocation is the probe. After its first failed request, it becomes the probe unless another
    /// revocation is the probe, or was the probe and failed.
    fn is_probe(&self) -> bool {
        let mut probe = self.probe();
        if probe.is_none() {
            let outage = self.outages.orgs().entry(self.org.clone()).or_default().clone();
            if let Ok(turn) = outage.probe.clone().try_lock_owned()
                && outage.state().failures == self.seen
            {
                *probe = Some(Probe { outage, _turn: turn });
            }
        }
        probe.is_some()
    }

    fn probe(&self) -> MutexGuard<'_, Option<Probe>> {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether Astra failed, or the way to Astra. Other calls of the org then probably fail as well. If Astra rejects a call,
/// the reason can be the one token.
fn is_of_service(case: Case) -> bool {
    match case {
        Case::HostNotResolved
        | Case::HostNotResolvedInTime
        | Case::NotReachable
        | Case::NotReachableInTime
        | Case::NoPermit
        | Case::ConnectionBroken
        | Case::NoAnswer
        | Case::UnusableAnswer
        | Case::ProxyLogin
        | Case::RateLimited
        | Case::TimedOut
        | Case::Unavailable
        | Case::NotAstra
        | Case::ServerFailed
        | Case::UnexpectedStatus => true,
        Case::BadSettings
        | Case::NoTls
        | Case::BadProxy
        | Case::Stopping
        | Case::RootTokenRejected
        | Case::IsRootToken
        | Case::OtherOrganization
        | Case::RequestRejected { .. } => false,
    }
}

impl Patience for Revocation<'_> {
    fn may_retry(&self) -> bool {
        !self.is_trial && self.is_probe()
    }

    fn may_list(&self) -> bool {
        self.is_probe()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{join, join_all};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn org() -> OrgId {
        OrgId::stored("org")
    }

    fn failure() -> Result<(), api::Error> {
        Err(api::Error::garbled("delete a token", "it is a page"))
    }

    /// An error that says nothing about Astra.
    fn refusal() -> Result<(), api::Error> {
        Err(api::Error::stopping("delete a token"))
    }

    /// Begins this number of revocations at once. Returns how many may call Astra, and how many of these are probes.
    async fn begin(outages: &Outages, count: usize) -> (usize, usize) {
        let (org, caller) = (org(), CancellationToken::new());
        let begun = join_all((0..count).map(|_| outages.begin(&org, TIMEOUT, &caller))).await;
        let begun: Vec<_> = begun.into_iter().flatten().collect();
        (begun.len(), begun.iter().filter(|revocation| revocation.is_trial).count())
    }

    /// Lets a revocation end with this result, whose calls all have this result. Returns when it called.
    async fn end(outages: &Outages, result: &Result<(), api::Error>) -> Vec<Instant> {
        let (org, caller) = (org(), CancellationToken::new());
        let mut revocation = outages.begin(&org, TIMEOUT, &caller).await.unwrap();
        let mut calls = vec![Instant::now()];
        while revocation.must_repeat(result).await {
            calls.push(Instant::now());
        }
        calls
    }

    #[tokio::test(start_paused = true)]
    async fn while_astra_works_no_revocation_waits() {
        let outages = Outages::default();
        for result in [Ok(()), refusal()] {
            end(&outages, &result).await;
            let start = Instant::now();
            assert_eq!((begin(&outages, 100).await, start.elapsed()), ((100, 0), Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_result_of_the_probe_decides_for_those_that_wait() {
        for (result, expected) in [(Ok(()), 100), (refusal(), 100), (failure(), 0)] {
            let (outages, org, caller) = (Outages::default(), org(), CancellationToken::new());
            end(&outages, &failure()).await;
            let mut probe = outages.begin(&org, TIMEOUT, &caller).await.unwrap();
            assert!(probe.is_trial && !probe.may_retry() && probe.may_list());
            let start = Instant::now();
            let answer = async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert!(!probe.must_repeat(&result).await);
            };
            let (waited, ()) = join(begin(&outages, 100), answer).await;
            assert_eq!((waited, start.elapsed()), ((expected, 0), Duration::from_secs(5)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pauses_between_probes_grow_to_two_seconds() {
        let outages = Outages::default();
        // The second outage begins with short pauses again.
        for _ in 0..2 {
            let mut calls = Vec::new();
            while calls.len() < 40 {
                calls.extend(end(&outages, &failure()).await);
            }
            let pauses: Vec<_> = calls.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
            assert_eq!(pauses[..8], [20, 40, 80, 160, 320, 640, 1280, 2000]);
            assert!(pauses[7..].iter().all(|pause| *pause == 2000), "{pauses:?}");
            end(&outages, &Ok(())).await;
            assert_eq!(begin(&outages, 100).await, (100, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_without_a_result_holds_up_the_others_for_a_limited_time() {
        for (timeout, limit) in [(1, 3), (30, 32), (600, 45)] {
            let (outages, org, caller) = (Outages::default(), org(), CancellationToken::new());
            end(&outages, &failure()).await;
            let _probe = outages.begin(&org, TIMEOUT, &caller).await.unwrap();
            let start = Instant::now();
            assert!(outages.begin(&org, Duration::from_secs(timeout), &caller).await.is_err());
            assert_eq!(start.elapsed(), Duration::from_secs(limit));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_revocation_stops_waiting_when_its_caller_hangs_up() {
        let (outages, org, caller) = (Outages::default(), org(), CancellationToken::new());
        end(&outages, &failure()).await;
        let probe = outages.begin(&org, TIMEOUT, &caller).await.unwrap();
        let (gone, start) = (CancellationToken::new(), Instant::now());
        let hang_up = async {
            tokio::task::yield_now().await;
            gone.cancel();
        };
        let (waited, ()) = join(outages.begin(&org, TIMEOUT, &gone), hang_up).await;
        assert!(waited.is_err() && start.elapsed() == Duration::ZERO);
        // A dropped probe leaves the way free.
        drop((waited, probe));
        assert!(outages.begin(&org, TIMEOUT, &caller).await.unwrap().is_trial);
        assert!(outages.begin(&org, TIMEOUT, &gone).await.is_err());
        end(&outages, &Ok(())).await;
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_calls_that_fail_at_the_same_time_one_is_retried_and_decides_for_the_others() {
        for (result, must_repeat) in [(Ok(()), true), (refusal(), true), (failure(), false)] {
            let (outages, org, caller) = (Outages::default(), org(), CancellationToken::new());
            let begin_one = async || outages.begin(&org, TIMEOUT, &caller).await.unwrap();
            let (mut first, mut second) = (begin_one().await, begin_one().await);
            assert!(first.may_retry() && first.may_list() && !second.may_retry() && !second.may_list());
            // Meanwhile, others may call Astra.
            assert_eq!(begin(&outages, 10).await, (10, 0));
            let (failure, start) = (failure(), Instant::now());
            let answer = async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                assert!(!first.must_repeat(&result).await);
            };
            let (repeats, ()) = join(second.must_repeat(&failure), answer).await;
            assert_eq!((repeats, start.elapsed()), (must_repeat, Duration::from_secs(5)));
            if repeats {
                // The repeated call may be retried. It fails for itself.
                assert!(second.may_retry() && !second.must_repeat(&failure).await);
                assert_eq!(begin(&outages, 1).await, (1, 1));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_as_often_as_other_calls() {
        let (outages, org, caller) = (Outages::default(), org(), CancellationToken::new());
        let begin = async || outages.begin(&org, TIMEOUT, &caller).await.unwrap();
        let (mut slow, failure) = (begin().await, failure());
        for _ in 0..MOST_REPEATS {
            let mut probe = begin().await;
            assert!(probe.may_retry());
            assert!(join(slow.must_repeat(&failure), probe.must_repeat(&Ok(()))).await.0);
        }
        let probe = begin().await;
        assert!(probe.may_retry() && !slow.must_repeat(&failure).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_began_before_an_outage_ends_no_later_outage() {
        let (outages, org, caller) = (Outages::default(), org(), CancellationToken::new());
        let mut slow = outages.begin(&org, TIMEOUT, &caller).await.unwrap();
        end(&outages, &failure()).await;
        assert!(!slow.may_retry() && !slow.must_repeat(&refusal()).await);
        assert_eq!(begin(&outages, 1).await, (1, 1));
    }

    /// Lets a probe fail, and counts the calls of a revocation that waits for it, and fails as well.
    async fn calls_after_failed_probe(outages: &Outages, length: Duration) -> usize {
        let (org, caller) = (org(), CancellationToken::new());
        let mut probe = outages.begin(&org, TIMEOUT, &caller).await.unwrap();
        assert!(probe.is_trial);
        let waiting = async {
            let mut revocation = outages.begin(&org, TIMEOUT, &caller).await.ok()?;
            let mut calls = 1;
            while revocation.must_repeat(&failure()).await {
                calls += 1;
            }
            Some(calls)
        };
        let failing = async {
            tokio::time::sleep(length).await;
            let _ = probe.must_repeat(&failure()).await;
        };
        join(waiting, failing).await.0.unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn one_early_failure_of_a_probe_decides_nothing() {
        let outages = Outages::default();
        end(&outages, &failure()).await;
        assert!(calls_after_failed_probe(&outages, Duration::ZERO).await > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_failure_and_the_fourth_in_a_row_decide_for_those_that_wait() {
        let outages = Outages::default();
        end(&outages, &failure()).await;
        assert_eq!(calls_after_failed_probe(&outages, LONGEST_PAUSE).await, 0);
        end(&outages, &Ok(())).await;
        for _ in 0..DECISIVE {
            end(&outages, &failure()).await;
        }
        assert_eq!(calls_after_failed_probe(&outages, Duration::ZERO).await, 0);
    }
}
