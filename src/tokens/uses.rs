//! Counts the uses of tokens, and writes them to the records.
//!
//! A use is a read or a renewal. Reads do not write: see `store/uses.rs`. The tick of the active node writes
//! the uses, and the end of the mount writes the rest.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::{Instant, timeout};
use vault_plugin_sdk::logical::{self, Caller};

use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId};
use crate::store::{Record, log_skipped};

/// How many records are written at the same time.
const CONCURRENT: usize = 32;

/// How long one tick writes. The host cancels a tick after 90 seconds.
const BUDGET: Duration = Duration::from_secs(30);

/// How long the end of a mount writes. All mounts of a process share 4.5 seconds.
const LAST_BUDGET: Duration = Duration::from_secs(3);

/// How long a write waits for the lock of its token, which a slow revocation can hold.
const PATIENCE: Duration = Duration::from_secs(1);

/// After this many failures, the storage has failed and not single entries.
const FAILURES: usize = 32;

/// The result of writing the uses of several tokens.
#[derive(Default)]
struct Written {
    /// How many tokens failed.
    failed: usize,
    /// The first failure.
    error: Option<Error>,
    /// How many tokens there was no time for.
    left: usize,
}

/// Counts a read of a token.
///
/// # Errors
/// [`logical::Error::ReadOnly`] on a standby, if it did not forward a read of this token for an hour. The host then forwards
/// the request, and the active node counts the read. A repeated request is not forwarded again.
pub(crate) async fn note_read(engine: &Engine, org: &OrgId, client: &ClientId, caller: &Caller) -> Result<(), Error> {
    let uses = &engine.store.uses;
    let is_first = uses.note(org, client, Some(&caller.display_name));
    if is_first && engine.is_standby().await {
        uses.take_back(org, client);
        return Err(logical::Error::ReadOnly.into());
    }
    Ok(())
}

/// Writes the uses that are due, in a task of its own: if the host cancelled a write, it could take effect after the
/// deletion of the token.
pub(super) async fn write_due(engine: &Arc<Engine>) {
    let due = engine.store.uses.due(false);
    let uncounted = engine.store.uses.take_uncounted();
    if uncounted > 0 {
        tracing::warn!(uncounted, "did not count some uses of tokens: too many tokens were in use");
    }
    if due.is_empty() {
        return;
    }
    let Ok(writing) = engine.store.uses.writing.clone().try_lock_owned() else { return };
    let engine = engine.clone();
    let tasks = engine.tasks.clone();
    // If the mount is being unmounted, its end writes the uses.
    _ = tasks
        .run(async move {
            log(&write(&engine, due, BUDGET).await);
            drop(writing);
        })
        .await;
}

/// Writes all uses at the end of a mount. Returns at once: the end of the mount waits for this work.
pub(crate) fn write_rest(engine: &Arc<Engine>) {
    let due = engine.store.uses.due(true);
    if due.is_empty() {
        return;
    }
    let work = engine.clone();
    drop(engine.tasks.start_last(async move {
        // A node that cannot write has forwarded the first read of each hour.
        if !work.system.is_writable().await.unwrap_or(false) {
            return;
        }
        let all = due.len();
        let written = write(&work, due, LAST_BUDGET).await;
        log(&written);
        if written.left > 0 {
            tracing::warn!(tokens = all, left = written.left, "left uses of tokens unwritten: the mount stopped");
        }
    }));
}

async fn write(engine: &Engine, due: Vec<(OrgId, ClientId)>, budget: Duration) -> Written {
    let deadline = Instant::now() + budget;
    let mut written = Written { left: due.len(), ..Written::default() };
    // Tokens without a record may get one.
    match engine.store.inventory_is_complete().await {
        Ok(true) => {}
        Ok(false) => return written,
        Err(error) => return Written { failed: due.len(), error: Some(error), ..written },
    }
    let in_time = stream::iter(due).take_while(|_| std::future::ready(Instant::now() < deadline));
    let write = |(org, client): (OrgId, ClientId)| async move { write_one(engine, &org, &client).await };
    let mut results = in_time.map(write).buffer_unordered(CONCURRENT);
    while let Some(result) = results.next().await {
        written.left -= 1;
        if let Err(error) = result {
            written.failed += 1;
            written.error.get_or_insert(error);
        }
        if written.failed >= FAILURES {
            break;
        }
    }
    written
}

fn log(written: &Written) {
    if let Some(error) = &written.error {
        tracing::warn!(failed = written.failed, error = %error, "failed to write the uses of tokens, will retry");
    }
}

/// Adds the uses of a token to its record. A token without a record, or with a record that cannot be read, loses its uses.
async fn write_one(engine: &Engine, org: &OrgId, client: &ClientId) -> Result<(), Error> {
    let uses = &engine.store.uses;
    if !engine.store.has_config(org).await? {
        // The records of an organization without a config can move to another key at any time.
        return Ok(());
    }
    let Some(record) = record(engine, org, client).await? else { return Ok(()) };
    // If another task deletes the token, the record must not be written again.
    let Ok(_lock) = timeout(PATIENCE, engine.locks.token(&record.token_id)).await else { return Ok(()) };
    let Some(record) = self::record(engine, org, client).await? else { return Ok(()) };
    let Some(known) = uses.begin_write(org, client, record.use_count) else { return Ok(()) };
    let record = known.added_to(record);
    engine.store.put_record(org, client, &record).await?;
    uses.end_write(org, client, &known, record.use_count);
    Ok(())
}

/// Returns the record of a token. Without one, forgets the uses of the token.
async fn record(engine: &Engine, org: &OrgId, client: &ClientId) -> Result<Option<Record>, Error> {
    let (record, damage) = readable(engine.store.record(org, client).await)?;
    damage.iter().for_each(log_skipped);
    if record.is_none() {
        engine.store.uses.forget(org, client);
    }
    Ok(record)
}
