//! The names by which paths refer to an org: its `org_id` and its logical name.

use vault_plugin_sdk::logical::Request;

use super::shared::{ORG_ID, mount};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::OrgId;
use crate::store::Config;

/// Returns the org with this logical name.
pub(super) async fn named(engine: &Engine, request: &Request, name: &str) -> Result<OrgId, Error> {
    let mut orgs = engine.store.orgs_named(name).await?;
    match orgs.len() {
        1 => Ok(orgs.remove(0)),
        0 => Err(Error::Refused(format!(
            "no config with logical_name {name:?}; see \"vault list {}/configs\" and read by org_id",
            mount(request)
        ))),
        _ => Err(Error::field("logical_name", format!("{name:?} belongs to several organizations; read by org_id"))),
    }
}

/// Fails if another org has one of the names of this config. Paths refer to orgs by logical name or `org_id`.
pub(super) async fn require_free_names(engine: &Engine, old: Option<&Config>, new: &Config) -> Result<(), Error> {
    let (id, name) = (new.org_id.as_str(), &new.logical_name);
    let another = |orgs: Vec<OrgId>| orgs.into_iter().find(|org| *org != new.org_id);
    if old.is_none()
        && let Some(other) = another(engine.store.orgs_named(id).await?)
    {
        let other = other.as_str();
        let reason = format!(
            "{id:?} is the logical_name of org_id {other:?}; give that organization another logical_name first"
        );
        return Err(Error::field(ORG_ID.name(), reason));
    }
    if name.is_empty() {
        return Ok(());
    }
    match another(engine.store.orgs_called(name).await?) {
        None => Ok(()),
        Some(other) => Err(Error::field(
            "logical_name",
            format!(
                "{name:?} already names the organization with org_id {:?}; choose another logical_name",
                other.as_str()
            ),
        )),
    }
}
