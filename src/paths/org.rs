//! The names by which paths refer to an org: its `org_id` and its logical name.

use vault_plugin_sdk::framework::Field;
use vault_plugin_sdk::logical::Request;

use super::shared::{ORG_ID, mount};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{OrgId, validate_name};
use crate::store::Config;

/// The name of the org in a path.
pub(super) const ORG: Field<String> = Field::string(
    "org",
    "Logical name of the organization, if the name fits into a path: ASCII letters, digits and \"_\", and \"-\" and \".\" \
     between those. Otherwise the org_id. Letter case matters.",
);

/// Returns the org whose name in paths is exactly `name`; `None` if there is no such org. `path` returns the path of the
/// request with another name of the org.
///
/// # Errors
/// If the org has another name in paths. Policies compare paths letter by letter, so an org has one name in paths.
pub(super) async fn of_path(
    engine: &Engine,
    name: &str,
    path: impl Fn(&str) -> String,
) -> Result<Option<OrgId>, Error> {
    validate_name(ORG.name(), name)?;
    let called = engine.store.orgs_called(name).await?;
    if called.len() > 1 {
        return Err(Error::Refused(format!(
            "{name:?} is the logical_name or the org_id of several organizations; give these organizations different \
             logical_names"
        )));
    }
    let mut meant = if called.is_empty() { engine.store.orgs_like(name).await? } else { called };
    let (Some(id), true) = (meant.pop(), meant.is_empty()) else { return Ok(None) };
    let (config, damage) = readable(engine.store.config(&id).await)?;
    let right = match &config {
        Some(config) => config.path_name(),
        // The names of a config that cannot be read are not known.
        None if damage.is_some() => Some(id.as_str()),
        None => return Ok(None),
    };
    match right {
        Some(right) if right == name => Ok(Some(id)),
        Some(right) => Err(another_spelling(&path(right))),
        None => Err(Error::Refused(format!(
            "org_id {:?} does not fit into a path; give the organization a logical_name of letters, digits and \"_\", and \"-\" \
             and \".\" between those",
            id.as_str()
        ))),
    }
}

/// Returns the error for a path that has another spelling than the right one.
pub(super) fn another_spelling(right: &str) -> Error {
    Error::Refused(format!("this path is another spelling of {right:?}; use that path"))
}

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
