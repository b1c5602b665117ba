//! `lookup`: finds the owner of a token that somebody found, for example in a repository.
//!
//! Architecture invariant: the token of the request is compared, and never stored, logged or shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::time::{Instant, timeout_at};
use url::form_urlencoded::Serializer;
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Fields, Path};
use vault_plugin_sdk::logical::{Map, Operation, Request, Response};

use super::shared::{Answered, handler, mount, object};
use super::tokens::shown;
use crate::api::{MAX_TOKEN, TOKEN_PREFIX, token_parts};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId, fits_path};
use crate::store::{Config, Detail, Listed, Record};

const TOKEN: Field<String> = Field::string(
    "token",
    "The token that was found, in the form \"AstraCS:<client id>:<digest>\". The engine does not store, log or show it.",
)
.sensitive();

const CLIENT_ID: Field<String> = Field::string(
    "client_id",
    "The client id of the token: the part between the colons. Letter case matters. Use it instead of token if the rest of the \
     token is not known.",
);

const ORG: Field<String> = Field::string(
    "org",
    "Logical name or org_id of the organization to search. Without org, the engine searches all organizations.",
);

const CHECK_ASTRA: Field<bool> = Field::bool(
    "check_astra",
    "Whether to look for a token that the engine does not know in Astra's lists of the tokens of the organizations. Without org, \
     the engine asks for one list for each organization.",
)
.default("false");

const FIELDS: &[FieldSpec] = &[TOKEN.spec(), CLIENT_ID.spec(), ORG.spec(), CHECK_ASTRA.spec()];

/// How many orgs are asked for their lists at the same time.
const AT_ONCE: usize = 8;

/// How long orgs are asked for their lists. The host cancels a request after 90 seconds.
const BUDGET: Duration = Duration::from_secs(60);

pub(crate) fn path() -> Path<Engine> {
    Path::new("lookup", FIELDS)
        .operation(
            Operation::Update,
            handler("Find the owner of a token", look_up).returns(&[
                ("known", "Whether the engine minted the token and has not deleted it, or uses it as a root token."),
                ("client_id", "Client id of a known token."),
                ("org", "Name of its organization in paths."),
                ("paths", "What deletes the token: a path for each operation."),
                ("matches", "Whether the whole token is right. False if only its client id is that of a known token."),
                ("root_of", "The organizations whose root token it is, by their names in paths."),
                ("in_astra", "For an unknown token: where Astra lists it, with its description and the ids of its Astra roles."),
                ("errors", "For an unknown token: the organizations whose lists could not be read, each with the reason."),
                ("created_at", "When Vault stored the token."),
                ("display_name", "Display name of the caller of the mint."),
                ("entity_id", "Entity of the caller of the mint."),
                ("generated_on", "When Astra minted the token."),
                ("lease_end", "The latest time at which the lease can expire."),
                ("logical_name", "Name of the token."),
                ("metadata", "Key=value pairs of the token."),
                ("org_id", "Id of the organization."),
                ("replaced_until", "When the engine deletes the token, because a newer token has its name."),
                ("role_name", "Name of the role in Vault."),
                ("static_role", "Name of the static role. Missing for a token with a lease."),
            ]),
        )
        .help(
            "Finds the owner of a token, for example of a token that was found in a repository.",
            "Give the whole token, or its client id. If known is true, the engine minted the token, and the answer has its record: \
             who asked for it, when and for what. paths has the path that deletes the token. If matches is false, the token has \
             the client id of a known token and another digest, so it does not work. If the token is the root token of an \
             organization, root_of names the organization, and paths has the path that replaces the root token. If known is \
             false, the engine does not have the token: it was never minted here, or is deleted. With check_astra, the engine \
             then looks for the token in Astra. If errors is not empty, the token can be in one of the organizations in errors. \
             The request takes at most about a minute, so with many organizations, give org. To keep a token out of the history of \
             the shell, write token=@file.\n\nExamples:\n    \
             vault write <mount>/lookup client_id=$CLIENT_ID check_astra=true\n    \
             vault write <mount>/lookup token=$ROOT_TOKEN",
        )
}

/// The token of a request.
struct Wanted {
    client_id: ClientId,
    /// The whole token, if the caller has it.
    token: Option<SecretString>,
}

async fn look_up(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let wanted = Wanted::read(&fields)?;
    let org = match fields.get(&ORG).filter(|name| !name.is_empty()) {
        Some(name) => Some(named(&engine, &request, &name).await?),
        None => None,
    };
    // Before the search: otherwise the build of the inventory could end in between, and a live token would seem unknown.
    let is_complete = engine.store.inventory_is_complete().await?;
    let found = engine.store.look_for(&wanted.client_id, org.as_ref()).await?;
    if let Some(known) = found.into_iter().next() {
        return Ok(Some(of_record(&engine, &request, &wanted, known).await?));
    }
    let mut roots = engine.store.orgs_of_root(&wanted.client_id).await?;
    roots.retain(|root| org.as_ref().is_none_or(|org| org == root));
    if !roots.is_empty() {
        return Ok(Some(of_root(&engine, &request, &wanted, &roots).await?));
    }
    if !is_complete {
        return Err(Error::inventory_incomplete(None));
    }
    let unreadable = unreadable_configs(&engine, org.as_ref()).await?;
    let mut unknown = object([("known", json!(false))]);
    if fields.get(&CHECK_ASTRA).unwrap_or_default() {
        let orgs = match org {
            Some(org) => vec![org],
            None => engine.store.orgs_with_config().await?,
        };
        unknown.extend(in_astra(&engine, &wanted.client_id, orgs).await?);
    }
    Ok(Some(Response::new(unknown).warnings(unreadable)))
}

/// Returns the warning that configs cannot be read: the token may be the root token of one of these.
async fn unreadable_configs(engine: &Engine, org: Option<&OrgId>) -> Result<Option<String>, Error> {
    const NAMED: usize = 20;
    let directory = engine.store.directory().await?;
    let is_unreadable = |listed: &Listed<'_>| !listed.is_readable && org.is_none_or(|org| org == listed.org);
    let orgs: Vec<&str> =
        directory.after(&OrgId::default()).filter(is_unreadable).map(|listed| listed.org.as_str()).collect();
    let named = orgs.iter().take(NAMED).map(|org| format!("{org:?}")).collect::<Vec<_>>().join(", ");
    let more = if orgs.len() > NAMED { ", ..." } else { "" };
    let text = format!(
        "number of configs that cannot be read: {} ({named}{more}); the token may be the root token of one of these organizations, so \
         write these configs again with astra_token and with all settings, then look again",
        orgs.len()
    );
    Ok(Some(text).filter(|_| !orgs.is_empty()))
}

impl Wanted {
    fn read(fields: &Fields) -> Result<Self, Error> {
        let given = |field| fields.get(field).filter(|text: &String| !text.is_empty());
        match (given(&TOKEN), given(&CLIENT_ID)) {
            (Some(_), Some(_)) => Err(Error::field(TOKEN.name(), "cannot be used with client_id; leave client_id out")),
            (None, None) => Err(Error::field(TOKEN.name(), "or client_id is required")),
            (Some(token), None) => {
                // A file often ends with a line break.
                let token = SecretString::from(token.trim());
                let parts = token_parts(token.expose_secret()).filter(|_| token.expose_secret().len() <= MAX_TOKEN);
                let parsed = parts.and_then(|(client, _)| ClientId::parse(TOKEN.name(), client).ok());
                let malformed = || {
                    Error::field(
                        TOKEN.name(),
                        "must have the form \"AstraCS:<client id>:<digest>\"; if only a part of the token is known, give client_id",
                    )
                };
                Ok(Self { client_id: parsed.ok_or_else(malformed)?, token: Some(token) })
            }
            (None, Some(id)) if id.starts_with(TOKEN_PREFIX) => {
                Err(Error::field(CLIENT_ID.name(), "must be the part between the colons; give a whole token as token"))
            }
            (None, Some(id)) => Ok(Self { client_id: ClientId::find(CLIENT_ID.name(), &id)?, token: None }),
        }
    }

    /// Compares the whole token, in a time that does not depend on its bytes. Returns the member `matches` of the answer.
    fn compare(&self, known: Option<&SecretString>) -> Option<(String, Value)> {
        let (given, known) = (self.token.as_ref()?, known?);
        let is_same = given.expose_secret().as_bytes().ct_eq(known.expose_secret().as_bytes());
        Some(("matches".to_owned(), json!(bool::from(is_same))))
    }
}

/// Returns the org with this logical name or `org_id`. An org without a config can have tokens.
async fn named(engine: &Engine, request: &Request, name: &str) -> Result<OrgId, Error> {
    let mut called = engine.store.orgs_called(name).await?;
    if called.len() > 1 {
        return Err(Error::field(ORG.name(), format!("{name:?} names several organizations; give the org_id")));
    }
    let org = match called.pop() {
        Some(org) => return Ok(org),
        None => OrgId::find(ORG.name(), name)?,
    };
    if engine.store.has_tokens(&org).await? {
        return Ok(org);
    }
    let mount = mount(request);
    Err(Error::field(
        ORG.name(),
        format!("{name:?} is not the logical_name or org_id of an organization; see \"vault list {mount}/orgs\""),
    ))
}

/// Returns the answer about a token that has a record.
async fn of_record(engine: &Engine, request: &Request, wanted: &Wanted, known: Detail) -> Result<Response, Error> {
    let (org, client, record) = known;
    let config = readable(engine.store.config(&org).await)?.0;
    let name = name_of(&org, config.as_deref());
    let mut answer = object([
        ("known", json!(true)),
        ("client_id", json!(client)),
        ("org", json!(name)),
        ("paths", json!({"delete": deletion(mount(request), &org, &client, config.as_deref())})),
    ]);
    let Some(record) = record else {
        answer.insert("org_id".to_owned(), json!(org));
        let warning = "the record of the token cannot be read, so the answer does not show the owner of the token";
        return Ok(Response::new(answer).warn(warning));
    };
    answer.extend(wanted.compare(stored(engine, &client, &record).await?.as_ref()));
    answer.extend(shown(&org, record));
    Ok(Response::new(answer))
}

/// Returns a stored token. During its revocation, a token can have a record only.
async fn stored(engine: &Engine, client: &ClientId, record: &Record) -> Result<Option<SecretString>, Error> {
    let token = readable(engine.store.token_of_record(record, client).await)?.0;
    Ok(token.map(|token| token.token))
}

/// Returns the answer about the root token of some orgs.
async fn of_root(engine: &Engine, request: &Request, wanted: &Wanted, roots: &[OrgId]) -> Result<Response, Error> {
    let mut names = Vec::new();
    let mut answer = object([("known", json!(true)), ("client_id", json!(wanted.client_id))]);
    for org in roots {
        let config = readable(engine.store.config(org).await)?.0;
        let name = name_of(org, config.as_deref());
        if names.is_empty() {
            let mount = mount(request);
            let path = match config.as_deref().and_then(Config::path_name) {
                Some(name) => format!("{mount}/orgs/{name}/rotate-root"),
                None => format!("{mount}/config/rotate-root?{}", query([("org_id", org.as_str())])),
            };
            answer.extend(wanted.compare(config.as_deref().map(|config| &config.astra_token)));
            answer.extend(object([("org", json!(name)), ("org_id", json!(org)), ("paths", json!({"update": path}))]));
        }
        names.push(name);
    }
    answer.insert("root_of".to_owned(), json!(names));
    Ok(Response::new(answer))
}

/// Returns the name of an org in paths, or its id if no name fits into a path.
fn name_of(org: &OrgId, config: Option<&Config>) -> String {
    config.and_then(Config::path_name).unwrap_or(org.as_str()).to_owned()
}

/// Returns the path of the request that deletes a token.
fn deletion(mount: &str, org: &OrgId, client: &ClientId, config: Option<&Config>) -> String {
    match config.map(Config::path_name) {
        Some(Some(name)) if fits_path(client.as_str()) => format!("{mount}/orgs/{name}/tokens/{client}"),
        Some(_) => {
            format!("{mount}/org/token?{}", query([("org_id", org.as_str()), ("client_id", client.as_str())]))
        }
        // Without a config, the engine cannot delete the token in Astra.
        None => {
            let names = [("org_id", org.as_str()), ("client_id", client.as_str()), ("force", "true")];
            format!("{mount}/org/token?{}", query(names))
        }
    }
}

fn query<const N: usize>(parameters: [(&str, &str); N]) -> String {
    Serializer::new(String::new()).extend_pairs(parameters).finish()
}

/// Looks for an unknown token in Astra's lists. An org whose list cannot be read is an error in the answer: its list may have
/// the token.
async fn in_astra(engine: &Engine, client: &ClientId, orgs: Vec<OrgId>) -> Result<Map, Error> {
    let deadline = Instant::now() + BUDGET;
    let ask = |org: OrgId| async move {
        let config = readable(engine.store.config(&org).await);
        let name = name_of(&org, config.as_ref().ok().and_then(|(config, _)| config.as_deref()));
        let asked = async {
            let Some(config) = config?.0 else {
                return Err(Error::Refused("the config of the organization is missing or cannot be read".into()));
            };
            let id = client.as_str();
            Ok(engine.call(&config, |client| async move { client.described(id).await }).await?)
        };
        let found = if Instant::now() < deadline { timeout_at(deadline, asked).await.ok() } else { None };
        let late = || {
            Error::NotYet(format!("Astra's list was not read within {} seconds; look again with org", BUDGET.as_secs()))
        };
        (name, found.unwrap_or_else(|| Err(late())))
    };
    let mut answers = stream::iter(orgs).map(ask).buffer_unordered(AT_ONCE);
    let (mut found, mut errors) = (BTreeMap::new(), BTreeMap::new());
    while let Some((name, answer)) = answers.next().await {
        match answer {
            Ok(None) => {}
            Ok(Some(token)) => {
                found
                    .insert(name.clone(), json!({"org": name, "description": token.description, "roles": token.roles}));
            }
            // The host failed, not the org.
            Err(error) if error.is_of_host() => return Err(error),
            Err(error) => drop(errors.insert(name, error.to_string())),
        }
    }
    Ok(object([("in_astra", json!(found.into_values().collect::<Vec<_>>())), ("errors", json!(errors))]))
}
