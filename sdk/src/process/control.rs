//! The reasons to stop the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The reason why the process stops.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stop {
    /// The host asked the plugin to stop.
    Shutdown,
    /// The host closed the broker stream, which it never reopens. An orderly stop starts with this, too.
    HostGone,
    /// The process received SIGTERM.
    Terminated,
    /// The host is not connected. If it gives up before the broker stream, there is no other sign.
    Unused,
}

/// How often the process checks its parent.
const TICK: Duration = Duration::from_secs(1);

/// How long the host may be without a connection.
const UNUSED: Duration = Duration::from_secs(60);

/// How long the host may take for an orderly stop that is already in progress.
const GRACE: Duration = Duration::from_secs(1);
const TERMINATION_GRACE: Duration = Duration::from_secs(3);

/// How long the answer to `Shutdown` may take to reach the host. The host kills the process after 2 seconds.
const DRAIN: Duration = Duration::from_millis(500);

/// How long unfinished work may take after the answer to `Shutdown`.
const WORK: Duration = Duration::from_secs(1);

/// The stop signal and its inputs, shared by the tasks of the process.
#[derive(Clone)]
pub(super) struct Control {
    stop: SyncSender<Stop>,
    /// Open connections of the host.
    connections: Arc<AtomicUsize>,
    /// Returns the number of unfinished tasks.
    unfinished: fn() -> usize,
}

/// Counts one connection of the host until it is dropped.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Control {
    /// Returns the control, and the receiver of stop reasons.
    pub(super) fn new(unfinished: fn() -> usize) -> (Self, Receiver<Stop>) {
        let (stop, stops) = sync_channel(8);
        (Self { stop, connections: Arc::default(), unfinished }, stops)
    }

    /// Asks the process to stop. If the queue of reasons is full, further reasons are ignored.
    pub(super) fn stop(&self, reason: Stop) {
        let _ = self.stop.try_send(reason);
    }

    /// Counts a connection of the host.
    pub(super) fn connected(&self) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted(self.connections.clone())
    }

    fn open(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits for a reason to stop. This runs on its own thread, so that no request can block it.
    pub(super) fn wait(&self, stops: &Receiver<Stop>) -> Stop {
        self.wait_unless(stops, TICK, UNUSED)
    }

    fn wait_unless(&self, stops: &Receiver<Stop>, tick: Duration, unused: Duration) -> Stop {
        let parent = rustix::process::getppid();
        let mut seen = Instant::now();
        loop {
            match stops.recv_timeout(tick) {
                Ok(reason) => return self.settle(reason, stops),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Stop::HostGone,
            }
            // If the host was killed, this process has a new parent.
            if rustix::process::getppid() != parent {
                return Stop::HostGone;
            }
            if self.open() > 0 {
                seen = Instant::now();
            } else if seen.elapsed() > unused {
                return Stop::Unused;
            }
        }
    }

    /// Gives the host time to finish its orderly stop.
    fn settle(&self, first: Stop, stops: &Receiver<Stop>) -> Stop {
        let mut reason = first;
        if let Some(grace) = match first {
            Stop::HostGone => Some(GRACE),
            Stop::Terminated => Some(TERMINATION_GRACE),
            Stop::Shutdown | Stop::Unused => None,
        } {
            let end = Instant::now() + grace;
            while reason != Stop::Shutdown && self.open() > 0 {
                match stops.recv_timeout(POLL) {
                    Ok(next) => reason = next,
                    Err(_) if Instant::now() < end => {}
                    Err(_) => break,
                }
            }
        }
        let end = Instant::now() + DRAIN;
        while reason == Stop::Shutdown && self.open() > 0 && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        let end = Instant::now() + WORK;
        while (self.unfinished)() > 0 && Instant::now() < end {
            std::thread::sleep(POLL);
        }
        reason
    }
}

const POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orderly_stop_goes_on_after_the_broker_stream_ended() {
        let (control, stops) = Control::new(|| 0);
        let _connection = control.connected();
        control.stop(Stop::HostGone);
        control.stop(Stop::Shutdown);
        assert_eq!(control.wait(&stops), Stop::Shutdown);
    }

    #[test]
    fn shutdown_does_not_wait_for_a_host_that_stays() {
        let (control, stops) = Control::new(|| 0);
        let _connection = control.connected();
        let start = Instant::now();
        control.stop(Stop::Shutdown);
        assert_eq!(control.wait(&stops), Stop::Shutdown);
        assert!(start.elapsed() < GRACE);
    }

    #[test]
    fn host_that_left_before_it_opened_the_broker_stream_ends_the_process() {
        let (control, stops) = Control::new(|| 0);
        let connection = control.connected();
        let (end, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = end.send(control.wait_unless(&stops, Duration::from_millis(1), Duration::from_millis(50)));
        });
        assert!(ended.recv_timeout(Duration::from_millis(200)).is_err(), "it ends although the host is connected");
        drop(connection);
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(Stop::Unused));
    }

    #[test]
    fn lost_host_ends_the_process_at_once_if_no_connection_is_left() {
        let (control, stops) = Control::new(|| 0);
        drop(control.connected());
        control.stop(Stop::HostGone);
        let start = Instant::now();
        assert_eq!(control.wait(&stops), Stop::HostGone);
        assert!(start.elapsed() < GRACE);
    }

    #[test]
    fn unfinished_work_has_a_moment_to_end() {
        static LEFT: AtomicUsize = AtomicUsize::new(10);
        let (control, stops) = Control::new(|| LEFT.fetch_sub(1, Ordering::Relaxed));
        control.stop(Stop::Shutdown);
        assert_eq!((control.wait(&stops), LEFT.load(Ordering::Relaxed)), (Stop::Shutdown, usize::MAX));

        let (control, stops) = Control::new(|| 1);
        control.stop(Stop::Shutdown);
        let start = Instant::now();
        assert_eq!(control.wait(&stops), Stop::Shutdown);
        assert!((WORK..WORK * 3).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}
