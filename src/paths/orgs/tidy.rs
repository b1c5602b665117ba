//! `orgs/:org/tidy`: compares Astra's list of the org's tokens with the inventory, and deletes the differences.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path};
use vault_plugin_sdk::logical::{Operation, Request, Response};

use super::{absent, find};
use crate::engine::Engine;
use crate::error::Error;
use crate::events::Occasion;
use crate::paths::org::ORG;
use crate::paths::shared::{Answered, handler, object, require_config, unreadable_entries};
use crate::statics;
use crate::tokens::{Cause, Ids, Tidied, TidyRequest, tidy};

const DRY_RUN: Field<bool> =
    Field::bool("dry_run", "Whether to show the differences and delete nothing.").default("true");

const SAFETY_BUFFER: Field<Duration> = Field::duration(
    "safety_buffer",
    "Leaves tokens and records alone that are younger than this, because a mint or a restore may be in progress. Can be 0.",
)
.default("2h");

const FORCE: Field<bool> = Field::bool(
    "force",
    "Whether to delete tokens although Astra does not list more than half of the inventory, and at least three tokens. First \
     check that url and astra_token of the config are right.",
)
.default("false");

const FIELDS: &[FieldSpec] = &[ORG.spec(), DRY_RUN.spec(), SAFETY_BUFFER.spec(), FORCE.spec()];

pub(super) fn path() -> Path<Engine> {
    Path::new("orgs/(?P<org>[^/]+)/tidy", FIELDS)
        .operation(
            Operation::Update,
            handler("Compare Astra with the inventory", run).on_active_node().returns(&[
                ("deleted", "Number of tokens that were deleted, in Astra or in Vault."),
                ("foreign", "Other tokens in Astra. They are never touched. Count, and at most 1000 client ids."),
                ("missing", "Tokens in the inventory that Astra does not list. Count, and at most 1000 client ids."),
                (
                    "unknown",
                    "Tokens in Astra that this mount minted and does not know. Count, and at most 1000 client ids.",
                ),
                (
                    "without_expiry",
                    "Tokens of this mount that do not expire in Astra. Count, and at most 1000 client ids.",
                ),
            ]),
        )
        .help(
            "Compares Astra's list of the tokens with the inventory, and deletes the differences.",
            "unknown has the tokens in Astra that this mount minted, and of which it has neither a record nor a WAL entry. \
             missing has the tokens in the inventory that Astra does not list. foreign has all other tokens in Astra, \
             without_expiry the tokens of this mount that do not expire in Astra. The root token of the config is in none of \
             these lists. With dry_run=false, the engine deletes unknown tokens in Astra and missing tokens in Vault. It never \
             deletes foreign tokens, and leaves tokens alone that are younger than safety_buffer. If Astra's list is empty or \
             cannot be read, nothing is deleted. If more than half of the inventory is missing, and at least three tokens, \
             dry_run=false is refused without force=true. A tidy starts deletions for 30 seconds; a warning says if it must be \
             repeated.\n\nWarning: a server that was restored from a backup is the same instance as the original server. \
             To each of the two servers, the tokens that the other one minted since the backup are unknown. As long as both \
             servers run, dry_run=false on one of them deletes tokens that the programs of the other one use.\n\nExamples:\n    \
             vault write -f <mount>/orgs/retail/tidy\n    vault write <mount>/orgs/retail/tidy dry_run=false",
        )
}

async fn run(engine: Arc<Engine>, call: Call) -> Answered {
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    let Call { request, fields, .. } = call;
    require_no_blank(&request)?;
    let wanted = TidyRequest {
        dry_run: fields.get(&DRY_RUN).unwrap_or(true),
        safety_buffer: fields.get(&SAFETY_BUFFER).unwrap_or_default(),
        force: fields.get(&FORCE).unwrap_or_default(),
    };
    let config = require_config(&engine, &request, &org).await?;
    let mut tidied = tidy(&engine, &config, &wanted).await?;
    let failure = tidied.take_failure();
    let Tidied { unknown, missing, .. } = &tidied;
    // A static role whose token was missing gets another token at once.
    statics::arm(&engine);
    if !wanted.dry_run && (failure.is_none() || tidied.deleted > 0) {
        tracing::info!(org_id = %org, unknown = unknown.count, missing = missing.count, deleted = tidied.deleted,
            display_name = request.caller.display_name, entity_id = request.caller.entity_id, "tidied the tokens of an organization");
        engine.events.send(&org, Some(&config), &Occasion::Tidied { deleted: tidied.deleted.to_string() });
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    let data = object([
        ("deleted", json!(tidied.deleted)),
        ("foreign", shown(&tidied.foreign)),
        ("missing", shown(missing)),
        ("unknown", shown(unknown)),
        ("without_expiry", shown(&tidied.without_expiry)),
    ]);
    Ok(Some(Response::new(data).warnings(warnings(&engine, tidied, &wanted))))
}

/// Fails if a field is null or empty, as an unset variable of a script is. The host's rules would read that as false or 0, so
/// tokens of any age would be deleted.
fn require_no_blank(request: &Request) -> Result<(), Error> {
    let is_blank = |name: &&str| request.data.get(*name).is_some_and(|value| value.is_null() || *value == "");
    match [DRY_RUN.name(), SAFETY_BUFFER.name(), FORCE.name()].into_iter().find(is_blank) {
        Some(name) => Err(Error::field(name, "must not be empty; leave it out for its default")),
        None => Ok(()),
    }
}

fn shown(ids: &Ids) -> Value {
    json!({"count": ids.count, "client_ids": ids.first})
}

fn warnings(engine: &Engine, tidied: Tidied, wanted: &TidyRequest) -> Vec<String> {
    let shared = (wanted.dry_run && tidied.unknown.count > 0).then(|| {
        format!(
            "a server that was restored from a backup shares the instance {:?} with the original server; if both run, the \
             unknown tokens may be in use by programs of the other server, and dry_run=false deletes them",
            engine.instance
        )
    });
    let refused = tidied.refusal.map(|refusal| format!("with dry_run=false, this tidy is refused: {refusal}"));
    let young = (tidied.young > 0).then(|| {
        format!(
            "number of tokens that differ and are younger than safety_buffer, so they were left alone: {}",
            tidied.young
        )
    });
    let left = tidied.left.map(|(tokens, cause)| {
        let cause = match cause {
            Cause::Time => "the time was used up".to_owned(),
            Cause::SlowList => {
                "Astra's list took longer than 30 seconds, and a missing token is deleted after two lists".to_owned()
            }
            Cause::Failed(error) => error.to_string(),
        };
        format!(
            "number of tokens that were not deleted: {tokens}; repeat the tidy for these tokens; the cause: {cause}"
        )
    });
    let unreadable = unreadable_entries(&tidied.unreadable);
    [shared, refused, young, left, unreadable].into_iter().flatten().collect()
}
