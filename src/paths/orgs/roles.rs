//! `orgs/:org/roles`: the roles of the org.

use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path};
use vault_plugin_sdk::logical::Response;

use super::{FIELDS as LIST_FIELDS, ORG_ID, absent, find, require_same_org, within};
use crate::engine::Engine;
use crate::names::RoleName;
use crate::paths::org::ORG;
use crate::paths::shared::{self, Answered, Durations, detached, handler, unreadable_entries};
use crate::paths::{role, roles};
use crate::store::Role;

const ROLE_NAME: Field<String> =
    Field::lowercase(shared::ROLE_NAME.name(), "Name of the role in Vault, in lower case.").aliases(&["role"]);

const FIELDS: &[FieldSpec] = &shared::fields::<3, 10, Role>(
    [ORG.spec(), ORG_ID.shown("Id of the organization.").spec(), ROLE_NAME.shown("Name of the role in Vault.").spec()],
    role::SETTINGS,
);

pub(super) fn list_path() -> Path<Engine> {
    Path::new("orgs/(?P<org>[^/]+)/roles/?", LIST_FIELDS)
        .list(handler("List the roles of the organization", list).returns(&[
            ("keys", "Names of the roles."),
            ("key_info", "For each name: role_id, ttl and max_ttl in seconds, and max_tokens, required_metadata and default_metadata if set."),
        ]))
        .help(
            "Lists the roles of the organization.",
            "key_info shows the settings of each role.\n\nExample:\n    vault list -detailed <mount>/orgs/retail/roles",
        )
}

pub(super) fn path() -> Path<Engine> {
    let write = |engine: Arc<Engine>, call: Call| async move {
        if let Some(org) = find(&engine, &call.request, &call.fields).await? {
            require_same_org(&call.fields, &org)?;
        }
        within(engine, call, role::write).await
    };
    Path::new("orgs/(?P<org>[^/]+)/roles/(?P<role_name>[^/]+)", FIELDS)
        .one_spelling()
        .read(handler("Read a role of the organization", read).shows_fields())
        .write(detached("Write a role of the organization", write).on_active_node())
        .patch(detached("Change some settings of a role of the organization", write).on_active_node())
        .delete(
            detached("Delete a role of the organization", |engine, call| within(engine, call, role::delete))
                .on_active_node(),
        )
        .exists(|engine: Arc<Engine>, mut call: Call| async move {
            // Every caller can reach this check, so errors in the request are reported later, to callers that can write.
            match find(&engine, &call.request, &call.fields).await {
                Ok(Some(org)) => {
                    call.fields = call.fields.with_text(&ORG_ID, org.as_str());
                    role::exists(engine, call).await
                }
                Err(error) if error.is_of_host() => Err(error.into()),
                Ok(None) | Err(_) => Ok(false),
            }
        })
        .help(
            "Manages one role of the organization.",
            "The same role as at the path role, with organization and role in the path. A read shows durations in seconds, and \
             what a read shows can be written back.\n\nExamples:\n    \
             vault write <mount>/orgs/retail/roles/reader role_id=$ROLE_ID ttl=1h max_ttl=24h\n    \
             vault read <mount>/orgs/retail/roles/reader",
        )
}

async fn list(engine: Arc<Engine>, call: Call) -> Answered {
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    let (roles, unreadable) = roles::all(&engine, Some(&org)).await?;
    let shown = |(_, name, role): roles::Listed| {
        let info = role.map_or_else(|| json!({}), |role| Value::Object(role::settings(&role, Durations::Seconds)));
        (name.to_string(), info)
    };
    Ok(Some(Response::list_with_info(roles.into_iter().map(shown)).warnings(unreadable_entries(&unreadable))))
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    let name = RoleName::find(ROLE_NAME.name(), &call.fields.get(&ROLE_NAME).unwrap_or_default())?;
    role::find(&engine, &org, &name, Durations::Seconds).await
}
