//! The protocol of an order, which lets Astra mint a token: for a caller, or as a new root token.
//!
//! 1. Note: an entry in the write-ahead log says how to find the token.
//! 2. Call: the engine asks Astra for the token.
//! 3. Accept: the engine checks Astra's answer.
//! 4. Use: the caller stores the token.
//! 5. Complete: the entry is removed.
//!
//! | if | then |
//! | --- | --- |
//! | Astra rejects the request | the entry is removed |
//! | Astra may have minted a token ([`Failure::Unclear`]) | [`Order::look_for_token`] deletes the token if Astra lists it |
//! | a later step fails | [`Order::undo`] deletes the token |
//! | neither succeeds, or the process stops | the entry stays, and the periodic tick repeats the undo (see `finish`) |
//! | the answer was lost | the entry stays for at least 15 minutes, because the request can take effect late, and twice |
//! | the entry is older than [`GIVE_UP`] | the tick logs that and removes the entry |
//!
//! Architecture invariant: while an entry exists, no caller has the token, unless [`OrderNote::is_in_use`]. So an undo may
//! delete the token.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vault_plugin_sdk::framework::{OpenEntry, Tick};
use vault_plugin_sdk::locks::KeyedGuard;

use super::listing::listing;
use crate::api::{self, CreatedToken, NewToken};
use crate::engine::Engine;
use crate::error::Error;
use crate::journal::{Found, Looked, Outcome};
use crate::names::{ClientId, OrgId};
use crate::store::Config;

/// The note of an order in the write-ahead log.
pub(crate) trait OrderNote: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Kind of the entries.
    const KIND: &'static str;

    /// The call of Astra, as errors name it.
    const CALL: &'static str;

    /// Returns the org.
    fn org_id(&self) -> &OrgId;

    /// Returns the text that identifies the order.
    fn marker(&self) -> &str;

    /// Whether the token's description begins with the marker. If not, only the client id identifies the token.
    fn is_described(&self) -> bool;

    /// Returns the client id of the token, once it is known.
    fn client_id(&self) -> Option<&ClientId>;

    /// Sets the client id of the token.
    fn set_client_id(&mut self, client_id: ClientId);

    /// What the engine found when it looked for the token.
    fn looked(&self) -> Looked;

    /// Notes what the engine found when it looked for the token.
    fn set_looked(&mut self, looked: Looked);

    /// Whether the token has expired.
    fn has_expired(&self) -> bool {
        false
    }

    /// Whether a client id belongs to another order or to the root token. Astra's answer can name any token.
    fn is_of_another(
        &self,
        engine: &Engine,
        config: &Config,
        client_id: &ClientId,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Whether the token is in use, so that the order is complete although its entry is left.
    fn is_in_use(&self, _engine: &Engine, _client_id: &ClientId) -> impl Future<Output = Result<bool, Error>> + Send {
        async { Ok(false) }
    }

    /// Removes the token and its record from the storage. `held` is the lock of the token, if the caller holds it.
    /// `is_repeated` tells whether a tick does this again, because the storage may still store the token.
    fn remove_stored(
        &self,
        engine: &Engine,
        client_id: &ClientId,
        held: Option<&KeyedGuard>,
        is_repeated: bool,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Deletes the token in Astra.
    fn delete(
        &self,
        engine: &Engine,
        config: &Arc<Config>,
        client_id: &ClientId,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Notes that nothing identifies a token that Astra may have minted. Until this succeeds, the entry stays.
    fn note_lost(&self, _engine: &Engine) -> impl Future<Output = Result<(), Error>> + Send {
        std::future::ready(Ok(()))
    }

    /// Logs an event of an unfinished order.
    fn log(&self, event: Event<'_>);

    /// Names the token that may be left in Astra, for an error of the tick.
    fn left(&self) -> String;
}

/// An event of an unfinished order.
pub(crate) enum Event<'a> {
    /// An undo failed. The tick repeats it.
    UndoFailed(&'a Error),
    /// Looking for the token failed. The tick repeats it.
    LookFailed(&'a Error),
    /// The note leads to a token of another order, which stays.
    OfAnother(&'a ClientId),
    /// The tick undid the order.
    Undone,
    /// The tick did not find a token.
    NotFound,
    /// Astra may have minted a token that nothing identifies.
    Lost,
    /// The tick could not delete the token, which has expired.
    Expired(&'a Error),
    /// The tick gave up.
    GaveUp(&'a Error),
}

/// An order whose note is in the write-ahead log.
pub(crate) struct Order<N> {
    engine: Arc<Engine>,
    config: Arc<Config>,
    pub(crate) note: N,
    entry: OpenEntry,
    /// Whether a tick repeats the undo, although it succeeded.
    repeats_undo: bool,
}

/// Why an order failed.
pub(crate) enum Failure {
    /// Astra minted no token.
    Refused(api::Error),
    /// Astra may have minted a token.
    Unclear(Error),
}

impl<N: OrderNote> Order<N> {
    /// Writes the WAL entry of an order.
    pub(crate) async fn begin(engine: &Arc<Engine>, config: &Arc<Config>, note: N) -> Result<Self, Error> {
        let entry = engine.wal().put(N::KIND, &note).await?;
        Ok(Self { engine: engine.clone(), config: config.clone(), note, entry, repeats_undo: false })
    }

    /// Asks Astra for the token.
    pub(crate) async fn call(&mut self, new: &NewToken) -> Result<(ClientId, CreatedToken), Failure> {
        let create = |client: Arc<api::Client>| async move { client.create_token(new).await };
        match self.engine.call(&self.config, create).await {
            Ok(created) => self.accept(created).await.map_err(Failure::Unclear),
            Err(error) if error.may_have_happened() => Err(Failure::Unclear(error.into())),
            Err(error) => {
                self.close().await;
                Err(Failure::Refused(error))
            }
        }
    }

    /// Checks the answer of Astra.
    async fn accept(&mut self, created: CreatedToken) -> Result<(ClientId, CreatedToken), Error> {
        let config = &self.config;
        let garbled = |fault| Err(api::Error::garbled(N::CALL, fault).into());
        let Ok(client_id) = ClientId::parse("clientId", &created.client_id) else {
            return garbled("its clientId cannot be stored");
        };
        if config.is_root(&client_id) {
            return garbled("its clientId belongs to the root token");
        }
        if !self.note.is_described() {
            self.note.set_client_id(client_id.clone());
        }
        if self.engine.store.record(&config.org_id, &client_id).await?.is_some() {
            return garbled("its clientId belongs to another token");
        }
        if let Some(fault) = created.fault() {
            return garbled(fault);
        }
        if !self.engine.is_own_org(config, &created.org_id).await {
            return garbled("its token belongs to another organization");
        }
        if self.note.is_described() && !created.is_marked(self.note.marker()) {
            self.engine.warn_unmarked(&config.org_id);
        }
        Ok((client_id, created))
    }

    /// If nothing else identifies the token, writes the client id to the entry.
    pub(crate) async fn note_client_id(&mut self) -> Result<(), Error> {
        if self.note.is_described() { Ok(()) } else { self.update().await }
    }

    /// Writes the note to the entry.
    pub(crate) async fn update(&self) -> Result<(), Error> {
        Ok(self.engine.wal().update(&self.entry, &self.note).await?)
    }

    /// Lets a tick repeat the undo. Call this if the storage failed: it may store the token after the undo.
    pub(crate) fn repeat_undo(&mut self) {
        self.repeats_undo = true;
    }

    /// Deletes an accepted token. If the deletion fails, the tick repeats it.
    pub(crate) async fn undo(&mut self, client_id: &ClientId, held: Option<&KeyedGuard>) -> Result<(), Error> {
        let undone = self.remove(client_id, held).await;
        self.note.set_client_id(client_id.clone());
        match &undone {
            Ok(()) if self.repeats_undo => {
                self.note.set_looked(Looked::Found);
                let _ = self.update().await;
            }
            Ok(()) => self.close().await,
            Err(error) => {
                self.note.log(Event::UndoFailed(error));
                // With the client id, the tick can delete the token without the list of tokens. Not every root token
                // can read this list.
                let _ = self.update().await;
            }
        }
        undone
    }

    async fn remove(&self, client_id: &ClientId, held: Option<&KeyedGuard>) -> Result<(), Error> {
        let removed = self.note.remove_stored(&self.engine, client_id, held, self.repeats_undo).await;
        if removed.is_err() && self.note.client_id().is_none() {
            // Only the marker leads from the entry to the stored token. Deleting the token in Astra would delete the
            // marker.
            return removed;
        }
        self.note.delete(&self.engine, &self.config, client_id).await.and(removed)
    }

    /// Deletes a token that Astra may have minted.
    pub(crate) async fn look_for_token(&mut self) -> Found {
        if nothing_identifies(&self.note) {
            match self.note.note_lost(&self.engine).await {
                Ok(()) => {
                    self.note.log(Event::Lost);
                    self.close().await;
                }
                Err(error) => self.note.log(Event::LookFailed(&error)),
            }
            return Found::Never;
        }
        if !self.note.is_described() && self.note.client_id().is_some() {
            // Only the client id leads the tick to the token. If this write fails, the tick logs that a token may be
            // left.
            let _ = self.update().await;
        }
        if self.engine.backoff.require_over(self.note.org_id()).is_err() {
            // Without this pause, each retry of a caller would make Astra list all tokens.
            return Found::Later;
        }
        let undone = undo(&self.engine, &self.config, &self.note, None).await;
        match undone {
            Ok(Outcome::Gone) if self.note.client_id().is_some() => {
                self.close().await;
                Found::Deleted
            }
            // A gateway may have sent the request twice.
            Ok(Outcome::Gone) => {
                self.note.set_looked(Looked::Found);
                let _ = self.update().await;
                Found::Deleted
            }
            // The request may not have reached Astra yet.
            Ok(Outcome::NotFound) => Found::Later,
            Err(error) => {
                self.engine.backoff.note(self.note.org_id(), Some(&error));
                self.note.log(Event::LookFailed(&error));
                Found::Later
            }
        }
    }

    /// Writes a new entry for a completed order whose token must be deleted.
    pub(crate) async fn reopen(&mut self, client_id: &ClientId) -> Result<(), Error> {
        self.note.set_client_id(client_id.clone());
        self.entry = self.engine.wal().put(N::KIND, &self.note).await?;
        Ok(())
    }

    /// Removes the entry of an order whose token is stored.
    ///
    /// # Errors
    /// If the entry may still exist. The tick would then delete the token.
    pub(crate) async fn complete(&self) -> Result<(), Error> {
        Ok(self.engine.wal().delete(&self.entry).await?)
    }

    /// Removes the entry of an order that left no token. If this fails, the tick removes the entry.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.complete().await {
            tracing::warn!(org_id = %self.note.org_id(), error = %error, "failed to delete a WAL entry, will retry");
        }
    }
}

/// Whether neither a client id nor a marker leads to the token.
pub(super) fn nothing_identifies(note: &impl OrderNote) -> bool {
    note.client_id().is_none() && !note.is_described()
}

/// Finds the token of an order and deletes it. The orders of one tick share a list of the org's tokens. If a gateway repeated the request, Astra has several tokens with the
/// marker of the order, and all of them are deleted.
///
/// # Errors
/// If it is not certain that the tokens are deleted.
pub(super) async fn undo<N: OrderNote>(
    engine: &Engine,
    config: &Arc<Config>,
    note: &N,
    tick: Option<&Tick>,
) -> Result<Outcome, Error> {
    let marked = match (note.client_id(), tick) {
        (Some(client_id), _) => vec![client_id.to_string()],
        (None, Some(tick)) => listing(engine, config, tick).await?.find_tokens(note.marker()),
        (None, None) => engine.call(config, |client| async move { client.find_tokens(note.marker()).await }).await?,
    };
    let found: Vec<ClientId> = marked.into_iter().map(ClientId::stored).collect();
    if found.is_empty() {
        return Ok(Outcome::NotFound);
    }
    for client_id in &found {
        if note.is_of_another(engine, config, client_id).await? {
            note.log(Event::OfAnother(client_id));
            continue;
        }
        if note.is_in_use(engine, client_id).await? {
            continue;
        }
        // Storage comes first: without the marker, which is deleted with the token in Astra, a retry could not find the
        // record.
        note.remove_stored(engine, client_id, None, false).await?;
        note.delete(engine, config, client_id).await?;
    }
    Ok(Outcome::Gone)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::journal::RotationNote;

    /// While Astra fails for an org, no look is made. That must not hide that nothing identifies the token.
    #[tokio::test]
    async fn an_order_that_nothing_identifies_is_lost_during_a_backoff_too() {
        let (mount, storage, _system) = vault_plugin_sdk::testing::mount();
        let engine = Arc::new(Engine::new(&mount, Arc::default()));
        let org_id = OrgId::stored("org");
        let config = Arc::new(Config::new(org_id.clone(), ""));
        engine.backoff.note(&org_id, Some(&Error::OutOfTime(Duration::ZERO)));
        for (described, found, entries) in [(true, Found::Later, 1), (false, Found::Never, 1)] {
            let note = RotationNote {
                org_id: org_id.clone(),
                old: ClientId::stored("old"),
                marker: "marker".to_owned(),
                described,
                new: None,
                stored: false,
                looked: Looked::Never,
                timeout_seconds: 30,
            };
            let mut order = Order::begin(&engine, &config, note).await.unwrap();
            assert_eq!(order.look_for_token().await, found, "described: {described}");
            // The entry of the described order stays for the tick. The entry of the lost order is removed.
            assert_eq!(storage.keys().len(), entries, "described: {described}");
        }
    }
}
