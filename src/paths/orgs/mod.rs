//! The paths below `orgs/:org`: everything about one org, so that a policy can delegate one org.
//!
//! They run the handlers of the guide's paths, which take the org from a parameter. They differ in three points: an object
//! that does not exist is a 404 to a read and a 204 to a delete, durations are whole seconds, and what a read shows can be
//! written back.
//!
//! Architecture invariant: an org has one name in paths, because policies compare paths letter by letter.

mod config;
mod roles;
mod static_roles;
mod tidy;
mod tokens;

use std::future::Future;
use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Fields, Path, WRITES};
use vault_plugin_sdk::logical::{Operation, Request, Response};

use super::configs;
use super::org::{self, ORG};
use super::shared::{self, Answered, detached, handler, mount, object, unreadable_entries};
use super::{rotate_root, sync};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::OrgId;

/// The `org_id` that a read shows. Clients write it back.
const ORG_ID: Field<String> = Field::string(
    shared::ORG_ID.name(),
    "Id of the organization, as a read shows it. The path already names the organization, so another id is an error.",
)
.only(WRITES);

const FIELDS: &[FieldSpec] = &[ORG.spec()];

/// Returns the paths.
pub(super) fn paths() -> [Path<Engine>; 11] {
    [
        list_path(),
        config::path(),
        rotate_path(),
        sync_path(),
        tidy::path(),
        roles::list_path(),
        roles::path(),
        static_roles::list_path(),
        static_roles::path(),
        tokens::list_path(),
        tokens::path(),
    ]
}

fn list_path() -> Path<Engine> {
    Path::new("orgs/?", &[])
        .list(handler("List the organizations by their names in paths", list).returns(&[
            ("keys", "Names of the organizations in paths: the logical name if it fits into a path, else the org_id."),
            ("key_info", "For each name: org_id, logical_name and caller_mode."),
        ]))
        .help(
            "Lists the organizations that have a config, by their names in paths.",
            "Each organization has one name in the paths below \"orgs\" and \"creds\": its logical name, if it fits into a path, \
             else its org_id.\n\nExample:\n    vault list -detailed <mount>/orgs",
        )
}

async fn list(engine: Arc<Engine>, _call: Call) -> Answered {
    let (configs, unreadable) = configs::all(&engine).await?;
    let shown = |(org, config): configs::Listed| {
        let Some(config) = config else { return (org.to_string(), json!({ "org_id": org })) };
        let name = config.path_name().unwrap_or(org.as_str()).to_owned();
        let info = object([
            ("caller_mode", json!(config.caller_mode.as_str())),
            ("logical_name", json!(config.logical_name)),
            ("org_id", json!(org)),
        ]);
        (name, Value::Object(info))
    };
    let mut entries: Vec<(String, Value)> = configs.into_iter().map(shown).collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Some(Response::list_with_info(entries).warnings(unreadable_entries(&unreadable))))
}

fn rotate_path() -> Path<Engine> {
    let run = |engine: Arc<Engine>, call: Call| within(engine, call, rotate_root::run);
    Path::new("orgs/(?P<org>[^/]+)/rotate-root", FIELDS)
        .operation(
            Operation::Update,
            detached("Replace the root token of the organization", run).returns(rotate_root::ROTATED).on_active_node(),
        )
        .help(
            "Replaces the root token of the organization with a new root token that nobody has seen.",
            "Does the same as config/rotate-root for the organization in the path.\n\nExample:\n    \
             vault write -f <mount>/orgs/retail/rotate-root",
        )
}

fn sync_path() -> Path<Engine> {
    let run = |engine: Arc<Engine>, call: Call| within(engine, call, sync::sync_one);
    Path::new("orgs/(?P<org>[^/]+)/sync-roles", FIELDS)
        .operation(
            Operation::Update,
            handler("Import the roles of Astra for the organization", run).on_active_node().returns(sync::REPORT),
        )
        .help(
            "Imports the roles of the organization from Astra.",
            "Does the same as roles/sync for the organization in the path.\n\nExample:\n    \
             vault write -f <mount>/orgs/retail/sync-roles",
        )
}

/// Runs the handler of the guide's path for the org that the path names.
async fn within<F, Fut>(engine: Arc<Engine>, mut call: Call, run: F) -> Answered
where
    F: FnOnce(Arc<Engine>, Call) -> Fut,
    Fut: Future<Output = Answered>,
{
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    call.fields = call.fields.with_text(&ORG_ID, org.as_str());
    run(engine, call).await
}

/// Returns the org that the path names; `None` if no org has this name.
async fn find(engine: &Engine, request: &Request, fields: &Fields) -> Result<Option<OrgId>, Error> {
    let name = fields.get(&ORG).unwrap_or_default();
    let rest = request.path.splitn(3, '/').nth(2).map_or_else(String::new, |rest| format!("/{rest}"));
    org::of_path(engine, &name, |right| format!("{}/orgs/{right}{rest}", mount(request))).await
}

/// Fails if the request has the id of another org than the path.
fn require_same_org(fields: &Fields, org: &OrgId) -> Result<(), Error> {
    match fields.get(&ORG_ID) {
        Some(given) if given != org.as_str() => Err(Error::field(
            ORG_ID.name(),
            format!("is not the id of the organization in the path, which is {:?}; leave org_id out", org.as_str()),
        )),
        _ => Ok(()),
    }
}

/// Returns the answer to a request about an org that does not exist: 404 to a read, 204 to a delete.
fn absent(call: &Call) -> Answered {
    let (mount, name) = (mount(&call.request), call.fields.get(&ORG).unwrap_or_default());
    let text = format!(
        "no organization has the logical_name or org_id {name:?}; see \"vault list {mount}/orgs\", or write a config with \
         \"vault write {mount}/orgs/{name} org_id=... astra_token=...\""
    );
    match call.request.operation {
        Operation::Read | Operation::List | Operation::Delete => Ok(None),
        Operation::Patch => Err(Error::NotFound(text)),
        _ => Err(Error::Refused(text)),
    }
}
