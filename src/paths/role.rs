//! `role`: a name in the engine for one Astra role of one org.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use vault_plugin_sdk::framework::{Call, Change, Field, FieldSpec, Fields, Path, WRITES, format_duration};
use vault_plugin_sdk::logical::{self, Caller, Map, Operation, Response};

use super::role_ids::{ROLE_ID, ROLE_IDS, checked_role_id, has_role_ids, set_role_ids};
use super::role_metadata;
use super::shared::{
    self, Answered, Durations, ORG_ID, REPLACED, ROLE_NAME, Setting, Shown, detached, handler, missing, no_config,
    no_role, org_id, role_name, unreadable_role, written,
};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{OrgId, RoleName};
use crate::store::{DEFAULT_TTL, Role};

const TTL: Field<Duration> = Field::duration(
    "ttl",
    "How long a lease is valid before somebody must renew the lease. 0 means 24 hours. A longer ttl than max_ttl is cut to \
     max_ttl.",
)
.only(WRITES)
.shown("How long a lease is valid before somebody must renew the lease.");

const MAX_TTL: Field<Duration> = Field::duration(
    "max_ttl",
    "How long a token can exist, however often its lease is renewed. 0 means 24 hours. If the maximum of the mount is \
     shorter, that maximum applies.",
)
.only(WRITES)
.shown("How long a token can exist.");

const MAX_TOKENS: Field<i64> = Field::int(
    "max_tokens",
    "How many live tokens the role can have at the same time. At the limit, a mint fails until a token is revoked, is deleted \
     or expires. Existing tokens count. If a new limit is lower than their number, they stay. Without max_tokens, or with 0, \
     there is no limit. The highest limit is 100000.",
)
.only(WRITES)
.shown("How many live tokens the role can have at the same time. Missing if there is no limit.");

/// The settings, in the order of their checks.
pub(super) const SETTINGS: &[Setting<Role>] = &[
    Setting {
        field: ROLE_ID.spec(),
        show: |role| Some(Shown::Value(json!(role.role_id))),
        write: |fields, role, _| {
            match fields.change(&ROLE_ID) {
                Change::Keep => {}
                Change::Reset if fields.is_given(&ROLE_IDS) => {}
                Change::Reset => return Err(Error::field(ROLE_ID.name(), "cannot be removed; give another role_id")),
                Change::Set(id) => role.set_role_ids(vec![checked_role_id(ROLE_ID.name(), id)?]),
            }
            Ok(())
        },
    },
    Setting {
        field: ROLE_IDS.spec(),
        show: |role| Some(Shown::Value(json!(role.role_ids()))).filter(|_| role.has_several()),
        write: |fields, role, _| set_role_ids(fields, role),
    },
    Setting {
        field: TTL.spec(),
        show: |role| Some(Shown::Duration(role.ttl())),
        write: |fields, role, warnings| set_ttl(fields, &TTL, &mut role.ttl, warnings),
    },
    Setting {
        field: MAX_TTL.spec(),
        show: |role| Some(Shown::Duration(role.max_ttl())),
        write: |fields, role, warnings| {
            set_ttl(fields, &MAX_TTL, &mut role.max_ttl, warnings)?;
            if role.ttl > role.max_ttl {
                let (given, cut) = (format_duration(role.ttl), format_duration(role.max_ttl));
                warnings.push(format!("ttl of {given} is longer than max_ttl and was cut to {cut}"));
                role.ttl = role.max_ttl;
            }
            Ok(())
        },
    },
    Setting {
        field: MAX_TOKENS.spec(),
        show: |role| Some(Shown::Value(json!(role.max_tokens))).filter(|_| role.max_tokens > 0),
        write: |fields, role, _| {
            role.max_tokens = match fields.change(&MAX_TOKENS) {
                Change::Keep => role.max_tokens,
                Change::Reset => 0,
                Change::Set(limit) => Some(limit)
                    .filter(|limit| *limit <= HIGHEST_LIMIT)
                    .and_then(|limit| limit.try_into().ok())
                    .ok_or_else(|| Error::field(MAX_TOKENS.name(), format!("must be between 0 and {HIGHEST_LIMIT}")))?,
            };
            Ok(())
        },
    },
    role_metadata::REQUIRED,
    role_metadata::DEFAULTS,
];

const FIELDS: &[FieldSpec] = &shared::fields::<2, 9, Role>(
    [
        ORG_ID.required().shown("Id of the organization.").spec(),
        ROLE_NAME.required().shown("Name of the role in Vault.").spec(),
    ],
    SETTINGS,
);

/// The longest TTL of a role. Nanoseconds in 64 bits overflow after 292 years.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 365 * 86400);

/// The highest `max_tokens`. The engine keeps the client ids of a role with a limit in memory.
const HIGHEST_LIMIT: i64 = 100_000;

pub(crate) fn path() -> Path<Engine> {
    Path::new("role", FIELDS)
        .read(handler("Read a role", read).shows_fields())
        .write(detached("Write a role", write).on_active_node())
        .patch(detached("Change some settings of a role", write).on_active_node())
        .delete(detached("Delete a role", delete).on_active_node())
        .exists(exists)
        .help(
            "Manages one role: a name in Vault for one Astra role of an organization.",
            "The engine mints tokens for a role. The role names the Astra role, whose permissions the tokens get, and the TTLs of \
             the tokens. A write changes only the parameters that are given. Deleting a role does not change its tokens and \
             their leases.\n\
             \nExamples:\n    vault write <mount>/role org_id=$ORG_ID role_name=reader role_id=$ROLE_ID ttl=1h max_ttl=24h\n    \
             vault read <mount>/role org_id=$ORG_ID role_name=reader\n    \
             vault write <mount>/role org_id=$ORG_ID role_name=reader required_metadata=ticket \
             default_metadata='owner={{identity.entity.name}}'\n\n\
             To import all roles of Astra instead, write to roles/sync.",
        )
}

pub(super) async fn exists(engine: Arc<Engine>, call: Call) -> Result<bool, logical::Error> {
    // Every caller can reach this check, so errors in the request are reported later, to callers that can write.
    match names(&call.fields) {
        Ok((org, name)) => {
            let (role, damage) = readable(engine.store.role(&org, &name).await)?;
            Ok(role.is_some() || damage.is_some())
        }
        Err(_) => Ok(false),
    }
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let (org, name) = names(&call.fields)?;
    let Some(answer) = find(&engine, &org, &name, Durations::Text).await? else {
        require_new(&org, &name)?;
        return Err(Error::Refused(no_role(&call.request, &org, &name)));
    };
    Ok(Some(answer))
}

/// Returns the answer to a read of a role; `None` if there is no such role.
pub(super) async fn find(
    engine: &Engine,
    org: &OrgId,
    name: &RoleName,
    durations: Durations,
) -> Result<Option<Response>, Error> {
    let (role, damage) = readable(engine.store.role(org, name).await)?;
    if let Some(reason) = damage {
        return Err(Error::Unreadable(unreadable_role(org, name, &reason)));
    }
    let Some(role) = role else { return Ok(None) };
    let show = || {
        let mut shown = settings(&role, durations);
        shown.insert("org_id".to_owned(), json!(role.org_id));
        shown.insert("role_name".to_owned(), json!(role.role_name));
        shown
    };
    let text = role.answers.text(matches!(durations, Durations::Seconds), show);
    Ok(Some(Response::of_text(text)))
}

/// Returns the members of a role in answers, without its names.
pub(super) fn settings(role: &Role, durations: Durations) -> Map {
    shared::shown(SETTINGS, role, durations)
}

pub(super) async fn write(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let (org, name) = names(&fields)?;
    let _lock = engine.locks.role(&org, &name).await;
    let (old, damage) = readable(engine.store.role(&org, &name).await)?;
    if let Some(reason) = damage.as_ref()
        && (request.operation == Operation::Patch || !has_role_ids(&fields))
    {
        return Err(Error::Refused(unreadable_role(&org, &name, reason)));
    }
    let is_new = old.is_none() && damage.is_none();
    if is_new {
        require_new(&org, &name)?;
    }
    if is_new && request.operation == Operation::Patch {
        return Err(Error::NotFound(no_role(&request, &org, &name)));
    }
    let (role, mut warnings) = changed(old.as_deref(), org, name, &fields)?;
    if old.is_none() && !engine.store.has_config(&role.org_id).await? {
        warnings.push(no_config(&request, &role.org_id));
    }
    put(&engine, old.as_deref(), &role, &request.caller).await?;
    if damage.is_some() {
        if role.max_tokens == 0 {
            // The replaced role may have had a limit.
            engine.store.end_count(&role).await;
        }
        warnings.push(REPLACED.to_owned());
    }
    Ok(written(warnings))
}

pub(super) async fn delete(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let (org, name) = names(&fields)?;
    let _lock = engine.locks.role(&org, &name).await;
    let (role, damage) = readable(engine.store.role(&org, &name).await)?;
    if role.is_some() || damage.is_some() {
        require_unused(&engine, &org, &name).await?;
        engine.store.delete_role(&org, &name).await?;
        // A role that cannot be read may have a limit.
        if role.is_none_or(|role| role.max_tokens > 0) {
            engine.store.end_count(&Role::new(org.clone(), name.clone(), String::new())).await;
        }
        tracing::info!(org_id = %org, role_name = %name, display_name = request.caller.display_name,
            entity_id = request.caller.entity_id, "deleted role");
    } else {
        require_new(&org, &name)?;
    }
    Ok(None)
}

/// Fails if a static role uses the role.
async fn require_unused(engine: &Engine, org: &OrgId, name: &RoleName) -> Result<(), Error> {
    let (roles, unreadable) = engine.store.all_static_roles_of(org).await?;
    let name = name.as_str();
    if let Some(role) = roles.iter().find(|role| role.role_name.as_str() == name) {
        return Err(Error::Refused(format!(
            "the static role {:?} uses the role {name:?}; delete the static role or give it another role first",
            role.name.as_str(),
        )));
    }
    match unreadable.first() {
        Some(key) => Err(Error::Refused(format!(
            "the static role in {key:?} cannot be read and may use the role {name:?}; delete the static role first"
        ))),
        None => Ok(()),
    }
}

/// Stores a role on behalf of a caller. If the role gets a limit, counts its live tokens first, so that no mint has to
/// count them.
pub(super) async fn put(engine: &Engine, old: Option<&Role>, role: &Role, caller: &Caller) -> Result<(), Error> {
    let was_limited = old.is_some_and(|old| old.max_tokens > 0);
    if role.max_tokens > 0 && !was_limited {
        if !engine.store.inventory_is_complete().await? {
            return Err(Error::inventory_incomplete(Some("leave max_tokens out")));
        }
        {
            // After this lock, all stored tokens are in the inventory, and each later token is counted.
            let _no_token_stored = engine.locks.no_token_stored(&role.org_id).await;
            engine.store.begin_count(role);
        }
        engine.store.count(role).await?;
    }
    engine.store.put_role(role).await?;
    if role.max_tokens == 0 && was_limited {
        engine.store.end_count(role).await;
    }
    let role_ids = role.has_several().then(|| role.role_ids().join(","));
    tracing::info!(org_id = %role.org_id, role_name = %role.role_name, role_id = role.role_id, role_ids,
        ttl_seconds = role.ttl.as_secs(), max_ttl_seconds = role.max_ttl.as_secs(), max_tokens = role.max_tokens,
        display_name = caller.display_name, entity_id = caller.entity_id, "wrote role");
    Ok(())
}

/// Fails if a role with this name cannot be created.
fn require_new(org: &OrgId, name: &RoleName) -> Result<(), Error> {
    org.require_new(ORG_ID.name())?;
    Ok(name.require_new(ROLE_NAME.name())?)
}

fn names(fields: &Fields) -> Result<(OrgId, RoleName), Error> {
    Ok((org_id(fields)?, role_name(fields)?))
}

/// Applies a write to a role. Returns the new role and warnings.
fn changed(old: Option<&Role>, org: OrgId, name: RoleName, fields: &Fields) -> Result<(Role, Vec<String>), Error> {
    if let Some(old) = old {
        let stored = Role { ttl: old.ttl(), max_ttl: old.max_ttl(), ..old.clone() };
        return shared::changed(SETTINGS, fields, stored);
    }
    if !has_role_ids(fields) {
        return Err(missing(ROLE_ID.name()));
    }
    shared::changed(SETTINGS, &fields.for_new_object(), Role::new(org, name, String::new()))
}

/// Sets one of the TTLs of a role. A reset, or zero, gives the default and a warning.
fn set_ttl(
    fields: &Fields,
    field: &Field<Duration>,
    stored: &mut Duration,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    *stored = match fields.change(field) {
        Change::Keep => return Ok(()),
        Change::Set(ttl) if ttl > LONGEST_TTL => {
            return Err(Error::field(field.name(), "must not be longer than 100 years"));
        }
        Change::Set(ttl) if !ttl.is_zero() => ttl,
        Change::Set(_) | Change::Reset => {
            let default = format_duration(DEFAULT_TTL);
            warnings.push(format!("{} is not set; the default of {default} applies", field.name()));
            DEFAULT_TTL
        }
    };
    Ok(())
}
