//! Ending tokens whose lease cannot exist any more.
//!
//! A plugin that is killed between its answer and the host's lease leaves a token that no lease ends. Its record says
//! when it is certain that none does. The Go plugin's tokens have records that do not say it, and when it ends one, during
//! a downgrade, the record stays: it knows of none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use vault_plugin_sdk::logical;

use super::find::Target;
use super::revoke::end;
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, OrgId};
use crate::store::{Cursor, Record};

/// Records looked at in one tick of the host, which comes once a minute: the work of a tick does not grow with the number
/// of tokens.
const PAGE: usize = 256;

/// Between two passes over all records.
const REST: Duration = Duration::from_secs(3600);

/// Looks at the next records and ends the tokens that no lease ends.
///
/// # Errors
/// When storage fails. A token that cannot be ended is logged and waits for the next pass.
pub(crate) async fn sweep(engine: Arc<Engine>) -> Result<(), logical::Error> {
    let mut cursor = engine.store.sweep_cursor().await;
    if cursor.rest_until.is_some_and(|time| Instant::now() < time) {
        return Ok(());
    }
    let (page, last) = engine.store.records_after(cursor.last.as_ref(), PAGE).await.map_err(logical::Error::from)?;
    let rest_until = if last.is_none() { Instant::now().checked_add(REST) } else { None };
    *cursor = Cursor { last, rest_until };
    for (org, client, record) in page {
        if let Err(error) = in_tick(end_unleased(&engine, &org, &client, &record)).await {
            tracing::error!(org_id = %org, client_id = %client, error = %error, "failed to end a token without a lease");
            engine.backoff.note(&org, Some(&error));
        }
    }
    Ok(())
}

async fn end_unleased(engine: &Arc<Engine>, org: &OrgId, client: &ClientId, record: &Record) -> Result<(), Error> {
    if !is_over(engine, client, record).await? {
        return Ok(());
    }
    if engine.backoff.require_over(org).is_err() {
        // The failure of another one was logged a moment ago. This one waits for the next pass as well.
        return Ok(());
    }
    // It may have been renewed since the page was read.
    let Some(record) = engine.store.record(org, client).await? else { return Ok(()) };
    if !is_over(engine, client, &record).await? {
        return Ok(());
    }
    let target = Target {
        org_id: org.clone(),
        client_id: client.clone(),
        role_name: record.role_name,
        token_id: record.token_id,
        may_be_old: record.created_at.is_empty(),
    };
    let ended = end(engine.clone(), target).await?;
    tracing::warn!(org_id = %ended.org_id, role_name = %ended.role_name, client_id = %ended.client_id,
        "deleted a token that had no lease any more");
    Ok(())
}

/// Whether no lease of a token can exist.
async fn is_over(engine: &Engine, client: &ClientId, record: &Record) -> Result<bool, Error> {
    match record.expires_at.parse::<Timestamp>() {
        Ok(end) => Ok(end < Timestamp::now()),
        // Of a token of the Go plugin that is not known, unless the token was removed.
        Err(_) => Ok(engine.store.token(&record.token_id).await?.is_none_or(|token| token.client_id != *client)),
    }
}
