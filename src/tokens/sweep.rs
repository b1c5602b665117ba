//! Deletes tokens whose lease cannot exist any more.
//!
//! If the plugin is killed after its response and before the host stores the lease, the token has no lease. The record
//! of the token holds the time after which no lease can exist. Records of the Go plugin's tokens have no such time. If
//! the Go plugin deletes a token during a downgrade, the record of this token stays, because the Go plugin does not
//! know records.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use vault_plugin_sdk::logical;

use super::find::Target;
use super::revoke::delete_target;
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, OrgId};
use crate::store::{Cursor, Record};

/// Records that one tick checks, so that the work of a tick does not grow with the number of tokens.
const PAGE: usize = 256;

/// Pause between two passes over all records.
const REST: Duration = Duration::from_secs(3600);

/// Checks the next records and deletes the tokens without a lease.
///
/// # Errors
/// If the storage fails. A token that cannot be deleted is logged, and the next pass tries again.
pub(crate) async fn sweep(engine: Arc<Engine>) -> Result<(), logical::Error> {
    let mut cursor = engine.store.sweep_cursor().await;
    if cursor.rest_until.is_some_and(|time| Instant::now() < time) {
        return Ok(());
    }
    let (page, last) = engine.store.records_after(cursor.last.as_ref(), PAGE).await.map_err(logical::Error::from)?;
    let rest_until = if last.is_none() { Instant::now().checked_add(REST) } else { None };
    *cursor = Cursor { last, rest_until };
    for (org, client, record) in page {
        if let Err(error) = in_tick(delete_if_unleased(&engine, &org, &client, &record)).await {
            tracing::error!(org_id = %org, client_id = %client, error = %error, "failed to delete a token without a lease");
            engine.backoff.note(&org, Some(&error));
        }
    }
    Ok(())
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
    if engine.backoff.require_over(org).is_err() {
        // Astra failed for this org a moment ago, which was logged. The next pass deletes the token.
        return Ok(());
    }
    // The lease may have been renewed after the page was read.
    let Some(record) = engine.store.record(org, client).await? else { return Ok(()) };
    if !cannot_have_lease(engine, client, &record).await? {
        return Ok(());
    }
    let target = Target {
        org_id: org.clone(),
        client_id: client.clone(),
        role_name: record.role_name,
        token_id: record.token_id,
        may_be_old: record.created_at.is_empty(),
    };
    let deleted = delete_target(engine.clone(), target).await?;
    tracing::warn!(org_id = %deleted.org_id, role_name = %deleted.role_name, client_id = %deleted.client_id,
        "deleted a token without a lease");
    Ok(())
}

/// Whether no lease of a token can exist any more.
async fn cannot_have_lease(engine: &Engine, client: &ClientId, record: &Record) -> Result<bool, Error> {
    match record.expires_at.parse::<Timestamp>() {
        Ok(end) => Ok(end < Timestamp::now()),
        // A token of the Go plugin: its lease has no known end, so a lease can exist as long as the token is stored.
        Err(_) => Ok(engine.store.token(&record.token_id).await?.is_none_or(|token| token.client_id != *client)),
    }
}
