//! Work that goes on when the caller hangs up, and that a mount finishes before it is taken down.

use std::future::Future;
use std::panic::resume_unwind;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::error::Error;
use crate::sdk::work;

/// The work of one mount.
#[derive(Default)]
pub(crate) struct Tasks(TaskTracker);

impl Tasks {
    /// Starts work whose log lines belong to the request that it is started in.
    ///
    /// # Errors
    /// When the mount is being taken down.
    pub(crate) fn start<T, W>(&self, work: W) -> Result<JoinHandle<T>, Error>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        if self.0.is_closed() { Err(stopping()) } else { Ok(work::start(self.0.track_future(work))) }
    }

    /// Starts work and waits for its end.
    ///
    /// # Errors
    /// When the mount is being taken down.
    pub(crate) async fn run<T, W>(&self, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        end(self.start(work)?).await
    }

    /// Takes no more work, and waits for what is there; not longer than `patience`.
    pub(crate) async fn finish(&self, patience: Duration) {
        self.0.close();
        if tokio::time::timeout(patience, self.0.wait()).await.is_err() {
            tracing::warn!(unfinished = self.0.len(), "left work unfinished; the write-ahead log tells what to undo");
        }
    }
}

/// Waits for work to end. A panic in it becomes that of the request.
///
/// # Errors
/// When it was cut short, because the process ends.
pub(crate) async fn end<T>(work: JoinHandle<T>) -> Result<T, Error> {
    work.await.map_err(|failed| match failed.try_into_panic() {
        Ok(payload) => resume_unwind(payload),
        Err(_) => stopping(),
    })
}

fn stopping() -> Error {
    Error::NotYet("the plugin is stopping; try again".into())
}
