//! What is noted before a change in Astra, and how it is set right if the end of the change is never reached.
//!
//! Architecture invariant: as long as a mint is noted, nobody has its token. So whatever a noted mint left can go.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::api;
use super::engine::Engine;
use super::error::Error;
use super::names::{ClientId, OrgId, RoleName};
use super::rotate::ROTATION;
use super::store::Config;
use crate::sdk::framework::{WalEntry, WalKind};
use crate::sdk::logical;

/// Kind of the entries of mints.
pub(crate) const MINT: &str = "token-mint";

/// Kind of the entries of deletions and revocations.
pub(crate) const DELETION: &str = "token-delete";

/// A request that another node sent can take effect for this long after the deadline of its call.
pub(crate) const MARGIN: Duration = Duration::from_secs(10);

/// When an entry that cannot be set right is given up, unless it is certain earlier that nothing is left of it.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(30 * 86400);

/// How long the host's tick waits for one entry or token, whatever the `request_timeout` of its org. The host cuts a tick
/// short after 90 seconds, and what stands behind shall have its turn before that.
const PATIENCE: Duration = Duration::from_secs(45);

/// A mint that has not come to its end.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Mint {
    /// The org.
    pub(crate) org_id: OrgId,
    /// The role in Vault.
    pub(crate) role_name: RoleName,
    /// What tells this mint from all others.
    pub(crate) marker: String,
    /// Whether the marker is at the end of the token's description.
    pub(crate) described: bool,
    /// Id of the token in Vault, where that is not its client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_id: Option<String>,
    /// Client id of the token, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_id: Option<ClientId>,
    /// When the token dies by itself (RFC 3339), if Astra is told so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dies_at: Option<String>,
    /// Deadline of the call to Astra.
    pub(crate) timeout_seconds: u64,
}

/// A token that is being deleted.
#[derive(Serialize, Deserialize)]
pub(crate) struct Deletion {
    /// The org.
    pub(crate) org_id: OrgId,
    /// The token.
    pub(crate) client_id: ClientId,
    /// Its id in Vault.
    pub(crate) token_id: String,
    /// Its role in Vault.
    #[serde(default)]
    pub(crate) role_name: RoleName,
    /// Deadline of the call to Astra.
    pub(crate) timeout_seconds: u64,
}

/// What came of an attempt to undo a mint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Undone {
    /// Its token is gone, or what is known of it leads to a token that is not its own.
    Gone,
    /// Astra does not list its token. It may do so later if the request is still on its way.
    NotFound,
}

impl Mint {
    /// Deletes the token of this mint in Vault and in Astra.
    ///
    /// # Errors
    /// When it is not certain that it is gone.
    pub(crate) async fn undo(&self, engine: &Engine, config: &Arc<Config>) -> Result<Undone, Error> {
        let client_id = match &self.client_id {
            Some(client_id) => client_id.clone(),
            None if !self.described => return Ok(Undone::NotFound),
            None => match engine.call(config, |client| async move { client.find_token(&self.marker).await }).await? {
                Some(client_id) => ClientId::stored(client_id),
                None => return Ok(Undone::NotFound),
            },
        };
        if self.is_anothers(engine, config, &client_id).await? {
            tracing::error!(org_id = %self.org_id, client_id = %client_id, "left a token alone that is not of the mint to be undone");
            return Ok(Undone::Gone);
        }
        // The marker is gone with the token in Astra, and with it the way to what is stored. So that goes first.
        let token_id = self.token_id.as_deref().unwrap_or(client_id.as_str());
        let lock = engine.locks.token(token_id).await;
        engine.store.delete_token(token_id, &self.org_id, &client_id).await?;
        drop(lock);
        let id = client_id.as_str();
        engine.call(config, |client| async move { client.delete_token(id).await }).await?;
        tracing::info!(org_id = %self.org_id, role_name = %self.role_name, client_id = %client_id, "rolled back token");
        Ok(Undone::Gone)
    }

    /// Whether a client id belongs to another mint or to the root token: Astra's answer may have named any.
    async fn is_anothers(&self, engine: &Engine, config: &Config, client_id: &ClientId) -> Result<bool, Error> {
        if config.is_root(client_id) {
            return Ok(true);
        }
        let record = engine.store.record(&self.org_id, client_id).await?;
        Ok(record.is_some_and(|record| record.marker != self.marker))
    }

    /// Warns of a token that nothing can find.
    pub(crate) fn warn_of_lost(&self) {
        tracing::error!(org_id = %self.org_id, role_name = %self.role_name, dies_at = self.dies_at.as_deref().unwrap_or("never"),
            "a token may be left in Astra: the outcome of its mint is not known, and it has no description to be found by; \
             look for a token of that time in Astra's portal");
    }
}

/// Whether a mint or a rotation of this org has not come to its end, so that a token may be left in Astra.
pub(crate) async fn is_unfinished(engine: &Engine, org: &OrgId) -> Result<bool, Error> {
    let wal = engine.wal();
    for id in wal.list().await? {
        if let Some(entry) = wal.get(&id).await?
            && matches!(entry.kind.as_str(), MINT | ROTATION)
            && entry.data["org_id"] == org.as_str()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Declares the entries of mints.
pub(crate) fn mints() -> WalKind<Engine> {
    WalKind::new(MINT, MARGIN, undo_mint).longer_for(longest)
}

/// Declares the entries of deletions.
pub(crate) fn deletions() -> WalKind<Engine> {
    WalKind::new(DELETION, MARGIN, finish_deletion).longer_for(longest)
}

/// Returns how long the change of an entry can go on in another process.
pub(crate) fn longest(entry: &WalEntry) -> Duration {
    let timeout = Duration::from_secs(entry.data["timeout_seconds"].as_u64().unwrap_or(0));
    timeout.saturating_mul(3) / 2 + MARGIN
}

/// Does work of the host's tick, unless it takes so long that Astra is to be left alone for now.
///
/// # Errors
/// Those of the work, and that of a call without an answer.
pub(crate) async fn in_tick<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = |_| Err(api::Error::no_answer("finish a change", PATIENCE).into());
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(late)
}

async fn undo_mint(engine: Arc<Engine>, entry: WalEntry) -> Result<(), logical::Error> {
    let mint: Mint = entry.decode()?;
    let undone = in_tick(async {
        let config = engine.config_for_undo(&mint.org_id).await?;
        mint.undo(&engine, &config).await
    });
    let undone = undone.await;
    engine.note_trouble(&mint.org_id, undone.as_ref().err());
    match undone {
        Ok(Undone::Gone) => {}
        Ok(Undone::NotFound) if !mint.described => mint.warn_of_lost(),
        Ok(Undone::NotFound) => {
            tracing::warn!(org_id = %mint.org_id, role_name = %mint.role_name, marker = mint.marker,
                "found no token of an unfinished mint: none was made, unless Astra does not keep descriptions");
        }
        Err(error) if mint.is_dead() => {
            tracing::warn!(org_id = %mint.org_id, role_name = %mint.role_name, error = %error,
                "gave up deleting a token that had expired by then");
        }
        Err(error) if entry.age() > GIVE_UP => {
            tracing::error!(org_id = %mint.org_id, role_name = %mint.role_name, marker = mint.marker, error = %error,
                "gave up deleting a token: delete the one with this marker in its description in Astra's portal");
        }
        Err(error) => {
            let (org, role) = (mint.org_id.as_str(), mint.role_name.as_str());
            return Err(logical::Error::internal(format!(
                "a token for role {role:?} of org_id {org:?} that nobody has may be left in Astra: {error}"
            )));
        }
    }
    Ok(())
}

impl Mint {
    fn is_dead(&self) -> bool {
        let dies_at = self.dies_at.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        dies_at.is_some_and(|time| time < Timestamp::now())
    }
}

/// Lets Vault forget a token that Astra does not have any more. One that is still there has its lease, which ends it.
async fn finish_deletion(engine: Arc<Engine>, entry: WalEntry) -> Result<(), logical::Error> {
    let deletion: Deletion = entry.decode()?;
    let finished = in_tick(deletion.finish(&engine)).await;
    if !matches!(finished, Ok(Asked(false))) {
        engine.note_trouble(&deletion.org_id, finished.as_ref().err());
    }
    match finished {
        Err(error) if entry.age() > GIVE_UP => {
            tracing::error!(org_id = %deletion.org_id, client_id = %deletion.client_id, error = %error,
                "gave up finding out if a token was deleted; its lease will end it");
            Ok(())
        }
        Err(error) => {
            let (org, client) = (deletion.org_id.as_str(), deletion.client_id.as_str());
            Err(logical::Error::internal(format!(
                "whether the token with client id {client:?} of org_id {org:?} was deleted is not known: {error}"
            )))
        }
        Ok(_) => Ok(()),
    }
}

/// Whether Astra was asked, so that success says something about it.
struct Asked(bool);

impl Deletion {
    async fn finish(&self, engine: &Engine) -> Result<Asked, Error> {
        let _lock = engine.locks.token(&self.token_id).await;
        if !engine.store.has_traces(&self.token_id, &self.org_id, &self.client_id).await? {
            return Ok(Asked(false));
        }
        let config = engine.config_for_undo(&self.org_id).await?;
        let id = self.client_id.as_str();
        if !engine.call(&config, |client| async move { client.has_token(id).await }).await? {
            engine.store.delete_token(&self.token_id, &self.org_id, &self.client_id).await?;
            tracing::info!(org_id = %self.org_id, role_name = %self.role_name, client_id = %self.client_id,
                "finished the deletion of a token");
        }
        Ok(Asked(true))
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use super::*;
    use crate::fuzz::{decode, encode};

    /// An entry of the log is stored as it is, or is refused without a word of it, and is never undone too early.
    pub(crate) fn fuzz_wal(data: &[u8]) {
        let Some(entry) = decode::<WalEntry>(data) else { return };
        let stored = encode(&entry);
        assert!(decode::<WalEntry>(&stored).is_some_and(|entry| encode(&entry) == stored));
        assert!(longest(&entry) >= MARGIN && entry.age() <= Duration::from_secs(u64::MAX));
        if let Ok(mint) = entry.decode::<Mint>() {
            let stored = encode(&mint);
            assert!(decode::<Mint>(&stored).is_some_and(|mint| encode(&mint) == stored));
            assert!(longest(&entry).as_secs() > mint.timeout_seconds.min(1 << 60));
            assert!(!mint.is_dead() || mint.dies_at.is_some());
        }
        if let Ok(deletion) = entry.decode::<Deletion>() {
            let stored = encode(&deletion);
            assert!(decode::<Deletion>(&stored).is_some_and(|deletion| encode(&deletion) == stored));
            assert!(longest(&entry).as_secs() > deletion.timeout_seconds.min(1 << 60));
        }
    }
}
