//! Reads during a change, and concurrent requests.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use vault_plugin_sdk::logical::{Answer, Entry, Error, Mount, Operation, Storage, StorageError, Transaction};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage, mount};

use super::request;
use super::trial::{Action, TAKEN, Trial, TrialStart, live, panic_text};
use super::{ORG, ROLE_ID, ROOT, World, data, eventually, lease, ok, order};

/// A storage that holds back one answer until the test releases the answer.
struct Held {
    inner: Arc<MemoryStorage>,
    key: Mutex<Option<String>>,
    /// Whether the storage also holds back answers to reads.
    reads: bool,
    reached: Semaphore,
    go: Semaphore,
}

impl Held {
    fn of(inner: &Arc<MemoryStorage>, reads: bool) -> Arc<Self> {
        let (reached, go) = (Semaphore::new(0), Semaphore::new(0));
        Arc::new(Self { inner: inner.clone(), key: Mutex::new(None), reads, reached, go })
    }

    async fn hold(&self, key: &str) {
        let hold = self.key.lock().unwrap().take_if(|held| held == key).is_some();
        if hold {
            self.reached.add_permits(1);
            self.go.acquire().await.unwrap().forget();
        }
    }
}

#[async_trait]
impl Storage for Held {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        let entry = self.inner.get(key).await;
        if self.reads {
            self.hold(key).await;
        }
        entry
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        let key = entry.key.clone();
        let done = self.inner.put(entry).await;
        self.hold(&key).await;
        done
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let done = self.inner.delete(key).await;
        self.hold(key).await;
        done
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.list(prefix).await
    }

    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        self.inner.list_page(prefix, after, limit).await
    }

    async fn begin(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_read_during_a_change_caches_no_old_value() {
    let key = format!("role/{ORG}:r");
    for by_invalidation in [false, true] {
        let (host, inner, _) = mount();
        let storage = Held::of(&inner, true);
        let backend = crate::factory()(Mount::new(host.plugin, storage.clone(), host.system)).map_err(drop).unwrap();
        let role = |id: &str| json!({"role_name": "r", "role_id": id, "org_id": ORG, "ttl": 1, "max_ttl": 1});
        let stored = |id: &str| Entry::json(key.clone(), &role(id)).unwrap();
        let name = json!({"org_id": ORG, "role": "r"});
        inner.put(stored(ROLE_ID)).await.unwrap();

        *storage.key.lock().unwrap() = Some(key.clone());
        let reader = tokio::spawn({
            let (backend, name) = (backend.clone(), name.clone());
            async move { data(backend.handle(request(Operation::Read, "role", name)).await) }
        });
        storage.reached.acquire().await.unwrap().forget();
        if by_invalidation {
            inner.put(stored("new")).await.unwrap();
            backend.invalidate(&key);
        } else {
            let change = json!({"org_id": ORG, "role": "r", "role_id": "new"});
            backend.handle(request(Operation::Update, "role", change)).await.map_err(drop).unwrap();
        }
        storage.go.add_permits(1);
        assert_eq!(reader.await.unwrap()["role_id"], ROLE_ID, "it read before the change");
        let after = data(backend.handle(request(Operation::Read, "role", name)).await);
        assert_eq!(after["role_id"], "new");
    }
}

#[tokio::test]
async fn a_change_whose_caller_hangs_up_leaves_no_old_value_in_the_cache() {
    let role = json!({"org_id": ORG, "role": "r", "role_id": "new"});
    let config =
        json!({"org_id": ORG, "astra_token": ROOT, "url": "http://127.0.0.1:1/new", "verify_connection": false});
    for (operation, path, key, change) in [
        (Operation::Update, "role", format!("role/{ORG}:r"), &role),
        (Operation::Delete, "role", format!("role/{ORG}:r"), &role),
        (Operation::Update, "config", format!("config/{ORG}"), &config),
        (Operation::Delete, "config", format!("config/{ORG}"), &json!({"org_id": ORG, "force": true})),
    ] {
        let (host, inner, _) = mount();
        let storage = Held::of(&inner, false);
        let backend = crate::factory()(Mount::new(host.plugin, storage.clone(), host.system)).map_err(drop).unwrap();
        let ask = |operation, data: &Value| {
            let (backend, request) = (backend.clone(), request(operation, path, data.clone()));
            async move { backend.handle(request).await }
        };
        let old =
            json!({"org_id": ORG, "role": "r", "role_id": ROLE_ID, "astra_token": ROOT, "verify_connection": false});
        ask(Operation::Update, &old).await.map_err(drop).unwrap();
        let name = json!({"org_id": ORG, "role": "r"});
        let before = data(ask(Operation::Read, &name).await);

        *storage.key.lock().unwrap() = Some(key.clone());
        let caller = tokio::spawn(ask(operation, change));
        storage.reached.acquire().await.unwrap().forget();
        caller.abort();
        drop(caller.await);
        storage.go.add_permits(1);

        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let after = ask(Operation::Read, &name).await.ok().flatten().and_then(|response| response.whole_data());
            match after {
                None if operation == Operation::Delete => break,
                Some(after) if operation == Operation::Update && json!(after) != before => break,
                _ => assert!(Instant::now() < deadline, "{operation:?} of {path} is stored and not seen"),
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Every request that changes one org or one token, with the method of its call of Astra.
fn changes() -> Vec<(Action, Value, Option<&'static str>)> {
    let client = |operation, path, data, call| (Action::Client(operation, path), data, call);
    let by_id = json!({"org_id": ORG, "client_id": TAKEN});
    vec![
        client(Operation::Update, "org/token", order("fresh"), Some("POST")),
        client(Operation::Update, "org/token", replacement(0), Some("POST")),
        client(Operation::Update, "org/token", replacement(3600), Some("POST")),
        client(Operation::Read, "creds/retailOrg/r_w_user", json!({}), Some("POST")),
        client(Operation::Delete, "org/token", by_id, Some("DELETE")),
        client(Operation::Delete, "org/token", order("taken"), Some("DELETE")),
        (Action::Revoke, json!({}), Some("DELETE")),
        (Action::Renew, json!({}), None),
        client(
            Operation::Patch,
            "config",
            json!({"org_id": ORG, "astra_token": ROOT, "request_timeout": "20s"}),
            Some("GET"),
        ),
        client(Operation::Update, "config/rotate-root", json!({"org_id": ORG}), Some("POST")),
        client(Operation::Update, "orgs/retailOrg/tidy", json!({"safety_buffer": 0, "dry_run": false}), Some("GET")),
        client(Operation::Patch, "config", json!({"org_id": ORG, "caller_mode": "sidecar"}), None),
        client(Operation::Delete, "config", json!({"org_id": ORG}), None),
        client(Operation::Delete, "config", json!({"org_id": ORG, "force": true}), None),
        client(Operation::Patch, "role", json!({"org_id": ORG, "role_name": "r_w_user", "ttl": 60}), None),
        client(Operation::Delete, "role", json!({"org_id": ORG, "role_name": "r_w_user"}), None),
        (Action::Tick, json!({}), None),
    ]
}

fn replacement(overlap: u64) -> Value {
    let mut order = order("taken");
    order["replace"] = json!(true);
    order["overlap"] = json!(overlap);
    order
}

#[tokio::test]
async fn a_renewal_during_a_revocation_restores_no_record() {
    let world = Arc::new(World::with_role("standard").await);
    ok(world.write("config", json!({"org_id": ORG, "token_expiry": false})).await);
    let secret = lease(&world.mint("a").await);
    world.write_role(json!({"ttl": "3600", "max_ttl": "72000"})).await;
    // The token, the role, the record.
    world.storage.inject(HostFault::HangsAt(3));
    let calls = world.storage.calls();
    let renewal = tokio::spawn({
        let (world, secret) = (world.clone(), secret.clone());
        async move { world.renew(&secret, Value::Null).await }
    });
    eventually(|| world.storage.calls() == calls + 3).await;
    ok(world.revoke(&secret).await);
    world.storage.heal();
    drop(renewal.await.unwrap());
    assert!(world.is_clean(), "{:?}", world.keys("client/"));
}

/// The second request runs at each call of the storage and of Astra that the first request makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_two_concurrent_changes_leave_a_consistent_state() {
    let mut pairs = JoinSet::new();
    for (first, has_token) in changes().into_iter().flat_map(|change| [(change.clone(), true), (change, false)]) {
        pairs.spawn(async move {
            let initial = if has_token { TrialStart::new("standard").await } else { TrialStart::without_token().await };
            let calls = {
                let trial = initial.trial();
                drop(trial.ask(first.0, &first.1).await);
                trial.world.storage.calls()
            };
            let mut failures = Vec::new();
            for second in changes() {
                let places = (1..=calls).map(Some).chain(first.2.map(|_| None));
                for place in places {
                    let meet = meet(&initial, (&first, place), &second);
                    if let Err(payload) = AssertUnwindSafe(meet).catch_unwind().await {
                        let text = panic_text(&*payload);
                        failures
                            .push(format!("{:?} at {place:?} and {:?}, token {has_token}: {text}", first.0, second.0));
                        break;
                    }
                }
            }
            failures
        });
    }
    let failures: Vec<String> = pairs.join_all().await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}

type Change = (Action, Value, Option<&'static str>);

/// Holds the first request at a call of the storage or of Astra until the second request has finished or waits for the
/// first.
async fn meet(initial: &TrialStart, (first, place): (&Change, Option<usize>), second: &Change) {
    const LONG_ENOUGH_FOR_ASTRA: Duration = Duration::from_millis(60);
    let mut trial = initial.trial();
    // A request can turn reads into mints, so the test does not check the storage with reads.
    trial.mode = "sidecar";
    let (storage, astra) = (trial.world.storage.clone(), trial.world.astra.clone());
    match (place, first.2) {
        (Some(n), _) => storage.inject(HostFault::HangsAt(n)),
        (None, call) => astra.delay(call.expect("it calls Astra"), LONG_ENOUGH_FOR_ASTRA),
    }
    let one = tokio::spawn(trial.ask(first.0, &first.1));
    eventually(|| {
        let reached = place.map_or_else(|| !astra.state().requests.is_empty(), |n| storage.calls() >= n);
        reached || one.is_finished()
    })
    .await;
    let mut two = tokio::spawn(trial.ask(second.0, &second.1));
    // The second request may need a lock of the first request.
    let early = tokio::time::timeout(Duration::from_millis(15), &mut two).await;
    storage.heal();
    let one = one.await.expect("the first request does not panic");
    let two = match early {
        Ok(two) => two,
        Err(_) => two.await,
    };
    let two = two.expect("the second request does not panic");
    for (change, answer) in [(first, &one), (second, &two)] {
        check_refusal(change, answer);
        trial.note(change.0, answer);
    }
    trial.settle().await;
    check_leases(&trial, [first, second]);
    check_config(&trial, [first, second]).await;
    trial.check_caches().await;
    trial.end().await;
}

/// Without faults, an error must be a rejection with a reason.
fn check_refusal(change: &Change, answer: &Answer) {
    let deletes_config = matches!(change.0, Action::Client(Operation::Delete, "config"));
    match answer {
        Ok(_) | Err(Error::InvalidRequest(_) | Error::Status { status: 400 | 404, .. }) => {}
        // While a mint is unfinished.
        Err(Error::Status { status: 503, .. }) if deletes_config => {}
        Err(error) => panic!("{:?} failed: {}", change.0, error.detail()),
    }
}

/// Every lease has its token, unless a request deleted the token.
fn check_leases(trial: &Trial, changes: [&Change; 2]) {
    let ends = |change: &&Change| matches!(change.0, Action::Revoke | Action::Client(Operation::Delete, "org/token"));
    let replaces = changes.iter().any(|change| change.1.get("replace").is_some());
    let is_ended = changes.iter().any(ends) || !trial.had_token || replaces;
    let live = live(&trial.world);
    // The second of two replacements deletes the token of the first, and a deletion by name the token of a replacement.
    let may_be_gone = |id: &str| is_ended && (id == TAKEN || replaces);
    let lost: Vec<_> = trial.leases.keys().filter(|id| !live.contains(*id) && !may_be_gone(id)).collect();
    assert!(lost.is_empty(), "leases without a token: {lost:?}");
}

/// An org without a config has no tokens, unless the config was deleted with force.
async fn check_config(trial: &Trial, changes: [&Change; 2]) {
    let is_forced = changes.iter().any(|change| change.1.get("force").is_some());
    let has_config = trial.world.read("config", json!({"org_id": ORG})).await.is_ok();
    assert!(has_config || is_forced || live(&trial.world).is_empty(), "the config of living tokens is gone");
}
