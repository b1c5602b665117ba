//! Leases: what the host is told when one is made, and tells when it is renewed or revoked.

use std::time::Duration;

use jiff::Timestamp;

use super::data::Map;

/// A lease. It has no `Debug`, because `internal_data` may hold secrets.
#[derive(Clone)]
#[non_exhaustive]
pub struct Secret {
    /// How long the lease lasts from now on. Zero leaves it to the mount's default.
    pub ttl: Duration,
    /// The longest life since issue. Zero leaves it to the mount's maximum.
    pub max_ttl: Duration,
    /// Whether the lease can be renewed.
    pub renewable: bool,
    /// What the caller of a renewal asked for; zero if nothing.
    pub increment: Duration,
    /// Id of the lease. Most hosts leave it empty in most calls.
    pub lease_id: String,
    /// When the lease was issued. `None` on a lease that is just being made.
    pub issue_time: Option<Timestamp>,
    /// What renew and revoke need to know; stored with the lease, never shown.
    pub internal_data: Map,
}

impl Secret {
    /// Returns a new renewable lease.
    pub fn new(ttl: Duration, max_ttl: Duration, internal_data: Map) -> Self {
        let (lease_id, increment) = (String::new(), Duration::ZERO);
        Self { ttl, max_ttl, renewable: true, increment, lease_id, issue_time: None, internal_data }
    }

    /// Sets how long the lease lasts from now on.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets the longest time since issue.
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

    /// Sets what the caller of a renewal asks for.
    #[must_use]
    pub fn increment(mut self, increment: Duration) -> Self {
        self.increment = increment;
        self
    }

    /// Sets when the lease was issued. The host does this; tests do too.
    #[must_use]
    pub fn issue_time(mut self, time: Timestamp) -> Self {
        self.issue_time = Some(time);
        self
    }

    /// Sets what renew and revoke need to know.
    #[must_use]
    pub fn internal_data(mut self, data: Map) -> Self {
        self.internal_data = data;
        self
    }
}
