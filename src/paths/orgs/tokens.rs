//! `orgs/:org/tokens`: the inventory of the org.

use std::sync::Arc;

use vault_plugin_sdk::framework::{Call, FieldSpec, Path};
use vault_plugin_sdk::logical::Response;

use super::{absent, find, within};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::ClientId;
use crate::paths::filters::with_filters;
use crate::paths::org::ORG;
use crate::paths::shared::{Answered, handler, mount};
use crate::paths::token::{self, CLIENT_ID, FORCE};
use crate::paths::tokens::{self, AFTER, LIMIT, TOKENS, shown};

const LIST_FIELDS: &[FieldSpec] = &with_filters([ORG.spec(), AFTER.spec(), LIMIT.spec()]);

const FIELDS: &[FieldSpec] = &[ORG.spec(), CLIENT_ID.spec(), FORCE.spec()];

pub(super) fn list_path() -> Path<Engine> {
    let run = |engine: Arc<Engine>, call: Call| within(engine, call, tokens::list);
    Path::new("orgs/(?P<org>[^/]+)/tokens/?", LIST_FIELDS)
        .list(handler("List the live tokens of the organization", run).returns(TOKENS))
        .help(
            "Lists the live tokens of the organization.",
            "The same list as at org/tokens, with the same parameters, for the organization in the path.\n\nExamples:\n    \
             vault list -detailed <mount>/orgs/retail/tokens\n    \
             vault read <mount>/orgs/retail/tokens list=true role=reader limit=100",
        )
}

pub(super) fn path() -> Path<Engine> {
    Path::new("orgs/(?P<org>[^/]+)/tokens/(?P<client_id>[^/]+)", FIELDS)
        .read(handler("Read the record of a live token", read).returns(&[
            ("created_at", "When Vault stored the token."),
            ("display_name", "Display name of the caller of the mint."),
            ("entity_id", "Entity of the caller of the mint."),
            ("generated_on", "When Astra minted the token."),
            ("kind", "How the token ends: \"lease\" means with its lease, \"static\" means that a static role replaces it."),
            ("last_used_at", "The last read or renewal. null if there was none."),
            ("last_used_by", "Display name of the last reader. null if nobody has read the token."),
            ("lease_end", "The latest time at which the lease can expire. Empty for a token of a static role."),
            ("logical_name", "Name of the token."),
            ("metadata", "Key=value pairs of the token."),
            ("org_id", "Id of the organization."),
            ("replaced_until", "When the engine deletes the token, because a newer token has its name. Otherwise missing."),
            ("role_name", "Name of the role in Vault."),
            ("static_role", "Name of the static role. Missing for a token with a lease."),
            ("use_count", "The number of reads and renewals."),
        ]))
        .delete(handler("Delete a token in Astra and in Vault", delete).on_active_node())
        .help(
            "Shows and deletes a live token.",
            "A read shows who minted the token, when and for what, and when it was last used. It never shows the token. A delete deletes the token in Astra \
             and in Vault at once. A client id that is not in the inventory is not sent to Astra.\n\nExamples:\n    \
             vault read <mount>/orgs/retail/tokens/$CLIENT_ID\n    vault delete <mount>/orgs/retail/tokens/$CLIENT_ID",
        )
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    let client = client_id(&call)?;
    let (record, damage) = readable(engine.store.record_with_uses(&org, &client).await)?;
    if let Some(reason) = damage {
        return Err(Error::Unreadable(format!(
            "the record of the token with client_id {:?} cannot be read: {reason}; the token may still be in use, so give its program \
             another token, then delete this token with \"vault delete {}/{}\", or revoke its lease",
            client.as_str(),
            mount(&call.request),
            call.request.path
        )));
    }
    Ok(record.map(|record| Response::new(shown(&org, record))))
}

async fn delete(engine: Arc<Engine>, call: Call) -> Answered {
    let Some(org) = find(&engine, &call.request, &call.fields).await? else { return absent(&call) };
    let Some(target) = token::target(&engine, &org, &client_id(&call)?).await? else { return Ok(None) };
    let force = call.fields.get(&FORCE).unwrap_or_default();
    token::end(engine, &call.request, target, force).await
}

fn client_id(call: &Call) -> Result<ClientId, Error> {
    Ok(ClientId::find(CLIENT_ID.name(), &call.fields.get(&CLIENT_ID).unwrap_or_default())?)
}
