//! The limits of the calls of one org.

use tokio::sync::Semaphore;

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
}

impl Default for Queue {
    fn default() -> Self {
        Self { permits: Semaphore::new(CONCURRENT), list_permits: Semaphore::new(CONCURRENT_LISTS) }
    }
}
