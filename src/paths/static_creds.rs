//! `static-creds/:org/:name`: the current token of a static role.

use std::sync::Arc;

use serde_json::json;
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path};
use vault_plugin_sdk::logical::Response;

use super::org::{self, ORG, another_spelling};
use super::shared::{Answered, handler, mount, object};
use crate::clock;
use crate::engine::Engine;
use crate::error::Error;
use crate::names::RoleName;
use crate::tokens::{note_read, shown_token};

const NAME: Field<String> = Field::string("name", "Name of the static role, in lower case.");

const FIELDS: &[FieldSpec] = &[ORG.spec(), NAME.spec()];

pub(crate) fn path() -> Path<Engine> {
    Path::new("static-creds/(?P<org>[^/]+)/(?P<name>[^/]+)", FIELDS)
        .read(handler("Read the current token of a static role", read).returns(&[
            ("clientId", "Client id of the token."),
            ("generatedOn", "When Astra minted the token."),
            ("last_vault_rotation", "When the token became the current one."),
            ("previous_client_id", "Client id of the previous token. Empty if it is deleted."),
            ("previous_expires_at", "When the engine deletes the previous token. Empty if it is deleted."),
            ("rotation_period", "How long a token is the current one, in seconds."),
            ("token", "The token."),
            ("ttl", "Seconds until the next token replaces this one. At least 1."),
        ]))
        .help(
            "Reads the current token of a static role.",
            "The answer has no lease. Read again after ttl seconds: agents do. A replaced token stays live for the \
             overlap of the static role.\n\nExample:\n    vault read <mount>/static-creds/retail/ci",
        )
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let (org, given) = (call.fields.get(&ORG).unwrap_or_default(), call.fields.get(&NAME).unwrap_or_default());
    let name = RoleName::find(NAME.name(), &given)?;
    let path = |org: &str| format!("{}/static-creds/{org}/{name}", mount(&call.request));
    let Some(org_id) = org::of_path(&engine, &org, path).await? else { return Ok(None) };
    if name.as_str() != given {
        return Err(another_spelling(&path(&org)));
    }
    let Some(role) = engine.store.static_role(&org_id, &name).await?.filter(|role| !role.is_deleted) else {
        return Ok(None);
    };
    let not_yet = || {
        Error::NotYet(format!(
            "the static role {:?} has no token now; the engine mints one, try again later",
            name.as_str()
        ))
    };
    let current = role.current.as_ref().ok_or_else(not_yet)?;
    let token = engine.store.token(current.client_id.as_str()).await?.ok_or_else(not_yet)?;
    if call.request.snapshot_id.is_none() {
        note_read(&engine, &org_id, &token.client_id, &call.request.caller).await?;
    }
    tracing::info!(org_id = %org_id, static_role = %name, client_id = %token.client_id,
        display_name = call.request.caller.display_name, entity_id = call.request.caller.entity_id, "read static token");
    let left = current.until.duration_since(clock::now()).as_secs().max(1);
    let previous = role.previous();
    Ok(Some(Response::new(object([
        ("clientId", json!(token.client_id)),
        ("generatedOn", json!(token.generated_on)),
        ("last_vault_rotation", json!(current.since.to_string())),
        ("previous_client_id", json!(previous.map(|former| former.client_id.as_str()).unwrap_or_default())),
        ("previous_expires_at", json!(previous.map(|former| former.until.to_string()).unwrap_or_default())),
        ("rotation_period", json!(role.rotation_period.as_secs())),
        ("token", shown_token(&token)),
        ("ttl", json!(left)),
    ]))))
}
