//! Deletes a root token that the engine made and that a write of the config replaced. Nobody knows this root token, so it
//! would stay in Astra for ever.
//!
//! The new root token deletes the former one. So the former one is deleted only after Astra has accepted the new one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;
use vault_plugin_sdk::framework::{OpenEntry, Undo, WalEntry, WalKind};
use vault_plugin_sdk::logical;

use super::delete_unused;
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::Error;
use crate::journal::{GIVE_UP, MARGIN, REPLACED_ROOT, longest};
use crate::names::{ClientId, OrgId};
use crate::store::Config;

/// The data of the WAL entry.
#[derive(Serialize, Deserialize)]
struct ReplacedRoot {
    /// The org.
    org_id: OrgId,
    /// The former root token, which the engine made.
    client_id: ClientId,
    /// Deadline of one call to Astra.
    timeout_seconds: u64,
}

/// The deletion of a former root token, whose WAL entry is written.
pub(crate) struct Replacement {
    former: ReplacedRoot,
    entry: OpenEntry,
    /// The calls with the former root token that have not finished.
    running: TaskTracker,
}

impl Replacement {
    /// Writes the WAL entry, if `new` replaces a root token that the engine made. The caller then stores `new`, and holds
    /// the lock of the configs.
    ///
    /// # Errors
    /// If the entry may be missing. The caller must not store `new` then.
    pub(crate) async fn begin(engine: &Engine, old: &Arc<Config>, new: &mut Config) -> Result<Option<Self>, Error> {
        let Some(client_id) = old.made_root().filter(|root| !new.is_root(root)) else { return Ok(None) };
        new.remember_root(client_id);
        let (org_id, timeout_seconds) = (new.org_id.clone(), new.request_timeout.as_secs());
        let former = ReplacedRoot { org_id, client_id: client_id.clone(), timeout_seconds };
        let entry = engine.wal().put(REPLACED_ROOT, &former).await?;
        Ok(Some(Self { former, entry, running: engine.clients.calls(old) }))
    }

    /// Deletes the former root token, after the caller has stored `config`. If Astra has not accepted the new root token
    /// yet, leaves that to the tick. Returns the warning for the caller of the write.
    pub(crate) async fn finish(self, engine: &Engine, config: &Arc<Config>, is_accepted: bool) -> String {
        let former = &self.former;
        let whose = format!("the former root token with client id {:?}, which the engine had made,", former.client_id);
        if !is_accepted {
            return format!(
                "{whose} is not needed any more; the engine deletes it in Astra as soon as Astra accepts the new root token, and \
                 tries once a minute"
            );
        }
        // Calls that started with the former root token may still need it.
        self.running.close();
        let _ = tokio::time::timeout(config.request_timeout, self.running.wait()).await;
        if let Err(error) = delete_unused(engine, &former.org_id, config, &former.client_id).await {
            tracing::error!(org_id = %former.org_id, client_id = %former.client_id, error = %error,
                "failed to delete an old root token, will retry");
            return format!("{whose} could not be deleted in Astra, and the engine retries once a minute: {error}");
        }
        if let Err(error) = engine.wal().delete(&self.entry).await {
            tracing::warn!(org_id = %former.org_id, error = %error, "failed to delete a WAL entry, will retry");
        }
        format!("{whose} was deleted in Astra")
    }
}

/// Declares the entries of former root tokens.
pub(crate) fn replaced_roots() -> WalKind<Engine> {
    WalKind::new(REPLACED_ROOT, MARGIN, finish).longer_for(longest)
}

/// Deletes a former root token at a tick. If the config holds it, because the write of the config failed, it stays.
async fn finish(engine: Arc<Engine>, entry: WalEntry) -> Result<Undo, logical::Error> {
    let ReplacedRoot { org_id, client_id, .. } = entry.decode()?;
    let deleted = in_tick(async {
        let config = engine.config_for_undo(&org_id).await?;
        delete_unused(&engine, &org_id, &config, &client_id).await
    });
    let deleted = deleted.await;
    engine.backoff.note(&org_id, deleted.as_ref().err());
    match deleted {
        Ok(()) => Ok(Undo::Done),
        Err(error) if entry.age() > GIVE_UP => {
            tracing::error!(org_id = %org_id, client_id = %client_id, error = %error,
                "gave up deleting a root token that a write of the config had replaced: delete it in Astra's portal");
            Ok(Undo::Done)
        }
        Err(error) => Err(logical::Error::internal(format!(
            "the former root token with client id {:?} of org_id {:?} is left in Astra: {error}",
            client_id.as_str(),
            org_id.as_str()
        ))),
    }
}
