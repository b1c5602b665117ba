//! A mount with orgs, roles, a token and its lease for each trial, and the check after a trial: the tokens in Astra,
//! the stored tokens and the leases of the host must agree.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Answer, Entry, Error, Operation, Response, Secret};
use vault_plugin_sdk::testing::MemoryStorage;

use super::astra::{Astra, Saved};
use super::request;
use super::{ORG, ROLE_ID, World, lease, lease_request, ok, order, some, text};

/// An org without tokens.
pub(super) const SPARE: &str = "6a4c2d1e-5c0f-4b8e-9a57-00000000000a";
/// The client id of the token that exists at the start.
pub(super) const TAKEN: &str = "DTEUyKUZZrvFzzLzPGCb0001";

/// How long background work may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state at the start of a trial.
pub(super) struct TrialStart {
    pub(super) mode: &'static str,
    pub(super) lease: Secret,
    entries: Vec<Entry>,
    astra: Arc<Astra>,
    saved: Saved,
}

/// A request to the backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    /// A client's request.
    Client(Operation, &'static str),
    /// The existence check of a path.
    Exists(&'static str),
    /// A renewal of the lease of the trial.
    Renew,
    /// A renewal of the lease of the trial in the form of the Go plugin.
    RenewOld,
    /// A revocation of the lease of the trial.
    Revoke,
    /// The host's tick.
    Tick,
}

/// A mount in a trial, and the leases that its host keeps.
pub(super) struct Trial {
    pub(super) world: World,
    pub(super) mode: &'static str,
    /// Whether [`TAKEN`] was live at the start.
    pub(super) had_token: bool,
    pub(super) leases: BTreeMap<String, Secret>,
}

impl TrialStart {
    /// Two orgs, two roles, and the token [`TAKEN`] with the logical name `taken`.
    pub(super) async fn new(mode: &'static str) -> Self {
        let world = World::with_role(mode).await;
        let spare = json!({"org_id": SPARE, "astra_token": "AstraCS:spare:0123", "url": world.astra.url(), "logical_name": "spareOrg",
            "verify_connection": false});
        assert!(ok(world.write("config", spare).await).is_none());
        ok(world.write("role", json!({"org_id": ORG, "role_name": "spare", "role_id": ROLE_ID})).await);
        let operation = if mode == "sidecar" { Operation::Read } else { Operation::Update };
        let minted = some(world.ask(operation, "org/token", order("taken")).await);
        assert_eq!(text(&minted, "clientId"), TAKEN);
        // With a longer TTL, a renewal can extend the lease past its first expiry.
        world.write_role(json!({"ttl": "3600", "max_ttl": "72000"})).await;
        balance(&world, None).await;
        let lease = lease(&minted).issue_time(Timestamp::now());
        let World { storage, astra, .. } = world;
        Self { mode, lease, entries: storage.entries(), saved: astra.save(), astra }
    }

    /// The same, but no lease of the token can exist any more.
    pub(super) async fn overdue(mode: &'static str) -> Self {
        let mut initial = Self::new(mode).await;
        let key = format!("client/{ORG}/{TAKEN}");
        let entry = initial.entries.iter_mut().find(|entry| entry.key == key).expect("the token has a record");
        let mut record: Value = entry.decode().expect("the record is JSON");
        record["expires_at"] = json!("2020-01-01T00:00:00Z");
        *entry = Entry::json(key, &record).expect("has a JSON form");
        initial
    }

    /// The same, with a limit on the number of tokens of the role.
    pub(super) async fn limited(mode: &'static str) -> Self {
        let mut initial = Self::new(mode).await;
        let trial = initial.trial();
        trial.world.write_role(json!({"max_tokens": 2})).await;
        initial.entries = trial.world.storage.entries();
        initial
    }

    /// The same, with the static role `ci`.
    pub(super) async fn with_static_role(mode: &'static str) -> Self {
        let mut initial = Self::new(mode).await;
        let trial = initial.trial();
        let fields = json!({"role": "r_w_user", "rotation_period": "1h"});
        ok(trial.world.ask(Operation::Update, "orgs/retailOrg/static-roles/ci", fields).await);
        (initial.entries, initial.saved) = (trial.world.storage.entries(), trial.world.astra.save());
        initial
    }

    /// The same, without the token. Its lease still exists.
    pub(super) async fn without_token() -> Self {
        let mut initial = Self::new("standard").await;
        let trial = initial.trial();
        ok(trial.world.revoke(&initial.lease).await);
        (initial.entries, initial.saved) = (trial.world.storage.entries(), trial.world.astra.save());
        initial
    }

    /// Starts a trial with a new process.
    pub(super) fn trial(&self) -> Trial {
        self.astra.restore(&self.saved);
        let storage = Arc::new(MemoryStorage::holding(self.entries.iter().cloned()));
        let world = World::with(storage, self.astra.clone());
        let leases = BTreeMap::from([(TAKEN.to_owned(), self.lease.clone())]);
        Trial { had_token: live(&world).contains(TAKEN), world, mode: self.mode, leases }
    }
}

impl Trial {
    /// Fills the caches and creates the client of Astra.
    pub(super) async fn warm_up(&self) {
        views(self).await;
        let gone = lease_of("DTEUyKUZZrvFzzLzPGCb9999");
        ok(self.world.revoke(&gone).await);
        views(self).await;
        self.world.astra.state().requests.clear();
    }

    /// Continues with the same storage and Astra in a new process.
    pub(super) fn succeed(&mut self) {
        self.world = World::with(self.world.storage.clone(), self.world.astra.clone());
    }

    /// Returns the future of a request, which does not borrow the trial.
    pub(super) fn ask(&self, action: Action, data: &Value) -> impl Future<Output = Answer> + Send + use<> {
        let (backend, data, lease) = (self.world.backend.clone(), data.clone(), self.leases.get(TAKEN).cloned());
        async move {
            let of_lease = |operation, secret: &Secret| lease_request(operation, secret, Value::Null);
            let lease = || lease.clone().expect("the host has the lease");
            backend
                .handle(match action {
                    Action::Client(operation, path) => request(operation, path, data),
                    Action::Exists(path) => {
                        let found = backend.exists(request(Operation::Update, path, data)).await?;
                        let found = found.ok_or_else(|| Error::internal("the path has no existence check"))?;
                        return Ok(Some(Response::new(super::map(json!({"exists": found})))));
                    }
                    Action::Renew => of_lease(Operation::Renew, &lease()),
                    Action::RenewOld => of_lease(Operation::Renew, &old(lease())),
                    Action::Revoke => of_lease(Operation::Revoke, &lease()),
                    Action::Tick => request(Operation::Rollback, "", json!({"immediate": true})),
                })
                .await
        }
    }

    /// Keeps or removes a lease after an answer, as the host does.
    pub(super) fn note(&mut self, action: Action, answer: &Answer) {
        let Ok(answer) = answer else { return };
        if action == Action::Revoke {
            self.leases.remove(TAKEN);
        }
        if let (Action::Client(..), Some(response)) = (action, answer)
            && let Some(secret) = &response.secret
        {
            self.leases.insert(text(response, "clientId"), secret.clone());
        }
    }

    /// Runs ticks until the state is consistent.
    pub(super) async fn settle(&self) {
        balance(&self.world, Some(&self.leases)).await;
    }

    /// Checks that the caches of the process agree with the reads of a new process.
    pub(super) async fn check_caches(&self) {
        let world = World::with(self.world.storage.clone(), self.world.astra.clone());
        let fresh = Self { world, mode: self.mode, had_token: self.had_token, leases: BTreeMap::new() };
        for ((view, seen), (_, stored)) in views(self).await.into_iter().zip(views(&fresh).await) {
            assert!(seen == stored, "the caches do not agree with the storage: {view}");
        }
    }

    /// Revokes every lease, as a healthy host does. Checks that nothing is left.
    pub(super) async fn end(mut self) {
        let config = json!({"org_id": ORG, "astra_token": self.world.astra.root(), "url": self.world.astra.url()});
        ok(self.world.write("config", config).await);
        for (client_id, lease) in std::mem::take(&mut self.leases) {
            let answer = self.world.revoke(&lease).await;
            assert!(answer.is_ok(), "the lease of {client_id} cannot be revoked");
        }
        for key in self.world.keys("static-role/") {
            let config = self.world.storage.json(&format!("config/{ORG}")).unwrap_or_default();
            let org = config["logical_name"].as_str().filter(|name| !name.is_empty()).unwrap_or(ORG).to_owned();
            let name = key.rsplit('/').next().unwrap_or_default();
            ok(self.world.ask(Operation::Delete, &format!("orgs/{org}/static-roles/{name}"), Value::Null).await);
        }
        balance(&self.world, None).await;
        let mut left: Vec<String> = ["token/", "client/"].iter().flat_map(|kind| self.world.keys(kind)).collect();
        left.extend(self.world.unfinished());
        let alive = live(&self.world);
        assert!(left.is_empty() && alive.is_empty(), "left in storage: {left:?}, in Astra: {alive:?}");
    }
}

/// Runs ticks until no WAL entry has anything left to do, Astra and storage agree, and each live token has a lease.
async fn balance(world: &World, leases: Option<&BTreeMap<String, Secret>>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tick = world.backend.handle(request(Operation::Rollback, "", json!({"immediate": true}))).await;
        let wal = due(world);
        let (live, known, stored) = (live(world), known(world), stored(world));
        let of_static_roles = of_static_roles(world);
        let is_leased =
            |id: &String| leases.is_none_or(|leases| leases.contains_key(id) || of_static_roles.contains(id));
        let agree = live == known && known == stored && live.iter().all(is_leased);
        // A mint whose outcome is unclear holds its place below a limit until its look-up ends.
        if tick.is_ok() && wal.is_empty() && agree && has_one_root(world) && world.tasks.is_empty() {
            let uncounted: Vec<_> = uncounted(world, &live);
            assert!(uncounted.is_empty(), "not counted against the limit of their role: {uncounted:?}");
            return;
        }
        let failed = tick.err().map(|error| error.detail());
        let leases: Vec<&String> = leases.into_iter().flat_map(BTreeMap::keys).collect();
        assert!(
            Instant::now() < deadline,
            "the books do not balance: roots {:?}, alive in Astra {live:?}, in the inventory {known:?}, stored {stored:?}, leases \
             {leases:?}, log {wal:?}, last tick {failed:?}",
            world.astra.roots()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Keys of the unfinished WAL entries, without the deletions of tokens that Astra has. These deletions can take effect late.
fn due(world: &World) -> Vec<String> {
    let live = live(world);
    let is_of_live = |key: &String| {
        let entry = world.storage.json(key).unwrap_or_default();
        entry["type"] == "token-delete" && entry["data"]["client_id"].as_str().is_some_and(|id| live.contains(id))
    };
    world.unfinished().into_iter().filter(|key| !is_of_live(key)).collect()
}

/// Whether Astra has exactly one root token, and the config, if it exists, holds this root token.
fn has_one_root(world: &World) -> bool {
    let held = world.storage.json(&format!("config/{ORG}")).map(|config| config["astra_token"].clone());
    let state = world.astra.state();
    let tokens: Vec<&str> = state.roots.values().map(|root| root.token.as_str()).collect();
    tokens.len() == 1 && held.is_none_or(|held| held == tokens[0])
}

/// Client ids of the live tokens in Astra.
pub(super) fn live(world: &World) -> BTreeSet<String> {
    world.astra.state().live.keys().cloned().collect()
}

/// Client ids of live tokens that are not counted for the limit of their role.
fn uncounted<'a>(world: &World, live: &'a BTreeSet<String>) -> Vec<&'a String> {
    let role = world.storage.json(&format!("role/{ORG}:r_w_user")).unwrap_or_default();
    let is_limited = role["max_tokens"].as_u64().is_some_and(|limit| limit > 0);
    let is_counted = |id: &str| world.storage.json(&format!("live/{ORG}/r_w_user/{id}")).is_some();
    let of_static_roles = of_static_roles(world);
    live.iter().filter(|id| is_limited && !is_counted(id) && !of_static_roles.contains(*id)).collect()
}

/// Client ids of the tokens of static roles.
fn of_static_roles(world: &World) -> BTreeSet<String> {
    let roles = world.keys("static-role/").into_iter().filter_map(|key| world.storage.json(&key));
    let ids = |role: Value| {
        let former = role["former"].as_array().cloned().unwrap_or_default();
        std::iter::once(role["current"].clone()).chain(former).collect::<Vec<_>>()
    };
    roles.flat_map(ids).filter_map(|token| token["client_id"].as_str().map(str::to_owned)).collect()
}

/// Client ids in the inventory.
fn known(world: &World) -> BTreeSet<String> {
    let keys = world.keys("client/");
    keys.iter().filter_map(|key| key.rsplit_once('/')).map(|(_, id)| id.to_owned()).collect()
}

/// Client ids of the stored tokens.
fn stored(world: &World) -> BTreeSet<String> {
    let client_id = |key: &String| Some(world.storage.json(key)?["clientId"].as_str()?.to_owned());
    world.keys("token/").iter().filter_map(client_id).collect()
}

/// Returns the answers of all reads of a mount. The answers can hold secrets.
async fn views(trial: &Trial) -> Vec<(String, Value)> {
    let mut views = vec![
        (Operation::Read, "config", json!({"org_id": ORG})),
        (Operation::Read, "config", json!({"org_id": SPARE})),
        (Operation::Read, "config", json!({"logical_name": "retailOrg"})),
        (Operation::Read, "config", json!({"logical_name": "renamed"})),
        (Operation::List, "configs/", Value::Null),
        (Operation::Read, "role", json!({"org_id": ORG, "role_name": "r_w_user"})),
        (Operation::Read, "role", json!({"org_id": ORG, "role_name": "spare"})),
        (Operation::Read, "role", json!({"org_id": ORG, "role_name": "fresh"})),
        (Operation::List, "roles/", Value::Null),
        (Operation::List, "org/tokens/", Value::Null),
    ];
    // In the other caller mode, a read mints.
    if trial.mode == "standard" {
        views.extend(["taken", "fresh"].map(|name| (Operation::Read, "org/token", order(name))));
        views.push((Operation::Read, "org/token", json!({"org_id": ORG, "client_id": TAKEN})));
    }
    let mut seen = Vec::new();
    for (operation, path, data) in views {
        let answer = trial.world.ask(operation, path, data.clone()).await;
        seen.push((format!("{operation:?} {path} {data}"), without_uses(shape(&answer))));
    }
    seen
}

/// Removes the uses of tokens, which a process counts before it writes them, from a list or a stored record.
fn without_uses(mut value: Value) -> Value {
    const USES: [&str; 3] = ["last_used_at", "last_used_by", "use_count"];
    let records = value.pointer_mut("/data/key_info").and_then(Value::as_object_mut);
    for record in records.into_iter().flat_map(serde_json::Map::values_mut).filter_map(Value::as_object_mut) {
        record.retain(|name, _| !USES.contains(&name.as_str()));
    }
    if let Some(record) = value.as_object_mut() {
        record.retain(|name, _| !USES.contains(&name.as_str()));
    }
    value
}

/// Returns an answer without times, for comparisons. The answer can hold secrets.
pub(super) fn shape(answer: &Answer) -> Value {
    match answer {
        Err(error) => json!({"error": error.to_string()}),
        Ok(None) => Value::Null,
        Ok(Some(response)) => {
            let lease = response.secret.as_ref();
            let lease = lease.map(|secret| json!([secret.ttl.as_secs(), secret.internal_data]));
            timeless(json!({"data": response.whole_data(), "warnings": response.warnings, "lease": lease}))
        }
    }
}

/// Returns the stored entries without times and uses. The entries hold secrets. Entries that count tokens are left out, because
/// more of them than needed can exist.
pub(super) fn contents(world: &World) -> BTreeMap<String, Value> {
    let due = due(world);
    let is_counted = |key: &String| !key.starts_with("live/") && (!key.starts_with("wal/") || due.contains(key));
    let keys = world.storage.keys().into_iter().filter(is_counted);
    keys.map(|key| (key.clone(), without_uses(timeless(world.storage.json(&key).unwrap_or_default())))).collect()
}

/// Returns the text of a panic.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Returns the lease of a token that Astra does not have.
fn lease_of(client_id: &str) -> Secret {
    let data = json!({"orgId": ORG, "clientId": client_id, "roleName": "r_w_user", "tokenId": client_id,
        "secret_type": "astra_token"});
    let hour = Duration::from_secs(3600);
    Secret::new(hour, hour, super::map(data))
}

/// Returns a lease without the members that the Go plugin does not record.
fn old(mut lease: Secret) -> Secret {
    for member in ["ttl_seconds", "max_ttl_seconds", "expires_at"] {
        lease.internal_data.remove(member);
    }
    lease
}

fn timeless(mut value: Value) -> Value {
    match &mut value {
        Value::String(text) if text.parse::<Timestamp>().is_ok() => *text = "a point in time".into(),
        Value::Array(values) => values.iter_mut().for_each(|value| *value = timeless(value.take())),
        Value::Object(members) => {
            // Each mint has another marker.
            members.remove("marker");
            // The text of metrics has durations.
            members.remove("http_raw_body");
            // The current token of a static role has the seconds until its rotation.
            if members.contains_key("last_vault_rotation") {
                members.remove("ttl");
            }
            members.iter_mut().for_each(|(_, value)| *value = timeless(value.take()));
        }
        _ => {}
    }
    value
}
