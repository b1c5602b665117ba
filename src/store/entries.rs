//! The stored entries, as JSON. Names and shapes are those of the Go plugin 2.0.0. This engine can load entries of the
//! Go plugin, and after a downgrade the Go plugin can load entries of this engine. Each new member has a default, and
//! the JSON omits a member with its default value.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::answers::Answers;
use super::caller_mode::CallerMode;
use super::json;
use super::root::Root;
use crate::names::{ClientId, LogicalName, OrgId, RoleName, fits_path};

/// URL of Astra's DevOps API, if the config sets none.
pub(crate) const DEFAULT_URL: &str = "https://api.astra.datastax.com";

/// `ttl` and `max_ttl`, if the role sets none.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(86400);

/// Time limit of one call to Astra, if the config sets none.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How many former logical names a config keeps.
const FORMER_NAMES_KEPT: usize = 8;

/// The key-value pairs that a caller attached to a token.
pub(crate) type Metadata = BTreeMap<String, String>;

/// `config/<org_id>`. No `Debug`: it holds the root token.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    /// The root token.
    #[serde(with = "json::secret")]
    pub(crate) astra_token: SecretString,
    /// URL of Astra's API, as the operator wrote it.
    #[serde(default = "default_url")]
    pub(crate) url: String,
    /// The operator's key for the org. It can differ from Astra's id of the organization.
    pub(crate) org_id: OrgId,
    /// Astra's id of the organization that the root token belongs to; empty until Astra has named the organization.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) astra_org_id: String,
    /// The operator's short name for the org; may be empty.
    #[serde(default)]
    pub(crate) logical_name: String,
    /// The former logical names, the latest one last. An error for a former name tells the caller the new name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) former_names: Vec<String>,
    /// Client ids of the root tokens that rotations replaced, the latest one last. The config never holds one of them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) former_roots: Vec<ClientId>,
    /// More about the root token and its predecessors.
    #[serde(default, skip_serializing_if = "Root::is_default")]
    pub(crate) root: Root,
    /// How callers get tokens.
    #[serde(default)]
    pub(crate) caller_mode: CallerMode,
    /// PEM of CA certificates to trust, in addition to those of the system; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) ca_cert: String,
    /// Time limit of one call to Astra.
    #[serde(default = "default_timeout", with = "json::nanoseconds", skip_serializing_if = "is_default_timeout")]
    pub(crate) request_timeout: Duration,
    /// Whether the engine sends Astra a description of each token.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub(crate) description: bool,
    /// Whether the engine sends Astra the time at which each token expires.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub(crate) token_expiry: bool,
}

impl Config {
    /// Returns a config without a root token and with defaults, for a write to fill in.
    pub(crate) fn new(org_id: OrgId, astra_org_id: &str) -> Self {
        Self {
            astra_token: empty_secret(),
            url: default_url(),
            org_id,
            astra_org_id: astra_org_id.to_owned(),
            logical_name: String::new(),
            former_names: Vec::new(),
            former_roots: Vec::new(),
            root: Root::default(),
            caller_mode: CallerMode::default(),
            ca_cert: String::new(),
            request_timeout: DEFAULT_TIMEOUT,
            description: true,
            token_expiry: true,
        }
    }

    /// Returns the name of the org in paths: its logical name, or its id if the logical name does not fit a path.
    /// `None` if neither fits.
    pub(crate) fn path_name(&self) -> Option<&str> {
        [&self.logical_name, self.org_id.as_str()].into_iter().find(|name| fits_path(name))
    }

    /// Whether the config belongs to this organization of Astra; `None` if the organization of the config is not known.
    pub(crate) fn is_of(&self, astra_org_id: &str) -> Option<bool> {
        if self.astra_org_id.is_empty() { None } else { Some(self.astra_org_id.eq_ignore_ascii_case(astra_org_id)) }
    }

    /// Changes the logical name of the org, and keeps the former one.
    pub(crate) fn rename(&mut self, logical_name: String) {
        let former = std::mem::replace(&mut self.logical_name, logical_name);
        if former == self.logical_name {
            return;
        }
        self.former_names.retain(|name| *name != former && *name != self.logical_name);
        if !former.is_empty() {
            self.former_names.push(former);
        }
        let surplus = self.former_names.len().saturating_sub(FORMER_NAMES_KEPT);
        self.former_names.drain(..surplus);
    }

    /// Whether one client can serve both configs: they have the same endpoint, root token and time limit.
    pub(crate) fn same_connection(&self, other: &Self) -> bool {
        self.same_endpoint(other) && self.request_timeout == other.request_timeout
    }

    /// Whether the root token was replaced since `earlier`, and the URL was not.
    pub(crate) fn has_replaced_root(&self, earlier: &Self) -> bool {
        self.url == earlier.url && self.astra_token.expose_secret() != earlier.astra_token.expose_secret()
    }

    /// Whether both configs have the same endpoint and root token. If one config was verified, so was the other.
    pub(crate) fn same_endpoint(&self, other: &Self) -> bool {
        self.url == other.url
            && self.ca_cert == other.ca_cert
            && self.astra_token.expose_secret() == other.astra_token.expose_secret()
    }

    /// Returns the client id of the root token; `None` if the token has another form.
    pub(crate) fn root_id(&self) -> Option<&str> {
        self.astra_token.expose_secret().split(':').nth(1).filter(|id| !id.is_empty())
    }

    /// Whether this is the client id of the root token.
    pub(crate) fn is_root(&self, client_id: &ClientId) -> bool {
        self.root_id() == Some(client_id.as_str())
    }
}

/// `role/<org_id>:<role_name>`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Role {
    /// Name in Vault.
    pub(crate) role_name: RoleName,
    /// Id of the role in Astra; of several, the first one. Use [`Role::role_ids`].
    pub(crate) role_id: String,
    /// Ids of the roles in Astra, if there are several. The Go plugin does not know them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) role_ids: Vec<String>,
    /// The org.
    pub(crate) org_id: OrgId,
    /// The stored value; 0 if it was never set. Use [`Role::ttl`], which applies the default.
    #[serde(default, with = "json::nanoseconds")]
    pub(crate) ttl: Duration,
    /// The stored value; 0 if it was never set. Use [`Role::max_ttl`], which applies the default.
    #[serde(default, with = "json::nanoseconds")]
    pub(crate) max_ttl: Duration,
    /// The limit of live tokens of the role; 0 means no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) max_tokens: u32,
    /// Keys that the metadata of each new token must have.
    #[serde(default, deserialize_with = "json::null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) required_metadata: Vec<String>,
    /// Pairs of each new token. The values can have templates.
    #[serde(default, deserialize_with = "json::null_is_default", skip_serializing_if = "Metadata::is_empty")]
    pub(crate) default_metadata: Metadata,
    /// Answers to reads of the role.
    #[serde(skip)]
    pub(crate) answers: Answers,
}

impl Role {
    /// Returns a role with defaults.
    pub(crate) fn new(org_id: OrgId, role_name: RoleName, role_id: String) -> Self {
        Self {
            role_name,
            role_id,
            role_ids: Vec::new(),
            org_id,
            ttl: DEFAULT_TTL,
            max_ttl: DEFAULT_TTL,
            max_tokens: 0,
            required_metadata: Vec::new(),
            default_metadata: Metadata::new(),
            answers: Answers::default(),
        }
    }

    /// Returns the TTL of a lease.
    pub(crate) fn ttl(&self) -> Duration {
        or_default(self.ttl).min(self.max_ttl())
    }

    /// Returns the max TTL of a lease.
    pub(crate) fn max_ttl(&self) -> Duration {
        or_default(self.max_ttl)
    }
}

/// `token/<token id>`. No `Debug`: it holds the token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Token {
    /// Public part of the token.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(crate) client_id: ClientId,
    /// The secret from which Astra computed the token.
    #[serde(default = "empty_secret", with = "json::secret")]
    pub(crate) secret: SecretString,
    /// The org.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(crate) org_id: OrgId,
    /// Role in Vault.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(crate) role_name: RoleName,
    /// Ids of the Astra roles.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(crate) roles: Vec<String>,
    /// The token.
    #[serde(default = "empty_secret", with = "json::secret")]
    pub(crate) token: SecretString,
    /// When Astra minted the token (RFC 3339).
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(crate) generated_on: String,
    /// Logical name; may be empty in sidecar mode.
    #[serde(default, deserialize_with = "json::null_is_default")]
    pub(crate) logical_name: LogicalName,
    /// The caller's pairs; `null` when there are none.
    #[serde(default, with = "json::nullable")]
    pub(crate) metadata: Metadata,
}

impl Token {
    /// Whether the entry holds a token. After an error of Astra, the Go plugin stored an entry without a token.
    pub(crate) fn is_live(&self) -> bool {
        !self.client_id.as_str().is_empty() && !self.token.expose_secret().is_empty()
    }
}

/// `client/<org_id>/<client_id>`: the inventory record of a token. Holds no secret.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// The token is stored as `token/<token_id>`.
    pub(crate) token_id: String,
    /// Role in Vault.
    pub(crate) role_name: RoleName,
    /// Logical name; may be empty.
    pub(crate) logical_name: LogicalName,
    /// The caller's pairs.
    pub(crate) metadata: Metadata,
    /// When Astra minted the token (RFC 3339).
    pub(crate) generated_on: String,
    /// When Vault stored the token (RFC 3339); empty for tokens of the Go plugin.
    pub(crate) created_at: String,
    /// Display name of the caller who minted the token.
    pub(crate) display_name: String,
    /// Identity entity of the caller who minted the token; empty if the caller has none.
    pub(crate) entity_id: String,
    /// One hour after the latest end of the lease (RFC 3339): the expiry in Astra, if Astra is told an expiry. Empty if it
    /// is not known.
    pub(crate) expires_at: String,
    /// The latest end of the lease (RFC 3339), if it is not one hour before `expires_at`: a renewal has moved it, or Astra
    /// let the token expire earlier than asked. Otherwise empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) lease_end: String,
    /// When the token ends because a newer token has its name (RFC 3339); otherwise empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) replaced_until: String,
    /// Whether the token expires in Astra at `expires_at`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) expires_in_astra: bool,
    /// The marker of the token, as in the WAL entry of its mint; empty for tokens of the Go plugin.
    pub(crate) marker: String,
    /// How the token ends.
    #[serde(skip_serializing_if = "Kind::is_default")]
    pub(crate) kind: Kind,
    /// The static role of the token; empty for a token with a lease.
    #[serde(skip_serializing_if = "is_no_name")]
    pub(crate) static_role: RoleName,
    /// The last read or renewal that was written (RFC 3339). Empty if there was none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) last_used_at: String,
    /// Display name of the last reader. Empty if nobody has read the token.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) last_used_by: String,
    /// The number of reads and renewals.
    #[serde(skip_serializing_if = "is_zero_count")]
    pub(crate) use_count: u64,
}

/// How a token ends.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// With its lease.
    #[default]
    Lease,
    /// Without a lease: a schedule replaces the token.
    Static,
}

impl Kind {
    /// Returns the text in answers.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Static => "static",
        }
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Record {
    /// Returns a record with only the data of the token's entry.
    pub(crate) fn of(token_id: &str, token: &Token) -> Self {
        Self {
            token_id: token_id.to_owned(),
            role_name: token.role_name.clone(),
            logical_name: token.logical_name.clone(),
            metadata: token.metadata.clone(),
            generated_on: token.generated_on.clone(),
            ..Self::default()
        }
    }

    /// Returns when the token expires in Astra; `None` if that is not known, or never.
    pub(crate) fn expiry(&self) -> Option<Timestamp> {
        self.expires_at.parse().ok().filter(|_| self.expires_in_astra)
    }
}

fn or_default(ttl: Duration) -> Duration {
    if ttl.is_zero() { DEFAULT_TTL } else { ttl }
}

fn default_url() -> String {
    DEFAULT_URL.to_owned()
}

fn default_timeout() -> Duration {
    DEFAULT_TIMEOUT
}

fn is_default_timeout(timeout: &Duration) -> bool {
    *timeout == DEFAULT_TIMEOUT
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_no_name(name: &RoleName) -> bool {
    name.as_str().is_empty()
}

fn is_zero_count(number: &u64) -> bool {
    *number == 0
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn empty_secret() -> SecretString {
    SecretString::from("")
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn round_trip<T: Serialize + for<'de> Deserialize<'de>>(stored: &Value) {
        let entry: T = serde_json::from_value(stored.clone()).expect("loads");
        assert!(serde_json::to_value(&entry).expect("has a JSON form") == *stored, "stored JSON changed its shape");
    }

    #[test]
    fn entries_of_the_go_plugin_load_and_keep_their_shape() {
        round_trip::<Config>(&json!({
            "astra_token": "AstraCS:abc:def", "url": "https://api.astra.datastax.com", "org_id": "o1",
            "logical_name": "org1", "caller_mode": 2,
        }));
        round_trip::<Role>(&json!({
            "role_name": "r", "role_id": "i", "org_id": "o1", "ttl": 3_600_000_000_000_i64, "max_ttl": 36_000_000_000_000_i64,
        }));
        round_trip::<Token>(&json!({
            "clientId": "c", "secret": "s", "orgId": "o1", "roleName": "r", "roles": ["i"], "token": "AstraCS:c:d",
            "generatedOn": "2022-09-21T17:48:15.260897295Z", "logicalName": "l", "metadata": null,
        }));
    }

    #[test]
    fn a_go_plugin_entry_without_a_token_loads_and_is_not_live() {
        let junk = json!({"clientId": "", "secret": "", "orgId": "", "roleName": "r", "roles": null, "token": "",
            "generatedOn": "", "logicalName": "", "metadata": {}});
        let token: Token = serde_json::from_value(junk).expect("loads");
        assert!(!token.is_live());
    }

    #[test]
    fn the_limit_of_a_role_is_stored() {
        round_trip::<Role>(&json!({"role_name": "r", "role_id": "i", "org_id": "o1", "ttl": 1, "max_ttl": 1,
            "max_tokens": 5}));
    }

    #[test]
    fn the_metadata_of_a_role_and_the_uses_of_a_token_are_stored() {
        round_trip::<Role>(&json!({"role_name": "r", "role_id": "i", "org_id": "o1", "ttl": 1, "max_ttl": 1,
            "required_metadata": ["team"], "default_metadata": {"owner": "{{display_name}}"}}));
        let record = json!({"token_id": "t", "role_name": "r", "logical_name": "l", "metadata": {}, "generated_on": "",
            "created_at": "", "display_name": "", "entity_id": "", "expires_at": "", "expires_in_astra": true, "marker": "",
            "kind": "static", "last_used_at": "2026-01-01T00:00:00Z", "last_used_by": "bob", "use_count": 3});
        round_trip::<Record>(&record);
        let earlier: Record = serde_json::from_value(json!({"token_id": "t"})).expect("loads");
        assert_eq!((earlier.kind, earlier.use_count, earlier.last_used_at.as_str()), (Kind::Lease, 0, ""));
    }

    #[test]
    fn new_config_members_are_stored_if_they_differ_from_their_defaults() {
        round_trip::<Config>(&json!({
            "astra_token": "AstraCS:abc:def", "url": "http://x", "org_id": "o1", "logical_name": "", "caller_mode": 1,
            "astra_org_id": "u1", "former_names": ["a"], "former_roots": ["c1"],
            "root": {"made": "c2", "given": ["c0"], "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-04-01T00:00:00Z",
                "rotated_at": "2026-01-01T00:00:01Z", "rotation_period": 3_600_000_000_000_i64,
                "counted_from": "2025-01-01T00:00:00Z"},
            "ca_cert": "PEM", "request_timeout": 5_000_000_000_i64, "description": false, "token_expiry": false,
        }));
    }

    #[test]
    fn a_config_keeps_its_latest_former_names() {
        let stored = json!({"astra_token": "", "org_id": "o1", "logical_name": "a"});
        let mut config: Config = serde_json::from_value(stored).expect("loads");
        for name in ["a", "b", "c", "", "b"] {
            config.rename(name.to_owned());
        }
        assert_eq!((config.logical_name.as_str(), config.former_names.join(" ").as_str()), ("b", "a c"));
        for n in 0..20 {
            config.rename(n.to_string());
        }
        assert_eq!(config.former_names.join(" "), "11 12 13 14 15 16 17 18");
    }
}
