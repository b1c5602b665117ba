//! Asks Astra for the organization of a root token before the config is stored.

use crate::api::Case;
use crate::engine::Engine;
use crate::error::Error;
use crate::identity::is_uuid;
use crate::names::ClientId;
use crate::store::Config;

/// The field with the root token.
const ASTRA_TOKEN: &str = "astra_token";

/// Astra's answer to the question which organization a root token belongs to.
pub(super) enum Verified {
    /// Astra's id of the organization.
    Org(String),
    /// Not known: Astra answered 401 without a reason.
    Undetermined,
}

impl Verified {
    /// Returns Astra's id of the organization, if it is known.
    pub(super) fn org(&self) -> Option<&str> {
        match self {
            Self::Org(id) => Some(id),
            Self::Undetermined => None,
        }
    }

    /// Returns a warning for the caller of the write, if any.
    pub(super) fn remark(&self) -> Option<String> {
        match self {
            Self::Org(_) => None,
            Self::Undetermined => Some(
                "Astra answered 401 without a reason when the engine asked for the organization of the root token; the root \
                 token is invalid or lacks a permission; mint a token to find out which"
                    .to_owned(),
            ),
        }
    }
}

/// Notes the organization of the root token in a config, before the config is stored. Returns a warning as
/// [`require_same_org`] does.
///
/// # Errors
/// When the config, or a token of it, belongs to another organization.
pub(super) async fn settle_org(
    engine: &Engine,
    config: &mut Config,
    named: &str,
    is_new: bool,
) -> Result<Option<String>, Error> {
    // After a forced delete, the operator may write the config of another organization.
    if !is_new && config.astra_org_id.is_empty() {
        // Astra has not named the organization yet, but the tokens that this root token has to revoke name it.
        let of_tokens = engine.store.org_of_tokens(&config.org_id, named).await?;
        config.astra_org_id = of_tokens.unwrap_or_default().to_string();
    }
    let remark = require_same_org(config, named)?;
    engine.adopt_org(config, named).await?;
    Ok(remark)
}

/// Fails if the root token belongs to another organization than the config. Returns a warning if `org_id` is not
/// Astra's id of the organization.
fn require_same_org(config: &Config, named: &str) -> Result<Option<String>, Error> {
    let org = config.org_id.as_str();
    let expected = match config.is_of(named) {
        Some(false) => config.astra_org_id.as_str(),
        None if is_uuid(org) && !org.eq_ignore_ascii_case(named) => org,
        _ if org.eq_ignore_ascii_case(named) => return Ok(None),
        _ => {
            return Ok(Some(format!(
                "org_id {org:?} is not Astra's id of the organization, which is {named:?}; the engine uses org_id as a label"
            )));
        }
    };
    // A label must not move to another organization: its tokens could not be revoked any more.
    let or = if expected == org { "" } else { ", or delete the config and write it again" };
    Err(Error::field(
        ASTRA_TOKEN,
        format!("belongs to org_id {named:?}, not to {expected:?}; give a root token of this organization{or}"),
    ))
}

/// How many other orgs of the same organization a write looks at: each of them costs a call of the storage.
const OTHER_ORGS: usize = 2;

/// Fails if a write replaces the root token by a token that this mount minted. The new root token would be deleted when
/// its lease ends. `named` is the organization of the root token, if Astra has named it.
pub(super) async fn require_not_minted(
    engine: &Engine,
    old: Option<&Config>,
    new: &Config,
    named: Option<&str>,
) -> Result<(), Error> {
    let Some(id) = new.root_id() else { return Ok(()) };
    if old.and_then(Config::root_id) == Some(id) {
        return Ok(());
    }
    let client_id = ClientId::stored(id);
    // A token without a logical name is stored under its client id, whatever its org.
    let mut is_minted =
        engine.store.has_record(&new.org_id, &client_id).await? || engine.store.readable_token(id).await?.is_some();
    // The record of a named token is under the org of the mint, which can be another label of the same organization.
    let others = engine.store.orgs_of(named.unwrap_or(&new.astra_org_id)).await?;
    for org in others.iter().filter(|org| **org != new.org_id).take(OTHER_ORGS) {
        is_minted = is_minted || engine.store.has_record(org, &client_id).await?;
    }
    if !is_minted {
        return Ok(());
    }
    Err(Error::field(
        ASTRA_TOKEN,
        format!(
            "is a token that this mount minted (client id {id:?}), and is deleted when its lease ends; give another root token"
        ),
    ))
}

/// Asks Astra which organization the root token belongs to.
pub(super) async fn verify(engine: &Engine, config: &Config) -> Result<Verified, Error> {
    let asked = match engine.clients.make(config).await {
        Ok(client) => client.current_org().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(named) => Ok(Verified::Org(named)),
        Err(error) if error.is_undetermined() => Ok(Verified::Undetermined),
        Err(error) if error.case() == Case::RootTokenRejected => Err(Error::field(
            ASTRA_TOKEN,
            format!("cannot be used: {}; give a live root token of this organization", error.what()),
        )),
        Err(error) => Err(Error::Refused(format!(
            "could not verify the root token: {}; check url and ca_cert, or skip the check with verify_connection=false",
            error.what()
        ))),
    }
}
