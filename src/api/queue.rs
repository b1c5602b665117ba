//! The limits of the calls of one org.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::Semaphore;

use super::meter::{Meter, Route, Tally, Waiting};

/// How many requests of one org run at the same time. The others wait for a permit.
pub(super) const CONCURRENT: usize = 64;

/// How many of these requests may be lists of tokens. For each list, Astra reads and sends all tokens of the org.
const CONCURRENT_LISTS: usize = 4;

/// The calls of one org. Waiting calls get their permits in the order of arrival.
pub(crate) struct Queue {
    /// Permits for requests.
    pub(super) permits: Semaphore,
    /// Additional permits for lists of tokens, acquired first.
    pub(super) list_permits: Semaphore,
    meter: Arc<Meter>,
    tally: Tally,
}

/// Numbers of one org's requests, in this process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Requests that Astra has not answered.
    pub(crate) in_flight: u64,
    /// Requests that wait for a permit.
    pub(crate) queued: u64,
    /// Requests that were sent.
    pub(crate) sent: u64,
    /// Requests that failed, or were not sent.
    pub(crate) failed: u64,
    /// Requests that Astra answered with 429.
    pub(crate) rate_limited: u64,
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.in_flight += other.in_flight;
        self.queued += other.queued;
        self.sent += other.sent;
        self.failed += other.failed;
        self.rate_limited += other.rate_limited;
    }
}

impl Queue {
    /// Returns a queue whose calls this meter counts.
    pub(crate) fn new(meter: Arc<Meter>) -> Self {
        let (permits, list_permits) = (Semaphore::new(CONCURRENT), Semaphore::new(CONCURRENT_LISTS));
        Self { permits, list_permits, meter, tally: Tally::default() }
    }

    /// Returns the numbers so far.
    pub(crate) fn load(&self) -> Load {
        let in_flight = CONCURRENT.saturating_sub(self.permits.available_permits());
        Load {
            in_flight: in_flight as u64,
            queued: self.tally.waiting.load(Relaxed),
            sent: self.tally.sent.load(Relaxed),
            failed: self.tally.failed.load(Relaxed),
            rate_limited: self.tally.rate_limited.load(Relaxed),
        }
    }

    /// Begins to measure a request that waits for a permit.
    pub(super) fn wait(&self, route: Route) -> Waiting<'_> {
        Waiting::begin(&self.meter, &self.tally, route)
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::new(Arc::default())
    }
}
