//! Finishes the revocations that were interrupted.
//!
//! A revocation of a token whose id is its client id begins and ends in the storage, with Astra in between. If it fails in
//! between, the next tick finishes it. If the process ends in between, the first ticks of the next process find the
//! record without an entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::find::Target;
use super::revoke::{Reason, delete_target};
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::Error;
use crate::journal::mint_markers;
use crate::names::{ClientId, OrgId};
use crate::store::Record;

/// How many revocations a tick finishes at the same time.
const AT_ONCE: usize = 8;

/// Finishes the revocations that this process noted as interrupted, until `deadline`.
pub(super) async fn finish_noted(engine: &Arc<Engine>, deadline: Instant) {
    let finish_one = |(org, client): (OrgId, ClientId)| async move {
        if Instant::now() > deadline {
            return None;
        }
        // Before the reads of the storage: in an outage, thousands of revocations are noted. The sweep deletes those whose
        // tokens have expired.
        if let Err(error) = engine.backoff.require_over(&org) {
            return Some((org, error));
        }
        finish(engine, &org, &client).await.err().map(|error| (org, error))
    };
    let mut finished =
        stream::iter(engine.store.interrupted_revocations.noted()).map(finish_one).buffer_unordered(AT_ONCE);
    let mut failures: BTreeMap<OrgId, (usize, Error)> = BTreeMap::new();
    while let Some(failure) = finished.next().await {
        if let Some((org, error)) = failure {
            failures.entry(org).or_insert((0, error)).0 += 1;
        }
    }
    for (org, (tokens, error)) in failures {
        tracing::error!(org_id = %org, tokens, error = %error, "failed to finish revocations, will retry");
    }
}

/// Finishes the interrupted revocations on a page of records. A later tick retries failures.
pub(super) async fn finish_on_page(
    engine: &Arc<Engine>,
    org: &OrgId,
    page: &[(ClientId, Record)],
) -> Result<(), Error> {
    let without_entry = engine.store.without_entry(page).await?;
    if without_entry.is_empty() {
        return Ok(());
    }
    // The storage can have the record of an unfinished mint before the token. The undo of the mint is responsible then.
    let minting = mint_markers(engine.wal()).await?;
    let noted = &engine.store.interrupted_revocations;
    let is_new = |(client, record): &&(ClientId, Record)| {
        // `finish_noted` finishes the noted revocations at the same time.
        without_entry.contains(client) && !minting.contains(&record.marker) && !noted.contains(org, client)
    };
    let clients: Vec<ClientId> = page.iter().filter(is_new).map(|(client, _)| client.clone()).collect();
    let finish_one = |client: ClientId| async move { drop(finish(engine, org, &client).await) };
    stream::iter(clients).for_each_concurrent(AT_ONCE, finish_one).await;
    Ok(())
}

/// Finishes a revocation, unless it was completed meanwhile. A mint that was completed meanwhile has stored its token.
async fn finish(engine: &Arc<Engine>, org: &OrgId, client: &ClientId) -> Result<(), Error> {
    let finished = in_tick(async {
        let Some(record) = engine.store.interrupted(org, client).await? else { return Ok(()) };
        let target = Target::of_record(org, client, record);
        if !target.has_expired() {
            engine.backoff.require_over(org)?;
        }
        let target = delete_target(engine.clone(), target, Reason::Interrupted).await?;
        tracing::info!(org_id = %target.org_id, role_name = %target.role_name, client_id = %target.client_id,
            "finished the revocation of a token");
        Ok(())
    });
    let (finished, noted) = (finished.await, &engine.store.interrupted_revocations);
    match &finished {
        // Without a config, no tick can finish the revocation. The next revocation of the lease, or the next process, tries
        // again.
        Ok(()) | Err(Error::Refused(_)) => noted.forget(org, client),
        Err(error) => {
            noted.note(org, client);
            engine.backoff.note(org, Some(error));
        }
    }
    finished
}
