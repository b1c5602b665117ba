//! Replaces a live token with a name: finds the token, and deletes it once its overlap with the new token is over.
//!
//! The mint marks the record of the old token with the time of its end, so no crash forgets the token. Its lease stays in
//! the host until it expires, and is then revoked like the lease of any token that was deleted before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vault_plugin_sdk::framework::format_duration;
use vault_plugin_sdk::logical::Response;

use super::find::Target;
use super::lease::lease_end;
use super::request::MintRequest;
use super::revoke::{Reason, delete_locked};
use super::time::{later, until};
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::journal::replaced_by_mints;
use crate::names::{ClientId, OrgId, fits_key};
use crate::store::{Record, Token};

/// How long a replaced token stays after the answer with its successor: a second longer than the host can drop the answer.
const WINDOW: Duration = Response::UNDELIVERED_WINDOW.saturating_add(Duration::from_secs(1));

/// How many tokens a tick deletes at the same time.
const AT_ONCE: usize = 8;

impl MintRequest {
    /// Returns the live token with the same role and logical name, which the new token replaces.
    ///
    /// # Errors
    /// If there is such a token, and the request does not replace it.
    pub(super) async fn replaced(&self, engine: &Engine, token_id: &str) -> Result<Option<Token>, Error> {
        let Some(token) = engine.store.token(token_id).await? else { return Ok(None) };
        // Names of the Go plugin can have colons, so other names can have the same id.
        let has_names = (&token.role_name, &token.logical_name) == (&self.role.role_name, &self.logical_name);
        if self.overlap.is_some() && has_names && fits_key(token.client_id.as_str()) {
            return Ok(Some(token));
        }
        Err(Error::Refused(format!(
            "logical_name {:?} of role {:?} is taken by the live token with client_id {:?}; read that token, delete \
             that token, replace that token (replace=true), or choose another logical_name",
            self.logical_name.as_str(),
            self.role.role_name.as_str(),
            token.client_id.as_str(),
        )))
    }

    /// Returns the end of a token that is replaced: after the overlap, but not after the latest end of its lease.
    pub(super) async fn end_of(&self, engine: &Engine, old: &Token) -> Result<Timestamp, Error> {
        let end = later(Timestamp::now(), self.overlap.unwrap_or_default());
        let record = readable(engine.store.record(&self.config.org_id, &old.client_id).await)?.0;
        Ok(record.as_ref().and_then(lease_end).map_or(end, |lease_end| lease_end.min(end)))
    }

    /// Returns the warning about an overlap that the lease of the old token cuts.
    pub(super) fn overlap_warning(&self, end: Timestamp) -> Option<String> {
        let (wanted, left) = (self.overlap?, until(Timestamp::now(), end));
        // The end is rounded down to a second.
        if wanted <= left + Duration::from_secs(2) {
            return None;
        }
        let (given, cut) = (format_duration(wanted), format_duration(left));
        Some(format!("overlap of {given} is longer than the lease of the old token can last, and was cut to {cut}"))
    }
}

/// Notes the replaced tokens on a page of records, which an earlier process may have left.
pub(super) fn note_on_page(engine: &Engine, org: &OrgId, page: &[(ClientId, Record)]) {
    for (client, record) in page {
        if let Some(end) = record.replaced_until() {
            engine.store.replaced.note(org, client, end);
        }
    }
}

/// Notes the end of a replaced token. Without an overlap, the token is deleted as soon as the host cannot drop the answer
/// with its successor any more.
pub(super) fn settle(engine: &Arc<Engine>, org: &OrgId, client: &ClientId, end: Timestamp) {
    engine.store.replaced.settle(org, client, end, WINDOW);
    if end > Timestamp::now() {
        return;
    }
    // This is no task of the mount, whose end would wait for it. If the mount ends first, the mark of the token stays.
    let (engine, org, client) = (Arc::downgrade(engine), org.clone(), client.clone());
    tokio::spawn(async move {
        tokio::time::sleep(WINDOW).await;
        let Some(engine) = engine.upgrade() else { return };
        let tasks = engine.tasks.clone();
        drop(tasks.start(async move {
            if let Err(error) = end_one(&engine, &org, &client).await {
                log_failures([(org, (1, error))]);
            }
        }));
    });
}

/// Deletes the replaced tokens whose end has come, until `deadline`.
pub(super) async fn end_due(engine: &Arc<Engine>, deadline: Instant) -> Result<(), Error> {
    let mut due = engine.store.replaced.due();
    // Before the reads of the storage: in an outage, thousands of tokens can be due. The sweep deletes those that have
    // expired.
    due.retain(|(org, _)| engine.backoff.require_over(org).is_ok());
    if due.is_empty() {
        return Ok(());
    }
    // An unfinished mint can still be undone, and its undo gives the name back.
    let unfinished = replaced_by_mints(engine.wal()).await?;
    let end = |(org, client): (OrgId, ClientId)| async move {
        if Instant::now() >= deadline {
            return None;
        }
        let ended = match engine.backoff.require_over(&org) {
            Ok(()) => end_one(engine, &org, &client).await,
            error => error,
        };
        ended.err().map(|error| (org, error))
    };
    // If Astra fails, the first token of each org is the only attempt.
    let (mut first, mut others, mut orgs) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (org, client) in due.into_iter().filter(|(_, client)| !unfinished.contains(client)) {
        let turn = if orgs.insert(org.clone()) { &mut first } else { &mut others };
        turn.push((org, client));
    }
    let mut failures: BTreeMap<OrgId, (usize, Error)> = BTreeMap::new();
    for turn in [first, others] {
        let mut ended = stream::iter(turn).map(end).buffer_unordered(AT_ONCE);
        while let Some(failure) = ended.next().await {
            if let Some((org, error)) = failure {
                failures.entry(org).or_insert((0, error)).0 += 1;
            }
        }
    }
    log_failures(failures);
    Ok(())
}

fn log_failures(failures: impl IntoIterator<Item = (OrgId, (usize, Error))>) {
    for (org, (tokens, error)) in failures {
        tracing::error!(org_id = %org, tokens, error = %error, "failed to delete replaced tokens, will retry");
    }
}

/// Deletes a replaced token. If this fails, a tick tries again.
async fn end_one(engine: &Arc<Engine>, org: &OrgId, client: &ClientId) -> Result<(), Error> {
    let ended = in_tick(end_locked(engine, org, client)).await;
    match &ended {
        Ok(()) => {}
        // Without a config, no tick can delete the token. The next pass notes the token again.
        Err(Error::Refused(_)) => engine.store.replaced.forget(org, client),
        Err(error) => {
            engine.store.replaced.note_failure(org, client);
            engine.backoff.note(org, Some(error));
        }
    }
    ended
}

/// Deletes a replaced token, unless it has its name again, or its newer token may be undone, or a later mint lets it live
/// on. All of this can change until its lock is taken.
async fn end_locked(engine: &Arc<Engine>, org: &OrgId, client: &ClientId) -> Result<(), Error> {
    let replaced = &engine.store.replaced;
    let Some(record) = engine.store.record(org, client).await? else {
        replaced.forget(org, client);
        return Ok(());
    };
    let lock = engine.locks.token(&record.token_id).await;
    let record = engine.store.record(org, client).await?;
    let Some((end, record)) = record.and_then(|record| Some((record.replaced_until()?, record))) else {
        replaced.forget(org, client);
        return Ok(());
    };
    if replaced.can_be_undone(org, client) {
        return Ok(());
    }
    if engine.store.has_its_name(&record, client).await? {
        // The mint was undone.
        return engine.store.keep_name(org, &record.token_id, client).await;
    }
    if Timestamp::now() < end {
        replaced.note(org, client, end);
        return Ok(());
    }
    let target = Target::of_record(org, client, record);
    if !target.has_expired() {
        engine.backoff.require_over(org)?;
    }
    let work = {
        let engine = engine.clone();
        async move {
            let _lock = lock;
            delete_locked(&engine, &target, Reason::Request, &CancellationToken::new()).await?;
            engine.store.replaced.forget(&target.org_id, &target.client_id);
            tracing::info!(org_id = %target.org_id, role_name = %target.role_name, client_id = %target.client_id,
                "deleted a replaced token");
            Ok(())
        }
    };
    engine.tasks.run(work).await?
}
