//! Events for the subscribers of the host.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use vault_plugin_sdk::logical::{Error, Event, HostVersion, Mount, Operation, ReplicationState, SystemView};
use vault_plugin_sdk::testing::{FakeSystem, HostFault};
use wiremock::ResponseTemplate;

use super::{ORG, ROOT, World, eventually, failed, lease, ok, order, some, text};

/// A host with subscribers.
#[derive(Default)]
struct Vault {
    facts: FakeSystem,
    sent: Mutex<Vec<(String, Event)>>,
    /// How often an event was sent, also in vain.
    attempts: AtomicUsize,
    /// Whether the host has no events, as OpenBao.
    has_none: AtomicBool,
    fails: AtomicBool,
    /// Holds events back until the test permits them.
    held: Option<Semaphore>,
}

#[async_trait]
impl SystemView for Vault {
    async fn default_lease_ttl(&self) -> Result<Duration, Error> {
        self.facts.default_lease_ttl().await
    }

    async fn max_lease_ttl(&self) -> Result<Duration, Error> {
        self.facts.max_lease_ttl().await
    }

    async fn replication_state(&self) -> Result<ReplicationState, Error> {
        self.facts.replication_state().await
    }

    async fn host_version(&self) -> Result<HostVersion, Error> {
        self.facts.host_version().await
    }

    async fn send_event(&self, event_type: &str, event: &Event) -> Result<(), Error> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        if let Some(held) = &self.held {
            held.acquire().await.unwrap().forget();
        }
        if self.has_none.load(Ordering::SeqCst) {
            return Err(Error::UnsupportedByHost("events"));
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::internal("told to fail"));
        }
        self.sent.lock().unwrap().push((event_type.to_owned(), event.clone()));
        Ok(())
    }
}

impl Vault {
    /// The types of the events so far.
    fn kinds(&self) -> Vec<String> {
        self.sent.lock().unwrap().iter().map(|(kind, _)| kind.clone()).collect()
    }

    /// Waits for an event, and returns its metadata.
    async fn nth(&self, n: usize) -> (String, Value) {
        eventually(|| self.sent.lock().unwrap().len() > n).await;
        let (kind, event) = self.sent.lock().unwrap()[n].clone();
        assert!(!event.id.is_empty() && event.entity_ids == [event.metadata["path"].as_str().unwrap()]);
        (kind, Value::Object(event.metadata))
    }
}

impl World {
    async fn on(vault: &Arc<Vault>) -> Self {
        let world = Self::with_role("standard").await;
        let mount = Mount::new(crate::PLUGIN, world.storage.clone(), vault.clone());
        let tasks = mount.tasks.clone();
        let backend = crate::factory()(mount).unwrap_or_else(|error| panic!("{error}"));
        Self { backend, tasks, ..world }
    }
}

#[tokio::test]
async fn mints_revocations_and_rotations_are_told_without_secrets() {
    let vault = Arc::new(Vault::default());
    let world = World::on(&vault).await;
    let minted = world.mint("a").await;
    let client = text(&minted, "clientId");
    let path = format!("orgs/retailOrg/tokens/{client}");
    let expected = |operation: &str| {
        json!({"org_id": ORG, "role_name": "r_w_user", "client_id": client, "operation": operation, "modified": "true",
            "path": path, "data_path": path})
    };
    assert_eq!(vault.nth(0).await, ("astra/token-create".to_owned(), expected("create")));
    ok(world.revoke(&lease(&minted)).await);
    assert_eq!(vault.nth(1).await, ("astra/token-revoke".to_owned(), expected("delete")));
    world.mint("b").await;
    ok(world.ask(Operation::Delete, "org/token", order("b")).await);
    assert_eq!(vault.nth(3).await.0, "astra/token-revoke");

    let rotated = some(world.write("orgs/retailOrg/rotate-root", json!({})).await);
    let (kind, event) = vault.nth(4).await;
    let root = json!({"org_id": ORG, "client_id": text(&rotated, "client_id"), "old_client_id": ROOT.split(':').nth(1),
        "operation": "update", "modified": "true", "path": "orgs/retailOrg", "data_path": "orgs/retailOrg"});
    assert_eq!((kind.as_str(), event), ("astra/root-rotate", root));
    world.astra.answer("POST", ResponseTemplate::new(403));
    failed(world.write("orgs/retailOrg/rotate-root", json!({})).await);
    let (kind, event) = vault.nth(5).await;
    assert!(kind == "astra/root-rotate-fail" && event["error"].as_str().unwrap().contains("403"), "{event}");
    assert_eq!(event["modified"], "false");

    // A mint that fails creates nothing.
    world.astra.answer("POST", ResponseTemplate::new(403));
    failed(world.write("org/token", order("c")).await);
    // A dry run changes nothing.
    some(world.write("orgs/retailOrg/tidy", json!({})).await);
    assert_eq!(vault.kinds().len(), 6);
    some(world.write("orgs/retailOrg/tidy", json!({"dry_run": false})).await);
    let tidied = json!({"org_id": ORG, "deleted": "0", "operation": "update", "modified": "false",
        "path": "orgs/retailOrg/tokens", "data_path": "orgs/retailOrg/tokens"});
    assert_eq!(vault.nth(6).await, ("astra/tidy".to_owned(), tidied));
    let all = format!("{:?}", vault.sent.lock().unwrap());
    assert!(!["AstraCS", "s3cret"].iter().any(|secret| all.contains(secret)), "an event holds a secret");
}

/// The storage fails for the second of two tokens.
#[tokio::test]
async fn a_tidy_that_fails_after_a_deletion_is_told() {
    let mut told = 0;
    for n in 1.. {
        let vault = Arc::new(Vault::default());
        let world = World::on(&vault).await;
        world.mint("a").await;
        world.mint("b").await;
        world.astra.state().live.clear();
        let (capture, _guard) = super::logs::capture();
        let before = world.storage.calls();
        world.storage.inject(HostFault::From(n));
        let wanted = json!({"safety_buffer": 0, "dry_run": false});
        let answer = world.write("orgs/retailOrg/tidy", wanted).await;
        world.storage.heal();
        let deleted = capture.count("INFO", "deleted a token in Vault");
        if answer.is_err() && deleted > 0 {
            let (kind, event) = vault.nth(2).await;
            assert_eq!((kind.as_str(), &event["deleted"]), ("astra/tidy", &json!(deleted.to_string())), "{n}");
            told += 1;
        }
        if world.storage.calls() - before < n {
            break;
        }
    }
    assert!(told > 0);
}

#[tokio::test]
async fn a_host_without_events_is_asked_once() {
    let vault = Arc::new(Vault { has_none: AtomicBool::new(true), ..Vault::default() });
    let world = World::on(&vault).await;
    for name in ["a", "b", "c"] {
        world.mint(name).await;
        eventually(|| vault.attempts.load(Ordering::SeqCst) == 1).await;
    }
    vault.has_none.store(false, Ordering::SeqCst);
    world.mint("d").await;
    tokio::task::yield_now().await;
    assert_eq!((vault.attempts.load(Ordering::SeqCst), vault.kinds().len()), (1, 0));
}

#[tokio::test]
async fn an_event_that_fails_fails_no_request_and_the_next_one_is_sent() {
    let vault = Arc::new(Vault { fails: AtomicBool::new(true), ..Vault::default() });
    let world = World::on(&vault).await;
    world.mint("a").await;
    eventually(|| vault.attempts.load(Ordering::SeqCst) == 1).await;
    vault.fails.store(false, Ordering::SeqCst);
    world.mint("b").await;
    assert_eq!(vault.nth(0).await.0, "astra/token-create");
}

/// No request waits for a host that does not answer, and the memory of waiting events is bounded.
#[tokio::test]
async fn a_host_that_holds_events_back_delays_no_request() {
    let vault = Arc::new(Vault { held: Some(Semaphore::new(0)), ..Vault::default() });
    let world = World::on(&vault).await;
    for _ in 0..1100 {
        some(world.read("creds/retailOrg/r_w_user", Value::Null).await);
    }
    assert_eq!(vault.attempts.load(Ordering::SeqCst), 1);
    vault.held.as_ref().unwrap().add_permits(2000);
    // The event that was being sent, and those that waited.
    eventually(|| vault.kinds().len() == 1025).await;
    some(world.read("creds/retailOrg/r_w_user", Value::Null).await);
    eventually(|| vault.kinds().len() == 1026).await;
}
