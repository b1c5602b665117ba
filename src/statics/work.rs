//! Does the due work of the static roles: rotates them, deletes their replaced tokens, and finishes their deletion.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;
use vault_plugin_sdk::logical;

use super::rotation::rotate;
use crate::backoff::in_tick;
use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId, RoleName};
use crate::store::StaticRole;
use crate::tokens::{self, Target};

/// How many static roles are worked on at the same time.
const AT_ONCE: usize = 8;

/// After this time, no more work is started. The host cancels a tick after 90 seconds.
const BUDGET: Duration = Duration::from_secs(30);

/// How long a rotation waits for the deletion of replaced tokens. The deletion goes on.
const ENDING: Duration = Duration::from_secs(15);

/// The host's tick comes every minute, and starts the work of the next minute.
const UNTIL_TICK: Duration = Duration::from_secs(90);

/// Does the due work, and starts a timer for the next work. The periodic tick calls this on the active node.
///
/// # Errors
/// If the storage fails. Failed work on a static role is logged, and retried.
pub(crate) async fn work(engine: Arc<Engine>) -> Result<(), logical::Error> {
    if !may_work(&engine).await? {
        return Ok(());
    }
    engine.store.load_schedule().await?;
    do_due(&engine).await;
    arm(&engine);
    Ok(())
}

/// Returns true if this node rotates static roles. On a mount that is being removed, nobody can read the next token.
async fn may_work(engine: &Engine) -> Result<bool, logical::Error> {
    Ok(engine.system.is_writable().await? && !engine.system.tainted().await?)
}

/// Starts a timer for the next work, if it is due before the next tick.
pub(crate) fn arm(engine: &Arc<Engine>) {
    let Some(next) = engine.store.schedule.next() else { return engine.set_timer(None) };
    let pause = Duration::try_from(next.duration_since(clock::now())).unwrap_or_default();
    if pause > UNTIL_TICK {
        return engine.set_timer(None);
    }
    let weak = Arc::downgrade(engine);
    engine.set_timer(Some(tokio::spawn(async move {
        tokio::time::sleep(pause).await;
        let Some(engine) = weak.upgrade() else { return };
        // The work is not part of the timer: a write of a static role replaces the timer.
        drop(engine.tasks.start({
            let engine = engine.clone();
            async move {
                if may_work(&engine).await.unwrap_or(false) {
                    do_due(&engine).await;
                    arm(&engine);
                }
            }
        }));
    })));
}

/// Does the due work. Static roles for which the time is too short stay due.
async fn do_due(engine: &Arc<Engine>) {
    let deadline = Instant::now() + BUDGET;
    let work = |(org, name): (OrgId, RoleName)| async move {
        if Instant::now() < deadline {
            let work = in_background(engine.clone(), org, name);
            // The work is a separate task: it continues after the timeout, and if the host cancels the tick.
            let _ = tokio::time::timeout(BUDGET, engine.tasks.run(work)).await;
        }
    };
    stream::iter(engine.store.schedule.due()).for_each_concurrent(AT_ONCE, work).await;
}

async fn in_background(engine: Arc<Engine>, org: OrgId, name: RoleName) {
    if let Err(error) = in_tick(do_one(&engine, &org, &name)).await {
        engine.backoff.note(&org, Some(&error));
        engine.store.schedule.postpone(&org, &name);
        tracing::error!(org_id = %org, static_role = %name, error = %error, "failed to rotate a static role, will retry");
    }
}

async fn do_one(engine: &Arc<Engine>, org: &OrgId, name: &RoleName) -> Result<(), Error> {
    let _lock = engine.locks.static_role(org, name).await;
    let Some(mut role) = engine.store.static_role(org, name).await? else {
        return engine.store.delete_static_role(org, name).await;
    };
    engine.backoff.require_over(org)?;
    if engine.store.config(org).await?.is_none() {
        // The config was deleted by force while a rotation ran.
        return engine.store.delete_static_role(org, name).await;
    }
    if role.is_deleted {
        return delete_all(engine, &role).await;
    }
    let before = role.former.len();
    // A token that cannot be deleted must not keep the current token from being replaced.
    let ended = tokio::time::timeout(ENDING, end_former(engine, &mut role)).await;
    let ended = ended.unwrap_or(Err(Error::OutOfTime(ENDING)));
    let now = clock::now();
    let is_current = match &role.current {
        Some(current) if current.until > now => {
            engine.store.readable_token(current.client_id.as_str()).await?.is_some()
        }
        _ => false,
    };
    if !is_current {
        rotate(engine, role).await?;
    } else if ended.is_ok() || role.former.len() < before {
        // A write without a change would let the pauses after failures begin again.
        engine.store.put_static_role(&role).await?;
    }
    ended
}

/// Deletes the replaced tokens whose overlap has ended. If some cannot be deleted, returns the error of the last one.
async fn end_former(engine: &Arc<Engine>, role: &mut StaticRole) -> Result<(), Error> {
    let (now, mut ended) = (clock::now(), Ok(()));
    for former in role.former.clone() {
        if former.until <= now {
            match end(engine, &role.org_id, &role.name, &former.client_id).await {
                Ok(()) => role.former.retain(|other| other.client_id != former.client_id),
                Err(error) if error.is_of_host() => return Err(error),
                Err(error) => ended = Err(error),
            }
        }
    }
    ended
}

/// Deletes a static role and its tokens. The caller holds its lock. If the process stops before the end, the tick continues.
///
/// # Errors
/// If a token could not be deleted. The tick retries.
pub(crate) async fn delete(engine: &Arc<Engine>, mut role: StaticRole) -> Result<(), Error> {
    role.is_deleted = true;
    engine.store.put_static_role(&role).await?;
    let deleted = delete_all(engine, &role).await;
    arm(engine);
    deleted
}

/// Deletes a static role that cannot be read. Its tokens are found in the inventory. The caller holds its lock.
///
/// # Errors
/// If a token could not be deleted. The static role then stays, and the caller can try again.
pub(crate) async fn delete_unreadable(engine: &Arc<Engine>, org: &OrgId, name: &RoleName) -> Result<(), Error> {
    let mut pages = engine.store.records_of(org, "");
    while let Some(page) = pages.try_next().await? {
        for (client_id, _) in page.into_iter().filter(|(_, record)| record.static_role == *name) {
            end(engine, org, name, &client_id).await?;
        }
    }
    engine.store.delete_static_role(org, name).await?;
    tracing::info!(org_id = %org, static_role = %name, "deleted static role");
    Ok(())
}

async fn delete_all(engine: &Arc<Engine>, role: &StaticRole) -> Result<(), Error> {
    for client_id in role.tokens() {
        end(engine, &role.org_id, &role.name, client_id).await?;
    }
    engine.store.delete_static_role(&role.org_id, &role.name).await?;
    tracing::info!(org_id = %role.org_id, static_role = %role.name, "deleted static role");
    Ok(())
}

/// Deletes a token in Astra and in Vault, unless that has happened already.
async fn end(engine: &Arc<Engine>, org: &OrgId, name: &RoleName, client_id: &ClientId) -> Result<(), Error> {
    let target = match readable(engine.store.record(org, client_id).await)? {
        (Some(record), _) => Target::of_record(org, client_id, record),
        (None, Some(_)) => Target::without_record(org, client_id),
        (None, None) => return Ok(()),
    };
    tokens::delete(engine.clone(), target, false).await?;
    tracing::info!(org_id = %org, static_role = %name, client_id = %client_id, "deleted a token of a static role");
    Ok(())
}
