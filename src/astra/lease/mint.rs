//! Minting: from an order to a token under a lease, or to nothing at all.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::order::{Lifetime, Order};
use super::{LeaseData, SECRET_TYPE, rfc3339, token_data};
use crate::astra::api::{self, CreatedToken, NewToken};
use crate::astra::engine::Engine;
use crate::astra::error::Error;
use crate::astra::names::ClientId;
use crate::astra::rollback::{self, Undone};
use crate::astra::store::{Place, Record, Token, named_token_id};
use crate::astra::task;
use crate::sdk::framework::{OpenEntry, format_duration};
use crate::sdk::logical::{Response, Secret};

/// A mint that goes on.
struct Mint {
    engine: Arc<Engine>,
    order: Order,
    lifetime: Lifetime,
    /// What the write-ahead log knows of it.
    note: rollback::Mint,
    /// Kept for the token until it is stored, if the tokens of the role have a limit. Free before the entry is closed.
    place: Option<Place>,
    entry: OpenEntry,
    /// Whether Astra may have made a token that is not known yet.
    unclear: bool,
}

/// Mints a token, on a node that may write. A caller who goes away gets none: what was made until then is undone.
///
/// # Errors
/// When nothing was minted, or what was minted was undone or is noted to be.
pub(crate) async fn mint(engine: &Arc<Engine>, order: Order) -> Result<Response, Error> {
    let lifetime = order.lifetime(engine).await?;
    let mut warnings = Vec::new();
    if let Some(ttl) = order.ttl.filter(|ttl| *ttl > lifetime.ttl) {
        let (given, cut) = (format_duration(ttl), format_duration(lifetime.ttl));
        warnings.push(format!("ttl of {given} is longer than role and mount allow and was cut to {cut}"));
    }

    // The handler's future is dropped when the caller hangs up, so a task of its own does it. It hears of that twice: by
    // the answer that nobody takes, and by the receipt that never comes.
    let (answer, answered) = oneshot::channel();
    let (receipt, received) = oneshot::channel::<()>();
    let work = engine.tasks.start(run(engine.clone(), order, lifetime, answer, received))?;
    let stopped = || Error::NotYet("the token was not minted because the plugin is stopping; try again".into());
    let Ok(answer) = answered.await else {
        task::end(work).await?;
        return Err(stopped());
    };
    let mut response: Response = answer?;
    receipt.send(()).map_err(|()| stopped())?;
    response.warnings.extend(warnings);
    Ok(response)
}

type Answer = oneshot::Sender<Result<Response, Error>>;

async fn run(
    engine: Arc<Engine>,
    order: Order,
    lifetime: Lifetime,
    mut answer: Answer,
    received: oneshot::Receiver<()>,
) {
    let token_id =
        order.named.then(|| named_token_id(&order.config.org_id, &order.role.role_name, &order.logical_name));
    // Held until the caller has the token or it is undone: two for one name get one token.
    let lock = match &token_id {
        Some(id) => Some(engine.locks.token(id).await),
        None => None,
    };
    let mut mint = match Mint::begin(engine, order, lifetime, token_id, &answer).await {
        Ok(mint) => mint,
        Err(error) => return drop(answer.send(Err(error))),
    };
    match mint.steps(&mut answer).await {
        Err(error) => {
            if !mint.unclear {
                mint.place = None;
            }
            drop(answer.send(Err(error)));
            drop(lock);
            if mint.unclear {
                mint.clean_up().await;
            }
        }
        Ok((client_id, response)) => {
            if answer.send(Ok(response)).is_err() || received.await.is_err() {
                mint.take_back(&client_id).await;
            }
        }
    }
}

impl Mint {
    /// Notes the mint in the write-ahead log. Nothing is changed in Astra before.
    async fn begin(
        engine: Arc<Engine>,
        order: Order,
        lifetime: Lifetime,
        token_id: Option<String>,
        answer: &Answer,
    ) -> Result<Self, Error> {
        if let Some(id) = &token_id {
            order.require_free(&engine, id).await?;
        }
        let config = &order.config;
        engine.prepare_client(config).await?;
        if answer.is_closed() {
            return Err(gone());
        }
        let place = order.reserve(&engine).await?;
        let note = rollback::Mint {
            org_id: config.org_id.clone(),
            role_name: order.role.role_name.clone(),
            marker: Uuid::new_v4().simple().to_string(),
            described: config.description,
            token_id,
            client_id: None,
            dies_at: config.token_expiry.then(|| rfc3339(lifetime.expiry)),
            timeout_seconds: config.request_timeout.as_secs(),
        };
        let entry = engine.wal().put(rollback::MINT, &note).await?;
        Ok(Self { engine, order, lifetime, note, place, entry, unclear: false })
    }

    /// The steps in their order. When one fails, what the ones before it did is undone.
    async fn steps(&mut self, answer: &mut Answer) -> Result<(ClientId, Response), Error> {
        let token = self.create().await?;
        if answer.is_closed() {
            return Err(self.undone("the token was not needed any more", &token.client_id, gone()).await);
        }
        if !self.note.described {
            // Nothing but its client id finds it again.
            self.note.client_id = Some(token.client_id.clone());
            if let Err(cause) = self.engine.wal().update(&self.entry, &self.note).await {
                return Err(self.undone("the token could not be noted", &token.client_id, cause.into()).await);
            }
        }
        let place = self.place.take();
        if let Err(cause) = self.store(&token, place).await {
            return Err(self.undone("the token could not be stored", &token.client_id, cause).await);
        }
        if answer.is_closed() {
            return Err(self.undone("the token was not needed any more", &token.client_id, gone()).await);
        }
        if let Err(cause) = self.engine.wal().delete(&self.entry).await {
            return Err(self.undone("the mint could not be completed", &token.client_id, cause.into()).await);
        }
        let (caller, role) = (&self.order.caller, &self.order.role.role_name);
        tracing::info!(org_id = %token.org_id, role_name = %role, client_id = %token.client_id,
            logical_name = %token.logical_name, display_name = caller.display_name, entity_id = caller.entity_id, "created token");
        let response = self.respond(&token);
        Ok((token.client_id, response))
    }

    /// Asks Astra for the token.
    async fn create(&mut self) -> Result<Token, Error> {
        let new = NewToken {
            roles: vec![self.order.role.role_id.clone()],
            description: self.note.described.then(|| self.order.description(&self.note.marker)),
            token_expiry: self.note.dies_at.clone(),
        };
        let new = &new;
        let create = |client: Arc<api::Client>| async move { client.create_token(new).await };
        match self.engine.call(&self.order.config, create).await {
            Ok(created) => self.accept(created).await,
            Err(error) if error.may_have_happened() => Err(self.not_clear(error.into())),
            Err(error) => {
                // If this fails, the next tick finds that there is nothing to undo.
                let _ = self.engine.wal().delete(&self.entry).await;
                Err(error.into())
            }
        }
    }

    /// Checks what Astra made.
    async fn accept(&mut self, created: CreatedToken) -> Result<Token, Error> {
        let config = &self.order.config;
        let org_id = &config.org_id;
        let client_id = ClientId::parse("clientId", &created.client_id).ok();
        if !self.note.described {
            self.note.client_id = client_id.clone();
        }
        let fault = match &client_id {
            None => Some("it has no clientId that can be stored"),
            Some(client_id) if config.is_root(client_id) => Some("its clientId is that of the root token"),
            Some(client_id) => match self.engine.store.record(org_id, client_id).await {
                Ok(None) => created.fault(),
                Ok(Some(_)) => Some("its clientId is that of another token"),
                Err(error) => return Err(self.not_clear(error)),
            },
        };
        let fault = match fault {
            None if !self.engine.is_own_org(config, &created.org_id).await => Some("its token is of another org"),
            fault => fault,
        };
        let (None, Some(client_id)) = (fault, client_id) else {
            return Err(self.not_clear(api::Error::garbled("mint a token", fault.unwrap_or_default()).into()));
        };
        Ok(Token {
            client_id,
            secret: created.secret,
            org_id: org_id.clone(),
            role_name: self.order.role.role_name.clone(),
            roles: created.roles,
            token: created.token,
            generated_on: Some(created.generated_on)
                .filter(|time| !time.is_empty())
                .unwrap_or_else(|| rfc3339(Timestamp::now())),
            logical_name: self.order.logical_name.clone(),
            metadata: self.order.metadata.clone(),
        })
    }

    async fn store(&self, token: &Token, place: Option<Place>) -> Result<(), Error> {
        let (engine, org_id) = (&self.engine, &self.order.config.org_id);
        let _stays = engine.locks.storing_token().await;
        if engine.store.config(org_id).await?.is_none() {
            return Err(Error::Refused(format!("the config of org_id {:?} was deleted meanwhile", org_id.as_str())));
        }
        engine.store.put_token(self.token_id(&token.client_id), token, &self.record(token), place).await
    }

    /// Returns the error of a mint whose outcome is not known.
    fn not_clear(&mut self, cause: Error) -> Error {
        self.unclear = true;
        let fate = match &self.note.dies_at {
            _ if self.note.described => "is deleted as soon as it is found",
            Some(_) => "cannot be found without a description, and lives until it expires",
            None => "cannot be found without a description, and does not expire",
        };
        let left = format!("should Astra have made it all the same, it {fate}");
        Error::Unfinished { step: "no token is handed out", left, cause: Box::new(cause) }
    }

    /// Looks for the token of a mint whose outcome is not known. What it does not find or cannot delete now waits for the
    /// host's tick.
    async fn clean_up(&mut self) {
        let (engine, org_id) = (&self.engine, &self.note.org_id);
        if !self.note.described && self.note.client_id.is_some() {
            // Nothing else leads the tick to the token. If this fails, the tick says that one may be left.
            let _ = engine.wal().update(&self.entry, &self.note).await;
        }
        if engine.require_no_trouble(org_id).is_err() {
            // Callers who try again and again would have Astra asked for its list as often.
            return;
        }
        let undone = self.note.undo(engine, &self.order.config).await;
        if let Err(error) = &undone {
            engine.note_trouble(org_id, Some(error));
        }
        let is_over = match undone {
            Ok(Undone::Gone) => true,
            // The request may still be on its way.
            Ok(Undone::NotFound) if self.note.described => false,
            Ok(Undone::NotFound) => {
                self.note.warn_of_lost();
                true
            }
            Err(error) => {
                tracing::warn!(org_id = %self.note.org_id, role_name = %self.note.role_name, error = %error,
                    "could not look for a token that Astra may have made, will try again");
                false
            }
        };
        if is_over {
            self.place = None;
            self.close().await;
        }
    }

    /// Undoes the mint and returns the error that says so.
    async fn undone(&mut self, step: &'static str, client_id: &ClientId, cause: Error) -> Error {
        let left = self.undo(client_id).await;
        Error::Unfinished { step, left, cause: Box::new(cause) }
    }

    /// Takes a token back that nobody took. The log does not know of it any more, and has to until it is gone.
    async fn take_back(&mut self, client_id: &ClientId) {
        self.note.client_id = Some(client_id.clone());
        match self.engine.wal().put(rollback::MINT, &self.note).await {
            Ok(entry) => self.entry = entry,
            Err(error) => {
                tracing::error!(org_id = %self.note.org_id, client_id = %client_id, error = %error, "failed to note a token to be taken back");
            }
        }
        let left = self.undo(client_id).await;
        tracing::warn!(org_id = %self.note.org_id, client_id = %client_id, left, "undid a token whose caller has gone");
    }

    /// Deletes the token in Vault and in Astra, and says what is left.
    async fn undo(&mut self, client_id: &ClientId) -> String {
        let org_id = self.note.org_id.clone();
        let removed = self.engine.store.delete_token(self.token_id(client_id), &org_id, client_id).await;
        if let Err(error) = &removed {
            tracing::error!(org_id = %org_id, client_id = %client_id, error = %error, "failed to remove a stored token");
            // The marker is gone with the token in Astra, and with it the way to what is stored.
            if self.note.client_id.is_none() {
                return format!("the token with client id {:?} is left, until it can be deleted", client_id.as_str());
            }
        }
        let delete = |client: Arc<api::Client>| async move { client.delete_token(client_id.as_str()).await };
        match self.engine.call(&self.order.config, delete).await {
            Ok(()) => {
                if removed.is_ok() {
                    self.close().await;
                }
                "it was deleted in Astra again".to_owned()
            }
            Err(error) => {
                tracing::error!(org_id = %org_id, client_id = %client_id, error = %error, "failed to delete a token in Astra");
                // Found by its client id, it need not be looked for, which not every root token may do.
                self.note.client_id = Some(client_id.clone());
                let _ = self.engine.wal().update(&self.entry, &self.note).await;
                format!(
                    "the token with client id {:?} is left in Astra, until it can be deleted: {}",
                    client_id.as_str(),
                    error.what()
                )
            }
        }
    }

    /// Removes the entry from the log. If that fails, the next tick finds that nothing is left to undo.
    async fn close(&self) {
        if let Err(error) = self.engine.wal().delete(&self.entry).await {
            tracing::warn!(org_id = %self.note.org_id, error = %error, "left an entry in the write-ahead log");
        }
    }

    fn token_id<'a>(&'a self, client_id: &'a ClientId) -> &'a str {
        self.note.token_id.as_deref().unwrap_or(client_id.as_str())
    }

    fn record(&self, token: &Token) -> Record {
        Record {
            created_at: rfc3339(Timestamp::now()),
            display_name: self.order.caller.display_name.clone(),
            entity_id: self.order.caller.entity_id.clone(),
            expires_at: rfc3339(self.lifetime.expiry),
            marker: self.note.marker.clone(),
            ..Record::of(self.token_id(&token.client_id), token)
        }
    }

    fn respond(&self, token: &Token) -> Response {
        let role = &self.order.role;
        let data = LeaseData {
            org_id: token.org_id.clone(),
            client_id: token.client_id.clone(),
            role_name: token.role_name.clone(),
            token_id: self.token_id(&token.client_id).to_owned(),
            secret_type: SECRET_TYPE.to_owned(),
            ttl_seconds: Some(role.ttl().as_secs()),
            max_ttl_seconds: Some(role.max_ttl().as_secs()),
            expires_at: self.note.dies_at.clone(),
        };
        let secret = Secret::new(self.lifetime.ttl, self.lifetime.max_ttl, data.into_map());
        Response::new(token_data(token, self.order.by_read)).lease(secret)
    }
}

/// Nobody reads it.
fn gone() -> Error {
    Error::NotYet("the caller has gone".into())
}
