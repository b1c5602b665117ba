//! Deletes tokens whose lease cannot exist any more.
//!
//! If the plugin is killed after its response and before the host stores the lease, the token has no lease. The record
//! of the token holds the time after which no lease can exist. Records of the Go plugin's tokens have no such time. If
//! the Go plugin deletes a token during a downgrade, the record of this token stays, because the Go plugin does not
//! know records.
//!
//! The sweep also finishes the revocations that were interrupted, writes the uses of tokens, and deletes the tokens that a mint
//! has replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;
use vault_plugin_sdk::logical;

use super::find::Target;
use super::interrupted;
use super::replace;
use super::revoke::{Reason, delete_target};
use super::uses;
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, OrgId, segment};
use crate::store::{Cursor, Record};

/// How long one tick checks records. The host cancels a tick after 90 seconds, and the last token may take 45 seconds.
const BUDGET: Duration = Duration::from_secs(30);

/// How many orgs are read ahead. With one org after another, the latency of the storage would add up over thousands of
/// orgs with few tokens each.
const AHEAD: usize = 8;

/// Pause between two passes over all records.
const REST: Duration = Duration::from_secs(3600);

/// Pause before a pass over the orgs whose tokens could not be deleted.
const SHORT_REST: Duration = Duration::from_secs(300);

/// The tokens of one org that a tick could not delete: their number, and the first error.
type Failures = BTreeMap<OrgId, (usize, Error)>;

/// Checks the next records, deletes the tokens without a lease, and finishes interrupted revocations.
///
/// # Errors
/// If the storage fails. A token that cannot be deleted is logged, and a later pass tries again.
pub(crate) async fn sweep(engine: Arc<Engine>) -> Result<(), logical::Error> {
    let deadline = Instant::now() + BUDGET;
    // At the same time, so that none delays another until the host cancels the tick.
    let (swept, (), ()) = tokio::join!(
        check_all(&engine, deadline),
        interrupted::finish_noted(&engine, deadline),
        uses::write_due(&engine)
    );
    // Afterwards, because a pass finds the replaced tokens of an earlier process.
    let ended = replace::end_due(&engine, Instant::now() + BUDGET).await;
    swept.and(ended)?;
    Ok(())
}

/// Checks records, unless the last pass ended a moment ago.
async fn check_all(engine: &Arc<Engine>, deadline: Instant) -> Result<(), Error> {
    let mut cursor = engine.store.sweep_cursor().await;
    if cursor.rest_until.is_some_and(|time| Instant::now() < time) {
        return Ok(());
    }
    let mut failures = Failures::new();
    let swept = check_passes(engine, &mut cursor, &mut failures, deadline).await;
    for (org, (tokens, error)) in failures {
        tracing::error!(org_id = %org, tokens, error = %error, "failed to delete tokens without a lease, will retry");
    }
    swept
}

/// Checks records until the time of the tick is used up, or until a pass that began at the first record is complete.
async fn check_passes(
    engine: &Arc<Engine>,
    cursor: &mut Cursor,
    failures: &mut Failures,
    deadline: Instant,
) -> Result<(), Error> {
    while check_records(engine, cursor, failures, deadline).await? {
        let is_whole = cursor.is_whole;
        cursor.missed.extend(failures.keys().cloned());
        end_pass(cursor);
        if is_whole {
            engine.store.token_counts.complete();
            return Ok(());
        }
        // The whole pass counts them again.
        failures.clear();
    }
    cursor.missed.extend(failures.keys().cloned());
    Ok(())
}

/// Checks records until `deadline`. Returns whether the pass is complete.
async fn check_records(
    engine: &Arc<Engine>,
    cursor: &mut Cursor,
    failures: &mut Failures,
    deadline: Instant,
) -> Result<bool, Error> {
    let mut orgs: BTreeSet<OrgId> = engine.store.orgs_with_tokens().await?.into_iter().collect();
    if let Some(missed) = &cursor.orgs {
        orgs.retain(|org| missed.contains(org));
    }
    if cursor.last.is_none() && !cursor.is_whole {
        // A process that is often restarted must not check the first orgs only.
        let index = Uuid::new_v4().as_u128() % orgs.len().max(1) as u128;
        cursor.is_whole = index == 0;
        cursor.last = orgs.iter().nth(index as usize).map(|org| (org.clone(), ClientId::stored("")));
    }
    let last = cursor.last.clone();
    let open = |org: OrgId| {
        let after = match &last {
            Some((last, client)) if *last == org => segment(client.as_str()).into_owned(),
            _ => String::new(),
        };
        async move {
            if after.is_empty() {
                engine.store.token_counts.begin(&org);
            }
            let mut pages = engine.store.records_of(&org, &after);
            let first = pages.try_next().await?;
            Ok::<_, Error>((org, first, pages))
        }
    };
    let due = orgs.into_iter().filter(|org| last.as_ref().is_none_or(|(first, _)| org >= first));
    let mut opened = pin!(stream::iter(due).map(open).buffered(AHEAD));
    while let Some((org, mut page, mut pages)) = opened.try_next().await? {
        while let Some(records) = page {
            if !cursor.has_passed {
                interrupted::finish_on_page(engine, &org, &records).await?;
            }
            replace::note_on_page(engine, &org, &records);
            for (client, record) in records {
                engine.store.token_counts.see(&org, &client);
                if let Err(error) = in_tick(delete_if_unleased(engine, &org, &client, &record)).await {
                    engine.backoff.note(&org, Some(&error));
                    failures.entry(org.clone()).or_insert((0, error)).0 += 1;
                }
                cursor.last = Some((org.clone(), client));
                if Instant::now() > deadline {
                    return Ok(false);
                }
            }
            page = pages.try_next().await?;
        }
        engine.store.token_counts.end(&org);
    }
    Ok(true)
}

fn end_pass(cursor: &mut Cursor) {
    let missed = std::mem::take(&mut cursor.missed);
    let (orgs, rest) = match (cursor.is_whole, missed.is_empty()) {
        // The first pass of a process begins at any org.
        (false, _) => (None, Duration::ZERO),
        (true, true) => (None, REST),
        (true, false) => (Some(missed), SHORT_REST),
    };
    let has_passed = cursor.has_passed || cursor.is_whole;
    let rest_until = Instant::now().checked_add(rest);
    *cursor = Cursor { orgs, is_whole: true, has_passed, rest_until, ..Cursor::default() };
}

async fn delete_if_unleased(
    engine: &Arc<Engine>,
    org: &OrgId,
    client: &ClientId,
    record: &Record,
) -> Result<(), Error> {
    if !cannot_have_lease(engine, client, record).await? {
        return Ok(());
    }
    // The lease may have been renewed after the page was read.
    let Some(record) = engine.store.record(org, client).await? else { return Ok(()) };
    if !cannot_have_lease(engine, client, &record).await? {
        return Ok(());
    }
    let target = Target::of_record(org, client, record);
    if !target.has_expired() {
        engine.backoff.require_over(org)?;
    }
    let deleted = delete_target(engine.clone(), target, Reason::Request).await?;
    tracing::warn!(org_id = %deleted.org_id, role_name = %deleted.role_name, client_id = %deleted.client_id,
        "deleted a token without a lease");
    Ok(())
}

/// Whether no lease of a token can exist any more.
async fn cannot_have_lease(engine: &Engine, client: &ClientId, record: &Record) -> Result<bool, Error> {
    match record.expires_at.parse::<Timestamp>() {
        Ok(end) => Ok(end < Timestamp::now()),
        // A token of the Go plugin: its lease has no known end, so a lease can exist as long as the token is stored.
        Err(_) => Ok(engine.store.token_of_record(record, client).await?.is_none()),
    }
}
