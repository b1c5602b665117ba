//! Mints a token with a lease. If a step fails, the mint is undone.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::oneshot;
use uuid::Uuid;
use vault_plugin_sdk::framework::format_duration;
use vault_plugin_sdk::locks::KeyedGuard;
use vault_plugin_sdk::logical::{Response, Secret};

use super::lease::{LeaseData, SECRET_TYPE, token_data};
use super::order::{Failure, Order};
use super::replace;
use super::request::{MintRequest, Ttls};
use super::time::{later, rfc3339};
use super::undelivered::{log_hang_up, log_without_entry, take_back};
use crate::api::{self, CreatedToken, NewToken};
use crate::engine::Engine;
use crate::error::Error;
use crate::events::Occasion;
use crate::journal::{Looked, MintNote};
use crate::metrics::Event;
use crate::names::ClientId;
use crate::store::{Place, Record, Token, named_token_id};

/// A mint whose note is in the write-ahead log.
struct Mint {
    engine: Arc<Engine>,
    request: MintRequest,
    ttls: Ttls,
    order: Order<MintNote>,
    /// The reserved place below the `max_tokens` of the role, until the token is stored. `None` for a role without a
    /// limit.
    place: Option<Place>,
    /// The lock of a named token: of two mints under one name, only one succeeds.
    lock: Option<KeyedGuard>,
    /// The token that had the name, and its end, once that is known.
    old: Option<(Token, Timestamp)>,
    /// The latest end of the lease, if Astra lets the token expire earlier than asked.
    lease_end: Option<Timestamp>,
    /// Warnings for the caller.
    warnings: Vec<String>,
    /// Whether Astra may have minted a token that the engine does not know.
    is_unclear: bool,
}

/// Mints a token, on a node that can write. If the caller hangs up, the mint is undone.
///
/// # Errors
/// If no token was minted, if the mint was undone, or if a WAL entry is left for its undo.
pub(crate) async fn mint(engine: &Arc<Engine>, request: MintRequest) -> Result<Response, Error> {
    // If the caller hangs up, the handler's future is dropped. The mint therefore runs in its own task. It detects the
    // hang-up in two ways: sending the answer fails, or the receipt never arrives.
    let (answer, answered) = oneshot::channel();
    let (receipt, received) = oneshot::channel::<()>();
    let work = engine.tasks.start(run(engine.clone(), request, answer, received))?;
    let stopped = || Error::NotYet("the token was not minted because the plugin is stopping; try again".into());
    let Ok(answer) = answered.await else {
        work.await?;
        return Err(stopped());
    };
    let response = answer?;
    receipt.send(()).map_err(|()| stopped())?;
    Ok(response)
}

type Answer = oneshot::Sender<Result<Response, Error>>;

async fn run(engine: Arc<Engine>, request: MintRequest, mut answer: Answer, received: oneshot::Receiver<()>) {
    let mut mint = match Mint::begin(engine, request, &answer).await {
        Ok(mint) => mint,
        Err(error) => return drop(answer.send(Err(error))),
    };
    match mint.steps(&mut answer).await {
        Err(error) if mint.is_unclear => {
            drop(answer.send(Err(error)));
            mint.look_for_token().await;
        }
        Err(error) => {
            // A caller who retries at once must find the place free.
            mint.place = None;
            drop(answer.send(Err(error)));
        }
        Ok((client_id, response)) => {
            if answer.send(Ok(response)).is_err() || received.await.is_err() {
                mint.delete_undelivered(&client_id).await;
            } else {
                mint.end_old();
            }
        }
    }
}

impl Mint {
    /// Writes the WAL entry of the mint. This comes before the first change in Astra.
    async fn begin(engine: Arc<Engine>, request: MintRequest, answer: &Answer) -> Result<Self, Error> {
        let (config, role) = (&request.config, &request.role);
        let (mut token_id, mut lock, mut old) = (None, None, None);
        if request.names_token() {
            let id = named_token_id(&config.org_id, &role.role_name, &request.logical_name);
            lock = Some(engine.locks.token(&id).await);
            old = request.replaced(&engine, &id).await?.map(|token| (token, Timestamp::MAX));
            token_id = Some(id);
        }
        engine.clients.prepare(config).await?;
        if answer.is_closed() {
            return Err(caller_gone());
        }
        let place = request.reserve(&engine, old.as_ref().map(|(old, _)| &old.client_id)).await?;
        let note = MintNote {
            org_id: config.org_id.clone(),
            role_name: role.role_name.clone(),
            marker: Uuid::new_v4().simple().to_string(),
            described: config.description,
            token_id,
            client_id: None,
            replaces: old.as_ref().map(|(old, _)| old.client_id.clone()),
            expires_at: config.token_expiry.then(|| rfc3339(request.latest_expiry())),
            looked: Looked::Never,
            display_name: request.caller.display_name.clone(),
            entity_id: request.caller.entity_id.clone(),
            static_role: None,
            timeout_seconds: config.request_timeout.as_secs(),
        };
        // The host is asked for the maximum of the mount beside the write. This maximum can only shorten the time that the
        // entry has.
        let (ttls, order) = tokio::join!(request.ttls(&engine), Order::begin(&engine, config, note));
        let mut order = order?;
        let ttls = match ttls {
            Ok(ttls) => ttls,
            Err(error) => {
                order.close().await;
                return Err(error);
            }
        };
        order.note.expires_at = config.token_expiry.then(|| rfc3339(ttls.expiry));
        let warnings = request.cut_warning(ttls.ttl).into_iter().collect();
        Ok(Self { engine, request, ttls, order, place, lock, old, lease_end: None, warnings, is_unclear: false })
    }

    /// Runs the steps in their order. If a step fails, undoes the steps before that step.
    async fn steps(&mut self, answer: &mut Answer) -> Result<(ClientId, Response), Error> {
        let note = &self.order.note;
        let new = NewToken {
            roles: self.request.role.role_ids().to_vec(),
            description: note.described.then(|| self.request.description(&self.engine.instance, &note.marker)),
            token_expiry: note.expires_at.clone(),
        };
        let (client_id, created) = match self.order.call(&new).await {
            Ok(made) => made,
            Err(Failure::Refused(error)) => return Err(error.into()),
            Err(Failure::Unclear(cause)) => return Err(self.unclear(cause)),
        };
        let expiry = created.expiry;
        let token = self.token(client_id, created);
        let client_id = &token.client_id;
        if let Some(expiry) = expiry
            && let Err(cause) = self.follow(expiry)
        {
            return Err(self.undo("the token expires too early", client_id, cause).await);
        }
        if answer.is_closed() {
            return Err(self.undo("the caller hung up", client_id, caller_gone()).await);
        }
        if let Err(cause) = self.order.note_client_id().await {
            return Err(self.undo("the WAL entry could not be updated", client_id, cause).await);
        }
        let place = self.place.take();
        if let Err(cause) = self.store(&token, place).await {
            if matches!(cause, Error::Storage(_)) {
                self.order.repeat_undo();
            }
            return Err(self.undo("the token could not be stored", client_id, cause).await);
        }
        if answer.is_closed() {
            return Err(self.undo("the caller hung up", client_id, caller_gone()).await);
        }
        if let Err(cause) = self.order.complete().await {
            return Err(self.undo("the mint could not be completed", client_id, cause).await);
        }
        let (caller, role) = (&self.request.caller, &self.request.role.role_name);
        self.engine.metrics.count(Event::Mint, &token.org_id, role);
        tracing::info!(org_id = %token.org_id, role_name = %role, client_id = %token.client_id,
            logical_name = %token.logical_name, display_name = caller.display_name, entity_id = caller.entity_id, "created token");
        let created = Occasion::Created { role, client: &token.client_id };
        self.engine.events.send(&token.org_id, Some(&self.request.config), &created);
        let response = self.respond(&token).on_undelivered(take_back(
            &self.engine,
            &self.request.config,
            &self.order.note,
            &token.client_id,
        ));
        Ok((token.client_id, response))
    }

    /// Shortens the lease if Astra lets the token expire earlier than asked.
    ///
    /// # Errors
    /// If no time is left for a lease.
    fn follow(&mut self, expiry: Timestamp) -> Result<(), Error> {
        let (note, ttls) = (&mut self.order.note, &mut self.ttls);
        if note.expires_at.is_some() && expiry.as_second() >= ttls.expiry.as_second() {
            return Ok(());
        }
        let asked = ttls.max_ttl;
        ttls.end_before(expiry);
        note.expires_at = Some(rfc3339(expiry));
        self.lease_end = Some(later(Timestamp::now(), ttls.max_ttl));
        // The host would replace a TTL of zero by the default of the mount.
        if ttls.ttl.is_zero() {
            return Err(api::Error::garbled(api::MINT, "its token has expired or expires at once").into());
        }
        if ttls.max_ttl < asked {
            let (expiry, max_ttl) = (rfc3339(expiry), format_duration(ttls.max_ttl));
            self.warnings.push(format!("Astra lets the token expire at {expiry}, so max_ttl was cut to {max_ttl}"));
        }
        Ok(())
    }

    fn token(&self, client_id: ClientId, created: CreatedToken) -> Token {
        Token {
            client_id,
            secret: created.secret,
            org_id: self.request.config.org_id.clone(),
            role_name: self.request.role.role_name.clone(),
            roles: created.roles,
            token: created.token,
            generated_on: Some(created.generated_on)
                .filter(|time| !time.is_empty())
                .unwrap_or_else(|| rfc3339(Timestamp::now())),
            logical_name: self.request.logical_name.clone(),
            metadata: self.request.metadata.clone(),
        }
    }

    async fn store(&mut self, token: &Token, place: Option<Place>) -> Result<(), Error> {
        let (engine, org_id) = (&self.engine, &self.request.config.org_id);
        let _config_stays = engine.locks.storing_token(org_id).await;
        if engine.store.config(org_id).await?.is_none() {
            return Err(Error::Refused(format!(
                "the config of org_id {:?} was deleted during the mint",
                org_id.as_str()
            )));
        }
        if let Some((old, end)) = &mut self.old {
            *end = self.request.end_of(engine, old).await?;
            self.warnings.extend(self.request.overlap_warning(*end));
            let id = self.order.note.token_id(&old.client_id);
            engine.store.replaced.hold(org_id, &old.client_id);
            engine.store.begin_replacement(org_id, id, old, rfc3339(*end)).await?;
        }
        engine.store.put_token(self.token_id(&token.client_id), token, &self.record(token), place).await
    }

    /// Returns the error of a mint whose outcome is unknown.
    fn unclear(&mut self, cause: Error) -> Error {
        self.is_unclear = true;
        let note = &self.order.note;
        let removal = match &note.expires_at {
            _ if note.described => "deletes the token as soon as Astra lists the token",
            Some(_) => "cannot find it without a description, and the token stays until it expires",
            None => "cannot find it without a description, and the token does not expire",
        };
        let left = format!("if Astra minted a token, the engine {removal}");
        Error::Unfinished { step: "the outcome of the mint is unknown", left, cause: Box::new(cause) }
    }

    /// Looks for the token of a mint whose outcome is unknown. Releases the lock of the name first, so the next mint of
    /// this name does not wait.
    async fn look_for_token(mut self) {
        self.lock = None;
        self.order.look_for_token().await;
    }

    /// Undoes the mint because a step failed. Returns the error for the caller.
    async fn undo(&mut self, step: &'static str, client_id: &ClientId, cause: Error) -> Error {
        let left = match self.order.undo(client_id, self.lock.as_ref()).await {
            Ok(()) => "the token was deleted in Astra".to_owned(),
            Err(error) => format!(
                "the token with client id {:?} stays in Astra until the engine can delete it: {}",
                client_id.as_str(),
                error.what()
            ),
        };
        Error::Unfinished { step, left, cause: Box::new(cause) }
    }

    /// Notes when the token that had the name is deleted. Comes after the answer: a mint whose caller has gone gives the
    /// name back.
    fn end_old(&mut self) {
        let Some((token, end)) = self.old.take() else { return };
        let org_id = &self.request.config.org_id;
        tracing::info!(org_id = %org_id, role_name = %token.role_name, client_id = %token.client_id,
            logical_name = %token.logical_name, until = %rfc3339(end), "replaced token");
        replace::settle(&self.engine, org_id, &token.client_id, end);
    }

    /// Deletes a token whose caller has gone. Its WAL entry was already removed, so a new entry is written first.
    async fn delete_undelivered(&mut self, client_id: &ClientId) {
        let (org_id, order) = (&self.request.config.org_id, &mut self.order);
        if let Err(error) = order.reopen(client_id).await {
            log_without_entry(org_id, client_id, &error);
        }
        if order.undo(client_id, self.lock.as_ref()).await.is_ok() {
            log_hang_up(&order.note, client_id);
        }
    }

    fn token_id<'a>(&'a self, client_id: &'a ClientId) -> &'a str {
        self.order.note.token_id(client_id)
    }

    fn record(&self, token: &Token) -> Record {
        Record {
            created_at: rfc3339(Timestamp::now()),
            display_name: self.request.caller.display_name.clone(),
            entity_id: self.request.caller.entity_id.clone(),
            expires_at: rfc3339(self.ttls.expiry),
            lease_end: self.lease_end.map(rfc3339).unwrap_or_default(),
            expires_in_astra: self.order.note.expires_at.is_some(),
            marker: self.order.note.marker.clone(),
            ..Record::of(self.token_id(&token.client_id), token)
        }
    }

    fn respond(&self, token: &Token) -> Response {
        let role = &self.request.role;
        let data = LeaseData {
            org_id: token.org_id.clone(),
            client_id: token.client_id.clone(),
            role_name: token.role_name.clone(),
            token_id: self.token_id(&token.client_id).to_owned(),
            secret_type: SECRET_TYPE.to_owned(),
            ttl_seconds: Some(role.ttl().as_secs()),
            max_ttl_seconds: Some(role.max_ttl().as_secs()),
            expires_at: self.order.note.expires_at.clone(),
        };
        let secret = Secret::new(self.ttls.ttl, self.ttls.max_ttl, data.into_map());
        let mut response = Response::new(token_data(token, self.request.minted_by)).lease(secret);
        response.warnings.extend_from_slice(&self.warnings);
        response
    }
}

/// Returns an error that no caller reads.
fn caller_gone() -> Error {
    Error::NotYet("the caller hung up".into())
}
