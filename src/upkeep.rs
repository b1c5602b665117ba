//! Looks after the root tokens: learns from Astra when they expire, warns in time, and rotates those with a
//! `rotation_period`.
//!
//! Each org has its second of the day, so the work of many orgs is spread over the day. The directory of the configs finds
//! the orgs that are due, so a tick does not look at the others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use vault_plugin_sdk::logical;

use super::api::{self, TokenDates};
use super::backoff::in_tick;
use super::clock;
use super::engine::Engine;
use super::error::{Error, readable};
use super::journal;
use super::names::OrgId;
use super::rotate::rotate;
use super::store::Config;

/// How long one tick begins work. The host cancels a tick after 90 seconds.
const BUDGET: Duration = Duration::from_secs(30);

/// How many orgs are looked after at the same time.
const CONCURRENT: usize = 8;

/// How long the write of a config waits for Astra's list. A list of many tokens takes longer, and the tick reads it then.
const PATIENCE_OF_WRITE: Duration = Duration::from_secs(10);

/// After a failed read of dates that are not known yet, the next read comes after this time.
const RETRY_READ: Duration = Duration::from_secs(3600);

/// The engine warns from this time before the expiry of a root token.
const WARN: SignedDuration = SignedDuration::from_secs(14 * 86400);

/// From this time before the expiry, the log has an error.
const URGENT: SignedDuration = SignedDuration::from_secs(3 * 86400);

/// Whether `config` has a root token that expires within 14 days.
pub(crate) fn expires_soon(config: &Config, now: Timestamp) -> bool {
    config.root.expires_at.is_some_and(|expiry| expiry.duration_since(now) <= WARN)
}

/// Reads the dates of the root token of a config that is about to be stored. A failure is only logged: the tick reads the
/// dates later.
pub(crate) async fn dates_for_write(engine: &Engine, config: &Config) -> Option<TokenDates> {
    let read = async {
        let client = engine.clients.make(config).await?;
        client.dates_of(config.root_id().unwrap_or_default()).await
    };
    match tokio::time::timeout(PATIENCE_OF_WRITE.min(config.request_timeout), read).await {
        Ok(Ok(dates)) => dates,
        Ok(Err(error)) => {
            log_unread(&config.org_id, &error.into());
            None
        }
        Err(_) => {
            log_unread(&config.org_id, &Error::OutOfTime(PATIENCE_OF_WRITE));
            None
        }
    }
}

fn log_unread(org: &OrgId, error: &Error) {
    tracing::warn!(org_id = %org, error = %error, "failed to read when a root token expires, will retry");
}

/// Does the work of a tick.
///
/// # Errors
/// If the storage fails. Failures of Astra are logged, and a later tick tries again.
pub(crate) async fn tick(engine: Arc<Engine>) -> Result<(), logical::Error> {
    if !engine.schedule.may_look(engine.store.keeps_names().await) {
        return Ok(());
    }
    let (now, deadline) = (clock::now(), Instant::now() + BUDGET);
    let (rotated, read) = tokio::join!(rotate_due(&engine, now, deadline), look_at_due(&engine, now, deadline));
    Ok(rotated.and(read)?)
}

/// Looks at the root tokens that are due today.
async fn look_at_due(engine: &Arc<Engine>, now: Timestamp, deadline: Instant) -> Result<(), Error> {
    let mut orgs = engine.store.orgs_in_seconds(&engine.schedule.seconds_due(now)).await?;
    engine.schedule.note_done(now);
    orgs.extend(engine.schedule.take_unread());
    let look = |org: OrgId| async move {
        if Instant::now() < deadline {
            look_at(engine, &org, now).await;
        } else {
            engine.schedule.read_after(&org, Duration::ZERO);
        }
    };
    stream::iter(orgs).map(look).buffer_unordered(CONCURRENT).collect::<()>().await;
    Ok(())
}

/// Reads the dates of a root token, and warns if the root token expires soon. If Astra fails, warns by the stored dates.
async fn look_at(engine: &Engine, org: &OrgId, now: Timestamp) {
    let read = in_tick(async {
        let config = engine.config_for_undo(org).await?;
        let id = config.root_id().unwrap_or_default();
        let dates = engine.call(&config, |client: Arc<api::Client>| async move { client.dates_of(id).await }).await?;
        store_dates(engine, &config, dates, now).await
    });
    let read = read.await;
    engine.backoff.note(org, read.as_ref().err());
    // A config that cannot be read has its own errors.
    let Ok((Some(config), _)) = readable(engine.store.config(org).await) else { return };
    if let Err(error) = read {
        log_unread(org, &error);
        if config.root.created_at.is_none() && config.root.expires_at.is_none() {
            engine.schedule.read_after(org, RETRY_READ);
        }
    }
    warn(&config, now);
}

/// Stores the dates of the root token of `config`, if the stored config has other dates. Almost always, nothing changes.
async fn store_dates(engine: &Engine, config: &Config, dates: Option<TokenDates>, now: Timestamp) -> Result<(), Error> {
    let change = |config: &mut Config| {
        let is_changed = dates.is_some_and(|dates| config.root.set_dates(dates.created_at, dates.expires_at));
        config.root.correct_times(now) || is_changed
    };
    if !change(&mut config.clone()) {
        return Ok(());
    }
    let _lock = engine.locks.configs().await;
    let Some(stored) = engine.store.stored_config(&config.org_id).await? else { return Ok(()) };
    let mut new = (*stored).clone();
    if stored.root_id() == config.root_id() && change(&mut new) {
        engine.store.put_config(&new).await?;
    }
    Ok(())
}

/// Writes a line about a root token that expires soon.
fn warn(config: &Config, now: Timestamp) {
    let Some(expiry) = config.root.expires_at.filter(|_| expires_soon(config, now)) else { return };
    let (org, root) = (&config.org_id, config.root_id().unwrap_or_default());
    let next = config.next_rotation();
    let rotation = next.map_or_else(|| "none".to_owned(), |time| time.to_string());
    // A rotation that is planned before the expiry helps.
    let is_planned = next.is_some_and(|time| now <= time && time < expiry);
    if expiry.duration_since(now) <= URGENT && !is_planned {
        tracing::error!(org_id = %org, client_id = root, expires_at = %expiry, next_rotation = rotation,
            "found a root token that expires within 3 days, or has expired");
    } else {
        tracing::warn!(org_id = %org, client_id = root, expires_at = %expiry, next_rotation = rotation,
            "found a root token that expires within 14 days");
    }
}

/// Rotates the root tokens that are due.
async fn rotate_due(engine: &Arc<Engine>, now: Timestamp, deadline: Instant) -> Result<(), Error> {
    let orgs = engine.store.orgs_to_rotate(now).await?;
    // On a mount that is being removed, this is the last tick, and nobody would know the new root token.
    if orgs.is_empty() || engine.system.tainted().await? {
        return Ok(());
    }
    let rotate = |org: OrgId| async move {
        if Instant::now() < deadline && engine.schedule.begin(&org) {
            // The rotation continues if it takes longer, or if the host cancels the tick.
            let (engine, tasks) = (engine.clone(), &engine.tasks);
            let rotation = tasks.run(async move { rotate_one(&engine, &org, now).await });
            let _ = tokio::time::timeout(BUDGET, rotation).await;
        }
    };
    stream::iter(orgs).map(rotate).buffer_unordered(CONCURRENT).collect::<()>().await;
    Ok(())
}

/// Rotates the root token of an org, if it is still due.
async fn rotate_one(engine: &Arc<Engine>, org: &OrgId, now: Timestamp) {
    let _lock = engine.locks.rotation(org).await;
    let rotated = async {
        let Some(config) = engine.store.stored_config(org).await? else { return Ok(None) };
        if config.next_rotation().is_none_or(|time| now < time) {
            return Ok(None);
        }
        if !config.description && journal::has_lost_rotation(engine.wal(), org).await? {
            return Err(Error::NotYet(
                "the outcome of an earlier rotation is unknown; a later tick stops the schedule".into(),
            ));
        }
        rotate(engine, &config, &engine.mount_point()).await.map(Some)
    };
    match rotated.await {
        Ok(rotated) => {
            engine.schedule.end(org, false);
            if let Some(rotated) = rotated {
                tracing::info!(org_id = %org, client_id = %rotated.new, old_client_id = %rotated.old,
                    "rotated root token on schedule");
            }
        }
        Err(error) => {
            let pause = engine.schedule.end(org, true);
            // The log says already that the rotations have stopped.
            if engine
                .store
                .stored_config(org)
                .await
                .is_ok_and(|config| config.is_some_and(|config| config.root.stopped_at.is_some()))
            {
                return;
            }
            tracing::error!(org_id = %org, error = %error, pause_seconds = pause.as_secs(),
                "failed to rotate a root token on schedule, will retry");
        }
    }
}
