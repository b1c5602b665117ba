//! Deletes a token because its lease expires or is revoked, or because a caller asks for it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use vault_plugin_sdk::framework::{LeaseCall, Tick, Undo, WalEntry, WalKind};
use vault_plugin_sdk::logical::{self, Map};

use super::find::{self, Target};
use super::lease::LeaseData;
use super::listing::listing;
use crate::api;
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::events::Occasion;
use crate::journal::{DELETION, DeletionNote, GIVE_UP, MARGIN, can_take_effect_late, longest};
use crate::metrics::Event;
use crate::names::ClientId;
use crate::outage::Revocation;
use crate::store::{Config, log_skipped, token_digest};

/// Why a token is deleted.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Reason {
    /// Its lease is revoked. The host repeats the deletion, so in an outage it spares Astra.
    Revocation,
    /// The revocation of its lease was interrupted, and a tick finishes it.
    Interrupted,
    /// A caller or the sweep deletes the token. The engine asks Astra first.
    Request,
    /// A caller deletes the token in Vault, whatever Astra answers.
    Force,
}

impl Reason {
    fn is_revocation(self) -> bool {
        matches!(self, Self::Revocation | Self::Interrupted)
    }
}

/// Revokes the token of a lease.
///
/// # Errors
/// If it is not certain that the token is deleted. The host retries the revocation.
pub(crate) async fn revoke(engine: Arc<Engine>, call: LeaseCall) -> Result<(), logical::Error> {
    let LeaseCall { request, secret, .. } = call;
    let lease = LeaseData::read(&secret, &request.data);
    if lease.client_id.as_str().is_empty()
        && [&secret.internal_data, &request.data].iter().any(|data| has_empty_client_id(data))
    {
        // The Go plugin created such leases after failed mints.
        tracing::info!(org_id = %lease.org_id, role_name = %lease.role_name, "revoked a lease that never had a token");
        return Ok(());
    }
    let failed = |error| lease.failed(&engine, "revoke", error);
    let Some(target) = find::target(&engine, &lease).await.map_err(failed)? else {
        let issued = secret.issue_time.map(|time| time.to_string()).unwrap_or_default();
        tracing::error!(path = request.path, lease_id = secret.lease_id, issued, client_id = %lease.client_id,
            "revoked a lease that did not identify a token: look for a token of that time without a lease");
        return Ok(());
    };
    let done = delete_target(engine.clone(), target, Reason::Revocation).await.map_err(failed)?;
    let caller = request.caller;
    tracing::info!(org_id = %done.org_id, role_name = %done.role_name, client_id = %done.client_id,
        display_name = caller.display_name, entity_id = caller.entity_id, "revoked token");
    Ok(())
}

/// Whether the data of a lease has an empty client id. Such a lease never had a token.
fn has_empty_client_id(data: &Map) -> bool {
    data.get("clientId").is_some_and(|id| id == "")
}

/// Deletes a token before its lease expires. The revocation of that lease then succeeds without a call of Astra. With
/// `force`, deletes the token in Vault even if Astra cannot delete it.
///
/// # Errors
/// If it is not certain that the token is deleted.
pub(crate) async fn delete(engine: Arc<Engine>, target: Target, force: bool) -> Result<(), Error> {
    let reason = if force { Reason::Force } else { Reason::Request };
    delete_target(engine, target, reason).await.map(drop)
}

/// Deletes a token in Astra and in Vault. If the caller hangs up, the deletion continues, unless it waits for the end of an
/// outage.
pub(super) async fn delete_target(engine: Arc<Engine>, target: Target, reason: Reason) -> Result<Target, Error> {
    let caller = CancellationToken::new();
    let _hangs_up = caller.clone().drop_guard();
    let work = {
        let engine = engine.clone();
        async move {
            let _lock = engine.locks.token(&target.token_id).await;
            delete_locked(&engine, &target, reason, &caller).await?;
            Ok(target)
        }
    };
    engine.tasks.run(work).await?
}

/// Deletes a token whose lock the caller holds.
pub(super) async fn delete_locked(
    engine: &Engine,
    target: &Target,
    reason: Reason,
    caller: &CancellationToken,
) -> Result<(), Error> {
    let config = engine.store.config(&target.org_id).await?;
    let deleted = match &config {
        Some(config) => delete_both(engine, config, target, reason, caller).await,
        None => match require_deleted(engine, target).await {
            Ok(()) => delete_in_vault(engine, target).await,
            error => error,
        },
    };
    match deleted {
        Err(error) if error.is_of_host() => return Err(error),
        Err(error) if reason == Reason::Force || target.has_expired() || !is_stored(engine, target).await? => {
            delete_in_vault(engine, target).await?;
            tracing::warn!(org_id = %target.org_id, role_name = %target.role_name, client_id = %target.client_id,
                error = %error, "deleted a token only in Vault");
        }
        other => other?,
    }
    engine.metrics.count(Event::Revocation, &target.org_id, &target.role_name);
    let revoked = Occasion::Revoked { role: &target.role_name, client: &target.client_id };
    engine.events.send(&target.org_id, config.as_deref(), &revoked);
    Ok(())
}

/// Whether Vault still has the token. If not, a caller deleted the token with `force`.
async fn is_stored(engine: &Engine, target: &Target) -> Result<bool, Error> {
    engine.store.has_traces(&target.token_id, &target.org_id, &target.client_id).await
}

pub(super) async fn delete_in_vault(engine: &Engine, target: &Target) -> Result<(), Error> {
    engine.store.delete_token(&target.token_id, &target.org_id, &target.client_id).await
}

/// Deletes a token in Astra and in Vault.
async fn delete_both(
    engine: &Engine,
    config: &Arc<Config>,
    target: &Target,
    reason: Reason,
    caller: &CancellationToken,
) -> Result<(), Error> {
    let Target { org_id, client_id, role_name, .. } = target;
    if !api::can_name(client_id.as_str()) {
        tracing::error!(org_id = %org_id, role_name = %role_name, client_id = %client_id,
            "deleted a token only in Vault: the client id did not fit into a URL");
        return delete_in_vault(engine, target).await;
    }
    require_own_root(engine, config, target).await?;
    engine.clients.prepare(config).await?;
    let revocation = match reason {
        Reason::Revocation => Some(engine.outages.begin(org_id, config.request_timeout, caller).await?),
        Reason::Interrupted | Reason::Request | Reason::Force => None,
    };
    // If the token is the root token, the deletion in Astra is refused, and nothing may change.
    if reason.is_revocation() && target.is_revoked_entry_first() && !config.is_root(client_id) {
        let revoked = delete_entry_first(engine, config, target, revocation).await;
        if revoked.is_err() {
            engine.store.interrupted_revocations.note(org_id, client_id);
        }
        return revoked;
    }
    delete_with_note(engine, config, target, reason, revocation).await
}

/// Deletes the entry of a token, then the token in Astra, then its record. This needs no WAL entry: a record without an entry
/// shows that the revocation was interrupted.
async fn delete_entry_first(
    engine: &Engine,
    config: &Arc<Config>,
    target: &Target,
    revocation: Option<Revocation<'_>>,
) -> Result<(), Error> {
    let Target { org_id, client_id, .. } = target;
    engine.store.begin_revocation(client_id).await?;
    delete_in_astra(engine, config, client_id, revocation).await.0?;
    engine.store.end_revocation(org_id, client_id).await
}

/// Deletes a token in Astra, then in Vault. If the outcome is unknown, a WAL entry stays for the tick, unless the deletion
/// is forced.
pub(super) async fn delete_with_note(
    engine: &Engine,
    config: &Arc<Config>,
    target: &Target,
    reason: Reason,
    revocation: Option<Revocation<'_>>,
) -> Result<(), Error> {
    let Target { org_id, client_id, role_name, token_id, .. } = target;
    let wal = engine.wal();
    let note = DeletionNote {
        org_id: org_id.clone(),
        client_id: client_id.clone(),
        token_id: token_id.clone(),
        role_name: role_name.clone(),
        timeout_seconds: config.request_timeout.as_secs(),
    };
    let id = entry_id(target);
    let is_forced = reason == Reason::Force;
    // The outcome of an earlier deletion may be unknown: its answer was lost, or its process was killed.
    let is_noted = !is_forced && readable(wal.get(&id).await.map_err(Error::from))?.0.is_some();
    let entry = if is_forced { None } else { Some(wal.put_as(&id, DELETION, &note).await?) };
    let (deleted, is_unclear) = delete_in_astra(engine, config, client_id, revocation).await;
    if is_unclear || is_noted && deleted.is_err() {
        // The entry stays: the tick asks Astra whether the token is deleted.
        return Ok(deleted?);
    }
    if deleted.is_ok() {
        delete_in_vault(engine, target).await?;
    }
    if let Some(entry) = entry
        && let Err(error) = wal.delete(&entry).await
    {
        // Either both deletions are complete or the token is unchanged. The next tick finds out which.
        tracing::warn!(org_id = %org_id, client_id = %client_id, error = %error, "failed to delete a WAL entry, will retry");
    }
    Ok(deleted?)
}

/// Deletes a token in Astra. Returns whether it is unclear if Astra has deleted the token.
async fn delete_in_astra(
    engine: &Engine,
    config: &Arc<Config>,
    client_id: &ClientId,
    mut revocation: Option<Revocation<'_>>,
) -> (Result<(), api::Error>, bool) {
    let (id, mut may_have_happened) = (client_id.as_str(), false);
    loop {
        let deleted = match &revocation {
            Some(patience) => {
                engine.call(config, |client| async move { client.delete_token_with(patience, id).await }).await
            }
            None => engine.call(config, |client| async move { client.delete_token(id).await }).await,
        };
        may_have_happened |= deleted.as_ref().is_err_and(api::Error::may_have_happened);
        let is_last = match &mut revocation {
            Some(revocation) => !revocation.must_repeat(&deleted).await,
            None => true,
        };
        if is_last {
            let is_unclear = may_have_happened && deleted.is_err();
            return (deleted, is_unclear);
        }
    }
}

/// Returns the id of the WAL entry of a deletion. All deletions of one token have the same entry.
fn entry_id(target: &Target) -> String {
    format!("{DELETION}.{}", token_digest(&target.org_id, &target.client_id))
}

/// Fails if the root token belongs to another organization than the token. Astra would not find the token in that
/// organization, and report a live token as gone. Tokens that this engine minted need no check: the engine refuses a
/// mint of another organization.
pub(super) async fn require_own_root(engine: &Engine, config: &Config, target: &Target) -> Result<(), Error> {
    if !target.may_be_old || config.astra_org_id.is_empty() {
        return Ok(());
    }
    let stored = engine.store.named_or_replaced(&target.token_id, &target.client_id).await;
    // An entry that cannot be read must not block the revocation of a lease.
    let (stored, damage) = readable(stored)?;
    damage.iter().for_each(log_skipped);
    let Some(token) = stored else { return Ok(()) };
    let of = token.org_id.as_str();
    if of.is_empty() || token.org_id == config.org_id || config.is_of(of) != Some(false) {
        return Ok(());
    }
    let (org, client, other) = (config.org_id.as_str(), target.client_id.as_str(), &config.astra_org_id);
    Err(Error::Refused(format!(
        "the token with client id {client:?} belongs to organization {of:?}, but the root token of org_id {org:?} belongs to \
         {other:?}; delete the config with force=true and write the config again with a root token of {of:?}, or delete the token in Astra and \
         force the revocation"
    )))
}

/// Fails unless the token was deleted before. Without a config, the engine has no root token to delete the token with.
async fn require_deleted(engine: &Engine, target: &Target) -> Result<(), Error> {
    let is_stored = engine.store.named_or_replaced(&target.token_id, &target.client_id).await?.is_some();
    // An interrupted revocation has deleted the entry of the token, but not the record.
    if !is_stored && engine.store.interrupted(&target.org_id, &target.client_id).await?.is_none() {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "no config for org_id {:?}, so the token with client id {:?} cannot be deleted in Astra; write the config again, \
         or delete the token in Astra and force the revocation",
        target.org_id.as_str(),
        target.client_id.as_str()
    )))
}

/// Declares the entries of deletions.
pub(crate) fn deletions() -> WalKind<Engine> {
    WalKind::new(DELETION, MARGIN, finish).longer_for(longest)
}

/// How a tick finished a deletion.
enum Finished {
    /// The storage has neither the token nor its record. The tick did not call Astra.
    WithoutAstra,
    /// Astra does not have the token any more.
    Gone,
    /// Astra still has the token.
    Kept,
}

/// If Astra does not have the token any more, removes the token and its record from the storage. If Astra still has the
/// token, the token stays until its lease is revoked. A later tick then asks again, because the deletion can take effect
/// late.
async fn finish(engine: Arc<Engine>, entry: WalEntry) -> Result<Undo, logical::Error> {
    let note: DeletionNote = entry.decode()?;
    let (org, client) = (&note.org_id, &note.client_id);
    let finished = in_tick(note.finish(&engine, &entry.tick)).await;
    if !matches!(finished, Ok(Finished::WithoutAstra)) {
        engine.backoff.note(org, finished.as_ref().err());
    }
    match finished {
        Err(error) if entry.age() > GIVE_UP => {
            tracing::error!(org_id = %org, client_id = %client, error = %error,
                "gave up checking whether a token was deleted");
            Ok(Undo::Done)
        }
        Err(error) => Err(logical::Error::internal(format!(
            "the engine does not know whether the token with client id {:?} of org_id {:?} was deleted: {error}",
            client.as_str(),
            org.as_str()
        ))),
        Ok(Finished::Kept) if can_take_effect_late(&entry) => Ok(Undo::Again),
        Ok(_) => Ok(Undo::Done),
    }
}

impl DeletionNote {
    async fn finish(&self, engine: &Engine, tick: &Tick) -> Result<Finished, Error> {
        let _lock = engine.locks.token(&self.token_id).await;
        if !engine.store.has_traces(&self.token_id, &self.org_id, &self.client_id).await? {
            return Ok(Finished::WithoutAstra);
        }
        let config = engine.config_for_undo(&self.org_id).await?;
        if listing(engine, &config, tick).await?.has_token(self.client_id.as_str()) {
            return Ok(Finished::Kept);
        }
        engine.store.delete_token(&self.token_id, &self.org_id, &self.client_id).await?;
        tracing::info!(org_id = %self.org_id, role_name = %self.role_name, client_id = %self.client_id,
            "finished the deletion of a token");
        let revoked = Occasion::Revoked { role: &self.role_name, client: &self.client_id };
        engine.events.send(&self.org_id, Some(&config), &revoked);
        Ok(Finished::Gone)
    }
}
