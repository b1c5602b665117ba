//! Keeps the secrets of the process out of core dumps, and out of swap if the host asks for it.
//!
//! A failure must not prevent the start, so it is only logged.

use rustix::process::Resource;

/// Protects the memory of this process. `lock` also keeps it out of swap.
#[cfg(target_os = "linux")]
pub(super) fn protect(lock: bool) {
    use rustix::mm::{MlockAllFlags, mlockall};
    use rustix::process::{DumpableBehavior, geteuid, getrlimit, set_dumpable_behavior};

    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    // If the amount of locked memory is limited, locking future memory would make allocations fail later.
    let unlimited = geteuid().is_root() || getrlimit(Resource::Memlock).current.is_none();
    let future = if unlimited { MlockAllFlags::FUTURE } else { MlockAllFlags::empty() };
    if lock && let Err(error) = mlockall(MlockAllFlags::CURRENT | future) {
        tracing::warn!(%error, "memory could not be locked, secrets may get into swap");
    }
}

/// Protects the memory of this process. Systems other than Linux are only for development, so they lock nothing.
#[cfg(not(target_os = "linux"))]
pub(super) fn protect(lock: bool) {
    use rustix::process::{Rlimit, setrlimit};

    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps could not be turned off");
    }
    if lock {
        let error = std::io::Error::from(std::io::ErrorKind::Unsupported);
        tracing::warn!(%error, "memory could not be locked, secrets may get into swap");
    }
}
