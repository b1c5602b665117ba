//! Faults of the host on demand.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use crate::logical::StorageError;

/// A fault of the host, in its storage or its facts. Calls are counted from the moment at which the fault is set. Call
/// 1 is the next call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum HostFault {
    /// The n-th call fails and has no effect.
    At(usize),
    /// The n-th call takes effect, but returns an error.
    AfterEffectAt(usize),
    /// The n-th call takes effect, but does not return until the fault is removed.
    HangsAt(usize),
    /// All calls from the n-th on fail.
    From(usize),
    /// All writes from the n-th call on fail, as if the node became a standby.
    ReadOnlyFrom(usize),
    /// Every call takes this long.
    Slow(Duration),
}

/// Counts the calls of a stand-in and makes them fail.
#[derive(Default)]
pub(super) struct Gate {
    calls: AtomicUsize,
    writes: AtomicUsize,
    /// The fault, and the number of calls before it was set.
    fault: watch::Sender<Option<(HostFault, usize)>>,
}

impl Gate {
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub(super) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    pub(super) fn set(&self, fault: Option<HostFault>) {
        self.fault.send_replace(fault.map(|fault| (fault, self.calls())));
    }

    /// Makes one call. The effect happens unless the fault prevents it.
    pub(super) async fn pass<T: Send>(
        &self,
        writes: bool,
        effect: impl FnOnce() -> T + Send,
    ) -> Result<T, StorageError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.writes.fetch_add(usize::from(writes), Ordering::SeqCst);
        let fault = *self.fault.borrow();
        let Some((fault, before)) = fault else { return Ok(effect()) };
        let failed = || Err(StorageError::Failed("told to fail".into()));
        let n = call - before;
        match fault {
            HostFault::At(at) if n == at => failed(),
            HostFault::From(first) if n >= first => failed(),
            HostFault::ReadOnlyFrom(first) if writes && n >= first => Err(StorageError::ReadOnly),
            HostFault::AfterEffectAt(at) if n == at => {
                effect();
                failed()
            }
            HostFault::HangsAt(at) if n == at => {
                let done = effect();
                // The sender is a field of this gate, so waiting cannot fail.
                let _ = self.fault.subscribe().wait_for(Option::is_none).await;
                Ok(done)
            }
            HostFault::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(effect())
            }
            _ => Ok(effect()),
        }
    }
}
