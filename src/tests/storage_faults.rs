//! Faults of the host's storage and facts at every call of every request.
//!
//! The test runs each row of [`table`] once without a fault, and records its calls, its answer and the stored entries.
//! Then it runs the row again for each of these calls and each fault. Afterwards the host is healthy and runs ticks.
//! The state must then be the state before the request or the state after the request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vault_plugin_sdk::logical::{Answer, Entry, Error, Operation};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage};

use super::astra::Astra;
use super::trial::{Action, SPARE, TAKEN, Trial, TrialStart, contents, panic_text, shape};
use super::{ORG, ROLE_ID, ROOT, World, eventually, order, some, status};

use Operation::{Create, Delete, List, Patch, Read, Update};

/// A request for the test of all faults.
struct Row {
    action: Action,
    data: Value,
    mode: &'static str,
    /// Whether no lease of the token of the trial can exist any more.
    overdue: bool,
    /// Whether the request has several changes, each of which can happen without the others.
    in_parts: bool,
    /// Whether the role has a limit of two tokens.
    limited: bool,
    /// Whether there is a static role.
    with_static_role: bool,
}

/// The paths that the guide does not have.
fn rows_beyond_the_guide() -> Vec<Row> {
    let new = json!({"org_id": super::OTHER_ORG, "astra_token": ROOT, "verify_connection": false});
    vec![
        client(List, "orgs/", json!({})),
        client(Create, "orgs/fresh", new),
        client(Update, "orgs/retailOrg", json!({"astra_token": ROOT, "logical_name": "renamed"})),
        client(Patch, "orgs/retailOrg", json!({"request_timeout": "20s"})),
        client(Read, "orgs/retailOrg", json!({})),
        client(Delete, "orgs/retailOrg", json!({"force": true})),
        client(Update, "orgs/retailOrg/rotate-root", json!({})),
        client(Update, "orgs/retailOrg/sync-roles", json!({})),
        client(Update, "orgs/retailOrg/tidy", json!({})),
        client(Update, "orgs/retailOrg/tidy", json!({"safety_buffer": 0, "dry_run": false})),
        row(Action::Exists("orgs/retailOrg"), json!({})),
        client(List, "orgs/retailOrg/roles/", json!({})),
        client(Create, "orgs/retailOrg/roles/fresh", json!({"role_id": ROLE_ID, "ttl": 60, "max_ttl": 600})),
        client(Update, "orgs/retailOrg/roles/r_w_user", json!({"role_id": "another"})),
        client(Patch, "orgs/retailOrg/roles/r_w_user", json!({"ttl": 60})),
        client(Read, "orgs/retailOrg/roles/spare", json!({})),
        client(Delete, "orgs/retailOrg/roles/spare", json!({})),
        row(Action::Exists("orgs/retailOrg/roles/spare"), json!({})),
        client(List, "orgs/retailOrg/tokens/", json!({"limit": 1})),
        client(List, "orgs/retailOrg/tokens/", json!({"created_by": "token-bob", "limit": 1})),
        client(
            Patch,
            "orgs/retailOrg/roles/r_w_user",
            json!({"required_metadata": "team", "default_metadata": {"owner": "{{display_name}}"}}),
        ),
        client(Read, "orgs/retailOrg/tokens/DTEUyKUZZrvFzzLzPGCb0001", json!({})),
        client(Delete, "orgs/retailOrg/tokens/DTEUyKUZZrvFzzLzPGCb0001", json!({})),
    ]
}

/// All operations of a mount. A new path or operation needs a line in one of the lists.
fn table() -> Vec<Row> {
    rows_of_the_guide()
        .into_iter()
        .chain(rows_beyond_the_guide())
        .chain(rows_of_static_roles())
        .chain(rows_of_owners())
        .collect()
}

/// Look-ups, replacements, and roles with several Astra roles.
fn rows_of_owners() -> Vec<Row> {
    vec![
        client(Update, "lookup", json!({"client_id": TAKEN})),
        client(Update, "lookup", json!({"client_id": "unknown", "check_astra": true})),
        client(Patch, "orgs/retailOrg/roles/r_w_user", json!({"role_ids": "several,roles"})),
        client(Update, "org/token", replacement("taken", json!(0))),
        client(Update, "org/token", replacement("taken", json!("1h"))),
        client(Update, "creds/retailOrg/r_w_user", json!({"logical_name": "taken", "replace": true, "overlap": "1h"})),
        client(Update, "org/token", replacement("taken", json!("1h"))).limited(),
    ]
}

/// Static roles and their tokens.
fn rows_of_static_roles() -> Vec<Row> {
    let new = json!({"role": "r_w_user", "rotation_period": "1h"});
    let rows = vec![
        client(Create, "orgs/retailOrg/static-roles/fresh", new),
        client(Update, "orgs/retailOrg/static-roles/ci", json!({"rotation_period": "2h"})),
        client(Update, "orgs/retailOrg/static-roles/ci", json!({"rotate": true})),
        client(Patch, "orgs/retailOrg/static-roles/ci", json!({"overlap": "5m"})),
        client(Read, "orgs/retailOrg/static-roles/ci", json!({})),
        client(List, "orgs/retailOrg/static-roles/", json!({})),
        client(Delete, "orgs/retailOrg/static-roles/ci", json!({})),
        client(Read, "static-creds/retailOrg/ci", json!({})),
        row(Action::Exists("orgs/retailOrg/static-roles/ci"), json!({})),
    ];
    rows.into_iter().map(|row| Row { with_static_role: true, ..row }).collect()
}

/// The paths of the guide, and what the host asks for.
fn rows_of_the_guide() -> Vec<Row> {
    let org = json!({"org_id": ORG});
    let by_id = json!({"org_id": ORG, "client_id": TAKEN});
    let new =
        json!({"org_id": super::OTHER_ORG, "astra_token": ROOT, "logical_name": "fresh", "verify_connection": false});
    let role = json!({"org_id": ORG, "role_name": "r_w_user", "role_id": "another", "ttl": 60, "max_ttl": 600});
    let fresh = json!({"org_id": ORG, "role_name": "fresh", "role_id": ROLE_ID, "ttl": 60, "max_ttl": 600});
    let spare = json!({"org_id": ORG, "role_name": "spare"});
    vec![
        client(Create, "config", new.clone()),
        client(Update, "config", json!({"org_id": ORG, "astra_token": ROOT, "logical_name": "renamed"})),
        client(Patch, "config", json!({"org_id": ORG, "request_timeout": "20s"})),
        client(Read, "config", org.clone()),
        client(Read, "config", json!({"logical_name": "retailOrg"})),
        client(Delete, "config", json!({"org_id": SPARE})),
        client(Delete, "config", json!({"org_id": ORG, "force": true})),
        client(Update, "config/rotate-root", org.clone()),
        row(Action::Exists("config"), org.clone()),
        client(List, "configs/", json!({})),
        client(Create, "role", fresh.clone()),
        client(Update, "role", role),
        client(Patch, "role", json!({"org_id": ORG, "role_name": "r_w_user", "ttl": 60})),
        client(Read, "role", spare.clone()),
        client(Delete, "role", spare.clone()),
        row(Action::Exists("role"), spare),
        client(List, "roles/", json!({})),
        client(List, "roles/", org.clone()),
        client(Update, "roles/sync", org.clone()),
        client(Update, "roles/sync", json!({})).in_parts(),
        client(Create, "org/token", order("fresh")),
        client(Update, "org/token", order("fresh")),
        client(Read, "org/token", order("taken")),
        client(Read, "org/token", by_id.clone()),
        client(Read, "org/token", order("label")).sidecar(),
        client(Update, "creds/retailOrg/r_w_user", json!({"logical_name": "label"})),
        client(Read, "creds/retailOrg/r_w_user", json!({"metadata": "team=a"})),
        client(Read, "creds/retailOrg/r_w_user", json!({})).sidecar(),
        client(Delete, "org/token", order("taken")),
        client(Delete, "org/token", by_id.clone()),
        client(Delete, "org/token", by_id).sidecar(),
        client(List, "org/tokens/", json!({})),
        client(List, "org/tokens/", json!({"role": "r_w_user", "unused_for": 0})),
        client(List, "org/tokens/", json!({"org_id": ORG, "limit": 1})),
        client(Read, "status", json!({})),
        client(Read, "status", json!({"org_id": ORG, "check": true})),
        client(Read, "metrics", json!({})),
        row(Action::Renew, json!({})),
        row(Action::Renew, json!({})).sidecar(),
        row(Action::RenewOld, json!({})),
        row(Action::Revoke, json!({})),
        row(Action::Revoke, json!({})).sidecar(),
        row(Action::Tick, json!({})).overdue(),
        row(Action::Tick, json!({})).sidecar().overdue(),
        client(Patch, "role", json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": 2})),
        client(Patch, "role", json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": 0})).limited(),
        client(Delete, "role", json!({"org_id": ORG, "role_name": "r_w_user"})).limited(),
        client(Update, "org/token", order("fresh")).limited(),
        client(Read, "org/token", order("label")).sidecar().limited(),
        client(Delete, "org/token", order("taken")).limited(),
        row(Action::Revoke, json!({})).limited(),
    ]
}

/// The parameters of a mint that replaces the token of a name.
fn replacement(name: &str, overlap: Value) -> Value {
    let mut order = order(name);
    order["replace"] = json!(true);
    order["overlap"] = overlap;
    order
}

fn client(operation: Operation, path: &'static str, data: Value) -> Row {
    row(Action::Client(operation, path), data)
}

fn row(action: Action, data: Value) -> Row {
    Row { action, data, mode: "standard", overdue: false, in_parts: false, limited: false, with_static_role: false }
}

impl Row {
    fn sidecar(self) -> Self {
        Self { mode: "sidecar", ..self }
    }

    fn overdue(self) -> Self {
        Self { overdue: true, ..self }
    }

    fn in_parts(self) -> Self {
        Self { in_parts: true, ..self }
    }

    fn limited(self) -> Self {
        Self { limited: true, ..self }
    }

    async fn initial(&self) -> TrialStart {
        if self.with_static_role {
            return TrialStart::with_static_role(self.mode).await;
        }
        if self.limited {
            return TrialStart::limited(self.mode).await;
        }
        if self.overdue { TrialStart::overdue(self.mode).await } else { TrialStart::new(self.mode).await }
    }

    /// Whether the request mints a token. Each mint gives another token.
    fn mints(&self) -> bool {
        let minting = if self.mode == "sidecar" { Read } else { Update };
        match self.action {
            Action::Client(operation, "org/token") => operation == minting || operation == Create,
            Action::Client(_, path) => {
                path.starts_with("creds/") || path.ends_with("/rotate-root") || path.contains("/static-roles/")
            }
            _ => false,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut data = self.data.clone();
        if let Some(token) = data.get_mut("astra_token") {
            *token = json!("...");
        }
        write!(f, "{:?} {data} in mode {}", self.action, self.mode)
    }
}

/// The kinds of calls with a fault.
#[derive(Clone, Copy, Debug)]
enum Of {
    Storage,
    Facts,
}

/// The result of a request without a fault.
struct Usual {
    answer: Value,
    before: BTreeMap<String, Value>,
    after: BTreeMap<String, Value>,
    /// Calls of the storage and of the facts.
    calls: (usize, usize),
}

impl Usual {
    async fn of(initial: &TrialStart, row: &Row, warm: bool) -> Self {
        let mut trial = begin(initial, warm).await;
        let cost = |trial: &Trial| (trial.world.storage.calls(), trial.world.system.calls());
        let (before, start) = (contents(&trial.world), cost(&trial));
        let answer = trial.ask(row.action, &row.data).await;
        let end = cost(&trial);
        if let Err(error) = &answer {
            panic!("the request fails undisturbed: {error}");
        }
        trial.note(row.action, &answer);
        trial.settle().await;
        let after = contents(&trial.world);
        assert!(!row.overdue || before != after, "the tick leaves what is overdue");
        trial.end().await;
        Self { answer: shape(&answer), before, after, calls: (end.0 - start.0, end.1 - start.1) }
    }
}

async fn begin(initial: &TrialStart, warm: bool) -> Trial {
    let trial = initial.trial();
    if warm {
        trial.warm_up().await;
    }
    trial
}

fn inject(world: &World, of: Of, fault: HostFault) {
    match of {
        Of::Storage => world.storage.inject(fault),
        Of::Facts => world.system.inject(fault),
    }
}

fn heal(world: &World) {
    world.storage.heal();
    world.system.heal();
}

/// Runs one request with one fault, and checks the state afterwards.
async fn disturbed(initial: &TrialStart, row: &Row, usual: &Usual, of: Of, fault: HostFault, warm: bool) {
    let mut trial = begin(initial, warm).await;
    inject(&trial.world, of, fault);
    let answer = ask(&trial, row, fault).await;
    heal(&trial.world);
    if let Some(answer) = &answer {
        trial.note(row.action, answer);
        check_answer(&trial, row, usual, fault, answer);
    }

    match fault {
        // No caller waits for the work, so only the shutdown of the process shows that the work has finished.
        HostFault::HangsAt(_) => {
            trial.world.backend.cleanup().await;
            trial.check_caches().await;
            trial.succeed();
        }
        // A node that is not active any more leaves the rest to another node.
        HostFault::From(_) | HostFault::ReadOnlyFrom(_) if !warm => trial.succeed(),
        _ => {}
    }
    trial.settle().await;
    trial.check_caches().await;
    let succeeded = matches!(answer, Some(Ok(_)));
    let mut now = contents(&trial.world);
    if row.action == Action::Tick && now != usual.after {
        // A token that a tick could not delete waits for the next pass. A new process starts with a pass.
        assert_same(&now, &usual.before, "after a tick");
        trial.succeed();
        trial.settle().await;
        now = contents(&trial.world);
    }
    if succeeded || row.action == Action::Tick {
        assert_same(&now, &usual.after, "after a success");
    } else if row.in_parts {
        assert_same(&now, &parts(&now, usual), "after a failure");
    } else if now != usual.after {
        assert_same(&now, &usual.before, "after a failure");
    }
    if !succeeded {
        again(&mut trial, row, usual, now == usual.after).await;
    }
    trial.end().await;
}

/// Sends the request. If the fault holds the answer back, the caller does not wait.
async fn ask(trial: &Trial, row: &Row, fault: HostFault) -> Option<Answer> {
    let storage = trial.world.storage.clone();
    let before = storage.calls();
    let request = tokio::spawn(trial.ask(row.action, &row.data));
    if let HostFault::HangsAt(n) = fault {
        eventually(|| storage.calls() >= before + n || request.is_finished()).await;
        // Other requests are not blocked.
        some(trial.world.ask(List, "configs/", Value::Null).await);
        request.abort();
    }
    match request.await {
        Ok(answer) => Some(answer),
        Err(ended) if ended.is_cancelled() => None,
        Err(ended) => panic!("the request panicked: {}", panic_text(&*ended.into_panic())),
    }
}

fn check_answer(trial: &Trial, row: &Row, usual: &Usual, fault: HostFault, answer: &Answer) {
    let error = match answer {
        Ok(_) => {
            let mut shape = shape(answer);
            // A rotation that only failed to delete the old root token succeeds with a warning.
            if matches!(row.action, Action::Client(_, path) if path.ends_with("/rotate-root"))
                && !matches!(fault, HostFault::Slow(_))
            {
                let old = ROOT.split(':').nth(1).unwrap_or_default();
                let warnings = shape["warnings"].take();
                assert!(warnings.as_array().unwrap().iter().all(|warning| warning.as_str().unwrap().contains(old)));
                shape["warnings"] = json!([]);
            }
            assert!(shape == usual.answer || row.action == Action::Tick, "a success with another answer");
            return;
        }
        Err(error) => error,
    };
    assert!(!matches!(fault, HostFault::Slow(_)), "what is slow fails: {error}");
    let detail = error.detail();
    let secrets = ["s3cret", "AstraCS", ROOT.rsplit_once(':').map_or(ROOT, |(_, digest)| digest)];
    assert!(!secrets.iter().any(|secret| detail.contains(secret)), "the error holds a secret");
    if matches!(fault, HostFault::ReadOnlyFrom(_)) {
        let changed = trial.world.astra.count("POST") + trial.world.astra.count("DELETE") > 0;
        let is_plain = matches!(error, Error::ReadOnly);
        assert!(is_plain || (changed && detail.contains("readonly storage")), "the host would not forward: {error}");
    }
}

/// Checks that the same request succeeds now.
async fn again(trial: &mut Trial, row: &Row, usual: &Usual, done: bool) {
    if row.action == Action::Revoke && !trial.leases.contains_key(TAKEN) {
        return;
    }
    let answer = trial.ask(row.action, &row.data).await;
    if done && matches!(row.action, Action::Client(Delete, "org/token")) {
        let (code, text) = status(answer);
        assert!(code == 400 && text.contains("no live token"), "{code} {text}");
        return;
    }
    if done && matches!(row.action, Action::Client(Update, "orgs/retailOrg")) {
        let (code, text) = status(answer);
        assert!(code == 400 && text.contains("orgs/renamed"), "a renamed org has another path: {code} {text}");
        return;
    }
    if let Err(error) = &answer {
        panic!("the request fails afterwards: {error}");
    }
    trial.note(row.action, &answer);
    trial.settle().await;
    // A second mint gives another client id.
    if !row.mints() {
        assert_same(&contents(&trial.world), &usual.after, "after the request was repeated");
    }
}

/// Returns the stored entries, in which each entry that equals its state after the request is replaced by its state
/// before.
fn parts(now: &BTreeMap<String, Value>, usual: &Usual) -> BTreeMap<String, Value> {
    let keys: BTreeSet<&String> = usual.before.keys().chain(usual.after.keys()).collect();
    let part = |key: &String| {
        let (is, after) = (now.get(key), usual.after.get(key));
        let part = if is == after { after } else { usual.before.get(key) };
        part.map(|value| (key.clone(), value.clone()))
    };
    keys.into_iter().filter_map(part).collect()
}

/// Compares stored entries. Reports only keys, because the entries hold secrets.
#[track_caller]
fn assert_same(is: &BTreeMap<String, Value>, expected: &BTreeMap<String, Value>, when: &str) {
    let keys: BTreeSet<&String> = is.keys().chain(expected.keys()).collect();
    let differ: Vec<_> = keys.into_iter().filter(|key| is.get(*key) != expected.get(*key)).collect();
    assert!(differ.is_empty(), "{when}, these entries are not as they should be: {differ:?}");
}

/// Tries every fault on a row. Returns the failed checks.
async fn try_row(row: Row) -> Vec<String> {
    const ENOUGH: usize = 3;
    let mut failures = Vec::new();
    let initial = row.initial().await;
    for warm in [false, true] {
        let place = format!("{row}, {} caches", if warm { "warm" } else { "cold" });
        let usual = match AssertUnwindSafe(Usual::of(&initial, &row, warm)).catch_unwind().await {
            Ok(usual) => usual,
            Err(payload) => {
                failures.push(format!("{place}: {}", panic_text(&*payload)));
                continue;
            }
        };
        assert!(warm || usual.calls.0 > 0, "{place}: no call to disturb");
        for (of, fault) in faults(&usual) {
            let trial = disturbed(&initial, &row, &usual, of, fault, warm);
            if let Err(payload) = AssertUnwindSafe(trial).catch_unwind().await {
                failures.push(format!("{place}, {of:?} {fault:?}: {}", panic_text(&*payload)));
            }
            if failures.len() >= ENOUGH {
                return failures;
            }
        }
    }
    failures
}

fn faults(usual: &Usual) -> Vec<(Of, HostFault)> {
    let storage =
        [HostFault::At, HostFault::AfterEffectAt, HostFault::HangsAt, HostFault::From, HostFault::ReadOnlyFrom];
    let mut faults = vec![(Of::Storage, HostFault::Slow(Duration::from_millis(1)))];
    faults.extend((1..=usual.calls.0).flat_map(|n| storage.map(|kind| (Of::Storage, kind(n)))));
    faults.extend((1..=usual.calls.1).flat_map(|n| [HostFault::At, HostFault::From].map(|kind| (Of::Facts, kind(n)))));
    faults
}

/// The build of the inventory of a mount of the Go plugin. Its pauses take no time in this test.
#[tokio::test(start_paused = true)]
async fn a_fault_while_the_inventory_is_built_only_delays_it() {
    let calls = build_inventory(Of::Storage, HostFault::Slow(Duration::from_secs(1))).await;
    assert!(calls.0 > 6 && calls.1 > 0, "{calls:?}");
    let kinds = [HostFault::At, HostFault::AfterEffectAt, HostFault::From, HostFault::ReadOnlyFrom];
    for (n, kind) in (1..=calls.0).flat_map(|n| kinds.map(|kind| (n, kind))) {
        build_inventory(Of::Storage, kind(n)).await;
    }
    for (n, kind) in (1..=calls.1).flat_map(|n| [HostFault::At, HostFault::From].map(|kind| (n, kind))) {
        build_inventory(Of::Facts, kind(n)).await;
    }
}

/// Returns the number of calls of the storage and of the facts.
async fn build_inventory(of: Of, fault: HostFault) -> (usize, usize) {
    let world = World::with(Arc::new(old_tokens()), Arc::new(Astra::start(ORG).await));
    inject(&world, of, fault);
    world.backend.initialize().await.expect("initializes whatever happens");
    if matches!(fault, HostFault::From(_) | HostFault::ReadOnlyFrom(_)) {
        // Some attempts fail before the host is healthy.
        tokio::time::sleep(Duration::from_secs(10)).await;
        heal(&world);
    }
    eventually(|| world.keys("client-index").len() == 1).await;
    let calls = (world.storage.calls(), world.system.calls());
    heal(&world);
    let records = [format!("client/{ORG}/OLD1"), format!("client/{ORG}/OLD2")];
    assert_eq!(world.keys("client/"), records, "{of:?} {fault:?}");
    let listed = world.list("org/tokens/", Value::Null).await;
    assert_eq!(listed["keys"], json!(["OLD1", "OLD2"]), "{of:?} {fault:?}");
    calls
}

/// The entries of two tokens of the Go plugin.
fn old_tokens() -> MemoryStorage {
    let token = |client_id: &str| {
        json!({"clientId": client_id, "secret": "old-secret", "orgId": ORG, "roleName": "r_w_user", "roles": [ROLE_ID],
            "token": format!("AstraCS:{client_id}:abc"), "generatedOn": "2023-01-01T00:00:00Z", "logicalName": "",
            "metadata": null})
    };
    let entry = |id: &str| Entry::json(format!("token/{id}"), &token(id)).expect("has a JSON form");
    MemoryStorage::holding(["OLD1", "OLD2"].map(entry))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_host_at_any_call_leaves_the_whole_change_or_none() {
    let mut rows = JoinSet::new();
    for row in table() {
        rows.spawn(try_row(row));
    }
    let failures: Vec<String> = rows.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

/// Whether the path of a request matches a template, such as `creds/{org}/{role}`.
fn is_of(path: &str, template: &str) -> bool {
    let (path, template): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    path.len() == template.len()
        && path.iter().zip(template).all(|(part, wanted)| *part == wanted || wanted.starts_with('{'))
}

#[tokio::test]
async fn every_declared_operation_is_in_the_table_of_faults() {
    let world = World::unprepared().await;
    let document = some(world.ask(Operation::Help, "", Value::Null).await).whole_data().unwrap()["openapi"].take();
    let rows = table();
    let has = |wanted: &dyn Fn(Action) -> bool| rows.iter().any(|row| wanted(row.action));
    let mut missing = Vec::new();
    let mut declared = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.trim_start_matches('/');
        let mut operations: Vec<Operation> = Vec::new();
        for method in item.as_object().unwrap().keys() {
            match method.as_str() {
                "get" if path.ends_with('/') => operations.push(List),
                "get" => operations.push(Read),
                "post" => operations.push(Update),
                "patch" => operations.push(Patch),
                "delete" => operations.push(Delete),
                "description" | "parameters" | "x-vault-sudo" | "x-vault-unauthenticated" => {}
                "x-vault-createSupported" => {
                    operations.push(Create);
                    if !has(&|action| matches!(action, Action::Exists(known) if is_of(known, path))) {
                        missing.push(format!("the existence check of {path}"));
                    }
                }
                other => panic!("{path} declares {other}, which this test does not know"),
            }
        }
        for operation in operations {
            declared += 1;
            let is_there =
                |action| matches!(action, Action::Client(op, known) if op == operation && is_of(known, path));
            if !has(&is_there) {
                missing.push(format!("{operation:?} of {path}"));
            }
        }
    }
    assert!(declared >= 15, "the document tells of {declared} operations only");
    for action in [Action::Renew, Action::Revoke, Action::Tick] {
        if !has(&|known| known == action) {
            missing.push(format!("{action:?}"));
        }
    }
    assert!(missing.is_empty(), "no row disturbs {missing:?}");
}

/// A fault in the tick that processes the WAL entry of an interrupted mint, deletion or revocation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tick_with_a_fault_leaves_the_rest_to_the_next_tick() {
    let mut rows = JoinSet::new();
    for row in table() {
        let leaves = matches!(
            row.action,
            Action::Client(Update | Create | Delete | Read, "org/token" | "config/rotate-root") | Action::Revoke
        );
        if leaves && (row.mints() || !matches!(row.action, Action::Client(Read, _))) {
            rows.spawn(disturb_ticks(row));
        }
    }
    let (mut failures, mut ticks) = (Vec::new(), 0);
    for (row_failures, row_ticks) in rows.join_all().await {
        failures.extend(row_failures);
        ticks += row_ticks;
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(ticks > 0, "no request left anything for a tick");
}

/// Interrupts a request at every storage call, and then the tick of the next process at each of its calls.
async fn disturb_ticks(row: Row) -> (Vec<String>, usize) {
    let (mut failures, mut ticks) = (Vec::new(), 0);
    let initial = row.initial().await;
    let usual = Usual::of(&initial, &row, false).await;
    for n in 1..=usual.calls.0 {
        for fault in [HostFault::At, HostFault::AfterEffectAt] {
            for m in 1.. {
                let trial = AssertUnwindSafe(disturbed_tick(&initial, &row, HostFault::From(n), fault(m), m));
                match trial.catch_unwind().await {
                    Ok(Some(true)) => ticks += 1,
                    Ok(_) => break,
                    Err(payload) => {
                        failures.push(format!("{row}, cut at {n}, tick {:?}: {}", fault(m), panic_text(&*payload)));
                        break;
                    }
                }
            }
        }
    }
    (failures, ticks)
}

/// Returns whether the tick reached the fault at its call `m`, or `None` if the tick had nothing to do.
async fn disturbed_tick(
    initial: &TrialStart,
    row: &Row,
    first: HostFault,
    second: HostFault,
    m: usize,
) -> Option<bool> {
    let mut trial = begin(initial, false).await;
    trial.world.storage.inject(first);
    if let Some(answer) = ask(&trial, row, first).await {
        trial.note(row.action, &answer);
    }
    trial.world.storage.heal();
    trial.succeed();
    if trial.world.unfinished().is_empty() {
        return None;
    }
    let before = trial.world.storage.calls();
    trial.world.storage.inject(second);
    // The host only logs the answer of a tick.
    drop(trial.ask(Action::Tick, &Value::Null).await);
    let reached = trial.world.storage.calls() - before >= m;
    trial.world.storage.heal();
    trial.settle().await;
    trial.check_caches().await;
    trial.end().await;
    Some(reached)
}
