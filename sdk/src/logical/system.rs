//! The host's facts about the mount, the node and the callers.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;

use super::error::Error;

/// Replication state of the node: a bit mask (OpenBao `sdk/helper/consts/replication.go`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReplicationState(pub i32);

impl ReplicationState {
    /// The active node of a cluster without replication, or of a primary.
    pub const PRIMARY: Self = Self(4096 | 8192);
    /// A node of a performance secondary.
    pub const PERFORMANCE_SECONDARY: Self = Self(64);
    /// A node of a disaster recovery secondary.
    pub const DR_SECONDARY: Self = Self(512);
    /// A standby that answers reads.
    pub const PERFORMANCE_STANDBY: Self = Self(16384);

    /// Whether this node only serves reads and forwards all other requests.
    pub fn is_standby(self) -> bool {
        self.0 & Self::PERFORMANCE_STANDBY.0 != 0
    }

    /// Whether a mount on this node can write. On a secondary, only mounts that are local to the cluster can write.
    pub fn is_writable(self, local_mount: bool) -> bool {
        self.0 & (Self::DR_SECONDARY.0 | Self::PERFORMANCE_STANDBY.0) == 0
            && (local_mount || self.0 & Self::PERFORMANCE_SECONDARY.0 == 0)
    }
}

/// An identity entity.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Entity {
    /// Id of the entity.
    pub id: String,
    /// Name of the entity.
    pub name: String,
    /// Whether the entity is disabled.
    pub disabled: bool,
    /// Key=value pairs that the operator set.
    pub metadata: BTreeMap<String, String>,
}

/// Facts of the host. Every call is a round trip. During registration, every call fails.
///
/// The default methods answer as a host without the feature would. They keep the stand-ins of tests short.
#[async_trait]
pub trait SystemView: Send + Sync + 'static {
    /// Returns the TTL of this mount's leases if the plugin asks for none.
    async fn default_lease_ttl(&self) -> Result<Duration, Error>;

    /// Returns the max TTL of this mount's leases.
    async fn max_lease_ttl(&self) -> Result<Duration, Error>;

    /// Returns the replication state of this node.
    async fn replication_state(&self) -> Result<ReplicationState, Error>;

    /// Whether the mount is local to this cluster.
    async fn local_mount(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Whether the mount is being removed.
    async fn tainted(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Whether the operator disabled caches.
    async fn caching_disabled(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Returns the host's version, such as `2.7.2`.
    async fn host_version(&self) -> Result<String, Error>;

    /// Returns the entity of this id, or `None`.
    async fn entity(&self, _id: &str) -> Result<Option<Entity>, Error> {
        Ok(None)
    }

    /// Returns the id of the cluster. Empty if the host has none.
    async fn cluster_id(&self) -> Result<String, Error> {
        Ok(String::new())
    }

    /// Returns a password that the password policy of this name generates.
    ///
    /// # Errors
    /// If the host has no such policy.
    async fn generate_password(&self, policy: &str) -> Result<String, Error> {
        Err(Error::internal(format!("no password policy {policy:?}")))
    }

    /// Whether this node can write to this mount's storage.
    async fn is_writable(&self) -> Result<bool, Error> {
        let state = self.replication_state().await?;
        // Only a secondary needs the second round trip.
        Ok(state.is_writable(false) || (state.is_writable(true) && self.local_mount().await?))
    }
}

#[cfg(test)]
mod tests {
    use super::ReplicationState;

    #[test]
    fn who_may_write_follows_from_the_state() {
        // Columns: state, writable, writable for a local mount, standby.
        let cases = [
            (0, true, true, false),
            (12288, true, true, false),
            (24576, false, false, true),
            (32, true, true, false),
            (64, false, true, false),
            (256, true, true, false),
            (512, false, false, false),
            (64 | 16384, false, false, true),
        ];
        for (state, writable, local, standby) in cases {
            let state = ReplicationState(state);
            assert_eq!(state.is_writable(false), writable, "{state:?}");
            assert_eq!(state.is_writable(true), local, "{state:?}");
            assert_eq!(state.is_standby(), standby, "{state:?}");
        }
    }
}
