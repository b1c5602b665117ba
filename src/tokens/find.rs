//! Finds the token of a lease.
//!
//! A lease of this engine holds all the data for this. A lease of the Go plugin may name the organization by Astra's id
//! instead of the `org_id` of the config, and may have lost its internal data. Architecture invariant: a token belongs
//! to a lease only if both have the same client id.

use jiff::Timestamp;
use vault_plugin_sdk::logical::Map;

use super::lease::{LeaseData, SECRET_TYPE};
use super::time::{EXPIRY_MARGIN, later};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, OrgId, RoleName};
use crate::store::{Record, Token};

/// A token to be deleted.
pub(crate) struct Target {
    pub(crate) org_id: OrgId,
    pub(crate) client_id: ClientId,
    pub(crate) role_name: RoleName,
    pub(crate) token_id: String,
    /// Whether the Go plugin may have minted the token. Its entries hold Astra's id of the organization.
    pub(crate) may_be_old: bool,
    /// When the token expires in Astra; `None` if that is not known, or never.
    pub(crate) expiry: Option<Timestamp>,
}

impl Target {
    /// Returns the token of a record.
    pub(crate) fn of_record(org: &OrgId, client: &ClientId, record: Record) -> Self {
        Self {
            org_id: org.clone(),
            client_id: client.clone(),
            may_be_old: record.created_at.is_empty(),
            expiry: record.expiry(),
            role_name: record.role_name,
            token_id: record.token_id,
        }
    }

    /// Returns a token whose record cannot be read, and whose id is its client id.
    pub(crate) fn without_record(org: &OrgId, client: &ClientId) -> Self {
        Self {
            org_id: org.clone(),
            client_id: client.clone(),
            role_name: RoleName::default(),
            token_id: client.to_string(),
            may_be_old: true,
            expiry: None,
        }
    }

    /// Whether its revocation deletes the entry of the token first. If a named token lost its entry first, another token
    /// could get its name. The entry of an old token tells the organization of the token.
    pub(super) fn is_revoked_entry_first(&self) -> bool {
        self.token_id == self.client_id.as_str() && !self.may_be_old
    }

    /// Whether the token has certainly expired in Astra: an hour ago, because clocks differ.
    pub(super) fn has_expired(&self) -> bool {
        self.expiry.is_some_and(|expiry| later(expiry, EXPIRY_MARGIN) < Timestamp::now())
    }
}

/// Finds the token of a lease; `None` if nothing identifies the token.
///
/// # Errors
/// If the inventory is not complete yet and may still get a record of the token.
pub(super) async fn target(engine: &Engine, lease: &LeaseData) -> Result<Option<Target>, Error> {
    if lease.client_id.as_str().is_empty() {
        return Ok(None);
    }
    if !lease.token_id.is_empty() && engine.store.has_config(&lease.org_id).await? {
        return Ok(Some(of(lease, lease.org_id.clone(), &lease.token_id)));
    }
    for id in [&lease.token_id, lease.client_id.as_str()] {
        if let Some(token) = engine.store.readable_token(id).await?.filter(|token| token.client_id == lease.client_id) {
            return Ok(org_of(engine, lease, id, &token).await?.map(|org| of(lease, org, id)));
        }
    }
    let records = engine.store.records_named(&lease.client_id).await?;
    // If several orgs have a record, only the org that the lease names is certain.
    let is_certain = records.len() == 1;
    if let Some((org, record)) = records.into_iter().find(|(org, _)| is_certain || *org == lease.org_id) {
        let org = with_config(engine, &org).await?.unwrap_or(org);
        return Ok(Some(of(lease, org, &record.token_id)));
    }
    if !engine.store.inventory_is_complete().await? {
        return Err(Error::inventory_incomplete(None));
    }
    // The storage does not have the token, but Astra may still have it.
    if lease.org_id.as_str().is_empty() {
        return Ok(None);
    }
    let org = with_config(engine, &lease.org_id).await?.unwrap_or_else(|| lease.org_id.clone());
    let id = if lease.token_id.is_empty() { lease.client_id.as_str() } else { &lease.token_id };
    Ok(Some(of(lease, org, id)))
}

fn of(lease: &LeaseData, org_id: OrgId, token_id: &str) -> Target {
    let (client_id, role_name) = (lease.client_id.clone(), lease.role_name.clone());
    // Leases of the Go plugin have no times.
    let may_be_old = lease.expires_at.is_none() && lease.ttl_seconds.is_none();
    let expiry = lease.expires_at.as_deref().and_then(|time| time.parse().ok());
    Target { org_id, client_id, role_name, token_id: token_id.to_owned(), may_be_old, expiry }
}

/// Returns the org of a stored token. If no config is known for it, returns the `org_id` of the lease or the token;
/// `None` if both are empty.
async fn org_of(engine: &Engine, lease: &LeaseData, id: &str, token: &Token) -> Result<Option<OrgId>, Error> {
    if let Some(owner) = engine.store.owner(id, token).await? {
        // If several configs are of one organization, the record can be under any of them.
        let others = engine.store.orgs_of(token.org_id.as_str()).await?;
        for org in std::iter::once(&owner).chain(&others) {
            if engine.store.has_record(org, &token.client_id).await? {
                return Ok(Some(org.clone()));
            }
        }
        return Ok(Some(owner));
    }
    for org in [&token.org_id, &lease.org_id] {
        if let Some(org) = with_config(engine, org).await? {
            return Ok(Some(org));
        }
    }
    let org_id = [&lease.org_id, &token.org_id].into_iter().find(|org| !org.as_str().is_empty());
    Ok(org_id.cloned())
}

/// Returns the org that has a config under this `org_id`, or whose config has this `astra_org_id`.
async fn with_config(engine: &Engine, org: &OrgId) -> Result<Option<OrgId>, Error> {
    if org.as_str().is_empty() || engine.store.has_config(org).await? {
        return Ok(Some(org.clone()).filter(|org| !org.as_str().is_empty()));
    }
    let known = engine.store.orgs_of(org.as_str()).await?;
    if !known.is_empty() {
        return Ok(known.into_iter().next());
    }
    engine.ask_for_orgs().await?;
    Ok(engine.store.orgs_of(org.as_str()).await?.into_iter().next())
}

/// Restores missing members of a lease's internal data.
pub(super) fn restore_members(internal_data: &mut Map, target: &Target) {
    for (name, text) in [
        ("orgId", target.org_id.as_str()),
        ("clientId", target.client_id.as_str()),
        ("roleName", target.role_name.as_str()),
        ("tokenId", &target.token_id),
        ("secret_type", SECRET_TYPE),
    ] {
        let is_there = internal_data.get(name).is_some_and(|value| value.as_str().is_some_and(|text| !text.is_empty()));
        if !is_there {
            internal_data.insert(name.to_owned(), text.into());
        }
    }
}
