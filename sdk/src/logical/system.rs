//! The host's facts about the mount, the node and the callers, and the services that it offers to plugins.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::data::Map;
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
    /// Id of the entity's namespace.
    pub namespace_id: String,
    /// The accounts of the entity, one for each auth mount.
    pub aliases: Vec<Alias>,
}

/// An account of an entity at one auth mount.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Alias {
    /// Id of the alias.
    pub id: String,
    /// Name of the account at the auth mount.
    pub name: String,
    /// Type of the auth mount, such as `kubernetes`.
    pub mount_type: String,
    /// Accessor of the auth mount.
    pub mount_accessor: String,
    /// Key=value pairs of the auth method.
    pub metadata: BTreeMap<String, String>,
    /// Key=value pairs that the operator set.
    pub custom_metadata: BTreeMap<String, String>,
    /// Whether the alias exists in this cluster only.
    pub local: bool,
}

/// A group of identity entities.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Group {
    /// Id of the group.
    pub id: String,
    /// Name of the group.
    pub name: String,
    /// Key=value pairs that the operator set.
    pub metadata: BTreeMap<String, String>,
    /// Id of the group's namespace.
    pub namespace_id: String,
}

/// The version of the host. It is shown as in `2.7.2` or `1.21.1-rc1+ent`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct HostVersion {
    /// Version without prerelease and metadata, such as `2.7.2`.
    pub number: String,
    /// Prerelease, such as `rc1`. Often empty.
    pub prerelease: String,
    /// Build metadata, such as `ent`. Often empty.
    pub metadata: String,
}

impl HostVersion {
    /// Returns a version without prerelease and metadata.
    pub fn new(number: impl Into<String>) -> Self {
        Self { number: number.into(), ..Self::default() }
    }
}

impl fmt::Display for HostVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.number)?;
        for (sign, part) in [('-', &self.prerelease), ('+', &self.metadata)] {
            if !part.is_empty() {
                write!(f, "{sign}{part}")?;
            }
        }
        Ok(())
    }
}

/// A wrapping token that the host made for a response. No `Debug`: the token is a secret.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Wrapped {
    /// The wrapping token.
    pub token: String,
    /// Accessor of the wrapping token.
    pub accessor: String,
    /// How long the wrapping token lives.
    pub ttl: Duration,
}

/// An identity token of the plugin, for workload identity federation. No `Debug`: the token is a secret.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct IdentityToken {
    /// The token (JWT).
    pub token: String,
    /// How long the token lives.
    pub ttl: Duration,
}

/// A rotation that the host starts on a schedule, with a request of the operation `rotate`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RotationJob {
    /// Name of the job.
    pub name: String,
    /// Namespace and path of the mount, with trailing slash.
    pub mount_point: String,
    /// Path of the request, relative to the mount.
    pub path: String,
    /// When to rotate, as in cron. Empty if `period` is set.
    pub schedule: String,
    /// How long after its time a rotation may start. In whole seconds.
    pub window: Duration,
    /// Time between two rotations. In whole seconds. Zero if `schedule` is set.
    pub period: Duration,
}

/// An event for the subscribers of the host. It must not hold a secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Id of the event, unique within the cluster.
    pub id: String,
    /// Facts about the event.
    pub metadata: Map,
    /// Ids of what the event is about, such as paths.
    pub entity_ids: Vec<String>,
    /// A remark for people.
    pub note: String,
}

/// Facts and services of the host. Every call is a round trip. During registration, every call fails.
///
/// The default methods answer as a host without the feature would, with [`Error::UnsupportedByHost`] if engines can tell.
/// They keep the stand-ins of tests short.
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

    /// Returns the host's version.
    async fn host_version(&self) -> Result<HostVersion, Error>;

    /// Returns the entity of this id, or `None`.
    async fn entity(&self, _id: &str) -> Result<Option<Entity>, Error> {
        Ok(None)
    }

    /// Returns the groups of the entity of this id that are in the entity's namespace.
    async fn groups_of_entity(&self, _id: &str) -> Result<Vec<Group>, Error> {
        Ok(Vec::new())
    }

    /// Whether the host locks its memory, so that secrets are never swapped out. OpenBao never does.
    async fn mlock_enabled(&self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Wraps data (a JSON object) for this time. If `jwt` is set, the wrapping token is a JWT.
    ///
    /// # Errors
    /// OpenBao 2.7 and Vault 1.21 lack this service: the call does not carry the namespace that they need.
    async fn wrap_response(&self, _data: &Map, _ttl: Duration, _jwt: bool) -> Result<Wrapped, Error> {
        Err(Error::UnsupportedByHost("response wrapping"))
    }

    /// Returns an identity token of the plugin for this audience (Vault Enterprise).
    async fn identity_token(&self, _audience: &str, _ttl: Duration) -> Result<IdentityToken, Error> {
        Err(Error::UnsupportedByHost("identity tokens"))
    }

    /// Starts a rotation job, and returns its id (Vault Enterprise).
    async fn register_rotation_job(&self, _job: &RotationJob) -> Result<String, Error> {
        Err(Error::UnsupportedByHost("rotation jobs"))
    }

    /// Ends the rotation job of a path (Vault Enterprise). Vault without Enterprise has no jobs, and succeeds.
    async fn deregister_rotation_job(&self, _mount_point: &str, _path: &str) -> Result<(), Error> {
        Err(Error::UnsupportedByHost("rotation jobs"))
    }

    /// Sends an event of this type to the subscribers of the host (Vault only). Vault without Enterprise accepts the event,
    /// but has no subscribers.
    async fn send_event(&self, _event_type: &str, _event: &Event) -> Result<(), Error> {
        Err(Error::UnsupportedByHost("events"))
    }

    /// Records an observation of this type (Vault Enterprise). Vault without Enterprise accepts the observation and drops it.
    async fn record_observation(&self, _observation_type: &str, _data: &Map) -> Result<(), Error> {
        Err(Error::UnsupportedByHost("observations"))
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
    use super::{HostVersion, ReplicationState};

    #[test]
    fn a_version_is_shown_with_its_parts() {
        let version = |prerelease: &str, metadata: &str| {
            let (prerelease, metadata) = (prerelease.to_owned(), metadata.to_owned());
            HostVersion { prerelease, metadata, ..HostVersion::new("1.21.1") }.to_string()
        };
        assert_eq!(version("", ""), "1.21.1");
        assert_eq!(version("rc1", ""), "1.21.1-rc1");
        assert_eq!(version("", "ent"), "1.21.1+ent");
        assert_eq!(version("rc1", "ent"), "1.21.1-rc1+ent");
    }

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
