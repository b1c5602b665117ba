//! `orgs/:org`: the config of the org.

use std::sync::Arc;

use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path, WRITES};
use vault_plugin_sdk::logical::{self, Operation};

use super::{absent, find, require_same_org, within};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::identity::is_uuid;
use crate::names::{OrgId, fits_path};
use crate::paths::config::{self, DATE_FIELDS, LOGICAL_NAME, SETTINGS, UNSTORED, ignored};
use crate::paths::org::ORG;
use crate::paths::shared::{self, Answered, Durations, detached, handler, mount, unreadable_config};
use crate::store::Config;

const ORG_ID: Field<String> = Field::string(
    shared::ORG_ID.name(),
    "Id of the Astra organization. Required for a new config, unless the path has the id, which must be a UUID then. With \
     org_id, the path has the logical name of the new config. Cannot be changed later.",
)
.only(WRITES)
.shown("Id of the organization.");

/// The member that only a read has. Clients write it back.
const ASTRA_ORG_ID: Field<String> = Field::string(
    "astra_org_id",
    "Astra's id of the organization, as a read shows it. The engine sets this value, and ignores the value in a write.",
)
.only(WRITES)
.shown("Astra's id of the organization. Empty until Astra has named the organization.");

const FIELDS: &[FieldSpec] = &shared::fields::<10, 19, Config>(
    [
        ORG.spec(),
        ORG_ID.spec(),
        ASTRA_ORG_ID.spec(),
        UNSTORED[0],
        UNSTORED[1],
        UNSTORED[2],
        DATE_FIELDS[0],
        DATE_FIELDS[1],
        DATE_FIELDS[2],
        DATE_FIELDS[3],
    ],
    SETTINGS,
);

pub(super) fn path() -> Path<Engine> {
    Path::new("orgs/(?P<org>[^/]+)", FIELDS)
        .read(handler("Read the config of the organization", read).shows_fields())
        .write(detached("Write the config of the organization", write).on_active_node())
        .patch(detached("Change some settings of the config of the organization", write).on_active_node())
        .delete(
            detached("Delete the config of the organization", |engine, call| within(engine, call, config::delete))
                .on_active_node(),
        )
        .exists(exists)
        .help(
            "Manages the root token and the settings of the organization.",
            "The same config as at the path config, with the organization in the path. For a new config with org_id, the path \
             has its logical name. For a new config without a logical name, the path has its org_id, which must be a UUID. A read \
             shows durations in seconds. What a read shows can be written back: the beginning of the root token keeps the \
             stored one. A write of another logical_name renames the organization, and with it the paths.\n\nExamples:\n    \
             vault write <mount>/orgs/retail org_id=$ORG_ID astra_token=$ROOT_TOKEN\n    \
             vault read <mount>/orgs/retail\n    vault patch <mount>/orgs/retail request_timeout=10s\n    \
             vault write <mount>/orgs/retail org_id=$ORG_ID astra_token=$ROOT_TOKEN create_only=true",
        )
}

async fn exists(engine: Arc<Engine>, call: Call) -> Result<bool, logical::Error> {
    // Every caller can reach this check, so errors in the request are reported later, to callers that can write.
    match find(&engine, &call.request, &call.fields).await {
        Ok(found) => Ok(found.is_some()),
        Err(error) if error.is_of_host() => Err(error.into()),
        Err(_) => Ok(false),
    }
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    match readable(engine.store.config(&org).await)? {
        (Some(config), _) => Ok(Some(config::answer(&config, &call.request, Durations::Seconds))),
        (None, Some(reason)) => Err(Error::Unreadable(unreadable_config(&org, &reason))),
        (None, None) => absent(&call),
    }
}

async fn write(engine: Arc<Engine>, mut call: Call) -> Answered {
    let found = find(&engine, &call.request, &call.fields).await?;
    let name = call.fields.get(&ORG).unwrap_or_default();
    let org = match found {
        Some(org) => {
            require_same_org(&call.fields, &org)?;
            org
        }
        None if call.request.operation == Operation::Patch => return absent(&call),
        None => {
            let org = new_org(&engine, &call, &name).await?;
            if org.as_str() != name {
                call.fields = call.fields.with_text(&LOGICAL_NAME, name.as_str());
            }
            org
        }
    };
    call.fields = call.fields.with_text(&ORG_ID, org.as_str());
    let (mount, given) = (mount(&call.request).to_owned(), call.fields.clone());
    let before = readable(engine.store.config(&org).await)?.0;
    let answer = config::write(engine.clone(), call).await?;
    let Some(config) = engine.store.config(&org).await? else { return Ok(answer) };
    let renamed = config.path_name().filter(|right| *right != name).map(|right| {
        format!(
            "the paths of this organization are now {mount}/orgs/{right} and {mount}/creds/{right}, and policies must name \
             these paths"
        )
    });
    let astra_org_id = given.get(&ASTRA_ORG_ID).filter(|id| *id != config.astra_org_id).map(|_| ASTRA_ORG_ID.name());
    let ignored = astra_org_id.into_iter().chain(ignored(&given, [before.as_deref(), Some(&config)]));
    let ignored = ignored.map(|name| format!("{name} is set by the engine, and this value was ignored"));
    let warnings: Vec<String> = renamed.into_iter().chain(ignored).collect();
    Ok(match answer {
        Some(answer) => Some(answer.warnings(warnings)),
        None => shared::written(warnings),
    })
}

/// Returns the id of an org that a write creates.
///
/// # Errors
/// If the path would not be the path of the new org.
async fn new_org(engine: &Engine, call: &Call, name: &str) -> Result<OrgId, Error> {
    let field = ORG_ID.name();
    let id = match call.fields.get(&ORG_ID).filter(|id| !id.is_empty()) {
        Some(id) => id,
        None if is_uuid(name) => name.to_owned(),
        None => {
            let reason = "is required, unless the path has the id of the organization, which is a UUID";
            return Err(Error::field(field, reason));
        }
    };
    let org = OrgId::find(field, &id)?;
    let mount = mount(&call.request);
    match readable(engine.store.config(&org).await)? {
        (Some(config), _) => {
            let right = config.path_name().unwrap_or(org.as_str());
            return Err(Error::field(
                field,
                format!("{id:?} has a config already; its path is \"{mount}/orgs/{right}\""),
            ));
        }
        (None, Some(reason)) => {
            // Its logical name is not known, so its path has its org_id.
            let right = if fits_path(&id) { format!("orgs/{id}") } else { "config".to_owned() };
            return Err(Error::field(
                field,
                format!(
                    "{id:?} has a config already, which cannot be read: {reason}; its path is \"{mount}/{right}\": write the config \
                     again there with astra_token and with all settings, or delete it with force=true"
                ),
            ));
        }
        (None, None) => {}
    }
    if !fits_path(name) {
        let reason =
            "does not fit into a path, which takes letters, digits and \"_\", and \"-\" and \".\" between those";
        return Err(Error::field(ORG.name(), reason));
    }
    let label = if id == name { "" } else { name };
    match call.fields.get(&LOGICAL_NAME) {
        Some(given) if given != label && given != name => Err(Error::field(
            LOGICAL_NAME.name(),
            format!("must be the name in the path; use the path \"{mount}/orgs/{given}\", or leave logical_name out"),
        )),
        _ => Ok(org),
    }
}
