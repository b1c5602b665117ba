//! Leases: the plugin sends a lease to the host when it creates one, and gets the lease back on renew and revoke.

use std::time::Duration;

use jiff::Timestamp;

use super::data::Map;

/// A lease. It has no `Debug`, because `internal_data` may hold secrets.
#[derive(Clone)]
#[non_exhaustive]
pub struct Secret {
    /// TTL of the lease from now on. Zero means the mount's default.
    pub ttl: Duration,
    /// Max TTL, counted from the issue time. Zero means the mount's maximum.
    pub max_ttl: Duration,
    /// Whether the lease can be renewed.
    pub renewable: bool,
    /// TTL that the caller of a renewal asks for. Zero means that the caller does not ask.
    pub increment: Duration,
    /// Id of the lease. Most hosts leave it empty in most calls.
    pub lease_id: String,
    /// When the lease was issued. `None` on a new lease.
    pub issue_time: Option<Timestamp>,
    /// Data for renew and revoke. The host stores the data with the lease and never shows it.
    pub internal_data: Map,
}

impl Secret {
    /// Returns a new renewable lease.
    pub fn new(ttl: Duration, max_ttl: Duration, internal_data: Map) -> Self {
        let (lease_id, increment) = (String::new(), Duration::ZERO);
        Self { ttl, max_ttl, renewable: true, increment, lease_id, issue_time: None, internal_data }
    }

    /// Sets the TTL of the lease from now on.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the max TTL, counted from the issue time.
    #[must_use]
    pub fn max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = max_ttl;
        self
    }

    /// Sets whether the lease can be renewed.
    #[must_use]
    pub fn renewable(mut self, renewable: bool) -> Self {
        self.renewable = renewable;
        self
    }

    /// Sets the TTL that the caller of a renewal asks for.
    #[must_use]
    pub fn increment(mut self, increment: Duration) -> Self {
        self.increment = increment;
        self
    }

    /// Sets when the lease was issued. The host sets this, and tests do.
    #[must_use]
    pub fn issue_time(mut self, time: Timestamp) -> Self {
        self.issue_time = Some(time);
        self
    }

    /// Sets the data for renew and revoke.
    #[must_use]
    pub fn internal_data(mut self, data: Map) -> Self {
        self.internal_data = data;
        self
    }
}
