//! Renews leases.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use vault_plugin_sdk::framework::LeaseCall;
use vault_plugin_sdk::logical::{self, Map, Response, Secret};

use super::find::{self, Target};
use super::lease::{LeaseData, lease_end, token_data};
use super::request::MintedBy;
use super::time::{EXPIRY_MARGIN, capped, later, rfc3339, until, whole};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::metrics::Event;
use crate::names::OrgId;
use crate::store::{DEFAULT_TTL, Record, Token, log_skipped};

/// The shortest TTL. The host replaces zero by the default of the mount.
const SHORTEST: Duration = Duration::from_secs(1);

/// The host's clock can reach the next second between the plugin's answer and the host's check of it.
const TICK: Duration = Duration::from_secs(1);

/// How much later than recorded a lease of a token with an expiry in Astra can end before its record changes.
const SLACK: Duration = Duration::from_secs(60);

/// What a renewal grants.
#[derive(Debug)]
struct Extension {
    ttl: Duration,
    max_ttl: Duration,
    renewable: bool,
}

impl Extension {
    /// Grants `wanted`, but at most the time that is left until `end`. If nothing is left, grants the shortest TTL, and
    /// the lease cannot be renewed again.
    ///
    /// The host counts whole seconds: it fails if `issued` + max TTL is not after `now`, each cut to its second. It also
    /// replaces the TTL by the caller's increment, and cuts this increment at the max TTL only.
    fn new(issued: Timestamp, now: Timestamp, end: Timestamp, wanted: Duration) -> Self {
        let left = until(whole(now), whole(end));
        if left <= TICK { Self::last(issued, now, SHORTEST) } else { Self::until(issued, end, wanted.min(left)) }
    }

    fn until(issued: Timestamp, end: Timestamp, ttl: Duration) -> Self {
        Self { ttl: ttl.max(SHORTEST), max_ttl: until(whole(issued), whole(end)), renewable: true }
    }

    /// Grants a TTL for the last time.
    fn last(issued: Timestamp, now: Timestamp, ttl: Duration) -> Self {
        Self { ttl, max_ttl: until(whole(issued), whole(now)) + ttl + TICK, renewable: false }
    }

    /// Returns the renewed lease.
    fn lease(self, issued: Timestamp, internal_data: Map) -> Secret {
        Secret::new(self.ttl, self.max_ttl, internal_data).renewable(self.renewable).issue_time(issued)
    }
}

/// Renews a lease with the present TTLs of its role. A stored entry that cannot be read is skipped: the lease holds all
/// that its renewal needs.
///
/// If the lease cannot be extended, returns its remaining time, and at least a second, and makes the lease not renewable.
/// After an error, an agent would read again in a loop, and each read could mint.
///
/// # Errors
/// If the token of the lease was deleted.
pub(crate) async fn renew(engine: Arc<Engine>, call: LeaseCall) -> Result<Response, logical::Error> {
    let lease = LeaseData::read(&call.secret, &call.request.data);
    extend(&engine, call, &lease).await.map_err(|error| lease.failed(&engine, "renew", error))
}

async fn extend(engine: &Engine, call: LeaseCall, lease: &LeaseData) -> Result<Response, Error> {
    let target = match find::target(engine, lease).await? {
        Some(target) => target,
        None if call.secret.internal_data.contains_key("clientId") => return Err(gone(lease)),
        None => return Ok(not_extended(call)),
    };
    let (token, damage) = readable(engine.store.token(&target.token_id).await)?;
    damage.iter().for_each(log_skipped);
    let named = token.filter(|token| token.client_id == lease.client_id);
    let (token, end_of_overlap) = match named {
        None if damage.is_none() => replaced_token(engine, &target).await?,
        token => (token, None),
    };
    if token.is_none() && damage.is_none() {
        return Err(gone(lease));
    }
    let LeaseCall { request, mut secret, .. } = call;
    let now = Timestamp::now();
    let issued = secret.issue_time.unwrap_or(now);
    let (ttl, max_ttl) = role_ttls(engine, &target.org_id, lease, &secret).await?;
    let max_ttl = capped(engine, max_ttl).await?;
    let expiry: Option<Timestamp> = lease.expires_at.as_deref().and_then(|time| time.parse().ok());
    let end = [expiry, end_of_overlap].into_iter().flatten().fold(later(issued, max_ttl), Timestamp::min);

    let wanted = if secret.increment.is_zero() { ttl } else { secret.increment };
    let extension = Extension::new(issued, now, end, wanted);
    // At the mint, the lease begins some seconds after the expiry was computed. A later end has another reason: the max TTL
    // was raised.
    if expiry.is_none_or(|expiry| later(end, EXPIRY_MARGIN) > later(expiry, SLACK)) {
        extend_record(engine, &target, token.as_ref(), end, expiry).await?;
    }

    // Renewals of the Go plugin lost the stored response. The stored token has the same data.
    let minted_by = if target.token_id == lease.client_id.as_str() { MintedBy::Read } else { MintedBy::Write };
    let stored = token.filter(|_| request.data.is_empty()).map(|token| token_data(&token, minted_by));
    let data = stored.unwrap_or(request.data);
    find::restore_members(&mut secret.internal_data, &target);
    engine.store.uses.note(&target.org_id, &lease.client_id, None);
    let granted = extension.ttl;
    let renewed = extension.lease(issued, secret.internal_data);
    tracing::info!(org_id = %lease.org_id, role_name = %lease.role_name, client_id = %lease.client_id,
        ttl_seconds = granted.as_secs(), display_name = request.caller.display_name, entity_id = request.caller.entity_id,
        "renewed token");
    engine.metrics.count(Event::Renewal, &target.org_id, &lease.role_name);
    Ok(Response::new(data).lease(renewed))
}

/// Returns a token whose name belongs to a newer token, and when it ends.
async fn replaced_token(engine: &Engine, target: &Target) -> Result<(Option<Token>, Option<Timestamp>), Error> {
    if target.token_id == target.client_id.as_str() {
        return Ok((None, None));
    }
    let (token, damage) = readable(engine.store.named_or_replaced(&target.token_id, &target.client_id).await)?;
    damage.iter().for_each(log_skipped);
    if token.is_none() {
        return Ok((None, None));
    }
    let (record, damage) = readable(engine.store.record(&target.org_id, &target.client_id).await)?;
    damage.iter().for_each(log_skipped);
    Ok((token, record.and_then(|record| record.replaced_until())))
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
    let lease = Extension::last(issued, now, left).lease(issued, secret.internal_data);
    Response::new(request.data).lease(lease)
}

/// Returns `ttl` and `max_ttl` of the role. If the role was deleted or cannot be read, returns the values at the time of
/// the mint.
async fn role_ttls(
    engine: &Engine,
    org: &OrgId,
    lease: &LeaseData,
    secret: &Secret,
) -> Result<(Duration, Duration), Error> {
    let (role, damage) = readable(engine.store.role(org, &lease.role_name).await)?;
    damage.iter().for_each(log_skipped);
    if let Some(role) = role {
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

/// If the lease of a token can now last longer, stores the later end in the record.
async fn extend_record(
    engine: &Engine,
    target: &Target,
    token: Option<&Token>,
    end: Timestamp,
    expiry: Option<Timestamp>,
) -> Result<(), Error> {
    let Target { org_id, client_id, token_id, .. } = target;
    let (record, damage) = readable(engine.store.record(org_id, client_id).await)?;
    if let Some(reason) = damage {
        log_skipped(&reason);
        return Ok(());
    }
    let Some(record) = record else {
        // During a downgrade, the Go plugin minted this token after the inventory was built.
        let Some(token) = token else { return Ok(()) };
        let Some(org) = engine.store.index_token(token_id).await? else { return Ok(()) };
        return engine.store.count_found(&org, token).await;
    };
    if extended(record, end, expiry).is_none() {
        return Ok(());
    }
    // If another task deletes the token, the record must not be written again.
    let _lock = engine.locks.token(token_id).await;
    let record = engine.store.record(org_id, client_id).await?;
    match record.and_then(|record| extended(record, end, expiry)) {
        Some(record) => engine.store.put_record(org_id, client_id, &record).await,
        None => Ok(()),
    }
}

/// Returns the record with a later end of the lease; `None` if the recorded end is not earlier, or not known. Without an
/// expiry in Astra, the expiry in the record moves, too.
fn extended(record: Record, end: Timestamp, expiry: Option<Timestamp>) -> Option<Record> {
    if lease_end(&record)? >= whole(end) {
        return None;
    }
    Some(match expiry {
        Some(_) => Record { lease_end: rfc3339(end), ..record },
        None => Record { expires_at: rfc3339(later(end, EXPIRY_MARGIN)), ..record },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The TTL that the host grants (`CalculateTTL` in Vault and OpenBao `sdk/framework/lease.go`). `None` is the error
    /// "past the max TTL, cannot renew".
    fn granted(extension: &Extension, increment: Duration, issued: Timestamp, now: Timestamp) -> Option<Duration> {
        let ttl = if increment.is_zero() { extension.ttl } else { increment };
        let left = until(whole(now), later(whole(issued), extension.max_ttl));
        (!left.is_zero()).then_some(ttl.min(left))
    }

    fn time(milliseconds: u64) -> Timestamp {
        later(Timestamp::UNIX_EPOCH, Duration::from_millis(milliseconds))
    }

    const SECOND: u64 = 1000;

    /// Renews a lease again and again, until it has expired or cannot be renewed. Returns when the lease expires.
    fn renew_often(issued: u64, max_ttl: u64, pause: u64, delay: u64, increment: u64) -> u64 {
        let end = time(issued + max_ttl * SECOND);
        let (wanted, increment) = (Duration::from_secs(5), Duration::from_secs(increment));
        let mut now = issued + pause;
        loop {
            let asked = if increment.is_zero() { wanted } else { increment };
            let extension = Extension::new(time(issued), time(now), end, asked);
            let seen = time(now + delay);
            let granted = granted(&extension, increment, time(issued), seen);
            let granted = granted.unwrap_or_else(|| panic!("past the max TTL: {extension:?} at {seen} of {issued}"));
            let expires = now + delay + u64::try_from(granted.as_millis()).unwrap();
            now += pause;
            if !extension.renewable || now >= expires {
                return expires;
            }
        }
    }

    #[test]
    fn renewing_again_and_again_does_not_pass_the_max_ttl_at_any_phase_of_the_clock() {
        for issued in (1_000_000..1_001_000).step_by(70) {
            for pause in (300..1_300).step_by(90) {
                for delay in [0, 1, 350, 990] {
                    for increment in [0, 1, 3600] {
                        let expires = renew_often(issued, 10, pause, delay, increment);
                        let over = expires.saturating_sub(issued + 10 * SECOND);
                        // The last renewal grants up to two whole seconds of the host.
                        assert!(over <= 2 * SECOND + delay, "{over} ms over: {issued} {pause} {delay} {increment}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_renewal_past_the_end_is_granted_a_second_and_is_the_last_one() {
        for phase in (0..2_000).step_by(50) {
            for past in [0, 10, 990, 5_000, 86_400_000] {
                let (issued, now) = (time(1_000_000 + phase), time(1_060_000 + phase + past));
                let extension =
                    Extension::new(issued, now, later(issued, Duration::from_secs(60)), Duration::from_secs(30));
                assert_eq!((extension.ttl, extension.renewable), (SHORTEST, false), "{phase} {past}");
                assert_eq!(granted(&extension, Duration::ZERO, issued, later(now, TICK)), Some(SHORTEST));
            }
        }
    }
}
