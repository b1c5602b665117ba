//! Notices handlers that hold their thread. Debug builds only, since reading the clock costs time.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long a handler may hold its thread. All other requests of the thread wait meanwhile.
const LONGEST: Duration = Duration::from_millis(50);

/// A future that warns if one of its polls takes long.
pub(super) struct Watched<F>(F);

impl<F> Watched<F> {
    pub(super) fn new(future: F) -> Self {
        Self(future)
    }
}

impl<F: Future + Unpin> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if !cfg!(debug_assertions) {
            return Pin::new(&mut self.0).poll(cx);
        }
        let start = Instant::now();
        let polled = Pin::new(&mut self.0).poll(cx);
        let held = start.elapsed();
        if held >= LONGEST {
            tracing::warn!(
                milliseconds = u64::try_from(held.as_millis()).unwrap_or(u64::MAX),
                "a handler held its thread, and with it all other requests; move blocking work to a blocking thread"
            );
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_result_passes() {
        assert_eq!(Watched::new(Box::pin(async { 7 })).await, 7);
    }
}
