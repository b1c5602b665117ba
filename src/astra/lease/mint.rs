//! Minting: from an order to a token under a lease, or to nothing at all.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{EXPIRY_MARGIN, LeaseData, SECRET_TYPE, later, rfc3339, token_data};
use crate::astra::api::{self, CreatedToken, NewToken};
use crate::astra::engine::Engine;
use crate::astra::error::Error;
use crate::astra::store::{ClientId, Config, LogicalName, Metadata, Record, Role, Token, named_token_id};
use crate::astra::task;
use crate::sdk::framework::format_duration;
use crate::sdk::logical::{Caller, Response, Secret};

/// Most characters of a description.
const DESCRIPTION: usize = 255;

/// A token to be minted.
pub(crate) struct Order {
    /// The org.
    pub(crate) config: Arc<Config>,
    /// The role.
    pub(crate) role: Arc<Role>,
    /// Logical name; may be empty unless `named`.
    pub(crate) logical_name: LogicalName,
    /// The caller's pairs.
    pub(crate) metadata: Metadata,
    /// What the caller wants of the lease.
    pub(crate) ttl: Option<Duration>,
    /// Who asks.
    pub(crate) caller: Caller,
    /// Path of the mount.
    pub(crate) mount_point: String,
    /// Whether the logical name belongs to one living token only.
    pub(crate) named: bool,
    /// Whether a read mints.
    pub(crate) by_read: bool,
}

/// How long a token lives.
struct Lifetime {
    ttl: Duration,
    max_ttl: Duration,
    /// When it dies by itself.
    expiry: Timestamp,
}

/// A token that Astra made and that is not a caller's yet.
struct Minted {
    token_id: String,
    client: Arc<api::Client>,
    client_id: ClientId,
}

/// Mints a token, on a node that may write. A caller who goes away gets none: what was made until then is undone.
///
/// # Errors
/// When nothing was minted, or what was minted could not be stored and was undone.
pub(crate) async fn mint(engine: &Arc<Engine>, order: Order) -> Result<Response, Error> {
    let lifetime = lifetime(engine, &order).await?;
    let mut warnings = Vec::new();
    if let Some(ttl) = order.ttl.filter(|ttl| *ttl > lifetime.ttl) {
        let (given, cut) = (format_duration(ttl), format_duration(lifetime.ttl));
        warnings.push(format!("ttl of {given} is longer than role and mount allow and was cut to {cut}"));
    }

    // The handler's future is dropped when the caller hangs up, so a task of its own does it. It hears of that twice: by
    // the answer that nobody takes, and by the receipt that never comes.
    let (answer, answered) = oneshot::channel();
    let (receipt, received) = oneshot::channel::<()>();
    let work = task::start(run(engine.clone(), order, lifetime, answer, received));
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

async fn run(
    engine: Arc<Engine>,
    order: Order,
    lifetime: Lifetime,
    mut answer: oneshot::Sender<Result<Response, Error>>,
    received: oneshot::Receiver<()>,
) {
    let token_id =
        order.named.then(|| named_token_id(&order.config.org_id, &order.role.role_name, &order.logical_name));
    // Held until the caller has the token or it is undone: two for one name get one token.
    let _lock = match &token_id {
        Some(id) => Some(engine.locks.lock(format!("token/{id}")).await),
        None => None,
    };
    match steps(&engine, &order, &lifetime, token_id, &mut answer).await {
        Err(error) => drop(answer.send(Err(error))),
        Ok((minted, response)) => {
            if answer.send(Ok(response)).is_err() || received.await.is_err() {
                let left = undo(&engine, &order, &minted).await;
                tracing::warn!(org_id = %order.config.org_id, client_id = %minted.client_id, left, "undid a token whose caller has gone");
            }
        }
    }
}

/// The steps in their order. Each of them leaves nothing behind when it fails.
async fn steps(
    engine: &Arc<Engine>,
    order: &Order,
    lifetime: &Lifetime,
    token_id: Option<String>,
    answer: &mut oneshot::Sender<Result<Response, Error>>,
) -> Result<(Minted, Response), Error> {
    if let Some(id) = &token_id {
        require_free(engine, order, id).await?;
    }
    let client = engine.client(&order.config).await?;
    if answer.is_closed() {
        return Err(gone());
    }
    let marker = Uuid::new_v4().simple().to_string();
    let created = client.create_token(&new_token(order, lifetime, &marker)).await?;
    let (minted, token) = accept(engine, order, client, created, token_id).await?;
    if answer.is_closed() {
        let left = undo(engine, order, &minted).await;
        return Err(unfinished("the token was not needed any more", left, gone()));
    }
    let record = record(order, lifetime, &minted.token_id, &token);
    if let Err(cause) = store(engine, order, &minted, &token, &record).await {
        let left = undo(engine, order, &minted).await;
        return Err(unfinished("the token could not be stored", left, cause));
    }
    let (caller, role) = (&order.caller, &order.role.role_name);
    tracing::info!(org_id = %token.org_id, role_name = %role, client_id = %token.client_id,
        logical_name = %token.logical_name, display_name = caller.display_name, entity_id = caller.entity_id, "created token");
    let response = respond(order, lifetime, &minted, &token);
    Ok((minted, response))
}

/// Computes how long the token lives. This comes before minting, because the host would only cap the lease after it.
async fn lifetime(engine: &Engine, order: &Order) -> Result<Lifetime, Error> {
    let mount_max = engine.system.max_lease_ttl().await?;
    let max_ttl = if mount_max.is_zero() { order.role.max_ttl() } else { order.role.max_ttl().min(mount_max) };
    let wanted = order.ttl.filter(|ttl| !ttl.is_zero()).unwrap_or(order.role.ttl());
    let expiry = later(Timestamp::now(), max_ttl.saturating_add(EXPIRY_MARGIN));
    Ok(Lifetime { ttl: wanted.min(max_ttl), max_ttl, expiry })
}

async fn require_free(engine: &Engine, order: &Order, token_id: &str) -> Result<(), Error> {
    let Some(token) = engine.store.token(token_id).await? else { return Ok(()) };
    Err(Error::Refused(format!(
        "logical_name {:?} of role {:?} is taken by the live token with client_id {:?}; read that one, delete it, or \
         choose another logical_name",
        order.logical_name.as_str(),
        order.role.role_name.as_str(),
        token.client_id.as_str(),
    )))
}

fn new_token(order: &Order, lifetime: &Lifetime, marker: &str) -> NewToken {
    NewToken {
        roles: vec![order.role.role_id.clone()],
        description: order.config.description.then(|| description(order, marker)),
        token_expiry: order.config.token_expiry.then(|| rfc3339(lifetime.expiry)),
    }
}

/// Returns what Astra's portal shows beside the token. The marker is last and whole: with it the token can be found if
/// Astra's answer is lost.
fn description(order: &Order, marker: &str) -> String {
    let text = format!(
        "vault mount={} role={} name={} by={}",
        order.mount_point, order.role.role_name, order.logical_name, order.caller.display_name
    );
    let tail = format!(" id={marker}");
    let safe = text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '_' });
    safe.take(DESCRIPTION - tail.len()).collect::<String>() + &tail
}

/// Checks what Astra made. What is not what was asked for is deleted again.
async fn accept(
    engine: &Engine,
    order: &Order,
    client: Arc<api::Client>,
    created: CreatedToken,
    token_id: Option<String>,
) -> Result<(Minted, Token), Error> {
    let org_id = &order.config.org_id;
    let client_id = ClientId::parse("clientId", &created.client_id).ok();
    let fault = match &client_id {
        Some(_) => created.fault(org_id.as_str()),
        None => Some("it has no clientId that can be stored"),
    };
    let (None, Some(client_id)) = (fault, client_id.clone()) else {
        if let Some(client_id) = client_id {
            discard(engine, order, &client, &client_id).await;
        }
        return Err(api::Error::garbled("mint a token", fault.unwrap_or_default()).into());
    };
    let token = Token {
        client_id: client_id.clone(),
        secret: created.secret,
        org_id: org_id.clone(),
        role_name: order.role.role_name.clone(),
        roles: created.roles,
        token: created.token,
        generated_on: Some(created.generated_on)
            .filter(|time| !time.is_empty())
            .unwrap_or_else(|| rfc3339(Timestamp::now())),
        logical_name: order.logical_name.clone(),
        metadata: order.metadata.clone(),
    };
    let token_id = token_id.unwrap_or_else(|| client_id.to_string());
    Ok((Minted { token_id, client, client_id }, token))
}

/// Deletes a token that Astra made in another way than asked, unless its client id is that of a token in use.
async fn discard(engine: &Engine, order: &Order, client: &api::Client, client_id: &ClientId) {
    let root = order.config.astra_token.expose_secret().split(':').nth(1) == Some(client_id.as_str());
    let unknown = matches!(engine.store.record(&order.config.org_id, client_id).await, Ok(None));
    if root || !unknown {
        return;
    }
    match client.delete_token(client_id.as_str()).await {
        Ok(()) => tracing::info!(org_id = %order.config.org_id, client_id = %client_id, "deleted an unusable token"),
        Err(error) => {
            tracing::error!(org_id = %order.config.org_id, client_id = %client_id, error = %error, "failed to delete an unusable token");
        }
    }
}

async fn store(engine: &Engine, order: &Order, minted: &Minted, token: &Token, record: &Record) -> Result<(), Error> {
    engine.store.put_token(&minted.token_id, token, record).await?;
    // Whoever deletes a config looks for tokens first. One of both sees the other.
    if engine.store.has_config(&order.config.org_id).await? {
        return Ok(());
    }
    Err(Error::Refused(format!("the config of org_id {:?} was deleted meanwhile", order.config.org_id.as_str())))
}

/// Deletes a token in Astra and in Vault, and says what is left.
async fn undo(engine: &Engine, order: &Order, minted: &Minted) -> String {
    let org_id = &order.config.org_id;
    let deleted = minted.client.delete_token(minted.client_id.as_str()).await;
    let removed = engine.store.delete_token(&minted.token_id, org_id, &minted.client_id).await;
    if let Err(error) = &removed {
        tracing::error!(org_id = %org_id, client_id = %minted.client_id, error = %error, "failed to remove a stored token");
    }
    match deleted {
        Ok(()) => "it was deleted in Astra again".to_owned(),
        Err(error) => {
            tracing::error!(org_id = %org_id, client_id = %minted.client_id, error = %error, "failed to delete a token in Astra");
            format!("the token with client id {:?} is left in Astra: {}", minted.client_id.as_str(), error.what())
        }
    }
}

/// Nobody reads it.
fn gone() -> Error {
    Error::NotYet("the caller has gone".into())
}

fn unfinished(step: &'static str, left: String, cause: Error) -> Error {
    Error::Unfinished { step, left, cause: Box::new(cause) }
}

fn record(order: &Order, lifetime: &Lifetime, token_id: &str, token: &Token) -> Record {
    Record {
        created_at: rfc3339(Timestamp::now()),
        display_name: order.caller.display_name.clone(),
        entity_id: order.caller.entity_id.clone(),
        expires_at: rfc3339(lifetime.expiry),
        ..Record::of(token_id, token)
    }
}

fn respond(order: &Order, lifetime: &Lifetime, minted: &Minted, token: &Token) -> Response {
    let data = LeaseData {
        org_id: token.org_id.clone(),
        client_id: token.client_id.clone(),
        role_name: token.role_name.clone(),
        token_id: minted.token_id.clone(),
        secret_type: SECRET_TYPE.to_owned(),
        ttl_seconds: Some(order.role.ttl().as_secs()),
        max_ttl_seconds: Some(order.role.max_ttl().as_secs()),
        expires_at: order.config.token_expiry.then(|| rfc3339(lifetime.expiry)),
    };
    let secret = Secret::new(lifetime.ttl, lifetime.max_ttl, data.into_map());
    Response::new(token_data(token, order.by_read)).lease(secret)
}
