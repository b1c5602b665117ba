//! Detached work: tasks of a mount that run to completion although the caller hangs up.
//!
//! If the caller hangs up, the host cancels the call, and the handler's future is dropped at its next await point. Work
//! that must not stop half-way therefore runs as a task. Tasks are waited for twice: [`Tasks::finish`] waits for the
//! tasks of a mount before it is unmounted. The process waits about a second for the tasks of all mounts before it
//! ends.
//!
//! Architecture invariant: knows neither requests nor engines.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The tasks of all mounts. The process waits for them before it ends.
static ALL: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

/// The tasks of one mount. Clones share them.
///
/// A handler declared with [`detached`](crate::framework::Handler::detached) runs as such a task. For a part of a
/// handler, use the tasks of the [`Mount`](crate::logical::Mount):
///
/// ```
/// # use vault_plugin_sdk::logical::{Mount, StorageError, StorageExt};
/// async fn count(mount: &Mount) -> Result<u64, vault_plugin_sdk::logical::Error> {
///     let storage = mount.storage.clone();
///     let counted = mount.tasks.run(async move {
///         let count = storage.get_json("count").await?.unwrap_or(0) + 1;
///         storage.put_json("count", &count).await?;
///         Ok::<u64, StorageError>(count)
///     });
///     Ok(counted.await??)
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Tasks(TaskTracker);

/// The work was not started, or did not finish, because the mount is being unmounted or the process ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the plugin is stopping; try again")]
#[non_exhaustive]
pub struct Stopping;

/// A task. Dropping it does not stop the work.
///
/// Awaiting it returns the result of the work, or [`Stopping`] if the process ended first. If the work panics, the
/// await panics too.
#[derive(Debug)]
#[must_use = "the work goes on, but nobody learns its result"]
pub struct Task<T>(JoinHandle<T>);

impl Tasks {
    /// Starts work. Log lines of the work carry the fields of the current request.
    ///
    /// # Errors
    /// If the mount is being unmounted.
    pub fn start<T, W>(&self, work: W) -> Result<Task<T>, Stopping>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        // The order matters: `finish` closes first, then waits for all tokens.
        let token = self.0.token();
        if self.0.is_closed() {
            return Err(Stopping);
        }
        // No async block: it would store the future twice, and the future of a mint is large.
        let work = ALL.track_future(self.0.track_future(work));
        drop(token);
        Ok(Task(tokio::spawn(work.in_current_span())))
    }

    /// Starts work and waits for its result.
    ///
    /// # Errors
    /// If the mount is being unmounted.
    pub async fn run<T, W>(&self, work: W) -> Result<T, Stopping>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        self.start(work)?.await
    }

    /// Refuses new work from now on.
    pub fn close(&self) {
        self.0.close();
    }

    /// Refuses new work and waits for the running tasks, at most for `patience`. A
    /// [`Backend`](crate::framework::Backend) calls this at cleanup.
    pub async fn finish(&self, patience: Duration) {
        self.close();
        if tokio::time::timeout(patience, self.0.wait()).await.is_err() {
            tracing::warn!(unfinished = self.0.len(), "left work unfinished; the write-ahead log tells what to undo");
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, Stopping>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|ended| {
            ended.map_err(|failed| match failed.try_into_panic() {
                Ok(payload) => resume_unwind(payload),
                Err(_) => Stopping,
            })
        })
    }
}

/// Returns the number of tasks of all mounts.
pub(super) fn running() -> usize {
    ALL.len()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_without_its_caller_and_is_waited_for() {
        let tasks = Tasks::default();
        let (go, gone) = oneshot::channel::<()>();
        let (done, ended) = oneshot::channel();
        let mut caller = Box::pin(tasks.run(async move {
            gone.await.unwrap();
            done.send("done").unwrap();
        }));
        assert!(caller.as_mut().now_or_never().is_none());
        drop(caller);
        assert!(running() > 0);
        let finished = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.finish(Duration::from_secs(60)).await }
        });
        go.send(()).unwrap();
        finished.await.unwrap();
        assert_eq!(ended.await, Ok("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_nothing_new_is_started() {
        let tasks = Tasks::default();
        let work = tasks.start(std::future::pending::<()>()).unwrap();
        let start = tokio::time::Instant::now();
        tasks.finish(Duration::from_secs(4)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(4));
        assert_eq!(tasks.run(async {}).await, Err(Stopping));
        work.0.abort();
        assert_eq!(work.await, Err(Stopping));
    }

    #[tokio::test]
    #[should_panic(expected = "told to")]
    async fn a_panic_of_the_work_reaches_the_caller() {
        let _ = Tasks::default().run(async { panic!("told to") }).await;
    }
}
