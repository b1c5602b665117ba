//! `config/rotate-root`: replaces the root token of an org.

use std::sync::Arc;

use serde_json::json;
use vault_plugin_sdk::framework::{Call, FieldSpec, Path};
use vault_plugin_sdk::logical::Response;

use super::shared::{Answered, ORG_ID, detached, mount, object, org_id, require_config};
use crate::engine::Engine;
use crate::rotate::{Rotated, rotate};

const FIELDS: &[FieldSpec] = &[ORG_ID.required().spec()];

pub(crate) fn path() -> Path<Engine> {
    Path::new("config/rotate-root", FIELDS)
        .write(
            detached("Replace the root token of an organization", run)
                .returns(&[("client_id", "Client id of the new root token.")])
                .on_active_node(),
        )
        .help(
            "Replaces the root token of an organization by a new one that nobody has seen.",
            "Makes a token with the Astra roles of the root token, checks that it works, stores it in the config, and then \
             deletes the old root token in Astra. So whatever else used the old one stops working: give the engine a root \
             token of its own. Mints, renewals and revocations go on meanwhile. The root token needs the permissions \
             org-token-read and org-token-write, as those with the role Organization Administrator or Database \
             Administrator have. The new one is not given an expiry and is never shown; the answer holds its client id. A \
             rotation that is cut short is undone or finished by itself within some minutes, and the config holds a root \
             token that works all the time.\n\nExample:\n    vault write <mount>/config/rotate-root org_id=$ORG_ID",
        )
}

async fn run(engine: Arc<Engine>, call: Call) -> Answered {
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
            "the old root token with client id {:?} could not be deleted in Astra, and this is tried again once a minute: \
             {cause}",
            old.as_str()
        )
    }));
    Ok(Some(response))
}
