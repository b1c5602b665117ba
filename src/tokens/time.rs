//! Points in time and how long tokens and leases last.

use std::time::Duration;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::Error;

/// How much longer than its lease a token lives, so that it dies even if nobody revokes it, and never before its lease.
pub(super) const EXPIRY_MARGIN: Duration = Duration::from_secs(3600);

/// Returns the longest life of a lease, which the mount may cut below that of the role.
pub(super) async fn capped(engine: &Engine, max_ttl: Duration) -> Result<Duration, Error> {
    let mount_max = engine.system.max_lease_ttl().await?;
    Ok(if mount_max.is_zero() { max_ttl } else { max_ttl.min(mount_max) })
}

/// Returns a point in time as Astra takes it: RFC 3339 in UTC with whole seconds.
pub(super) fn rfc3339(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Returns a later point in time, or the last one there is.
pub(super) fn later(time: Timestamp, by: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(by).ok().and_then(|by| time.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// Returns how long it is until `end` in whole seconds; zero if it has passed.
pub(super) fn until(start: Timestamp, end: Timestamp) -> Duration {
    Duration::from_secs(end.duration_since(start).as_secs().try_into().unwrap_or(0))
}
