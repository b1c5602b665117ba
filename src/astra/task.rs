//! Work that goes on when the caller hangs up, which drops the future of the handler.

use std::future::Future;
use std::panic::resume_unwind;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::Error;

/// Starts work whose log lines belong to the request that it is started in.
pub(crate) fn start<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    tokio::spawn(work.in_current_span())
}

/// Waits for work to end. A panic in it becomes that of the request.
///
/// # Errors
/// When it was cut short, because the process ends.
pub(crate) async fn end<T>(work: JoinHandle<T>) -> Result<T, Error> {
    work.await.map_err(|failed| match failed.try_into_panic() {
        Ok(payload) => resume_unwind(payload),
        Err(_) => Error::NotYet("the plugin is stopping; try again".into()),
    })
}
