//! Requests of the host to a backend.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::data::Map;
use super::lease::Secret;

/// An operation that the host can ask of a backend.
///
/// The host has more operations, and may get new ones. They never reach a backend: the wire answers them with
/// "unsupported operation".
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Operation {
    /// A write to an object that the existence check did not find.
    Create,
    /// A write to an object that exists, or to a path without existence check.
    Update,
    /// A partial write (RFC 7396 merge patch).
    Patch,
    /// A read.
    Read,
    /// A listing; the path ends in `/`.
    List,
    /// A recursive listing (OpenBao only); the path ends in `/`.
    Scan,
    /// A deletion.
    Delete,
    /// A request for the help text and OpenAPI document of a path.
    Help,
    /// The renewal of a lease.
    Renew,
    /// The revocation of a lease.
    Revoke,
    /// The host's tick, about once a minute for each mount.
    Rollback,
}

impl Operation {
    /// Returns the operation with this name on the wire, or `None` for an operation that backends do not support.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "create" => Self::Create,
            "update" => Self::Update,
            "patch" => Self::Patch,
            "read" => Self::Read,
            "list" => Self::List,
            "scan" => Self::Scan,
            "delete" => Self::Delete,
            "help" => Self::Help,
            "renew" => Self::Renew,
            "revoke" => Self::Revoke,
            "rollback" => Self::Rollback,
            _ => return None,
        })
    }

    /// Returns the name of this operation on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Read => "read",
            Self::List => "list",
            Self::Scan => "scan",
            Self::Delete => "delete",
            Self::Help => "help",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::Rollback => "rollback",
        }
    }

    /// Whether a client reads without changing anything. An empty answer then means "not found".
    pub fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::List | Self::Scan | Self::Help)
    }

    /// Whether the operation comes from the host's lease manager, not from a client.
    pub fn is_lease(self) -> bool {
        matches!(self, Self::Renew | Self::Revoke)
    }
}

/// The caller of a request. All fields are empty if the host itself starts the operation.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Caller {
    /// Name of the caller's Vault token, such as `token` or `userpass-bob`. Not unique.
    pub display_name: String,
    /// Identity entity. Empty for Vault's root tokens and for tokens without an entity.
    pub entity_id: String,
    /// Accessor of the caller's Vault token.
    pub token_accessor: String,
    /// Address of the client.
    pub remote_address: String,
}

impl Caller {
    /// Returns a caller with this display name.
    pub fn new(display_name: impl Into<String>) -> Self {
        Self { display_name: display_name.into(), ..Self::default() }
    }

    /// Sets the identity entity.
    #[must_use]
    pub fn entity_id(mut self, id: impl Into<String>) -> Self {
        self.entity_id = id.into();
        self
    }

    /// Sets the accessor of the caller's Vault token.
    #[must_use]
    pub fn token_accessor(mut self, accessor: impl Into<String>) -> Self {
        self.token_accessor = accessor.into();
        self
    }

    /// Sets the address of the client.
    #[must_use]
    pub fn remote_address(mut self, address: impl Into<String>) -> Self {
        self.remote_address = address.into();
        self
    }
}

/// One request. It has no `Debug`, because `data` may hold secrets.
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// The host's id of the request. Empty if the host itself starts the operation.
    pub id: String,
    /// The operation.
    pub operation: Operation,
    /// Path relative to the mount, without leading slash. Empty for the root of the mount.
    pub path: String,
    /// Body or query parameters. Empty object if the request has none.
    pub data: Map,
    /// The lease, on renew and revoke.
    pub secret: Option<Secret>,
    /// The caller.
    pub caller: Caller,
    /// Namespace and path of the mount, with trailing slash. May be empty.
    pub mount_point: String,
    /// Accessor of the mount. The host sets it on writes only.
    pub mount_accessor: String,
    /// The wrapping of the response, if the caller asked for it. The host wraps the response itself.
    pub wrap: Option<Wrap>,
    /// Whether the path needs no Vault token.
    pub unauthenticated: bool,
    /// Request headers that the mount passes to the plugin.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Id of the loaded snapshot that the host reads from (Vault only). All reads of the mount's storage for this request
    /// then read the snapshot, so the engine must not answer from a cache. The host refuses a lease after the handler ran.
    pub snapshot_id: Option<String>,
    /// When the host stops waiting. The host limits ticks and queued revocations only.
    pub deadline: Option<Instant>,
    /// Tells work that continues without its caller whether the caller is gone.
    pub hang_up: HangUp,
}

/// How the caller wants the response to be wrapped.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Wrap {
    /// How long the wrapping token lives.
    pub ttl: Duration,
    /// Format of the wrapping token, such as `jwt`. Empty for the host's usual format.
    pub format: String,
    /// Whether the host stores the response with the additional encryption of the seal.
    pub seal_wrap: bool,
}

/// Whether the caller of a request has hung up. Only detached handlers need this: other handlers are dropped at that time.
#[derive(Clone, Default)]
pub struct HangUp(CancellationToken);

impl HangUp {
    /// Whether the caller is gone.
    pub fn is_over(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the caller is gone. If the caller gets the answer, this never returns.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// Says that the caller is gone.
    pub fn end(&self) {
        self.0.cancel();
    }
}

impl Request {
    /// Returns a request with only an operation and a path.
    pub fn new(operation: Operation, path: impl Into<String>) -> Self {
        Self {
            id: String::new(),
            operation,
            path: path.into(),
            data: Map::new(),
            secret: None,
            caller: Caller::default(),
            mount_point: String::new(),
            mount_accessor: String::new(),
            wrap: None,
            unauthenticated: false,
            headers: BTreeMap::new(),
            snapshot_id: None,
            deadline: None,
            hang_up: HangUp::default(),
        }
    }

    /// Sets body or query parameters.
    #[must_use]
    pub fn data(mut self, data: Map) -> Self {
        self.data = data;
        self
    }

    /// Sets the lease.
    #[must_use]
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Sets the caller.
    #[must_use]
    pub fn caller(mut self, caller: Caller) -> Self {
        self.caller = caller;
        self
    }

    /// Sets namespace and path of the mount, with trailing slash.
    #[must_use]
    pub fn mount_point(mut self, mount_point: impl Into<String>) -> Self {
        self.mount_point = mount_point.into();
        self
    }

    /// Sets the loaded snapshot that the host reads from.
    #[must_use]
    pub fn from_snapshot(mut self, id: impl Into<String>) -> Self {
        self.snapshot_id = Some(id.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Operation;

    #[test]
    fn operations_keep_their_names() {
        let names =
            ["create", "update", "patch", "read", "list", "scan", "delete", "help", "renew", "revoke", "rollback"];
        for name in names {
            assert_eq!(Operation::parse(name).map(Operation::as_str), Some(name));
        }
        for name in ["", "Read", "resolve-path", "header", "recover", "rotate", "alias-lookahead"] {
            assert_eq!(Operation::parse(name), None, "{name}");
        }
    }
}
