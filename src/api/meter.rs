//! Measures the calls of Astra: numbers, durations and waits. A measurement is a few atomic additions.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use reqwest::Method;
use tokio::time::Instant;

/// The kind of a call of Astra.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    Mint,
    Delete,
    ListTokens,
    ListRoles,
    CurrentOrg,
}

impl Route {
    pub(crate) const ALL: [Self; 5] = [Self::Mint, Self::Delete, Self::ListTokens, Self::ListRoles, Self::CurrentOrg];

    /// Returns the route of a request to this path below the version.
    pub(super) fn of(method: &Method, path: &[&str]) -> Self {
        match (method.as_str(), path) {
            ("POST", _) => Self::Mint,
            ("DELETE", _) => Self::Delete,
            (_, ["clientIdSecrets", ..]) => Self::ListTokens,
            (_, ["organizations", ..]) => Self::ListRoles,
            _ => Self::CurrentOrg,
        }
    }

    /// Returns the value of the label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Mint => "mint",
            Self::Delete => "delete",
            Self::ListTokens => "list_tokens",
            Self::ListRoles => "list_roles",
            Self::CurrentOrg => "current_org",
        }
    }
}

/// How a request to Astra ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Success,
    Redirect,
    Rejected,
    RateLimited,
    Failed,
    Unusable,
    NoAnswer,
    NoConnection,
    NotSent,
    Cancelled,
}

impl Outcome {
    pub(crate) const ALL: [Self; 10] = [
        Self::Success,
        Self::Redirect,
        Self::Rejected,
        Self::RateLimited,
        Self::Failed,
        Self::Unusable,
        Self::NoAnswer,
        Self::NoConnection,
        Self::NotSent,
        Self::Cancelled,
    ];

    /// Returns the value of the label: the class of the status, or why there is no status.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Success => "2xx",
            Self::Redirect => "3xx",
            Self::Rejected => "4xx",
            Self::RateLimited => "429",
            Self::Failed => "5xx",
            Self::Unusable => "unusable",
            Self::NoAnswer => "no_answer",
            Self::NoConnection => "no_connection",
            Self::NotSent => "not_sent",
            Self::Cancelled => "cancelled",
        }
    }

    /// Returns the outcome of a request that was answered with this status, which is not a success.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            429 => Self::RateLimited,
            400..=499 => Self::Rejected,
            500..=599 => Self::Failed,
            _ => Self::Redirect,
        }
    }
}

/// The calls of a mount. Orgs share it, so that the number of series does not grow with the number of orgs.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    calls: [[AtomicU64; Outcome::ALL.len()]; Route::ALL.len()],
    durations: [Histogram; Route::ALL.len()],
    waits: Histogram,
}

impl Meter {
    /// Returns the number of requests with this route and outcome.
    pub(crate) fn calls(&self, route: Route, outcome: Outcome) -> u64 {
        self.calls[route as usize][outcome as usize].load(Relaxed)
    }

    /// Returns how long the requests of a route took.
    pub(crate) fn durations(&self, route: Route) -> Distribution {
        self.durations[route as usize].read()
    }

    /// Returns how long requests waited for a permit.
    pub(crate) fn waits(&self) -> Distribution {
        self.waits.read()
    }
}

/// The requests of one org.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) waiting: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) rate_limited: AtomicU64,
}

/// A request that waits for a permit. If it is dropped, the request was not sent.
pub(super) struct Waiting<'a> {
    meter: &'a Arc<Meter>,
    tally: &'a Tally,
    route: Route,
    start: Instant,
    is_sent: bool,
}

impl<'a> Waiting<'a> {
    pub(super) fn begin(meter: &'a Arc<Meter>, tally: &'a Tally, route: Route) -> Self {
        tally.waiting.fetch_add(1, Relaxed);
        Self { meter, tally, route, start: Instant::now(), is_sent: false }
    }

    /// Begins the request.
    pub(super) fn end(mut self) -> Running<'a> {
        self.is_sent = true;
        self.tally.sent.fetch_add(1, Relaxed);
        let now = Instant::now();
        self.meter.waits.observe(now - self.start);
        Running { meter: self.meter, tally: self.tally, route: self.route, start: now, outcome: Outcome::Cancelled }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.tally.waiting.fetch_sub(1, Relaxed);
        if !self.is_sent {
            self.tally.failed.fetch_add(1, Relaxed);
            self.meter.calls[self.route as usize][Outcome::NotSent as usize].fetch_add(1, Relaxed);
        }
    }
}

/// A request that Astra has not answered. If it is dropped, the request was cancelled.
pub(super) struct Running<'a> {
    meter: &'a Arc<Meter>,
    tally: &'a Tally,
    route: Route,
    start: Instant,
    outcome: Outcome,
}

impl Running<'_> {
    pub(super) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let Self { meter, tally, route, outcome, .. } = self;
        meter.calls[*route as usize][*outcome as usize].fetch_add(1, Relaxed);
        meter.durations[*route as usize].observe(self.start.elapsed());
        if *outcome != Outcome::Success {
            tally.failed.fetch_add(1, Relaxed);
        }
        if *outcome == Outcome::RateLimited {
            tally.rate_limited.fetch_add(1, Relaxed);
        }
    }
}

/// The upper bounds of the buckets, in milliseconds.
const BOUNDS: [u64; 12] = [10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];

/// A distribution of times.
#[derive(Debug, Default)]
struct Histogram {
    /// The last bucket has no bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    microseconds: AtomicU64,
}

/// The times of a [`Histogram`] so far.
#[derive(Debug)]
pub(crate) struct Distribution {
    /// The sum of the times, in seconds.
    pub(crate) sum: f64,
    /// The upper bound of each bucket in seconds, and the number of times in it.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    fn observe(&self, time: Duration) {
        let bucket = BOUNDS.partition_point(|bound| Duration::from_millis(*bound) < time);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.microseconds.fetch_add(u64::try_from(time.as_micros()).unwrap_or(0), Relaxed);
    }

    fn read(&self) -> Distribution {
        let bounds = BOUNDS.iter().map(|bound| Duration::from_millis(*bound).as_secs_f64()).chain([f64::INFINITY]);
        let buckets = bounds.zip(&self.buckets).map(|(bound, number)| (bound, number.load(Relaxed))).collect();
        Distribution { sum: Duration::from_micros(self.microseconds.load(Relaxed)).as_secs_f64(), buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_with_the_next_higher_bound() {
        let times = Histogram::default();
        for milliseconds in [0, 10, 11, 60_000, 60_001] {
            times.observe(Duration::from_millis(milliseconds));
        }
        let Distribution { sum, buckets } = times.read();
        let full: Vec<(f64, u64)> = buckets.into_iter().filter(|(_, number)| *number > 0).collect();
        assert_eq!(full, [(0.01, 2), (0.025, 1), (60.0, 1), (f64::INFINITY, 1)]);
        assert!((sum - 120.022).abs() < 1e-9, "{sum}");
    }

    #[test]
    fn each_route_and_each_outcome_has_its_own_number() {
        assert!(Route::ALL.iter().enumerate().all(|(index, route)| *route as usize == index));
        assert!(Outcome::ALL.iter().enumerate().all(|(index, outcome)| *outcome as usize == index));
    }
}
