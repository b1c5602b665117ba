//! Replaces the root token of an org. If a step fails, the rotation is undone or completed later.
//!
//! Architecture invariant: the root token that the stored config holds is never deleted.

mod note;
mod replaced;

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use jiff::Timestamp;
use uuid::Uuid;

pub(crate) use self::replaced::{Replacement, replaced_roots};
use super::api::{self, Case, CreatedToken, NewToken, TokenDates, describe};
use super::clock;
use super::engine::Engine;
use super::error::Error;
use super::events::Occasion;
use super::journal::{Found, Looked, RotationNote};
use super::names::{ClientId, OrgId};
use super::store::Config;
use super::tokens::{Failure, Order};

const MAY_READ: &str = "check that the astra_token of the config is live and has the permission org-token-read, which the \
                        roles Organization Administrator and Database Administrator give";

const MAY_WRITE: &str = "the astra_token of the config needs the permission org-token-write, which the roles Organization \
                         Administrator and Database Administrator give";

const DELETED_LATER: &str = "the config keeps its root token; if Astra minted a token, the engine deletes the token as soon as Astra \
                             lists the token";

/// Pauses of 0.1 s to 2 s: Astra may reject a new token for a moment.
const RETRIES_OF_NEW_TOKEN: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(Duration::from_secs(2))
    .with_factor(1.5)
    .without_max_times();

/// A rotation whose note is in the write-ahead log.
struct Rotation<'a> {
    engine: &'a Engine,
    /// The config at the start.
    config: &'a Arc<Config>,
    order: Order<RotationNote>,
}

/// A completed rotation.
pub(crate) struct Rotated {
    /// Client id of the old root token.
    pub(crate) old: ClientId,
    /// Client id of the new root token.
    pub(crate) new: ClientId,
    /// Why the old root token could not be deleted.
    pub(crate) old_left: Option<Error>,
}

/// Replaces the root token of an org.
///
/// # Errors
/// If the config holds the old root token, or if it is unknown which root token the config holds. The tick completes or
/// undoes the rotation.
pub(crate) async fn rotate(engine: &Arc<Engine>, config: &Arc<Config>, mount_point: &str) -> Result<Rotated, Error> {
    let rotated = rotate_once(engine, config, mount_point).await;
    let occasion = match &rotated {
        Ok(Rotated { old, new, .. }) => Occasion::Rotated { old, new },
        Err(error) => Occasion::RotationFailed { reason: error.to_string() },
    };
    engine.events.send(&config.org_id, Some(config), &occasion);
    rotated
}

async fn rotate_once(engine: &Arc<Engine>, config: &Arc<Config>, mount_point: &str) -> Result<Rotated, Error> {
    let old = config.root_id().and_then(|id| ClientId::parse("astra_token", id).ok()).ok_or_else(|| {
        Error::Refused(
            "the root token does not have the form \"AstraCS:<id>:<digest>\"; write another astra_token".into(),
        )
    })?;
    if let Some(other) = engine.store.other_org_of_root(&old, &config.org_id).await? {
        return Err(Error::Refused(format!(
            "the config of org_id {:?} holds the same root token, and a rotation would delete it; write another astra_token to one of \
             the two configs first",
            other.as_str()
        )));
    }
    let (roles, dates) = roles_of_root(engine, config, &old).await?;
    let expiry = expiry_of_new(config, dates);
    let rotated = order(engine, config, mount_point, &old, roles.clone(), expiry).await;
    match rotated {
        // The organization may have got a maximum that is shorter. Without an expiry, its maximum applies.
        Err(Error::RootCall { error, .. })
            if expiry.is_some() && matches!(error.case(), Case::RequestRejected { .. }) =>
        {
            order(engine, config, mount_point, &old, roles, None).await
        }
        rotated => rotated,
    }
}

/// Returns when the new root token expires: it gets the whole life of the old one. `None` if the old one does not expire.
fn expiry_of_new(config: &Config, dates: TokenDates) -> Option<Timestamp> {
    let now = clock::now();
    let mut root = config.root.clone();
    root.set_dates(dates.created_at, dates.expires_at);
    let rest = root.expires_at?.duration_since(now);
    now.checked_add(root.life().unwrap_or(rest)).ok().filter(|_| config.token_expiry)
}

/// Orders a new root token, and replaces the old one.
async fn order(
    engine: &Arc<Engine>,
    config: &Arc<Config>,
    mount_point: &str,
    old: &ClientId,
    roles: Vec<String>,
    expiry: Option<Timestamp>,
) -> Result<Rotated, Error> {
    let marker = Uuid::new_v4().simple().to_string();
    let new = NewToken {
        roles,
        description: config
            .description
            .then(|| describe(&engine.instance, &marker, &format!("mount={mount_point}/ root"))),
        token_expiry: expiry.map(|time| time.to_string()),
    };
    let note = RotationNote {
        org_id: config.org_id.clone(),
        old: old.clone(),
        marker,
        described: config.description,
        new: None,
        stored: false,
        looked: Looked::Never,
        timeout_seconds: config.request_timeout.as_secs(),
    };
    let order = Order::begin(engine, config, note).await?;
    Rotation { engine, config, order }.run(&new).await
}

/// Returns the Astra roles of the root token, and its dates. Astra shows them only in the list of all tokens.
async fn roles_of_root(
    engine: &Engine,
    config: &Arc<Config>,
    root: &ClientId,
) -> Result<(Vec<String>, TokenDates), Error> {
    let id = root.as_str();
    let roles = engine.call(config, |client| async move { client.roles_of(id).await }).await;
    let fault = match roles.map_err(|error| Error::RootCall { error, permission: MAY_READ })? {
        Some((roles, dates)) if !roles.is_empty() => return Ok((roles, dates)),
        Some(_) => "has no Astra roles",
        None => "is not in Astra's list of the tokens of this organization",
    };
    Err(Error::Refused(format!(
        "the root token with client id {id:?} {fault}, so the engine cannot mint a root token with the same roles; write \
         an astra_token of this organization that has roles"
    )))
}

impl Rotation<'_> {
    /// Runs the steps in their order. If a step fails, undoes the steps before that step.
    async fn run(mut self, new: &NewToken) -> Result<Rotated, Error> {
        let running = self.engine.clients.calls(self.config);
        let (new, created) = match self.order.call(new).await {
            Ok(made) => made,
            Err(Failure::Refused(error)) => return Err(Error::RootCall { error, permission: MAY_WRITE }),
            Err(Failure::Unclear(cause)) => return Err(self.unclear(cause).await),
        };
        self.order.note.new = Some(new.clone());
        if let Err(cause) = self.order.update().await {
            return Err(self.undo("the WAL entry could not be updated", &new, cause).await);
        }
        let dates = match self.check_new_token(&created, &new).await {
            Ok(dates) => dates,
            Err(cause) => return Err(self.undo("the new root token does not work", &new, cause.into()).await),
        };
        let config = self.store(created, &new, dates).await?;

        // Calls that started with the old root token may still need it. New calls use the new root token.
        running.close();
        let _ = tokio::time::timeout(config.request_timeout, running.wait()).await;
        let note = &self.order.note;
        let old_left = delete_unused(self.engine, &note.org_id, &config, &note.old).await.err();
        match &old_left {
            None => self.order.close().await,
            Some(error) => {
                tracing::error!(org_id = %note.org_id, client_id = %note.old, error = %error,
                    "failed to delete an old root token, will retry");
            }
        }
        Ok(Rotated { old: self.order.note.old, new, old_left })
    }

    /// Checks that the new root token belongs to this org and can list tokens. If Astra does not know the roles of a
    /// token, the token cannot list tokens. Returns the dates of the new root token, if Astra lists it already.
    async fn check_new_token(&self, created: &CreatedToken, new: &ClientId) -> Result<Option<TokenDates>, api::Error> {
        // The old root token minted the new root token, so both belong to the same organization.
        let (astra_token, astra_org_id) = (created.token.clone(), created.org_id.clone());
        let config = Config { astra_token, astra_org_id, ..(**self.config).clone() };
        let client = self.engine.clients.make(&config).await?;
        let check = || async {
            match client.current_org().await {
                Ok(org) if config.is_of(&org) == Some(true) => {}
                Ok(_) => {
                    return Err(api::Error::garbled("make a root token", "its token belongs to another organization"));
                }
                Err(error) if error.is_undetermined() => {}
                Err(error) => return Err(error),
            }
            client.dates_of(new.as_str()).await
        };
        let pauses = RETRIES_OF_NEW_TOKEN.with_total_delay(Some(config.request_timeout));
        check.retry(pauses).when(|error: &api::Error| error.case() == Case::RootTokenRejected).await
    }

    /// Stores the new root token in the config, unless the config was changed meanwhile.
    async fn store(
        &mut self,
        created: CreatedToken,
        new: &ClientId,
        dates: Option<TokenDates>,
    ) -> Result<Arc<Config>, Error> {
        let (engine, org_id) = (self.engine, &self.config.org_id);
        let lock = engine.locks.configs().await;
        let config = match engine.store.stored_config(org_id).await {
            Ok(Some(now)) if now.same_endpoint(self.config) => {
                let mut config = (*now).clone();
                let (of_answer, expiry) = (created.generated_on.parse().ok(), created.expiry);
                config.replace_root(created.token, &self.order.note.old);
                let dates = dates.unwrap_or(TokenDates { created_at: of_answer, expires_at: expiry });
                config.root.set_dates(dates.created_at, dates.expires_at);
                config.root.note_rotation(clock::now());
                config
            }
            Ok(_) => {
                drop(lock);
                let changed =
                    Error::Refused("the config was changed during the rotation; rotate again if the new config needs another root token".into());
                return Err(self.undo("the root token was not rotated", new, changed).await);
            }
            Err(cause) => {
                drop(lock);
                return Err(self.undo("the config could not be read", new, cause).await);
            }
        };
        self.order.note.stored = true;
        if let Err(cause) = self.order.update().await {
            drop(lock);
            self.order.note.stored = false;
            return Err(self.undo("the WAL entry could not be updated", new, cause).await);
        }
        let stored = engine.store.put_config(&config).await;
        engine.clients.forget(org_id);
        if dates.is_none() {
            engine.schedule.read_after(org_id, Duration::ZERO);
        }
        stored.map_err(|cause| Error::Unfinished {
            step: "the config could not be stored",
            // A write that failed may still take effect. The tick runs after that is certain.
            left:
                "the config holds the old or the new root token, both are valid, and the engine deletes the other root \
                   token within some minutes"
                    .to_owned(),
            cause: Box::new(cause),
        })?;
        Ok(Arc::new(config))
    }

    /// Undoes the rotation because a step failed. Returns the error for the caller.
    async fn undo(&mut self, step: &'static str, new: &ClientId, cause: Error) -> Error {
        let left = match self.order.undo(new, None).await {
            Ok(()) => "the config keeps its root token, and the new root token was deleted in Astra".to_owned(),
            Err(error) => format!(
                "the config keeps its root token, and the new root token stays in Astra until the engine can delete it: {error}"
            ),
        };
        Error::Unfinished { step, left, cause: Box::new(cause) }
    }

    /// Looks for a token that Astra may have minted. Returns the error of a rotation whose outcome is unknown.
    async fn unclear(&mut self, cause: Error) -> Error {
        let left = match self.order.look_for_token().await {
            Found::Deleted => "the config keeps its root token, and the token that Astra had minted was deleted",
            Found::Later => DELETED_LATER,
            Found::Never => {
                "the config keeps its root token; if Astra minted a token, the engine cannot find it without a description, and \
                 the token does not expire"
            }
        };
        Error::Unfinished { step: "the root token was not rotated", left: left.to_owned(), cause: Box::new(cause) }
    }
}

/// Deletes a root token in Astra, unless a config holds this root token. If the config was deleted meanwhile, uses
/// `known`, an earlier state of the config.
async fn delete_unused(
    engine: &Engine,
    org_id: &OrgId,
    known: &Arc<Config>,
    client_id: &ClientId,
) -> Result<(), Error> {
    let lock = engine.locks.configs().await;
    let config = engine.store.stored_config(org_id).await?.unwrap_or_else(|| known.clone());
    if config.is_root(client_id) || engine.store.other_org_of_root(client_id, org_id).await?.is_some() {
        return Ok(());
    }
    engine.clients.retire(client_id);
    drop(lock);
    let id = client_id.as_str();
    engine.call(&config, |client: Arc<api::Client>| async move { client.delete_token(id).await }).await?;
    tracing::info!(org_id = %org_id, client_id = %client_id, "deleted a root token that is not in use");
    Ok(())
}
