//! Detached work: tasks of a mount that run to completion although the caller hangs up.
//!
//! If the caller hangs up, the host cancels the call, and the handler's future is dropped at its next await point. Work
//! that must not stop half-way therefore runs as a task. Tasks are waited for twice: [`Tasks::finish`] waits for the
//! tasks of a mount before it is unmounted. The process waits about a second for the tasks of all mounts before it
//! ends.
//!
//! The host cleans up its mounts one after the other when it seals, steps down or stops. All tasks go on while it waits
//! for one mount, so the mounts of a process share one budget.
//!
//! Architecture invariant: knows neither requests nor engines.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::context;

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
pub struct Tasks {
    tracker: TaskTracker,
    budget: Budget,
}

/// After this time without a cleanup, the next cleanup belongs to another seal, and the [`Budget`] is full again.
const RENEWAL: Duration = Duration::from_secs(30);

/// How long the cleanups of several mounts have waited. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Budget(Arc<Mutex<Spent>>);

#[derive(Debug, Default)]
struct Spent {
    waited: Duration,
    /// The end of the last cleanup.
    last: Option<Instant>,
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, Spent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how much of `patience` is left.
    fn left(&self, patience: Duration) -> Duration {
        let mut spent = self.lock();
        if spent.last.is_none_or(|last| last.elapsed() >= RENEWAL) {
            spent.waited = Duration::ZERO;
        }
        patience.saturating_sub(spent.waited)
    }

    fn spend(&self, waited: Duration) {
        let mut spent = self.lock();
        spent.waited += waited;
        spent.last = Some(Instant::now());
    }
}

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
    /// Returns the tasks of a mount that shares its patience at cleanup with other mounts.
    pub(crate) fn sharing(budget: Budget) -> Self {
        Self { tracker: TaskTracker::default(), budget }
    }

    /// Starts work. Log lines of the work carry the fields of the current request, and its storage reads the snapshot of
    /// the current request. Work that `tokio::spawn` starts does not belong to the request.
    ///
    /// # Errors
    /// If the mount is being unmounted.
    pub fn start<T, W>(&self, work: W) -> Result<Task<T>, Stopping>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        // The order matters: `finish` closes first, then waits for all tokens.
        let token = self.tracker.token();
        if self.tracker.is_closed() {
            return Err(Stopping);
        }
        let task = self.spawn(work);
        drop(token);
        Ok(task)
    }

    /// Starts work at the end of a mount, also if the mount is being unmounted. A callback of
    /// [`Backend::on_cleanup`](crate::framework::Backend::on_cleanup) uses this, and [`Tasks::finish`] waits for the work.
    pub fn start_last<T, W>(&self, work: W) -> Task<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        self.spawn(work)
    }

    fn spawn<T, W>(&self, work: W) -> Task<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        // No async block: it would store the future twice, and the future of a mint is large.
        let work = ALL.track_future(self.tracker.track_future(work));
        Task(match context::current() {
            Some(request) => tokio::spawn(context::scope(request, work).in_current_span()),
            None => tokio::spawn(work.in_current_span()),
        })
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
        self.tracker.close();
    }

    /// Returns whether no task runs.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Refuses new work and waits for the running tasks. All mounts of the process together wait at most for
    /// `patience`, until no mount was cleaned up for 30 seconds. A [`Backend`](crate::framework::Backend) calls this at
    /// cleanup.
    pub async fn finish(&self, patience: Duration) {
        let start = Instant::now();
        self.finish_alone(self.budget.left(patience)).await;
        self.budget.spend(start.elapsed());
    }

    /// Like [`Tasks::finish`], but does not share `patience` with other mounts. For a mount that the host removes: its
    /// write-ahead log is deleted with it, so nothing would undo unfinished work.
    pub async fn finish_alone(&self, patience: Duration) {
        self.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            let unfinished = self.tracker.len();
            tracing::warn!(unfinished, "left work unfinished; the write-ahead log tells what to undo");
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

    #[tokio::test]
    async fn the_last_work_starts_during_the_unmount_and_is_waited_for() {
        let tasks = Tasks::default();
        tasks.close();
        let (done, ended) = oneshot::channel();
        drop(tasks.start_last(async move {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        }));
        tasks.finish(Duration::from_secs(60)).await;
        assert_eq!(ended.now_or_never(), Some(Ok(())));
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

    /// Returns how long the cleanups of mounts with a task that hangs take, one after the other.
    async fn cleanups(budget: &Budget, mounts: usize) -> Duration {
        let start = Instant::now();
        for _ in 0..mounts {
            let tasks = Tasks::sharing(budget.clone());
            let hanging = tasks.start(std::future::pending::<()>()).unwrap();
            tasks.finish(Duration::from_secs(4)).await;
            hanging.0.abort();
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn many_mounts_with_work_that_hangs_wait_as_long_as_one() {
        for mounts in [1, 12, 50] {
            assert_eq!(cleanups(&Budget::default(), mounts).await, Duration::from_secs(4), "{mounts} mounts");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_back_when_no_mount_was_cleaned_up_for_a_while() {
        let budget = Budget::default();
        assert_eq!(cleanups(&budget, 2).await, Duration::from_secs(4));
        tokio::time::advance(RENEWAL - Duration::from_secs(1)).await;
        assert_eq!(cleanups(&budget, 2).await, Duration::ZERO);
        tokio::time::advance(RENEWAL).await;
        assert_eq!(cleanups(&budget, 2).await, Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cleanup_without_work_leaves_the_patience_to_others() {
        let budget = Budget::default();
        Tasks::sharing(budget.clone()).finish(Duration::from_secs(4)).await;
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(cleanups(&budget, 2).await, Duration::from_secs(4));
        // A mount that is removed does not share.
        let tasks = Tasks::sharing(budget);
        let hanging = tasks.start(std::future::pending::<()>()).unwrap();
        let start = Instant::now();
        tasks.finish_alone(Duration::from_secs(4)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(4));
        hanging.0.abort();
    }

    #[tokio::test]
    #[should_panic(expected = "told to")]
    async fn a_panic_of_the_work_reaches_the_caller() {
        let _ = Tasks::default().run(async { panic!("told to") }).await;
    }
}
