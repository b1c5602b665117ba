//! Mints the next token of a static role.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::api::{self, Case, CreatedToken, NewToken, describe};
use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::events::Occasion;
use crate::journal::{Found, Looked, MintNote};
use crate::metrics::Event;
use crate::names::ClientId;
use crate::store::{Config, CurrentToken, FormerToken, Kind, Record, Role, StaticRole, Token};
use crate::tokens::{Failure, Order, later, owner_text, rfc3339};

/// A token expires in Astra after two periods, the overlap and this time. If Astra cannot be reached, rotations wait, and the
/// current token must stay live.
const SPARE: Duration = Duration::from_secs(86400);

/// How long the engine asks Astra whether a new token works.
const PROOF: Duration = Duration::from_secs(10);

/// Pauses of 0.1 s to 2 s: Astra may reject a new token for a moment.
const RETRIES: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .with_factor(1.5)
    .without_max_times();

/// The most replaced tokens of a static role that are live at the same time.
const MOST_FORMER: usize = 8;

/// Mints a token for a static role, and returns the stored static role. The caller holds the lock of the static role.
///
/// # Errors
/// If no token was minted, if the mint was undone, or if a WAL entry is left for its undo.
pub(crate) async fn rotate(engine: &Arc<Engine>, mut role: StaticRole) -> Result<StaticRole, Error> {
    engine.require_writable().await?;
    let (org, name) = (role.org_id.as_str(), role.role_name.as_str());
    let Some(config) = engine.store.config(&role.org_id).await? else {
        return Err(Error::Refused(format!("no config for org_id {org:?}; write the config again")));
    };
    let minted = stored_role(engine, &role).await?;
    if role.former.len() >= MOST_FORMER {
        return Err(Error::Refused(format!(
            "{MOST_FORMER} replaced tokens of the static role {:?} are still live; rotate again when the engine has deleted \
             one of them, or choose a shorter overlap",
            role.name.as_str()
        )));
    }
    let mut old_expiry = None;
    if let Some(current) = &role.current {
        match readable(engine.store.record(&role.org_id, &current.client_id).await)? {
            (Some(record), _) => old_expiry = record.expiry(),
            (None, Some(_)) => {}
            // Somebody has deleted the token, so it is not the previous token.
            (None, None) => role.current = None,
        }
    }
    engine.clients.prepare(&config).await?;
    let life = role.rotation_period.saturating_mul(2).saturating_add(role.overlap()).saturating_add(SPARE);
    let note = MintNote {
        org_id: role.org_id.clone(),
        role_name: role.role_name.clone(),
        marker: Uuid::new_v4().simple().to_string(),
        described: config.description,
        token_id: None,
        client_id: None,
        replaces: None,
        expires_at: config.token_expiry.then(|| rfc3339(later(clock::now(), life))),
        looked: Looked::Never,
        display_name: role.display_name.clone(),
        entity_id: role.entity_id.clone(),
        timeout_seconds: config.request_timeout.as_secs(),
        static_role: Some(role.name.clone()),
    };
    let (mount, owner) = (&role.mount_point, owner_text(&role.token_metadata));
    let text = format!("mount={mount} role={name}{owner} static={} by={}", role.name, role.display_name);
    let new = NewToken {
        roles: minted.role_ids().to_vec(),
        description: note.described.then(|| describe(&engine.instance, &note.marker, &text)),
        token_expiry: note.expires_at.clone(),
    };
    let order = Order::begin(engine, &config, note).await?;
    Rotation { engine, config: &config, role, old_expiry, order }.run(&new).await
}

async fn stored_role(engine: &Engine, role: &StaticRole) -> Result<Arc<Role>, Error> {
    let (org, name) = (role.org_id.as_str(), role.role_name.as_str());
    let stored = engine.store.role(&role.org_id, &role.role_name).await?;
    let missing =
        || Error::Refused(format!("no role {name:?} for org_id {org:?}; write the role, or name another role"));
    stored.ok_or_else(missing)
}

/// Returns when the next token replaces a token that became the current one at `since`: after the period, or earlier if the
/// token expires in Astra. At least the overlap and a sixth of the token's validity are left, for users and late rotations.
pub(crate) fn until(role: &StaticRole, since: Timestamp, expiry: Option<Timestamp>) -> Timestamp {
    let end = later(since, role.rotation_period);
    let Some(expiry) = expiry else { return end };
    let life = Duration::try_from(expiry.duration_since(since)).unwrap_or_default();
    end.min(later(since, life.saturating_sub(role.overlap()).min(life / 6 * 5)))
}

/// A rotation whose note is in the write-ahead log.
struct Rotation<'a> {
    engine: &'a Arc<Engine>,
    config: &'a Arc<Config>,
    role: StaticRole,
    /// When the token that is replaced expires in Astra, if that is known.
    old_expiry: Option<Timestamp>,
    order: Order<MintNote>,
}

impl Rotation<'_> {
    /// Runs the steps. If a step fails, undoes the earlier steps.
    async fn run(mut self, new: &NewToken) -> Result<StaticRole, Error> {
        let (client_id, created) = match self.order.call(new).await {
            Ok(made) => made,
            Err(Failure::Refused(error)) => return Err(error.into()),
            Err(Failure::Unclear(cause)) => return Err(self.unclear(cause).await),
        };
        let current = match self.current(&client_id, &created) {
            Ok(current) => current,
            Err(cause) => return Err(self.undo("the token expires too early", &client_id, cause).await),
        };
        if let Err(cause) = self.order.note_client_id().await {
            return Err(self.undo("the WAL entry could not be updated", &client_id, cause).await);
        }
        if let Err(cause) = self.prove(&created).await {
            return Err(self.undo("the new token does not work", &client_id, cause).await);
        }
        if let Err(cause) = self.store(&client_id, created).await {
            if matches!(cause, Error::Storage(_)) {
                self.order.repeat_undo();
            }
            return Err(self.undo("the token could not be stored", &client_id, cause).await);
        }
        let role_stays = self.engine.locks.role(&self.role.org_id, &self.role.role_name).await;
        if let Err(cause) = stored_role(self.engine, &self.role).await {
            drop(role_stays);
            return Err(self.undo("the role could not be read again", &client_id, cause).await);
        }
        self.put(current).await?;
        drop(role_stays);
        // If this fails, the tick finds the token in use, and removes the entry.
        self.order.close().await;
        let (org, name) = (&self.role.org_id, &self.role.role_name);
        self.engine.metrics.count(Event::Mint, org, name);
        self.engine.events.send(org, Some(self.config), &Occasion::Created { role: name, client: &client_id });
        tracing::info!(org_id = %self.role.org_id, static_role = %self.role.name, role_name = %self.role.role_name,
            client_id = %client_id, "rotated static role");
        Ok(self.role)
    }

    /// Stores the static role with its new token.
    async fn put(&mut self, current: CurrentToken) -> Result<(), Error> {
        let former = self.role.current.replace(current);
        let until = later(clock::now(), self.role.overlap());
        let until = self.old_expiry.map_or(until, |expiry| until.min(expiry));
        self.role.former.extend(former.map(|former| FormerToken { client_id: former.client_id, until }));
        self.engine.store.put_static_role(&self.role).await.map_err(|cause| Error::Unfinished {
            step: "the static role could not be stored",
            // A write that failed may still take effect. The tick runs after that is certain.
            left: "it keeps its token or has the new one, and the engine deletes the other one within some minutes"
                .into(),
            cause: Box::new(cause),
        })
    }

    /// Returns how long the token is the current one. If Astra lets the token expire earlier than asked, it is replaced
    /// earlier.
    fn current(&mut self, client_id: &ClientId, created: &CreatedToken) -> Result<CurrentToken, Error> {
        let (now, role) = (clock::now(), &self.role);
        let until = until(role, now, created.expiry);
        if let Some(expiry) = created.expiry {
            self.order.note.expires_at = Some(rfc3339(expiry));
        }
        if until <= later(now, Duration::from_secs(1)) {
            return Err(api::Error::garbled(api::MINT, "its token has expired or expires at once").into());
        }
        Ok(CurrentToken { client_id: client_id.clone(), since: now, until })
    }

    /// Checks that Astra accepts the new token.
    async fn prove(&self, created: &CreatedToken) -> Result<(), Error> {
        let config = Config { astra_token: created.token.clone(), ..(**self.config).clone() };
        let client = self.engine.clients.make(&config).await?;
        let check = || async {
            match client.current_org().await {
                // The role of the token may not permit this call.
                Err(error) if error.is_undetermined() => Ok(()),
                answer => answer.map(drop),
            }
        };
        let is_rejected = |error: &api::Error| error.case() == Case::RootTokenRejected;
        match tokio::time::timeout(PROOF, check.retry(RETRIES.with_total_delay(Some(PROOF))).when(is_rejected)).await {
            Ok(Err(error)) if is_rejected(&error) => {
                Err(Error::NotYet("Astra does not accept the token; try again later".into()))
            }
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Error::OutOfTime(PROOF)),
        }
    }

    async fn store(&self, client_id: &ClientId, created: CreatedToken) -> Result<(), Error> {
        let (engine, role, note) = (self.engine, &self.role, &self.order.note);
        let generated_on = Some(created.generated_on).filter(|time| !time.is_empty());
        let token = Token {
            client_id: client_id.clone(),
            secret: created.secret,
            org_id: role.org_id.clone(),
            role_name: role.role_name.clone(),
            roles: created.roles,
            token: created.token,
            generated_on: generated_on.unwrap_or_else(|| rfc3339(clock::now())),
            logical_name: Default::default(),
            metadata: role.token_metadata.clone(),
        };
        let record = Record {
            kind: Kind::Static,
            static_role: role.name.clone(),
            created_at: rfc3339(clock::now()),
            display_name: role.display_name.clone(),
            entity_id: role.entity_id.clone(),
            expires_at: note.expires_at.clone().unwrap_or_default(),
            expires_in_astra: note.expires_at.is_some(),
            marker: note.marker.clone(),
            ..Record::of(client_id.as_str(), &token)
        };
        let _config_stays = engine.locks.storing_token(&role.org_id).await;
        if engine.store.config(&role.org_id).await?.is_none() {
            let org = role.org_id.as_str();
            return Err(Error::Refused(format!("the config of org_id {org:?} was deleted during the rotation")));
        }
        engine.store.put_token(client_id.as_str(), &token, &record, None).await
    }

    /// Looks for the token that Astra may have minted. Returns the error of a rotation whose outcome is unknown.
    async fn unclear(&mut self, cause: Error) -> Error {
        let found = self.order.look_for_token().await;
        if found == Found::Never || found == Found::Later && self.engine.is_unmarked(&self.role.org_id) {
            self.wait().await;
        }
        let left = match found {
            Found::Deleted => "the token that Astra had minted was deleted",
            Found::Later => "if Astra minted a token, the engine deletes it as soon as Astra lists it",
            Found::Never if self.order.note.expires_at.is_some() => {
                "if Astra minted a token, the engine cannot find it without a description, and the token stays until it expires"
            }
            Found::Never => {
                "if Astra minted a token, the engine cannot find it without a description, and the token does not expire"
            }
        };
        Error::Unfinished { step: "the static role was not rotated", left: left.to_owned(), cause: Box::new(cause) }
    }

    /// Postpones a rotation that is due by another period, if the current token lives that long. Each attempt can leave another
    /// live token that nobody knows.
    async fn wait(&self) {
        let Some(current) = &self.role.current else { return };
        let (store, now) = (&self.engine.store, clock::now());
        // Read again: a write may have changed settings of `self.role`, which are stored only with a new token.
        let Ok(Some(mut stored)) = store.static_role(&self.role.org_id, &self.role.name).await else { return };
        let next = later(now, stored.rotation_period);
        let overlap = SignedDuration::try_from(stored.overlap()).unwrap_or(SignedDuration::MAX);
        let end = self.old_expiry.map(|expiry| expiry.saturating_sub(overlap).unwrap_or(now));
        let until = end.map_or(next, |end| next.min(end));
        match &mut stored.current {
            Some(known) if known.client_id == current.client_id && known.until <= now && until > now => {
                known.until = until;
            }
            _ => return,
        }
        // If this fails, the next attempt comes earlier.
        let _ = store.put_static_role(&stored).await;
    }

    /// Undoes the rotation because a step failed. Returns the error for the caller.
    async fn undo(&mut self, step: &'static str, client_id: &ClientId, cause: Error) -> Error {
        let left = match self.order.undo(client_id, None).await {
            Ok(()) => "the token was deleted in Astra".to_owned(),
            Err(error) => format!(
                "the token with client id {:?} stays in Astra until the engine can delete it: {}",
                client_id.as_str(),
                error.what()
            ),
        };
        Error::Unfinished { step, left, cause: Box::new(cause) }
    }
}
