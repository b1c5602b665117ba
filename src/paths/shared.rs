//! Fields, checks and answers that several paths share.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Fields, Handler, format_duration};
use vault_plugin_sdk::logical::{Map, Request, Response};

use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{OrgId, RoleName};
use crate::store::Config;

/// The org of a config, a role or a token.
pub(super) const ORG_ID: Field<String> = Field::string(
    "org_id",
    "Id of the Astra organization, as in Astra's portal, or a label that you choose. Letter case matters. A new org_id must \
     not contain \"/\", \":\" or control characters.",
);

/// The role. The parameter `role` is an alias.
pub(super) const ROLE_NAME: Field<String> =
    Field::lowercase("role_name", "Name of the role in Vault. The engine lower-cases the name.").aliases(&["role"]);

/// How many entries a listing reads at the same time.
pub(super) const CONCURRENT_READS: usize = 32;

/// The answer of a handler.
pub(super) type Answered = Result<Option<Response>, Error>;

/// Declares a handler that answers with the engine's own errors.
pub(super) fn handler<F, Fut>(summary: &'static str, run: F) -> Handler<Engine>
where
    F: Fn(Arc<Engine>, Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answered> + Send + 'static,
{
    Handler::new(summary, move |engine: Arc<Engine>, call: Call| {
        let (operation, path) = (call.request.operation.as_str(), call.request.path.clone());
        let answer = run(engine.clone(), call);
        async move {
            answer.await.inspect_err(|error| {
                error.log(operation, &path);
                engine.metrics.failed(error);
            })
        }
    })
}

/// Declares a handler that continues if the caller hangs up. The host may still store the change, and the cache must
/// then be updated.
pub(super) fn detached<F, Fut>(summary: &'static str, run: F) -> Handler<Engine>
where
    F: Fn(Arc<Engine>, Call) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answered> + Send + 'static,
{
    handler(summary, run).detached()
}

/// Reads the org of a request.
pub(super) fn org_id(fields: &Fields) -> Result<OrgId, Error> {
    match fields.get(&ORG_ID) {
        Some(text) => Ok(OrgId::find(ORG_ID.name(), &text)?),
        None => Err(missing(ORG_ID.name())),
    }
}

/// Reads the org of a request. `None` means all orgs.
pub(super) fn optional_org_id(fields: &Fields) -> Result<Option<OrgId>, Error> {
    Ok(fields.get(&ORG_ID).map(|text| OrgId::find(ORG_ID.name(), &text)).transpose()?)
}

/// Reads the role of a request.
pub(super) fn role_name(fields: &Fields) -> Result<RoleName, Error> {
    match fields.get(&ROLE_NAME) {
        Some(text) => Ok(RoleName::find(ROLE_NAME.name(), &text)?),
        None => Err(missing(ROLE_NAME.name())),
    }
}

pub(super) fn missing(field: &'static str) -> Error {
    Error::field(field, "is required")
}

/// Returns the config of an org. If the org has no config, fails with status 400, because clients hide the text of a
/// 404.
pub(super) async fn require_config(engine: &Engine, request: &Request, org: &OrgId) -> Result<Arc<Config>, Error> {
    let (config, reason) = readable(engine.store.config(org).await)?;
    if let Some(config) = config {
        return Ok(config);
    }
    if let Some(reason) = reason {
        return Err(Error::Unreadable(unreadable_config(org, &reason)));
    }
    org.require_new(ORG_ID.name())?;
    Err(Error::Refused(no_config(request, org)))
}

pub(super) fn no_config(request: &Request, org: &OrgId) -> String {
    let (org, mount) = (org.as_str(), mount(request));
    format!("no config for org_id {org:?}; write one with \"vault write {mount}/config org_id={org} astra_token=...\"")
}

/// Returns the text about a config that cannot be read, for this reason.
pub(super) fn unreadable_config(org: &OrgId, reason: &Error) -> String {
    format!(
        "the config of org_id {:?} cannot be read: {reason}; write the config again with astra_token and with all settings, \
         or delete it with force=true",
        org.as_str()
    )
}

/// Returns the text about a role that cannot be read, for this reason.
pub(super) fn unreadable_role(org: &OrgId, role: &RoleName, reason: &Error) -> String {
    format!(
        "the role {:?} of org_id {:?} cannot be read: {reason}; write the role again with role_id and with all settings, or \
         delete it",
        role.as_str(),
        org.as_str()
    )
}

/// Returns the warning of a list or an import about entries that cannot be read.
pub(super) fn unreadable_entries(keys: &[String]) -> Option<String> {
    const NAMED: usize = 20;
    let named = keys.iter().take(NAMED).map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    let more = match keys.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!("these stored entries cannot be read: {named}{more}; write or delete these objects again");
    Some(text).filter(|_| !keys.is_empty())
}

/// The warning of a write that replaced an entry that could not be read.
pub(super) const REPLACED: &str =
    "the stored entry could not be read and was replaced; settings that were not given have their defaults";

pub(super) fn no_role(request: &Request, org: &OrgId, role: &RoleName) -> String {
    let mount = mount(request);
    format!(
        "no role {:?} for org_id {:?}; write one with \"vault write {mount}/role org_id={org} role_name={role} \
         role_id=...\", or see \"vault list {mount}/roles\"",
        role.as_str(),
        org.as_str()
    )
}

/// Returns the path of the mount as a user types it.
pub(super) fn mount(request: &Request) -> &str {
    match request.mount_point.trim_end_matches('/') {
        "" => "<mount>",
        mount => mount,
    }
}

/// Returns the answer of a write: nothing, or the warnings.
pub(super) fn written(warnings: Vec<String>) -> Option<Response> {
    if warnings.is_empty() { None } else { Some(Response::default().warnings(warnings)) }
}

pub(super) fn object<const N: usize>(members: [(&str, Value); N]) -> Map {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A setting of a stored object, declared once: its field, its member in answers, and how a write changes it.
pub(super) struct Setting<S: 'static> {
    /// The field of a request.
    pub(super) field: FieldSpec,
    /// Returns the member of an answer; `None` leaves the member out.
    pub(super) show: fn(&S) -> Option<Shown>,
    /// Changes the object as a request says, and adds warnings.
    pub(super) write: fn(&Fields, &mut S, &mut Vec<String>) -> Result<(), Error>,
}

/// Returns the fields of a path: first the other fields, then the settings.
pub(super) const fn fields<const N: usize, const M: usize, S>(
    others: [FieldSpec; N],
    settings: &[Setting<S>],
) -> [FieldSpec; M] {
    assert!(M == N + settings.len(), "the number of fields is wrong");
    let mut fields = [others[0]; M];
    let mut at = 0;
    while at < M {
        fields[at] = if at < N { others[at] } else { settings[at - N].field };
        at += 1;
    }
    fields
}

/// Applies a write to an object. Returns the new object and warnings.
pub(super) fn changed<S>(settings: &[Setting<S>], fields: &Fields, mut object: S) -> Result<(S, Vec<String>), Error> {
    let mut warnings = Vec::new();
    for setting in settings {
        (setting.write)(fields, &mut object, &mut warnings)?;
    }
    Ok((object, warnings))
}

/// A member of an answer.
pub(super) enum Shown {
    Value(Value),
    Duration(Duration),
}

/// How an answer writes durations.
#[derive(Clone, Copy)]
pub(super) enum Durations {
    /// As text, such as `1h`: the guide's paths.
    Text,
    /// As whole seconds, which a client can write back and compare: the paths below `orgs`.
    Seconds,
}

/// Returns the members of an answer.
pub(super) fn shown<S>(settings: &[Setting<S>], object: &S, durations: Durations) -> Map {
    let member = |setting: &Setting<S>| {
        let value = match (setting.show)(object)? {
            Shown::Value(value) => value,
            Shown::Duration(duration) => match durations {
                Durations::Text => json!(format_duration(duration)),
                Durations::Seconds => json!(duration.as_secs()),
            },
        };
        Some((setting.field.name.to_owned(), value))
    };
    settings.iter().filter_map(member).collect()
}
