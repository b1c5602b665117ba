//! `status`: the state of the mount and of its orgs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path};
use vault_plugin_sdk::logical::{Map, Response};

use super::shared::{Answered, ORG_ID, handler, no_config, object, optional_org_id};
use crate::api;
use crate::backlog::Open;
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::health::State;
use crate::names::OrgId;
use crate::store::{Directory, Listed};

const AFTER: Field<String> =
    Field::string("after", "Shows only organizations after this org_id, which does not need to exist.");

const LIMIT: Field<i64> =
    Field::int("limit", "Shows at most this many organizations: 1 to 1000, and at most 100 with check.").default("100");

const CHECK: Field<bool> = Field::bool(
    "check",
    "Asks Astra for each organization that is shown, to find out whether its root token works. Without check, nothing is asked.",
);

const FIELDS: &[FieldSpec] = &[ORG_ID.spec(), AFTER.spec(), LIMIT.spec(), CHECK.spec()];

/// The most orgs of an answer, and the most orgs that a request checks.
const MOST: (usize, usize) = (1_000, 100);

/// How many orgs are checked at the same time.
const CONCURRENT: usize = 8;

/// How long a request checks orgs. The host cancels a request after 90 seconds.
const CHECK_TIME: Duration = Duration::from_secs(60);

pub(crate) fn path() -> Path<Engine> {
    Path::new("status", FIELDS)
        .read(handler("Show the state of the mount and of its organizations", read).returns(&[
            ("active", "Whether this node can write. Other nodes show what they know themselves."),
            ("calls_in_flight", "Requests that Astra has not answered."),
            ("calls_queued", "Requests to Astra that wait for a permit."),
            ("commit", "Commit of the plugin."),
            ("instance", "Identifies this mount in the descriptions of its tokens."),
            ("next", "The org_id to give as after for the next organizations. Empty if there are none."),
            ("org_count", "Number of organizations with a config."),
            (
                "orgs",
                "For each org_id: logical_name, state, last_success, last_error, last_error_at, root_created_at, root_expires_at, \
                 rotation_stopped_at, tokens, wal_entries, wal_oldest_seconds, calls_in_flight, calls_queued and rate_limited.",
            ),
            ("started_at", "When this node mounted the engine."),
            ("states", "Number of organizations in each state."),
            ("version", "Version of the plugin."),
            ("wal_entries", "Number of entries of the write-ahead log."),
            ("wal_oldest_seconds", "Age of the oldest entry of the write-ahead log."),
        ]))
        .help(
            "Shows the state of the mount and of its organizations.",
            "The state of an organization is \"ok\" after a call to Astra that succeeded, \"failing\" after a call that failed, \
             \"root_refused\" if Astra rejected the root token, and \"unknown\" before the first call since the start of the \
             plugin or since a change of the config. The answer needs no call to Astra, unless check is true, and its cost does \
             not depend on the number of tokens. tokens is null until the plugin has counted the tokens, which takes some minutes \
             after a start. Organizations are sorted by org_id. To see more of them, give next as after.\n\nExamples:\n    \
             vault read <mount>/status\n    vault read <mount>/status org_id=$ORG_ID check=true",
        )
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let is_active = engine.system.is_writable().await?;
    let directory = engine.store.directory().await?;
    let (page, next) = page(&directory, &call)?;
    let mut warnings = Vec::new();
    if call.fields.get(&CHECK).unwrap_or_default() {
        warnings.extend(check(&engine, &page).await?);
    }
    let open = engine.backlog.look(engine.wal()).await?;
    let (states, load) = totals(&engine, &directory);
    let orgs: Map = page.iter().map(|org| (org.org.to_string(), Value::Object(shown(&engine, org, &open)))).collect();
    let plugin = engine.plugin();
    let data = object([
        ("active", json!(is_active)),
        ("calls_in_flight", json!(load.in_flight)),
        ("calls_queued", json!(load.queued)),
        ("commit", json!(plugin.commit.unwrap_or_default())),
        ("instance", json!(engine.instance)),
        ("next", json!(next)),
        ("org_count", json!(directory.len())),
        ("orgs", Value::Object(orgs)),
        ("started_at", time(Some(engine.started_at))),
        ("states", states.into_iter().map(|(state, number)| (state.to_owned(), json!(number))).collect()),
        ("version", json!(plugin.version)),
        ("wal_entries", json!(open.all.number)),
        ("wal_oldest_seconds", json!(open.all.oldest_age())),
    ]);
    Ok(Some(Response::new(data).warnings(warnings)))
}

/// Returns the orgs to show, and the last of them if there are more.
fn page<'a>(directory: &'a Directory, call: &Call) -> Result<(Vec<Listed<'a>>, String), Error> {
    let fields = &call.fields;
    let must_check = fields.get(&CHECK).unwrap_or_default();
    let most = if must_check { MOST.1 } else { MOST.0 };
    let limit = usize::try_from(fields.get(&LIMIT).unwrap_or(0)).unwrap_or(0);
    if limit == 0 || limit > most {
        return Err(Error::field(
            LIMIT.name(),
            format!("must be 1 to {most}{}", if must_check { " with check" } else { "" }),
        ));
    }
    if let Some(org) = optional_org_id(fields)? {
        let Some(found) = directory.get(&org) else {
            org.require_new(ORG_ID.name())?;
            return Err(Error::Refused(no_config(&call.request, &org)));
        };
        return Ok((vec![found], String::new()));
    }
    let after = OrgId::stored(fields.get(&AFTER).unwrap_or_default());
    let mut orgs = directory.after(&after);
    let page: Vec<Listed<'a>> = orgs.by_ref().take(limit).collect();
    let last = page.last().filter(|_| orgs.next().is_some());
    let next = last.map(|last| last.org.to_string()).unwrap_or_default();
    Ok((page, next))
}

/// Asks Astra for each org. Returns a warning if there was no time for all of them.
///
/// # Errors
/// If the storage fails. A call to Astra that fails is noted where the results of all calls are.
async fn check(engine: &Engine, orgs: &[Listed<'_>]) -> Result<Option<String>, Error> {
    let deadline = Instant::now() + CHECK_TIME;
    let check = |org: OrgId| async move {
        let Some(config) = readable(engine.store.config(&org).await)?.0 else { return Ok::<_, Error>(0) };
        let root = config.root_id().unwrap_or_default();
        let asked = engine.call(&config, |client| ask(client, root));
        Ok(u64::from(tokio::time::timeout_at(deadline, asked).await.is_err()))
    };
    let orgs: Vec<OrgId> = orgs.iter().map(|org| org.org.clone()).collect();
    let late: Vec<u64> = stream::iter(orgs).map(check).buffer_unordered(CONCURRENT).try_collect().await?;
    let late: u64 = late.into_iter().sum();
    Ok((late > 0).then(|| {
        format!("{late} organizations were not checked in time; show fewer of them with limit, or one with org_id")
    }))
}

/// Asks Astra whether a root token works. If Astra does not know the roles of a token, it answers 401 without a reason.
async fn ask(client: Arc<api::Client>, root: &str) -> Result<(), api::Error> {
    match client.current_org().await {
        Err(error) if error.is_undetermined() => client.has_token(root).await.map(drop),
        asked => asked.map(drop),
    }
}

/// Returns the number of orgs in each state, and the load of all orgs.
pub(super) fn totals(engine: &Engine, directory: &Directory) -> (Vec<(&'static str, u64)>, api::Load) {
    let (mut states, load) = engine.clients.totals();
    let known: u64 =
        State::ALL.iter().filter(|state| **state != State::Unknown).map(|state| states[*state as usize]).sum();
    // Most orgs may have had no call.
    states[State::Unknown as usize] = (directory.len() as u64).saturating_sub(known);
    (State::ALL.iter().map(|state| (state.as_str(), states[*state as usize])).collect(), load)
}

fn shown(engine: &Engine, listed: &Listed<'_>, open: &Open) -> Map {
    let calls = engine.clients.seen(listed.org);
    let load = calls.as_ref().map(|calls| calls.load()).unwrap_or_default();
    let health = calls.as_ref().map(|calls| &calls.health);
    let failure = health.and_then(|health| health.last_error());
    let entries = open.orgs.get(listed.org).copied().unwrap_or_default();
    let (state, error) = if listed.is_readable {
        (health.map_or(State::Unknown, |health| health.state()), failure.as_ref().map(|failure| failure.text.as_str()))
    } else {
        (State::Failing, Some("the config cannot be read; write it again with astra_token and with all settings"))
    };
    object([
        ("calls_in_flight", json!(load.in_flight)),
        ("calls_queued", json!(load.queued)),
        ("last_error", json!(error.unwrap_or_default())),
        ("last_error_at", time(failure.map(|failure| failure.time))),
        ("last_success", time(health.and_then(|health| health.last_success()))),
        ("logical_name", json!(listed.logical_name)),
        ("rate_limited", json!(load.rate_limited)),
        ("root_created_at", time(listed.root.created)),
        ("root_expires_at", time(listed.root.expires)),
        ("rotation_stopped_at", time(listed.root.stopped)),
        ("state", json!(state.as_str())),
        ("tokens", json!(engine.store.token_counts.live(listed.org))),
        ("wal_entries", json!(entries.number)),
        ("wal_oldest_seconds", json!(entries.oldest_age())),
    ])
}

/// Returns a time as RFC 3339 in whole seconds, or an empty text.
fn time(time: Option<Timestamp>) -> Value {
    json!(time.map(|time| format!("{time:.0}")).unwrap_or_default())
}
