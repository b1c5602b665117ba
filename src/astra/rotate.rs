//! Replacing the root token of an org by a new one, or leaving it as it is.
//!
//! Architecture invariant: the root token that the stored config holds is never deleted.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::api::{self, CreatedToken, Kind, NewToken};
use super::engine::Engine;
use super::error::Error;
use super::lease::describe;
use super::names::{ClientId, OrgId};
use super::rollback::{GIVE_UP, MARGIN, Undone, longest};
use super::store::Config;
use crate::sdk::framework::{OpenEntry, WalEntry, WalKind};
use crate::sdk::logical;

/// Kind of the entries of rotations.
pub(crate) const ROTATION: &str = "root-rotate";

const MAY_READ: &str = "check that the astra_token of the config is live and has the permission org-token-read, which the \
                        roles Organization Administrator and Database Administrator give";

const MAY_WRITE: &str = "the astra_token of the config needs the permission org-token-write, which the roles Organization \
                         Administrator and Database Administrator give";

const FOUND_LATER: &str = "the config is as it was; should Astra have made a token all the same, it is deleted as soon as it \
                           is found";

/// Pauses of 0.1 s to 2 s: a fresh token may be refused for a moment.
const FRESH: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .with_factor(1.5)
    .without_max_times();

/// What the write-ahead log knows of a rotation.
#[derive(Clone, Serialize, Deserialize)]
struct Note {
    org_id: OrgId,
    /// Client id of the root token that is replaced.
    old: ClientId,
    /// What tells the new one from all others.
    marker: String,
    /// Whether the marker is at the end of its description.
    described: bool,
    /// Client id of the new one, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new: Option<ClientId>,
    /// Whether the config may have held the new one at some time, so that the old one has to go.
    #[serde(default)]
    stored: bool,
    /// Deadline of the calls to Astra.
    timeout_seconds: u64,
}

/// A rotation that goes on.
struct Rotation<'a> {
    engine: &'a Engine,
    /// As it was in the beginning.
    config: &'a Arc<Config>,
    note: Note,
    entry: OpenEntry,
}

/// A rotation that came to its end.
pub(crate) struct Rotated {
    /// Client id of the old root token.
    pub(crate) old: ClientId,
    /// Client id of the new one.
    pub(crate) new: ClientId,
    /// Why the old one is still there.
    pub(crate) left: Option<Error>,
}

/// Replaces the root token of an org.
///
/// # Errors
/// When the config holds the old one as before, or it is not known which one. What is left is undone or finished later.
pub(crate) async fn rotate(engine: &Engine, config: &Arc<Config>, mount_point: &str) -> Result<Rotated, Error> {
    let old = config.root_id().and_then(|id| ClientId::parse("astra_token", id).ok()).ok_or_else(|| {
        Error::Refused("the root token is not of the form \"AstraCS:<id>:<digest>\"; write another astra_token".into())
    })?;
    let roles = own_roles(engine, config, &old).await?;
    let marker = Uuid::new_v4().simple().to_string();
    let new = NewToken {
        roles,
        description: config.description.then(|| describe(&format!("vault mount={mount_point}/ root"), &marker)),
        token_expiry: None,
    };
    let note = Note {
        org_id: config.org_id.clone(),
        old,
        marker,
        described: config.description,
        new: None,
        stored: false,
        timeout_seconds: config.request_timeout.as_secs(),
    };
    let entry = engine.wal().put(ROTATION, &note).await?;
    Rotation { engine, config, note, entry }.run(&new).await
}

/// Returns the Astra roles of the root token, which only a list of all tokens tells.
async fn own_roles(engine: &Engine, config: &Arc<Config>, root: &ClientId) -> Result<Vec<String>, Error> {
    let id = root.as_str();
    let roles = engine.call(config, |client| async move { client.roles_of(id).await }).await;
    let trouble = match roles.map_err(|error| error.about_root(MAY_READ))? {
        Some(roles) if !roles.is_empty() => return Ok(roles),
        Some(_) => "has no Astra roles",
        None => "is not in Astra's list of the tokens of this organization",
    };
    Err(Error::Refused(format!(
        "the root token with client id {id:?} {trouble}, so none like it can be made; write an astra_token of this \
         organization that has roles"
    )))
}

impl Rotation<'_> {
    /// The steps in their order. When one fails, what the ones before it did is undone.
    async fn run(mut self, new: &NewToken) -> Result<Rotated, Error> {
        let running = self.engine.calls(self.config);
        let (new, created) = self.create(new).await?;
        self.note.new = Some(new.clone());
        if let Err(cause) = self.update().await {
            return Err(self.undone("the new root token could not be noted", cause).await);
        }
        // The old root token minted the new root token, so both belong to the same organization.
        let config = Config { astra_token: created.token, astra_org_id: created.org_id, ..(**self.config).clone() };
        if let Err(cause) = self.prove(&config, &new).await {
            return Err(self.undone("the new root token does not work", cause.into()).await);
        }
        let config = self.store(config).await?;

        // A call that began with the old one may need it once more. Nobody waits for the others, which find the new one.
        running.close();
        let _ = tokio::time::timeout(config.request_timeout, running.wait()).await;
        let left = self.note.delete(self.engine, Some(&config), &self.note.old).await.err();
        match &left {
            None => self.close().await,
            Some(error) => {
                tracing::error!(org_id = %self.note.org_id, client_id = %self.note.old, error = %error,
                    "failed to delete an old root token, will try again");
            }
        }
        Ok(Rotated { old: self.note.old, new, left })
    }

    /// Asks Astra for the new token.
    async fn create(&mut self, new: &NewToken) -> Result<(ClientId, CreatedToken), Error> {
        let create = |client: Arc<api::Client>| async move { client.create_token(new).await };
        match self.engine.call(self.config, create).await {
            Ok(created) => self.accept(created).await,
            Err(error) if error.may_have_happened() => Err(self.not_clear(error.into()).await),
            Err(error) => {
                self.close().await;
                Err(error.about_root(MAY_WRITE).into())
            }
        }
    }

    /// Checks what Astra made.
    async fn accept(&mut self, created: CreatedToken) -> Result<(ClientId, CreatedToken), Error> {
        let org_id = &self.note.org_id;
        let client_id = ClientId::parse("clientId", &created.client_id).ok();
        if !self.note.described {
            // Nothing but its client id finds it again.
            self.note.new = client_id.clone().filter(|id| *id != self.note.old);
        }
        let fault = match &client_id {
            None => Some("it has no clientId that can be stored"),
            Some(client_id) if *client_id == self.note.old => Some("its clientId is that of the old root token"),
            Some(client_id) => match self.engine.store.record(org_id, client_id).await {
                Ok(None) => match created.fault() {
                    None if self.config.is_of(&created.org_id) == Some(false) => Some("its token is of another org"),
                    fault => fault,
                },
                Ok(Some(_)) => Some("its clientId is that of another token"),
                Err(error) => return Err(self.not_clear(error).await),
            },
        };
        match (fault, client_id) {
            (None, Some(client_id)) => Ok((client_id, created)),
            (fault, _) => {
                let error = api::Error::garbled("make a root token", fault.unwrap_or_default());
                Err(self.not_clear(error.into()).await)
            }
        }
    }

    /// Checks that the new token is one of this org, and may list tokens. One whose roles Astra does not know may not.
    async fn prove(&self, config: &Config, new: &ClientId) -> Result<(), api::Error> {
        let client = self.engine.new_client(config).await?;
        let proof = || async {
            match client.current_org().await {
                Ok(org) if config.is_of(&org) == Some(true) => {}
                Ok(_) => return Err(api::Error::garbled("make a root token", "its token is of another org")),
                Err(error) if error.is_undetermined() => {}
                Err(error) => return Err(error),
            }
            client.has_token(new.as_str()).await.map(drop)
        };
        let pauses = FRESH.with_total_delay(Some(config.request_timeout));
        proof.retry(pauses).when(|error: &api::Error| error.kind == Kind::RootToken).await
    }

    /// Stores the new token in the config, if that is still the one it was made for.
    async fn store(&mut self, proven: Config) -> Result<Arc<Config>, Error> {
        let engine = self.engine;
        let lock = engine.locks.configs().await;
        let config = match engine.store.stored_config(&self.note.org_id).await {
            Ok(Some(now)) if now.same_endpoint(self.config) => {
                Config { astra_token: proven.astra_token, ..(*now).clone() }
            }
            Ok(_) => {
                drop(lock);
                let changed =
                    Error::Refused("the config was changed meanwhile; rotate again if it is still needed".into());
                return Err(self.undone("the root token was not rotated", changed).await);
            }
            Err(cause) => {
                drop(lock);
                return Err(self.undone("the config could not be read", cause).await);
            }
        };
        self.note.stored = true;
        if let Err(cause) = self.update().await {
            drop(lock);
            self.note.stored = false;
            return Err(self.undone("the new root token could not be noted", cause).await);
        }
        let stored = engine.store.put_config(&config).await;
        engine.drop_client(&self.note.org_id);
        stored.map_err(|cause| Error::Unfinished {
            step: "the config could not be stored",
            // A write that failed may still take effect. The tick comes when that is decided.
            left: "it holds the old root token or the new one, both work, and the other one is deleted within some \
                   minutes"
                .to_owned(),
            cause: Box::new(cause),
        })?;
        Ok(Arc::new(config))
    }

    /// Deletes a new token that nothing holds, and returns the error that says so.
    async fn undone(&self, step: &'static str, cause: Error) -> Error {
        let left = match self.note.finish(self.engine, Some(self.config)).await {
            Ok(_) => {
                self.close().await;
                "the config is as it was, and the new root token was deleted in Astra again".to_owned()
            }
            Err(error) => {
                tracing::error!(org_id = %self.note.org_id, error = %error, "failed to delete a new root token, will try again");
                format!(
                    "the config is as it was, and the new root token is left in Astra, until it can be deleted: {error}"
                )
            }
        };
        Error::Unfinished { step, left, cause: Box::new(cause) }
    }

    /// Looks for a token that Astra may have made, and returns the error that says so.
    async fn not_clear(&self, cause: Error) -> Error {
        let left = match self.note.finish(self.engine, Some(self.config)).await {
            Ok(Undone::Gone) => {
                self.close().await;
                "the config is as it was, and the token that Astra had made all the same was deleted"
            }
            // The request may still be on its way.
            Ok(Undone::NotFound) if self.note.described => FOUND_LATER,
            Ok(Undone::NotFound) => {
                self.close().await;
                self.note.warn_of_lost();
                "the config is as it was; should Astra have made a token all the same, it cannot be found without a \
                 description, and does not expire"
            }
            Err(error) => {
                tracing::warn!(org_id = %self.note.org_id, error = %error,
                    "could not look for a root token that Astra may have made, will try again");
                if self.note.new.is_some() {
                    let _ = self.update().await;
                }
                FOUND_LATER
            }
        };
        Error::Unfinished { step: "the root token was not rotated", left: left.to_owned(), cause: Box::new(cause) }
    }

    async fn update(&self) -> Result<(), Error> {
        Ok(self.engine.wal().update(&self.entry, &self.note).await?)
    }

    /// Removes the entry from the log. If that fails, the next tick finds that nothing is left to do.
    async fn close(&self) {
        if let Err(error) = self.engine.wal().delete(&self.entry).await {
            tracing::warn!(org_id = %self.note.org_id, error = %error, "left an entry in the write-ahead log");
        }
    }
}

impl Note {
    /// Deletes those of the two tokens that the config does not hold, as far as the rotation came. If the config was deleted
    /// meanwhile, one that is `known` from before serves.
    ///
    /// # Errors
    /// When it is not certain that they are gone.
    async fn finish(&self, engine: &Engine, known: Option<&Arc<Config>>) -> Result<Undone, Error> {
        let new = match &self.new {
            Some(new) => new.clone(),
            None if !self.described => return Ok(Undone::NotFound),
            None => {
                let config = self.config(engine, known).await?;
                match engine.call(&config, |client| async move { client.find_token(&self.marker).await }).await? {
                    Some(new) => ClientId::stored(new),
                    None => return Ok(Undone::NotFound),
                }
            }
        };
        if engine.store.record(&self.org_id, &new).await?.is_some() {
            tracing::error!(org_id = %self.org_id, client_id = %new, "left a token alone that is not of the rotation to be undone");
            return Ok(Undone::Gone);
        }
        self.delete(engine, known, &new).await?;
        // Where the config held the new one, even for a moment, the old one is not needed.
        if self.stored {
            self.delete(engine, known, &self.old).await?;
        }
        Ok(Undone::Gone)
    }

    /// Deletes a token in Astra, unless the config holds it.
    async fn delete(&self, engine: &Engine, known: Option<&Arc<Config>>, client_id: &ClientId) -> Result<(), Error> {
        let lock = engine.locks.configs().await;
        let config = self.config(engine, known).await?;
        if config.is_root(client_id) {
            return Ok(());
        }
        engine.retire(client_id);
        drop(lock);
        let id = client_id.as_str();
        engine.call(&config, |client| async move { client.delete_token(id).await }).await?;
        tracing::info!(org_id = %self.org_id, client_id = %client_id, "deleted a root token that is not in use");
        Ok(())
    }

    /// Returns the config as it is stored, or what is known of it where it was deleted.
    async fn config(&self, engine: &Engine, known: Option<&Arc<Config>>) -> Result<Arc<Config>, Error> {
        let stored = engine.store.stored_config(&self.org_id).await?;
        stored
            .or_else(|| known.cloned())
            .ok_or_else(|| Error::Refused(format!("no config for org_id {:?}; write it again", self.org_id.as_str())))
    }

    /// Warns of a token that nothing can find.
    fn warn_of_lost(&self) {
        tracing::error!(org_id = %self.org_id,
            "a root token may be left in Astra: the outcome of a rotation is not known, and it has no description to be found \
             by; look for a token of that time in Astra's portal");
    }
}

/// Declares the entries of rotations.
pub(crate) fn rotations() -> WalKind<Engine> {
    WalKind::new(ROTATION, MARGIN, finish).longer_for(longest)
}

async fn finish(engine: Arc<Engine>, entry: WalEntry) -> Result<(), logical::Error> {
    let note: Note = entry.decode()?;
    let org = &note.org_id;
    let finished = match engine.require_no_trouble(org) {
        Ok(()) => note.finish(&engine, None).await,
        Err(error) => Err(error),
    };
    engine.note_trouble(org, finished.as_ref().err());
    match finished {
        Ok(Undone::Gone) => tracing::info!(org_id = %org, "set an unfinished rotation of the root token right"),
        Ok(Undone::NotFound) if !note.described => note.warn_of_lost(),
        Ok(Undone::NotFound) => {
            tracing::warn!(org_id = %org, marker = note.marker,
                "found no new root token of an unfinished rotation: none was made, unless Astra does not keep descriptions");
        }
        Err(error) if entry.age() > GIVE_UP => {
            tracing::error!(org_id = %org, marker = note.marker, old_client_id = %note.old, error = %error,
                "gave up deleting a root token that is not in use: compare the config with the tokens in Astra's portal");
        }
        Err(error) => {
            return Err(logical::Error::internal(format!(
                "a root token of org_id {:?} that is not in use may be left in Astra: {error}",
                org.as_str()
            )));
        }
    }
    Ok(())
}
