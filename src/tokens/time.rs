//! Computes times and TTLs of tokens and leases.

use std::time::Duration;

use jiff::Timestamp;

use crate::engine::Engine;
use crate::error::Error;

/// The token expires in Astra this long after the max TTL of its lease. So it never expires before the lease, and it expires
/// even if no revocation comes.
pub(super) const EXPIRY_MARGIN: Duration = Duration::from_secs(3600);

/// Returns the max TTL of a lease: that of the role, or that of the mount if it is shorter.
pub(super) async fn capped(engine: &Engine, max_ttl: Duration) -> Result<Duration, Error> {
    let mount_max = engine.system.max_lease_ttl().await?;
    Ok(if mount_max.is_zero() { max_ttl } else { max_ttl.min(mount_max) })
}

/// Formats a time for Astra: RFC 3339 in UTC with whole seconds.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    whole(time).to_string()
}

/// Returns the start of the second of a time. When the host renews a lease, it cuts its times in this way.
pub(super) fn whole(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// Adds a duration to a time. Returns the last possible time if the sum is later.
pub(crate) fn later(time: Timestamp, by: Duration) -> Timestamp {
    jiff::SignedDuration::try_from(by).ok().and_then(|by| time.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// Returns the whole seconds from `start` to `end`, or zero if `end` is earlier.
pub(super) fn until(start: Timestamp, end: Timestamp) -> Duration {
    Duration::from_secs(end.duration_since(start).as_secs().try_into().unwrap_or(0))
}
