//! Work that goes on when its caller hangs up, and that the process finishes before it ends, if it can.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinHandle;
use tracing::Instrument as _;

static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Starts work that a caller who hangs up, which drops the future of a handler, does not cut short. Its log lines belong
/// to the request that it is started in. A process that is told to end waits about a second for it.
pub fn start<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let counted = Counted::new();
    let work = async move {
        let _counted = counted;
        work.await
    };
    tokio::spawn(work.in_current_span())
}

/// Returns how much work there is.
pub(super) fn running() -> usize {
    RUNNING.load(Ordering::Acquire)
}

/// A piece of work, until it ends or panics.
struct Counted;

impl Counted {
    fn new() -> Self {
        RUNNING.fetch_add(1, Ordering::AcqRel);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    }
}
