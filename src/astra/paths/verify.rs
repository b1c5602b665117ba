//! Whose root token a config gets: asked before it is written.

use crate::astra::api::Kind;
use crate::astra::engine::Engine;
use crate::astra::error::Error;
use crate::astra::identity::is_uuid;
use crate::astra::store::Config;

/// The field with the root token.
const ASTRA_TOKEN: &str = "astra_token";

/// What Astra said when it was asked whose root token it is.
pub(super) enum Verified {
    /// Its id of the organization.
    Org(String),
    /// Nothing: it answered 401 without a reason.
    Undetermined,
}

impl Verified {
    /// Returns what the caller of the write has to know.
    pub(super) fn remark(&self) -> Option<String> {
        match self {
            Self::Org(_) => None,
            Self::Undetermined => Some(
                "Astra answered 401 without a reason when it was asked whose root token this is: the token may be refused, \
                 or lack the permission to ask. Mint a token to find out."
                    .to_owned(),
            ),
        }
    }
}

/// Fails if the root token is of another organization than the config. Returns a remark where `org_id` does not say which
/// one that is.
pub(super) fn require_same_org(config: &Config, named: &str) -> Result<Option<String>, Error> {
    let org = config.org_id.as_str();
    let expected = match config.is_of(named) {
        Some(false) => config.astra_org_id.as_str(),
        None if is_uuid(org) && !org.eq_ignore_ascii_case(named) => org,
        _ if org.eq_ignore_ascii_case(named) => return Ok(None),
        _ => {
            return Ok(Some(format!(
                "org_id {org:?} is not Astra's id of the organization, which is {named:?}; the engine takes it as a label"
            )));
        }
    };
    // The organization of a label does not change: its tokens could not be revoked any more.
    let or = if expected == org { "" } else { ", or delete the config and write it again" };
    Err(Error::field(
        ASTRA_TOKEN,
        format!("belongs to org_id {named:?}, not to {expected:?}; give a root token of this organization{or}"),
    ))
}

/// Asks Astra whose root token it is.
pub(super) async fn verify(engine: &Engine, config: &Config) -> Result<Verified, Error> {
    let asked = match engine.new_client(config).await {
        Ok(client) => client.current_org().await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(named) => Ok(Verified::Org(named)),
        Err(error) if error.is_undetermined() => Ok(Verified::Undetermined),
        Err(error) if error.kind == Kind::RootToken => Err(Error::field(
            ASTRA_TOKEN,
            format!("is refused: {}; give a live root token of this organization", error.what()),
        )),
        Err(error) => Err(Error::Refused(format!(
            "could not verify the root token: {}; check url and ca_cert, or skip the check with verify_connection=false",
            error.what()
        ))),
    }
}
