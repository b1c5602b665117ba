//! `creds/:org/:role`: mints a token for one role of one org, whatever the caller mode.
//!
//! Architecture invariant: each role has exactly one path, because policies refer to paths. Other spellings of a path
//! are rejected.

use std::sync::Arc;

use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path};
use vault_plugin_sdk::logical::{Operation, Request};

use super::org::{self, ORG, another_spelling};
use super::shared::{Answered, handler, mount};
use super::token::{METADATA, OVERLAP, REPLACE, TOKEN, TTL, mint};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{RoleName, fits_path};
use crate::store::Config;
use crate::tokens::MintedBy;

const ROLE: Field<String> = Field::string("role", "Name of the role in Vault, in lower case.");

const LOGICAL_NAME: Field<String> = Field::lowercase(
    "logical_name",
    "Label of the token, shown with the token and in the inventory. The engine lower-cases the label. Several tokens can have \
     the same label.",
);

const FIELDS: &[FieldSpec] =
    &[ORG.spec(), ROLE.spec(), LOGICAL_NAME.spec(), METADATA.spec(), TTL.spec(), REPLACE.spec(), OVERLAP.spec()];

pub(crate) fn path() -> Path<Engine> {
    let mint = || handler("Mint a token for a role, in every caller mode", create).returns(TOKEN).on_active_node();
    // The pattern also matches misspelled paths, so that the error can name the right path.
    Path::new("creds/(?P<org>[^/]+)/(?P<role>[^/]+)", FIELDS)
        .read(mint())
        .operation(Operation::Update, mint())
        .help(
            "Mints tokens. Each role has its own path.",
            "A read or a write mints a token for the role, in every caller mode of the organization. The token has a lease. When \
             the lease expires or is revoked, the engine deletes the token in Astra. A policy can allow single roles, such \
             as creds/retail/reader, and \"lease revoke -prefix <mount>/creds/retail/reader\" revokes the tokens of that \
             role. Each role has one path. Another spelling of the path returns an error that names the right path. Agents \
             distinguish the answers of different paths, but not those of different parameters, so use these paths in \
             templates. With replace=true and a logical_name, a write replaces the named token of the role, whoever minted it.\n\
             \nExamples:\n    vault read <mount>/creds/retail/reader\n    \
             vault write <mount>/creds/retail/reader ttl=10m metadata=team=shop",
        )
}

async fn create(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let org = fields.get(&ORG).unwrap_or_default();
    let role = fields.get(&ROLE).unwrap_or_default();
    let role_name = RoleName::parse(ROLE.name(), &role)?;
    let config = config_of(&engine, &request, &org, &role_name).await?;
    if role_name.as_str() != role {
        return Err(another_spelling(&path_of(&request, &org, &role_name)));
    }
    if !fits_path(&role) {
        return Err(Error::field(
            ROLE.name(),
            format!(
                "{role:?} does not fit into a path, which takes letters, digits and \"_\", and \"-\" and \".\" between those; see \
                 \"vault list {mount}/roles\", and ask for tokens of a role with such a name at {mount}/org/token",
                mount = mount(&request)
            ),
        ));
    }
    Ok(Some(mint(&engine, request, &fields, config, role_name, MintedBy::Read).await?))
}

/// Returns the config of the org whose name in paths is exactly `org`.
async fn config_of(engine: &Engine, request: &Request, org: &str, role: &RoleName) -> Result<Arc<Config>, Error> {
    let path = |right: &str| path_of(request, right, role);
    let Some(id) = org::of_path(engine, org, path).await? else { return Err(unknown_org(request, org)) };
    engine.store.config(&id).await?.ok_or_else(|| unknown_org(request, org))
}

fn path_of(request: &Request, org: &str, role: &RoleName) -> String {
    format!("{}/creds/{org}/{role}", mount(request))
}

fn unknown_org(request: &Request, org: &str) -> Error {
    let mount = mount(request);
    Error::Refused(format!(
        "no organization has the logical_name or org_id {org:?}; see \"vault list {mount}/configs\", or write a config with \
         \"vault write {mount}/config org_id=... logical_name={org:?} astra_token=...\""
    ))
}
