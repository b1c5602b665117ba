//! A caller's request for a new token.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use vault_plugin_sdk::framework::format_duration;
use vault_plugin_sdk::logical::Caller;

use super::time::{EXPIRY_MARGIN, capped, later, until};
use crate::api::describe;
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, LogicalName};
use crate::store::{Config, Metadata, Place, Reserved, Role};

/// The most characters of the owner in a description.
const OWNER_CHARS: usize = 64;

/// How a token is minted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MintedBy {
    /// By a write. Only one live token of the role can have the logical name.
    Write,
    /// By a read. The logical name is only a label, and may be empty.
    Read,
}

/// A token to be minted.
pub(crate) struct MintRequest {
    /// The org.
    pub(crate) config: Arc<Config>,
    /// The role.
    pub(crate) role: Arc<Role>,
    /// Logical name. Can be empty if a read mints.
    pub(crate) logical_name: LogicalName,
    /// Metadata of the caller.
    pub(crate) metadata: Metadata,
    /// TTL that the caller asks for.
    pub(crate) ttl: Option<Duration>,
    /// The caller.
    pub(crate) caller: Caller,
    /// Path of the mount.
    pub(crate) mount_point: String,
    /// How the token is minted.
    pub(crate) minted_by: MintedBy,
    /// How long a live token with the same name stays live. `None` if such a token must not exist.
    pub(crate) overlap: Option<Duration>,
}

/// The TTLs of a lease, and the expiry of its token.
pub(super) struct Ttls {
    /// TTL of the first lease.
    pub(super) ttl: Duration,
    /// Max TTL, over all renewals.
    pub(super) max_ttl: Duration,
    /// When the token expires in Astra.
    pub(super) expiry: Timestamp,
}

impl Ttls {
    /// Lets the lease end at least a second before the token expires in Astra.
    pub(super) fn end_before(&mut self, expiry: Timestamp) {
        let left = until(Timestamp::now(), expiry).saturating_sub(Duration::from_secs(1));
        self.max_ttl = self.max_ttl.min(left);
        self.ttl = self.ttl.min(left);
        self.expiry = expiry;
    }
}

impl MintRequest {
    /// Computes the TTLs and the expiry. Renewals can extend the lease up to the max TTL, so the expiry depends on that,
    /// and not on the TTL of the first lease.
    pub(super) async fn ttls(&self, engine: &Engine) -> Result<Ttls, Error> {
        let max_ttl = capped(engine, self.role.max_ttl()).await?;
        let expiry = later(Timestamp::now(), max_ttl.saturating_add(EXPIRY_MARGIN));
        Ok(Ttls { ttl: self.wanted_ttl().min(max_ttl), max_ttl, expiry })
    }

    /// Returns the expiry of the token if the mount allows the max TTL of the role.
    pub(super) fn latest_expiry(&self) -> Timestamp {
        later(Timestamp::now(), self.role.max_ttl().saturating_add(EXPIRY_MARGIN))
    }

    /// Returns the warning about a TTL that role or mount cut.
    pub(super) fn cut_warning(&self, ttl: Duration) -> Option<String> {
        if self.wanted_ttl() <= ttl {
            return None;
        }
        let (given, cut) = (format_duration(self.wanted_ttl()), format_duration(ttl));
        Some(format!("ttl of {given} is longer than role and mount allow and was cut to {cut}"))
    }

    /// Returns the TTL of the first lease, before role and mount cut it.
    pub(super) fn wanted_ttl(&self) -> Duration {
        self.ttl.unwrap_or(self.role.ttl())
    }

    /// Whether the logical name identifies the token.
    pub(super) fn names_token(&self) -> bool {
        self.minted_by == MintedBy::Write || self.overlap.is_some()
    }

    /// If the role has a limit, reserves a place below that limit. The new token takes the place of the token that it
    /// replaces.
    pub(super) async fn reserve(&self, engine: &Engine, replaces: Option<&ClientId>) -> Result<Option<Place>, Error> {
        if self.role.max_tokens == 0 {
            return Ok(None);
        }
        let (live, minting, replaced) = match engine.store.reserve(&self.role, replaces).await? {
            Reserved::Place(place) => return Ok(Some(place)),
            Reserved::Full { live, minting, replaced } => (live, minting, replaced),
        };
        let (mut more, mut wait) = (String::new(), "");
        if replaced > 0 {
            more = format!(", of which newer tokens have replaced {replaced}");
            wait = ", wait for the end of an overlap";
        }
        if minting > 0 {
            more.push_str(&format!(", mints in progress: {minting}"));
        }
        Err(Error::Refused(format!(
            "role {:?} of org_id {:?} is full: max_tokens is {}, live tokens: {live}{more}; revoke a lease or delete a token \
             (see \"vault list {}/org/tokens\"){wait}, or raise max_tokens",
            self.role.role_name.as_str(),
            self.role.org_id.as_str(),
            self.role.max_tokens,
            self.mount_point.trim_end_matches('/'),
        )))
    }

    /// Returns the description of the token, which Astra's portal shows. The owner comes before the text that a caller
    /// chooses, which could be too long, or look like an owner.
    pub(super) fn description(&self, instance: &str, marker: &str) -> String {
        let (mount, role, name, by) =
            (&self.mount_point, &self.role.role_name, &self.logical_name, &self.caller.display_name);
        let owner = owner_text(&self.metadata);
        let text = format!("mount={mount} role={role}{owner} name={name} by={by}");
        describe(instance, marker, &text)
    }
}

/// Returns the part of a description that names the owner, if the metadata does.
pub(crate) fn owner_text(metadata: &Metadata) -> String {
    match metadata.get("owner") {
        Some(owner) => format!(" owner={}", owner.chars().take(OWNER_CHARS).collect::<String>()),
        None => String::new(),
    }
}
