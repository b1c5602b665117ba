//! `orgs/:org/static-roles`: tokens without a lease that a schedule replaces.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Change, Field, FieldSpec, Path, WRITES};
use vault_plugin_sdk::logical::{self, Map, Operation, Request, Response};

use super::{FIELDS as LIST_FIELDS, absent, find};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::metadata;
use crate::names::{OrgId, RoleName, fits_path};
use crate::paths::org::{ORG, another_spelling};
use crate::paths::shared::{Answered, detached, handler, missing, mount, no_role, object, unreadable_entries, written};
use crate::paths::token;
use crate::statics;
use crate::store::{CurrentToken, Metadata, Overlap, Record, StaticRole, static_role_key};

const NAME: Field<String> = Field::string("name", "Name of the static role, in lower case.");

const ROLE: Field<String> = Field::lowercase(
    "role",
    "Name of a role of the organization in Vault. Required for a new static role. Another role takes \
     effect at once, with a rotation.",
)
.only(WRITES)
.shown("Name of the role in Vault.");

const ROTATION_PERIOD: Field<Duration> = Field::duration(
    "rotation_period",
    "How long a token is the current one before the next token replaces it. At least 1m. Required for a new static role.",
)
.only(WRITES)
.shown("How long a token is the current one before the next token replaces it, in seconds.");

const OVERLAP: Field<Duration> = Field::duration(
    "overlap",
    "How long a replaced token stays live, so that its users have time to fetch the next one. At most half of \
     rotation_period. Without overlap, a tenth of rotation_period.",
)
.only(WRITES)
.shown("How long a replaced token stays live, in seconds.");

const METADATA: Field<Metadata> =
    token::METADATA.only(WRITES).shown("Key=value pairs of the tokens, without the default_metadata of the role.");

const ROTATE: Field<bool> = Field::bool("rotate", "Whether to replace the token now. This parameter is not stored.")
    .only(WRITES)
    .default("false");

/// The members that only a read has. Clients write them back.
const LAST: Field<String> = shown_only("last_vault_rotation", "When the current token became the current one.");
const NEXT: Field<String> = shown_only("next_vault_rotation", "When the next token replaces the current one.");
const CLIENT_ID: Field<String> = shown_only("client_id", "Client id of the current token.");
const PREVIOUS: Field<String> =
    shown_only("previous_client_id", "Client id of the previous token. Empty if it is deleted.");
const PREVIOUS_END: Field<String> =
    shown_only("previous_expires_at", "When the engine deletes the previous token. Empty if it is deleted.");

const fn shown_only(name: &'static str, description: &'static str) -> Field<String> {
    Field::string(name, "As a read shows it. The engine sets this value, and ignores the value in a write.")
        .only(WRITES)
        .shown(description)
}

const FIELDS: &[FieldSpec] = &[
    ORG.spec(),
    NAME.spec(),
    ROLE.spec(),
    ROTATION_PERIOD.spec(),
    OVERLAP.spec(),
    METADATA.spec(),
    ROTATE.spec(),
    LAST.spec(),
    NEXT.spec(),
    CLIENT_ID.spec(),
    PREVIOUS.spec(),
    PREVIOUS_END.spec(),
];

/// The shortest `rotation_period`.
const SHORTEST: Duration = Duration::from_secs(60);

/// The longest `rotation_period`. Nanoseconds in 64 bits overflow after 292 years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86400);

pub(super) fn list_path() -> Path<Engine> {
    Path::new("orgs/(?P<org>[^/]+)/static-roles/?", LIST_FIELDS)
        .list(
            handler("List the static roles of the organization", list)
                .returns(&[("keys", "Names of the static roles."), ("key_info", "For each name: what a read shows.")]),
        )
        .help(
            "Lists the static roles of the organization.",
            "key_info shows the settings and the times of each static role, and never a token.\n\nExample:\n    \
             vault list -detailed <mount>/orgs/retail/static-roles",
        )
}

pub(super) fn path() -> Path<Engine> {
    Path::new("orgs/(?P<org>[^/]+)/static-roles/(?P<name>[^/]+)", FIELDS)
        .read(handler("Read a static role", read).shows_fields())
        .write(detached("Write a static role", write).on_active_node())
        .patch(detached("Change some settings of a static role", write).on_active_node())
        .delete(detached("Delete a static role and its tokens", delete).on_active_node())
        .exists(exists)
        .help(
            "Manages one static role: a token without a lease that a schedule replaces.",
            "For programs that cannot renew a lease: variables of CI systems, connectors of other services. A new static role \
             has its first token at once. Read the current token at static-creds/:org/:name. After each rotation_period, the \
             engine mints, checks and stores the next token. It deletes the old token after the overlap. If Astra cannot \
             be reached, the current token stays, and the engine tries again. Deleting the static role deletes its tokens.\n\
             \nExamples:\n    \
             vault write <mount>/orgs/retail/static-roles/ci role=reader rotation_period=24h overlap=1h\n    \
             vault write <mount>/orgs/retail/static-roles/ci rotate=true\n    \
             vault read <mount>/static-creds/retail/ci",
        )
}

async fn exists(engine: Arc<Engine>, call: Call) -> Result<bool, logical::Error> {
    // Every caller can reach this check, so errors in the request are reported later, to callers that can write.
    let found = async {
        let Some((org, name)) = names(&engine, &call).await? else { return Ok(false) };
        let (role, damage) = readable(engine.store.static_role(&org, &name).await)?;
        Ok(role.is_some_and(|role| !role.is_deleted) || damage.is_some())
    };
    match found.await {
        Err(Error::Storage(error)) => Err(Error::Storage(error).into()),
        Err(error @ Error::Host(_)) => Err(error.into()),
        Ok(found) => Ok(found),
        Err(_) => Ok(false),
    }
}

/// Returns the org and the name in the path; `None` if no org has this name.
async fn names(engine: &Engine, call: &Call) -> Result<Option<(OrgId, RoleName)>, Error> {
    let Some(org) = find(engine, &call.request, &call.fields).await? else { return Ok(None) };
    let given = call.fields.get(&NAME).unwrap_or_default();
    let name = RoleName::find(NAME.name(), &given)?;
    if name.as_str() != given {
        let org = call.fields.get(&ORG).unwrap_or_default();
        return Err(another_spelling(&format!("{}/orgs/{org}/static-roles/{name}", mount(&call.request))));
    }
    Ok(Some((org, name)))
}

async fn list(engine: Arc<Engine>, call: Call) -> Answered {
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    let (roles, unreadable) = engine.store.all_static_roles_of(&org).await?;
    let listed = roles.iter().filter(|role| !role.is_deleted);
    let entries = listed.map(|role| (role.name.to_string(), Value::Object(shown(role))));
    Ok(Some(Response::list_with_info(entries).warnings(unreadable_entries(&unreadable))))
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let Some((org, name)) = names(&engine, &call).await? else { return absent(&call) };
    let (role, damage) = readable(engine.store.static_role(&org, &name).await)?;
    if let Some(reason) = damage {
        return Err(unreadable(&org, &name, &reason));
    }
    Ok(role.filter(|role| !role.is_deleted).map(|role| Response::new(shown(&role))))
}

async fn write(engine: Arc<Engine>, call: Call) -> Answered {
    let Some((org, name)) = names(&engine, &call).await? else { return absent(&call) };
    let (request, fields) = (&call.request, &call.fields);
    let _lock = engine.locks.static_role(&org, &name).await;
    let (old, damage) = readable(engine.store.static_role(&org, &name).await)?;
    if let Some(reason) = damage {
        return Err(unreadable(&org, &name, &reason));
    }
    if old.as_ref().is_some_and(|role| role.is_deleted) {
        return Err(Error::NotYet(format!("the static role {:?} is being deleted; try again later", name.as_str())));
    }
    let mut role = match &old {
        Some(role) => role.clone(),
        None if request.operation == Operation::Patch => {
            return Err(Error::NotFound(no_static_role(request, &fields.get(&ORG).unwrap_or_default(), &name)));
        }
        None => new(&call, org, name)?,
    };
    let warnings = apply(&call, &mut role)?;
    let Some(minted) = engine.store.role(&role.org_id, &role.role_name).await? else {
        return Err(Error::field(ROLE.name(), no_role(request, &role.org_id, &role.role_name)));
    };
    role.token_metadata = metadata::complete(&engine, &minted, role.metadata.clone(), &request.caller).await?;
    (role.display_name, role.entity_id) = (request.caller.display_name.clone(), request.caller.entity_id.clone());
    request.mount_point.clone_into(&mut role.mount_point);
    let is_rotated = fields.get(&ROTATE).unwrap_or_default()
        // Somebody may have deleted the token.
        || !engine.store.has_current_token(&role).await?
        || old.as_ref().is_some_and(|old| old.role_name != role.role_name);
    let role = match is_rotated {
        true => statics::rotate(&engine, role).await?,
        false => {
            if old.is_some_and(|old| (old.rotation_period, old.overlap()) != (role.rotation_period, role.overlap())) {
                plan_again(&engine, &mut role).await?;
            }
            engine.store.put_static_role(&role).await?;
            role
        }
    };
    statics::arm(&engine);
    tracing::info!(org_id = %role.org_id, static_role = %role.name, role_name = %role.role_name,
        display_name = role.display_name, entity_id = role.entity_id, "wrote static role");
    Ok(written(warnings))
}

/// Plans the next rotation again, because the period or the overlap has changed. The current token may expire in Astra before
/// the end of a longer period.
async fn plan_again(engine: &Engine, role: &mut StaticRole) -> Result<(), Error> {
    let Some(current) = role.current.clone() else { return Ok(()) };
    let (record, _) = readable(engine.store.record(&role.org_id, &current.client_id).await)?;
    let expiry = record.as_ref().and_then(Record::expiry);
    let until = statics::until(role, current.since, expiry);
    role.current = Some(CurrentToken { until, ..current });
    Ok(())
}

/// Returns a new static role, without its settings.
fn new(call: &Call, org_id: OrgId, name: RoleName) -> Result<StaticRole, Error> {
    name.require_new(NAME.name())?;
    if !fits_path(name.as_str()) {
        let reason =
            "does not fit into a path, which takes letters, digits and \"_\", and \"-\" and \".\" between those";
        return Err(Error::field(NAME.name(), reason));
    }
    for (field, is_given) in
        [(ROLE.name(), call.fields.is_given(&ROLE)), (ROTATION_PERIOD.name(), call.fields.is_given(&ROTATION_PERIOD))]
    {
        if !is_given {
            return Err(missing(field));
        }
    }
    Ok(StaticRole::new(org_id, name))
}

/// Applies a write to the settings of a static role. Returns warnings.
fn apply(call: &Call, role: &mut StaticRole) -> Result<Vec<String>, Error> {
    let fields = &call.fields;
    match fields.change(&ROLE) {
        Change::Keep => {}
        Change::Reset => return Err(Error::field(ROLE.name(), "cannot be removed; name another role")),
        Change::Set(name) => role.role_name = RoleName::find(ROLE.name(), &name)?,
    }
    match fields.change(&ROTATION_PERIOD) {
        Change::Keep => {}
        Change::Set(period) if (SHORTEST..=LONGEST).contains(&period) => role.rotation_period = period,
        _ => return Err(Error::field(ROTATION_PERIOD.name(), "must be between 1m and 100 years")),
    }
    match fields.change(&OVERLAP) {
        Change::Keep => {}
        Change::Reset => role.overlap = None,
        Change::Set(overlap) => role.overlap = Some(Overlap(overlap)),
    }
    if role.overlap() > role.rotation_period / 2 {
        return Err(Error::field(OVERLAP.name(), "must be at most half of rotation_period"));
    }
    fields.apply(&METADATA, &mut role.metadata);
    let before = shown(role);
    let is_ignored = |field: &Field<String>| {
        let given = fields.is_given(field).then(|| fields.get(field)).flatten();
        given.is_some_and(|given| before.get(field.name()).and_then(Value::as_str) != Some(given.as_str()))
    };
    let ignored = [LAST, NEXT, CLIENT_ID, PREVIOUS, PREVIOUS_END].into_iter().filter(|field| is_ignored(field));
    Ok(ignored.map(|field| format!("{} is set by the engine, and this value was ignored", field.name())).collect())
}

async fn delete(engine: Arc<Engine>, call: Call) -> Answered {
    let Some((org, name)) = names(&engine, &call).await? else { return absent(&call) };
    let _lock = engine.locks.static_role(&org, &name).await;
    let (role, damage) = readable(engine.store.static_role(&org, &name).await)?;
    match (role, damage) {
        (Some(role), _) => statics::delete(&engine, role).await?,
        (None, Some(_)) => statics::delete_unreadable(&engine, &org, &name).await?,
        (None, None) => {}
    }
    Ok(None)
}

/// Returns the members of a static role. Never shows a token.
fn shown(role: &StaticRole) -> Map {
    let current = role.current.as_ref();
    let time = |time: Option<jiff::Timestamp>| json!(time.map(|time| time.to_string()).unwrap_or_default());
    let previous = role.previous();
    object([
        (CLIENT_ID.name(), json!(current.map(|current| current.client_id.as_str()).unwrap_or_default())),
        (LAST.name(), time(current.map(|current| current.since))),
        (METADATA.name(), json!(role.metadata)),
        (NEXT.name(), time(current.map(|current| current.until))),
        (OVERLAP.name(), json!(role.overlap().as_secs())),
        (PREVIOUS.name(), json!(previous.map(|former| former.client_id.as_str()).unwrap_or_default())),
        (PREVIOUS_END.name(), time(previous.map(|former| former.until))),
        (ROLE.name(), json!(role.role_name)),
        (ROTATION_PERIOD.name(), json!(role.rotation_period.as_secs())),
    ])
}

pub(in crate::paths) fn no_static_role(request: &Request, org: &str, name: &RoleName) -> String {
    let mount = mount(request);
    format!(
        "no static role {:?}; write one with \"vault write {mount}/orgs/{org}/static-roles/{name} role=... \
         rotation_period=...\", or see \"vault list {mount}/orgs/{org}/static-roles\"",
        name.as_str()
    )
}

fn unreadable(org: &OrgId, name: &RoleName, reason: &Error) -> Error {
    let key = static_role_key(org, name);
    Error::Unreadable(format!("the static role in {key:?} cannot be read: {reason}; delete it and write it again"))
}
