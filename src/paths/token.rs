//! `org/token`: mints, fetches and deletes tokens. The caller mode of the org decides whether a read or a write mints.

use std::sync::Arc;
use std::time::Duration;

use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Fields, Path, to_lower};
use vault_plugin_sdk::logical::{Operation, Request, Response};

use super::shared::{Answered, ORG_ID, ROLE_NAME, handler, missing, mount, no_role, org_id, require_config, role_name};
use crate::engine::Engine;
use crate::error::Error;
use crate::metadata;
use crate::metrics::Event;
use crate::names::{ClientId, LogicalName, OrgId, RoleName};
use crate::statics;
use crate::store::{CallerMode, Config, Lookup, Metadata, Token, named_token_id};
use crate::tokens::{self, MintRequest, MintedBy, Target, token_data};

const LOGICAL_NAME: Field<String> = Field::lowercase(
    "logical_name",
    "Name of the token. The engine lower-cases the name. In the caller mode \"standard\", the name is required, and only one \
     live token of a role can have the name. In the mode \"sidecar\", the name is only a label.",
);

pub(super) const METADATA: Field<Metadata> = Field::pairs(
    "metadata",
    "Key=value pairs that are stored and shown with the token. Repeat the parameter for several pairs. At most 64 KiB in \
     total.",
);

pub(super) const CLIENT_ID: Field<String> = Field::string(
    "client_id",
    "Client id of a live token: the part between the colons. Fetches or deletes this token. Letter case matters.",
);

pub(super) const TTL: Field<Duration> = Field::duration(
    "ttl",
    "TTL of the first lease of the token, in whole seconds, at least 1s. Without ttl, the ttl of the role applies. A longer \
     ttl than the max_ttl of the role or the maximum of the mount is cut to that limit.",
);

pub(super) const FORCE: Field<bool> = Field::bool(
    "force",
    "Whether to delete the token in Vault even if the engine cannot delete it in Astra, for example because the organization \
     has no config any more. Then delete the token in Astra's portal.",
)
.only(&[Operation::Delete])
.default("false");

pub(super) const REPLACE: Field<bool> = Field::bool(
    "replace",
    "Whether the new token replaces the live token with the same role and logical name, if there is one. Without replace, such a \
     token is an error.",
)
.only(WRITE)
.default("false");

pub(super) const OVERLAP: Field<Duration> = Field::duration(
    "overlap",
    "With replace: how long the old token stays live after the new one is minted, at most as long as its lease can last. \
     Then the engine deletes the old token. Without overlap, it deletes the old token some seconds after the answer.",
)
.only(WRITE);

/// The operations that replace a token.
const WRITE: &[Operation] = &[Operation::Create, Operation::Update];

const FIELDS: &[FieldSpec] = &[
    ORG_ID.required().spec(),
    ROLE_NAME.spec(),
    LOGICAL_NAME.spec(),
    METADATA.only(MINTS).spec(),
    CLIENT_ID.only(&[Operation::Read, Operation::Delete]).spec(),
    TTL.only(MINTS).spec(),
    REPLACE.spec(),
    OVERLAP.spec(),
    FORCE.spec(),
];

/// The operations that mint in one of the caller modes.
const MINTS: &[Operation] = &[Operation::Create, Operation::Update, Operation::Read];

pub(super) const TOKEN: &[(&str, &str)] = &[
    ("clientId", "Public part of the token."),
    ("generatedOn", "When Astra minted the token."),
    ("logicalName", "Name of the token."),
    ("metadata", "Key=value pairs of the token."),
    ("orgId", "Id of the organization."),
    ("roleName", "Name of the role in Vault."),
    ("token", "The token."),
];

pub(crate) fn path() -> Path<Engine> {
    Path::new("org/token", FIELDS)
        .write(handler("Mint a token (caller mode \"standard\")", write).returns(TOKEN).on_active_node())
        .read(handler("Fetch a token, or mint one (caller mode \"sidecar\")", read).returns(TOKEN))
        .delete(handler("Delete a token in Astra and in Vault", delete).on_active_node())
        .help(
            "Mints, fetches and deletes tokens.",
            "In the caller mode \"standard\" of an organization, a write mints a token for a role under a logical name, \
             and a read fetches the token by client_id, or by role_name and logical_name. In the mode \"sidecar\", a read \
             mints a token for a role, and no token can be fetched. A minted token has a lease. When the lease expires or is \
             revoked, the engine deletes the token in Astra. A delete does the same at once. With replace=true, a write mints the next token under the name of a live token, \
             which stays live for the time in overlap.\n\nExamples:\n    \
             vault write <mount>/org/token org_id=$ORG_ID role_name=reader logical_name=checkout\n    \
             vault read <mount>/org/token org_id=$ORG_ID role_name=reader logical_name=checkout\n    \
             vault delete <mount>/org/token org_id=$ORG_ID role_name=reader logical_name=checkout",
        )
}

async fn write(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let org = org_id(&fields)?;
    let config = require_config(&engine, &request, &org).await?;
    if config.caller_mode == CallerMode::Sidecar {
        return Err(Error::Refused(format!(
            "org_id {:?} is in the caller mode \"sidecar\", where a read mints; use \"vault read {}/org/token\" with the \
             same parameters",
            org.as_str(),
            mount(&request)
        )));
    }
    if fields.is_given(&CLIENT_ID) {
        return Err(Error::field(
            CLIENT_ID.name(),
            "cannot be chosen, because Astra chooses the client id; leave client_id out to mint a token",
        ));
    }
    let role = role_name(&fields)?;
    Ok(Some(mint(&engine, request, &fields, config, role, MintedBy::Write).await?))
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let org = org_id(&fields)?;
    let config = require_config(&engine, &request, &org).await?;
    if config.caller_mode == CallerMode::Standard {
        let (_, token) = find(&engine, &request, &fields, &org).await?;
        if request.snapshot_id.is_none() {
            tokens::note_read(&engine, &org, &token.client_id, &request.caller).await?;
        }
        tracing::info!(org_id = %org, role_name = %token.role_name, client_id = %token.client_id,
            display_name = request.caller.display_name, entity_id = request.caller.entity_id, "read token");
        engine.metrics.count(Event::Read, &org, &token.role_name);
        return Ok(Some(Response::new(token_data(&token, MintedBy::Write))));
    }
    // Only the config says that this read mints. Mints run on the active node.
    engine.require_writable().await?;
    if fields.is_given(&CLIENT_ID) {
        return Err(Error::field(
            CLIENT_ID.name(),
            "cannot be used in the caller mode \"sidecar\", where a read mints and does not fetch; leave client_id out",
        ));
    }
    let role = role_name(&fields)?;
    Ok(Some(mint(&engine, request, &fields, config, role, MintedBy::Read).await?))
}

async fn delete(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let org = org_id(&fields)?;
    let force = fields.get(&FORCE).unwrap_or_default();
    if !force {
        require_config(&engine, &request, &org).await?;
    }
    let target = match fields.get(&CLIENT_ID) {
        Some(client) if !fields.is_given(&ROLE_NAME) && !fields.is_given(&LOGICAL_NAME) => {
            let client = ClientId::find(CLIENT_ID.name(), &client)?;
            let found = target(&engine, &org, &client).await?;
            if found.is_none() {
                client.require_new(CLIENT_ID.name())?;
            }
            found.ok_or_else(|| no_token(&request, &org, &client))?
        }
        _ => {
            let (token_id, token) = find(&engine, &request, &fields, &org).await?;
            of_token(&org, token_id, token)
        }
    };
    end(engine, &request, target, force).await
}

/// Deletes a token in Astra and in Vault, on behalf of a caller.
pub(super) async fn end(engine: Arc<Engine>, request: &Request, target: Target, force: bool) -> Answered {
    let (org, client_id, role_name) = (target.org_id.clone(), target.client_id.clone(), target.role_name.clone());
    tokens::delete(engine.clone(), target, force).await?;
    // The token may have been the current one of a static role.
    statics::arm(&engine);
    tracing::info!(org_id = %org, role_name = %role_name, client_id = %client_id,
        display_name = request.caller.display_name, entity_id = request.caller.entity_id, "deleted token");
    Ok(None)
}

fn of_token(org: &OrgId, token_id: String, token: Token) -> Target {
    Target {
        may_be_old: token.org_id != *org,
        org_id: org.clone(),
        client_id: token.client_id,
        role_name: token.role_name,
        token_id,
        expiry: None,
    }
}

/// Returns the token that a deletion by client id alone deletes; `None` if there is no such token.
pub(super) async fn target(engine: &Engine, org: &OrgId, client: &ClientId) -> Result<Option<Target>, Error> {
    match engine.store.token_of(org, client).await? {
        Lookup::Found(id, token) => Ok(Some(of_token(org, id, *token))),
        // The revocation of the token may have been interrupted.
        Lookup::Missing => {
            let record = engine.store.interrupted(org, client).await?;
            Ok(record.map(|record| Target::of_record(org, client, record)))
        }
        // Without this deletion, the record would stay for ever. The entry of a named token stays until its lease is revoked.
        Lookup::Unreadable(_) => Ok(Some(Target::without_record(org, client))),
        Lookup::Unknown => Err(Error::inventory_incomplete(Some(GIVE_NAMES))),
    }
}

/// Mints a token from the fields of a request.
pub(super) async fn mint(
    engine: &Arc<Engine>,
    request: Request,
    fields: &Fields,
    config: Arc<Config>,
    role_name: RoleName,
    minted_by: MintedBy,
) -> Result<Response, Error> {
    let overlap = overlap(&request, fields)?;
    let needs_name = minted_by == MintedBy::Write || overlap.is_some();
    let logical_name = match fields.get(&LOGICAL_NAME) {
        Some(name) if needs_name || !name.is_empty() => LogicalName::parse(LOGICAL_NAME.name(), &name)?,
        None if needs_name => return Err(missing(LOGICAL_NAME.name())),
        _ => LogicalName::default(),
    };
    let metadata = fields.get(&METADATA).unwrap_or_default();
    if minted_by == MintedBy::Read && metadata.contains_key(metadata::RESERVED_KEY) {
        return Err(Error::field(METADATA.name(), "must not have the key \"deletion_time\", which agents read"));
    }
    let ttl = fields.get(&TTL);
    if ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(Error::field(TTL.name(), "must be at least 1s; leave ttl out for the ttl of the role"));
    }
    if request.snapshot_id.is_some() {
        return Err(Error::Refused(
            "a request that reads from a snapshot cannot mint a token; send the request without the snapshot".into(),
        ));
    }
    let role = engine.store.role(&config.org_id, &role_name).await?;
    let Some(role) = role else {
        role_name.require_new(ROLE_NAME.name())?;
        return Err(Error::Refused(no_role(&request, &config.org_id, &role_name)));
    };
    let metadata = metadata::complete(engine, &role, metadata, &request.caller).await?;
    let (caller, mount_point) = (request.caller, request.mount_point);
    let mint_request =
        MintRequest { config, role, logical_name, metadata, ttl, caller, mount_point, minted_by, overlap };
    tokens::mint(engine, mint_request).await
}

/// Returns how long a replaced token stays live; `None` if the request replaces no token.
fn overlap(request: &Request, fields: &Fields) -> Result<Option<Duration>, Error> {
    let overlap = fields.get(&OVERLAP);
    if !fields.get(&REPLACE).unwrap_or_default() {
        return match overlap {
            Some(_) => Err(Error::field(OVERLAP.name(), "needs replace=true")),
            None => Ok(None),
        };
    }
    if request.operation == Operation::Read {
        return Err(Error::field(REPLACE.name(), "needs a write; a read never replaces a token"));
    }
    Ok(Some(overlap.unwrap_or_default()))
}

/// Returns a live token and its id, by client id or by names.
async fn find(engine: &Engine, request: &Request, fields: &Fields, org: &OrgId) -> Result<(String, Token), Error> {
    if let Some(client_id) = fields.get(&CLIENT_ID) {
        let client_id = ClientId::find(CLIENT_ID.name(), &client_id)?;
        let (id, token) = by_client_id(engine, request, org, &client_id).await?;
        require_names(fields, &token)?;
        return Ok((id, token));
    }
    if !fields.is_given(&ROLE_NAME) && !fields.is_given(&LOGICAL_NAME) {
        return Err(Error::field(CLIENT_ID.name(), "or role_name and logical_name are required"));
    }
    let role = role_name(fields)?;
    let name = fields.get(&LOGICAL_NAME).ok_or_else(|| missing(LOGICAL_NAME.name()))?;
    let name = LogicalName::find(LOGICAL_NAME.name(), &name)?;
    let id = named_token_id(org, &role, &name);
    // If a name has a colon, different names can have the same token id.
    let is_certain = ![org.as_str(), role.as_str(), name.as_str()].iter().any(|name| name.contains(':'));
    let has_names = |token: &Token| is_certain || (&token.role_name, &token.logical_name) == (&role, &name);
    if let Some(token) = engine.store.token(&id).await?.filter(has_names) {
        return Ok((id, token));
    }
    role.require_new(ROLE_NAME.name())?;
    name.require_new(LOGICAL_NAME.name())?;
    Err(Error::Refused(format!(
        "no live token with logical_name {:?} of role {:?} and org_id {:?}; see \"vault list {}/org/tokens\", and use \
         client_id for a token that a read minted",
        name.as_str(),
        role.as_str(),
        org.as_str(),
        mount(request)
    )))
}

/// Fails if the request has a client id and names of another token: the caller may mean the other token.
fn require_names(fields: &Fields, token: &Token) -> Result<(), Error> {
    let differs = |field: &Field<String>, known: &str| {
        fields.is_given(field) && fields.get(field).is_some_and(|name| name != to_lower(known))
    };
    if differs(&ROLE_NAME, token.role_name.as_str()) || differs(&LOGICAL_NAME, token.logical_name.as_str()) {
        return Err(Error::field(
            CLIENT_ID.name(),
            format!(
                "belongs to logical_name {:?} of role {:?}; leave the names out, or correct the names",
                token.logical_name.as_str(),
                token.role_name.as_str()
            ),
        ));
    }
    Ok(())
}

async fn by_client_id(
    engine: &Engine,
    request: &Request,
    org: &OrgId,
    client_id: &ClientId,
) -> Result<(String, Token), Error> {
    match engine.store.token_of(org, client_id).await? {
        Lookup::Found(id, token) => return Ok((id, *token)),
        Lookup::Missing => {}
        Lookup::Unreadable(reason) => {
            return Err(Error::Unreadable(format!(
                "{reason}; give role_name and logical_name instead of client_id, or delete the token by client_id alone"
            )));
        }
        Lookup::Unknown => return Err(Error::inventory_incomplete(Some(GIVE_NAMES))),
    }
    client_id.require_new(CLIENT_ID.name())?;
    Err(no_token(request, org, client_id))
}

/// Also at a path that takes no names.
const GIVE_NAMES: &str = "name the token by role_name and logical_name at org/token";

fn no_token(request: &Request, org: &OrgId, client_id: &ClientId) -> Error {
    Error::Refused(format!(
        "no live token with client_id {:?} of org_id {:?}; see \"vault list {}/org/tokens\"",
        client_id.as_str(),
        org.as_str(),
        mount(request)
    ))
}
