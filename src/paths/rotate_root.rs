//! `config/rotate-root`: replaces the root token of an org.

use std::sync::Arc;

use serde_json::json;
use vault_plugin_sdk::framework::{Call, FieldSpec, Path};
use vault_plugin_sdk::logical::Response;

use super::shared::{Answered, ORG_ID, detached, mount, object, org_id, require_config};
use crate::engine::Engine;
use crate::rotate::{Rotated, rotate};

const FIELDS: &[FieldSpec] = &[ORG_ID.required().spec()];

/// What a rotation answers.
pub(super) const ROTATED: &[(&str, &str)] = &[("client_id", "Client id of the new root token.")];

pub(crate) fn path() -> Path<Engine> {
    Path::new("config/rotate-root", FIELDS)
        .write(
            detached("Replace the root token of an organization", run)
                .returns(ROTATED)
                .on_active_node(),
        )
        .help(
            "Replaces the root token of an organization with a new root token that nobody has seen.",
            "The engine mints a token with the Astra roles of the root token, checks the new token, stores it in the config, and \
             then deletes the old root token in Astra. Other programs that use the old root token stop working, so give the \
             engine its own root token. Mints, renewals and revocations continue during a rotation. The root token needs \
             the permissions org-token-read and org-token-write, which the Astra roles Organization Administrator and \
             Database Administrator have. The new root token gets the whole life of the old one, or no expiry if the old one has \
             none. No answer shows it; the answer holds its client id. The engine undoes or completes an interrupted rotation within some minutes. At any time, the config \
             holds a valid root token. With rotation_period on the config, the engine does this on its own.\n\nExample:\n    vault write <mount>/config/rotate-root org_id=$ORG_ID",
        )
}

pub(super) async fn run(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let org = org_id(&fields)?;
    // Rotations of an org run one after the other. Each replaces the root token that the config holds by then.
    let _lock = engine.locks.rotation(&org).await;
    let config = require_config(&engine, &request, &org).await?;
    let Rotated { old, new, old_left } = rotate(&engine, &config, mount(&request)).await?;
    tracing::info!(org_id = %org, client_id = %new, old_client_id = %old, display_name = request.caller.display_name,
        entity_id = request.caller.entity_id, "rotated root token");
    let mut response = Response::new(object([("client_id", json!(new))]));
    response.warnings.extend(old_left.map(|cause| {
        format!(
            "the old root token with client id {:?} could not be deleted in Astra, and the engine retries once a minute: \
             {cause}",
            old.as_str()
        )
    }));
    Ok(Some(response))
}
