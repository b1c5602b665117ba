//! Revocations of tokens without a name: their cost, and what finishes them if they are interrupted.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Response, Storage as _};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage};
use wiremock::ResponseTemplate;

use super::{ORG, World, eventually, failed, lease, ok, order, refused, some, status, text};

impl World {
    async fn mint_without_name(&self) -> Response {
        some(self.read("creds/retailOrg/r_w_user", Value::Null).await)
    }

    /// A mount with a token without a name, whose revocation failed because Astra failed. Returns the token, too.
    async fn with_interrupted(mode: &str) -> (Self, Response) {
        let world = Self::with_role(mode).await;
        let minted = world.mint_without_name().await;
        for method in ["DELETE", "GET"] {
            world.astra.answer_all(method, ResponseTemplate::new(500));
        }
        failed(world.revoke(&lease(&minted)).await);
        assert_eq!(world.kept(), (0, 1, 0), "the entries of an interrupted revocation");
        assert_eq!(world.astra.live(), 1);
        world.astra.heal();
        (world, minted)
    }

    /// Numbers of stored tokens, records and WAL entries.
    fn kept(&self) -> (usize, usize, usize) {
        (self.keys("token/").len(), self.keys("client/").len(), self.keys("wal/").len())
    }

    /// A new process that was not initialized, on a copy of the storage.
    fn next_process(&self) -> Self {
        Self::with(Arc::new(MemoryStorage::holding(self.storage.entries())), self.astra.clone())
    }
}

#[tokio::test]
async fn the_revocation_of_a_token_without_a_name_makes_two_writes_and_no_read() {
    for (mode, path, data) in [
        ("standard", "creds/retailOrg/r_w_user", json!({})),
        ("sidecar", "creds/retailOrg/r_w_user", json!({})),
        ("sidecar", "org/token", order("label")),
    ] {
        let world = World::with_role(mode).await;
        let minted = some(world.read(path, data).await);
        let (calls, writes) = (world.storage.calls(), world.storage.writes());
        ok(world.revoke(&lease(&minted)).await);
        let cost = (world.storage.calls() - calls, world.storage.writes() - writes);
        assert_eq!(cost, (2, 2), "{path} in mode {mode}: calls and writes");
        assert!(world.is_clean());
    }
}

#[tokio::test]
async fn the_revocation_of_a_named_token_keeps_its_name_until_astra_has_deleted_the_token() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    failed(world.revoke(&lease(&minted)).await);
    assert_eq!(world.kept(), (1, 1, 0));
    let text = refused(world.write("org/token", order("a")).await);
    assert!(text.contains("taken by the live token"), "{text}");
    world.astra.heal();
    let writes = world.storage.writes();
    ok(world.revoke(&lease(&minted)).await);
    assert_eq!(world.storage.writes() - writes, 4);
}

/// The host does not retry a synchronous revocation that failed.
#[tokio::test]
async fn a_tick_finishes_a_revocation_that_failed() {
    for effective in [false, true] {
        let (world, minted) = World::with_interrupted("standard").await;
        if effective {
            world.astra.state().live.clear();
        }
        ok(world.tick(false).await);
        assert!(world.is_clean() && world.keys("wal/").is_empty(), "{:?}", world.storage.keys());
        ok(world.revoke(&lease(&minted)).await);
    }
}

#[tokio::test]
async fn a_tick_skips_the_interrupted_revocations_of_an_org_whose_astra_fails() {
    let world = World::with_role("sidecar").await;
    let mut leases = Vec::new();
    for _ in 0..40 {
        leases.push(lease(&world.mint_without_name().await));
    }
    for method in ["DELETE", "GET"] {
        world.astra.answer_all(method, ResponseTemplate::new(500));
    }
    for answer in futures_util::future::join_all(leases.iter().map(|lease| world.revoke(lease))).await {
        failed(answer);
    }
    let asked = |world: &World| world.astra.count("DELETE") + world.astra.count("GET");
    let before = asked(&world);
    ok(world.tick(false).await);
    let first = asked(&world) - before;
    // Eight revocations at the same time, each with four attempts to delete and four to list.
    assert!(first <= 8 * 8, "{first} calls of Astra");
    ok(world.tick(false).await);
    assert_eq!(asked(&world) - before, first, "calls of Astra in the pause after a failure");
    world.astra.heal();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    ok(world.tick(false).await);
    assert!(world.is_clean(), "{:?}", world.storage.keys());
}

/// The process ends at any storage call of a revocation, before or after the effect of the call.
#[tokio::test]
async fn the_next_process_finishes_an_interrupted_revocation() {
    for fault in [HostFault::From, HostFault::HangsAt] {
        for n in 1.. {
            let world = World::with_role("sidecar").await;
            let lease = lease(&world.mint_without_name().await);
            let before = world.storage.calls();
            world.storage.inject(fault(n));
            let (backend, request) =
                (world.backend.clone(), super::lease_request(Operation::Revoke, &lease, Value::Null));
            let revocation = tokio::spawn(async move { backend.handle(request).await });
            eventually(|| revocation.is_finished() || world.storage.calls() - before >= n).await;
            if world.storage.calls() - before < n {
                assert_eq!(n, 3, "a revocation makes another number of storage calls");
                break;
            }
            if matches!(fault(n), HostFault::From(_)) {
                failed(revocation.await.expect("does not panic"));
            }
            let next = world.next_process();
            ok(next.tick(false).await);
            let is_unchanged = next.kept() == (1, 1, 0) && next.astra.live() == 1;
            assert!(is_unchanged || next.is_clean(), "{:?}: {:?}", fault(n), next.storage.keys());
            assert_eq!(is_unchanged, fault(n) == HostFault::From(1), "{:?}", fault(n));
        }
    }
}

/// A mint can store the record of its token before the token.
#[tokio::test]
async fn an_unfinished_mint_is_no_interrupted_revocation() {
    let world = World::with_role("standard").await;
    let minted = world.mint_without_name().await;
    let record = world.keys("client/").remove(0);
    let marker = world.storage.json(&record).expect("the record is stored")["marker"].clone();
    let data =
        json!({"org_id": ORG, "role_name": "r_w_user", "marker": marker, "described": true, "timeout_seconds": 30});
    let created_at = Timestamp::now().as_second();
    world.stored("wal/1", json!({"type": "token-mint", "data": data, "created_at": created_at})).await;
    world.storage.delete(&world.keys("token/")[0]).await.expect("deletes");
    let next = world.next_process();
    ok(next.tick(false).await);
    assert_eq!((next.kept(), next.astra.live()), ((0, 1, 1), 1));
    // After the undo of the mint, nothing is left.
    ok(next.tick(true).await);
    assert!(next.is_clean(), "{:?}", next.storage.keys());
    ok(next.revoke(&lease(&minted)).await);
}

/// During a downgrade, the Go plugin deletes tokens and leaves records of tokens that it may have minted.
#[tokio::test]
async fn only_records_of_this_engine_show_an_interrupted_revocation() {
    let world = World::with_role("standard").await;
    let named = world.mint("a").await;
    world.mint_without_name().await;
    for key in world.keys("client/") {
        let mut record = world.storage.json(&key).expect("the record is stored");
        if record["logical_name"] != "a" {
            record["created_at"] = json!("");
        }
        world.stored(&key, record).await;
    }
    for key in world.keys("token/") {
        world.storage.delete(&key).await.expect("deletes");
    }
    let next = world.next_process();
    ok(next.tick(false).await);
    assert_eq!((next.kept(), next.astra.live()), ((0, 2, 0), 2));
    ok(next.revoke(&lease(&named)).await);
    assert_eq!((next.kept(), next.astra.live()), ((0, 1, 0), 1));
}

#[tokio::test]
async fn a_token_with_an_interrupted_revocation_is_listed_and_can_be_deleted_but_not_renewed() {
    let (world, minted) = World::with_interrupted("standard").await;
    let client_id = text(&minted, "clientId");
    let by_id = json!({"org_id": ORG, "client_id": client_id});
    assert_eq!(world.list("org/tokens/", Value::Null).await["keys"], json!([client_id]));
    let (code, message) = status(world.renew(&lease(&minted), Value::Null).await);
    assert!(code == 400 && message.contains("was deleted"), "{message}");
    refused(world.read("org/token", by_id.clone()).await);
    ok(world.ask(Operation::Delete, "org/token", by_id.clone()).await);
    assert!(world.is_clean() && world.keys("wal/").is_empty());
    refused(world.ask(Operation::Delete, "org/token", by_id).await);
    ok(world.revoke(&lease(&minted)).await);
}

/// Without a config, nobody can delete the token in Astra.
#[tokio::test]
async fn an_interrupted_revocation_does_not_succeed_without_a_config() {
    let (world, minted) = World::with_interrupted("standard").await;
    let config = json!({"org_id": ORG});
    let message = refused(world.ask(Operation::Delete, "config", config).await);
    assert!(message.contains("has live tokens"), "{message}");
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    let (code, message) = status(world.revoke(&lease(&minted)).await);
    assert!(code == 400 && message.contains("no config for org_id"), "{message}");
    ok(world.tick(false).await);
    assert_eq!((world.kept(), world.astra.live()), ((0, 1, 0), 1));
    world.write_config("standard").await;
    ok(world.revoke(&lease(&minted)).await);
    assert!(world.is_clean());
}

/// An earlier version accepted a minted token as root token.
#[tokio::test]
async fn the_revocation_of_a_token_that_is_the_root_token_changes_nothing() {
    let world = World::with_role("standard").await;
    let minted = world.mint_without_name().await;
    let key = format!("config/{ORG}");
    let mut config = world.storage.json(&key).expect("the config is stored");
    config["astra_token"] = json!(text(&minted, "token"));
    world.stored(&key, config).await;
    world.backend.invalidate(&key);
    failed(world.revoke(&lease(&minted)).await);
    assert_eq!((world.kept(), world.astra.live()), ((1, 1, 0), 1));
}

#[tokio::test]
async fn an_interrupted_revocation_keeps_its_place_below_the_limit_of_its_role() {
    let world = World::with_role("standard").await;
    world.write_role(json!({"max_tokens": 1})).await;
    let minted = world.mint_without_name().await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    failed(world.revoke(&lease(&minted)).await);
    for world in [&world, &world.next_process()] {
        let message = refused(world.read("creds/retailOrg/r_w_user", Value::Null).await);
        assert!(message.contains("is full"), "{message}");
    }
    world.astra.heal();
    ok(world.tick(false).await);
    world.mint_without_name().await;
}
