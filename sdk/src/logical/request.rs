//! Requests of the host to a backend.

use std::collections::BTreeMap;

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
    /// Request headers that the mount passes to the plugin.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Whether the host reads from a loaded snapshot. The host then refuses a lease after the handler ran (Vault only).
    pub from_snapshot: bool,
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
            headers: BTreeMap::new(),
            from_snapshot: false,
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

    /// Sets whether the host reads from a loaded snapshot.
    #[must_use]
    pub fn from_snapshot(mut self, from_snapshot: bool) -> Self {
        self.from_snapshot = from_snapshot;
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
