//! Renews leases.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use vault_plugin_sdk::framework::LeaseCall;
use vault_plugin_sdk::logical::{self, Response, Secret};

use super::find::{self, Target};
use super::lease::{LeaseData, token_data};
use super::request::MintedBy;
use super::time::{EXPIRY_MARGIN, capped, later, rfc3339, until};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::OrgId;
use crate::store::{DEFAULT_TTL, Record, Token};

/// The shortest TTL. The host replaces zero by the default of the mount.
const SHORTEST: Duration = Duration::from_secs(1);

/// Renews a lease with the present TTLs of its role.
///
/// If the lease cannot be extended, returns its remaining time, and at least a second. After an error, an agent would
/// read again in a loop, and each read could mint.
///
/// # Errors
/// If the token of the lease was deleted.
pub(crate) async fn renew(engine: Arc<Engine>, call: LeaseCall) -> Result<Response, logical::Error> {
    let lease = LeaseData::read(&call.secret, &call.request.data);
    extend(&engine, call, &lease).await.map_err(|error| lease.failed("renew", error))
}

async fn extend(engine: &Engine, call: LeaseCall, lease: &LeaseData) -> Result<Response, Error> {
    let target = match find::target(engine, lease).await? {
        Some(target) => target,
        None if call.secret.internal_data.contains_key("clientId") => return Err(gone(lease)),
        None => return Ok(not_extended(call)),
    };
    let token = engine.store.token(&target.token_id).await?.filter(|token| token.client_id == lease.client_id);
    let token = token.ok_or_else(|| gone(lease))?;
    let LeaseCall { request, mut secret, .. } = call;
    let now = Timestamp::now();
    let issued = secret.issue_time.unwrap_or(now);
    let (ttl, max_ttl) = role_ttls(engine, &target.org_id, lease, &secret).await?;
    let max_ttl = capped(engine, max_ttl).await?;
    let expiry: Option<Timestamp> = lease.expires_at.as_deref().and_then(|time| time.parse().ok());
    let end = expiry.map_or_else(|| later(issued, max_ttl), |expiry| later(issued, max_ttl).min(expiry));

    let wanted = if secret.increment.is_zero() { ttl } else { secret.increment };
    let granted = wanted.min(until(now, end)).max(SHORTEST);
    if expiry.is_none() {
        extend_record(engine, &target, &token, end).await?;
    }

    // Past the end, the age is rounded up: otherwise the max TTL would be a part of a second shorter than the age and the
    // granted time.
    let age = until(issued, now) + Duration::from_secs(u64::from(now > end));
    // Renewals of the Go plugin lost the stored response. The stored token has the same data.
    let minted_by = if target.token_id == lease.client_id.as_str() { MintedBy::Read } else { MintedBy::Write };
    let data = if request.data.is_empty() { token_data(&token, minted_by) } else { request.data };
    find::restore_members(&mut secret.internal_data, &target);
    // The host rejects a renewal past the max TTL, so the max TTL must cover the granted time.
    let max_ttl = until(issued, end).max(age + granted);
    let renewed = Secret::new(granted, max_ttl, secret.internal_data).issue_time(issued);
    tracing::info!(org_id = %lease.org_id, role_name = %lease.role_name, client_id = %lease.client_id,
        ttl_seconds = granted.as_secs(), display_name = request.caller.display_name, entity_id = request.caller.entity_id,
        "renewed token");
    Ok(Response::new(data).lease(renewed))
}

fn gone(lease: &LeaseData) -> Error {
    Error::Refused(format!(
        "the token with client id {:?} of this lease was deleted; ask for a new token",
        lease.client_id.as_str()
    ))
}

/// Returns a lease, whose token cannot be identified, with its remaining time. An error would repeat at each renewal.
fn not_extended(call: LeaseCall) -> Response {
    let LeaseCall { request, secret, .. } = call;
    let now = Timestamp::now();
    let issued = secret.issue_time.unwrap_or(now);
    tracing::warn!(path = request.path, lease_id = secret.lease_id, issued = %issued,
        "did not renew a lease that did not identify a token");
    let left = until(now, later(issued, secret.ttl)).max(SHORTEST);
    // Rounded up: the host rejects a lease that expires after its max TTL.
    let max_ttl = until(issued, now) + SHORTEST + left;
    let secret = secret.ttl(left).max_ttl(max_ttl).renewable(false).increment(Duration::ZERO);
    Response::new(request.data).lease(secret)
}

/// Returns `ttl` and `max_ttl` of the role. If the role was deleted, returns the values at the time of the mint.
async fn role_ttls(
    engine: &Engine,
    org: &OrgId,
    lease: &LeaseData,
    secret: &Secret,
) -> Result<(Duration, Duration), Error> {
    if let Some(role) = engine.store.role(org, &lease.role_name).await? {
        return Ok((role.ttl(), role.max_ttl()));
    }
    // Leases of the Go plugin hold no TTLs, but the host knows the granted TTLs.
    let or = |recorded: Option<u64>, known: Duration| match recorded.map(Duration::from_secs) {
        Some(recorded) => recorded,
        None if known.is_zero() => DEFAULT_TTL,
        None => known,
    };
    let max_ttl = or(lease.max_ttl_seconds, secret.max_ttl);
    Ok((or(lease.ttl_seconds, secret.ttl).min(max_ttl), max_ttl))
}

/// If the token does not expire in Astra and its lease can now last longer, stores the later end in the record.
async fn extend_record(engine: &Engine, target: &Target, token: &Token, end: Timestamp) -> Result<(), Error> {
    let Target { org_id, client_id, token_id, .. } = target;
    let Some(record) = engine.store.record(org_id, client_id).await? else {
        // During a downgrade, the Go plugin minted this token after the inventory was built.
        let Some(org) = engine.store.index_token(token_id).await? else { return Ok(()) };
        return engine.store.count_found(&org, token).await;
    };
    let last = later(end, EXPIRY_MARGIN);
    let is_to_move = |record: &Record| record.expires_at.parse::<Timestamp>().is_ok_and(|recorded| recorded < last);
    if !is_to_move(&record) {
        return Ok(());
    }
    // If another task deletes the token, the record must not be written again.
    let _lock = engine.locks.token(token_id).await;
    match engine.store.record(org_id, client_id).await? {
        Some(record) if is_to_move(&record) => {
            let record = Record { expires_at: rfc3339(last), ..record };
            engine.store.put_record(org_id, client_id, &record).await
        }
        _ => Ok(()),
    }
}
