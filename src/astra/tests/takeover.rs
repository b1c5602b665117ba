//! Mounts of the Go plugin 2.0.0: its entries, its junk and its leases.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ORG, ROLE_ID, ROOT, World, data, lease, ok, refused, some, status};
use crate::sdk::logical::{Operation, Secret};

/// sha256 of "<org>:r_w_user:org1", as the Go plugin computes it.
fn named_id() -> String {
    use std::fmt::Write as _;

    use sha2::{Digest as _, Sha256};

    let digest = Sha256::digest(format!("{ORG}:r_w_user:org1"));
    digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn token(client_id: &str, logical_name: &str) -> Value {
    json!({"clientId": client_id, "secret": "old-secret", "orgId": ORG, "roleName": "r_w_user", "roles": [ROLE_ID],
        "token": format!("AstraCS:{client_id}:abc"), "generatedOn": "2023-01-01T00:00:00Z", "logicalName": logical_name,
        "metadata": {"team": "a"}})
}

fn junk() -> Value {
    json!({"clientId": "", "secret": "", "orgId": ORG, "roleName": "r_w_user", "roles": null, "token": "",
        "generatedOn": "", "logicalName": "org1", "metadata": {}})
}

async fn old_mount(mode: u8) -> World {
    let world = World::unprepared().await;
    let config = json!({"astra_token": ROOT, "url": world.astra.url(), "org_id": ORG, "logical_name": "org1",
        "caller_mode": mode});
    world.stored(&format!("config/{ORG}"), config).await;
    let role = json!({"role_name": "r_w_user", "role_id": ROLE_ID, "org_id": ORG, "ttl": 3_600_000_000_000_i64,
        "max_ttl": 36_000_000_000_000_i64});
    world.stored(&format!("role/{ORG}:r_w_user"), role).await;
    world
}

fn old_lease(client_id: &str, token_id: &str) -> Secret {
    let data = json!({"orgId": ORG, "clientId": client_id, "roleName": "r_w_user", "tokenId": token_id,
        "secret_type": "astra_token"});
    let hour = Duration::from_secs(3600);
    Secret { issue_time: Some(Timestamp::now()), ..Secret::new(hour, 10 * hour, data.as_object().unwrap().clone()) }
}

#[tokio::test]
async fn its_tokens_are_read_and_listed_once_the_inventory_is_built() {
    let world = old_mount(1).await;
    world.stored(&format!("token/{}", named_id()), token("OLD1", "org1")).await;
    let names = json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": "org1"});
    let by_id = json!({"org_id": ORG, "client_id": "OLD1"});

    // Before the inventory is there, names work, and a client id is not said to be unknown.
    assert_eq!(data(world.read("org/token", names).await)["clientId"], "OLD1");
    let (code, text) = status(world.read("org/token", by_id.clone()).await);
    assert!(code == 503 && text.contains("still being built"), "{text}");
    let (code, _) = status(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    assert_eq!(code, 503);

    world.initialize().await;
    let shown = data(world.read("org/token", by_id).await);
    assert_eq!((&shown["logicalName"], &shown["metadata"]), (&json!("org1"), &json!({"team": "a"})));
    let listed = world.list("org/tokens/", json!({})).await;
    assert_eq!(listed["keys"], json!(["OLD1"]));
    assert_eq!(listed["key_info"]["OLD1"]["generated_on"], "2023-01-01T00:00:00Z");
    refused(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
}

#[tokio::test]
async fn building_the_inventory_is_resumed_and_leaves_junk_out() {
    let world = old_mount(2).await;
    let mut expected = BTreeMap::new();
    for n in 0..600 {
        let id = format!("OLD{n:04}");
        world.stored(&format!("token/{id}"), token(&id, "label")).await;
        expected.insert(id, ());
    }
    world.stored("token/", junk()).await;
    world.stored(&format!("token/{}", named_id()), junk()).await;
    world.stored("token/broken", json!("not a token")).await;
    // The first attempt is cut short by storage; the engine tries again by itself.
    world.storage.fail_nth(700);
    world.initialize().await;
    let listed = world.list("org/tokens/", json!({"org_id": ORG})).await;
    assert_eq!(listed["keys"], json!(expected.keys().collect::<Vec<_>>()));

    // Once there, nothing is looked at again.
    world.storage.fail_nth(usize::MAX / 2);
    let before = world.storage.calls();
    world.backend.initialize().await.unwrap();
    tokio::task::yield_now().await;
    assert!(world.storage.calls() - before <= 1);
}

#[tokio::test]
async fn initializing_never_fails_and_stops_at_cleanup() {
    let world = old_mount(1).await;
    world.storage.fail_nth(1);
    world.backend.initialize().await.expect("initializes");
    world.backend.cleanup().await;
    world.backend.cleanup().await;
    *world.system.state.lock().unwrap() = crate::sdk::logical::ReplicationState(16384);
    world.backend.initialize().await.expect("initializes on a standby");
}

#[tokio::test]
async fn its_leases_renew_and_revoke() {
    let world = old_mount(1).await;
    world.initialize().await;
    let minted =
        some(world.write("org/token", json!({"org_id": ORG, "role": "r_w_user", "logical_name": "org1"})).await);
    let client_id = super::text(&minted, "clientId");
    let secret = old_lease(&client_id, &named_id());
    // It lost the data when it renewed.
    let response = some(world.renew(&secret, Value::Null).await);
    assert_eq!(response.data.as_ref().unwrap()["clientId"], json!(client_id));
    assert_eq!((lease(&response).ttl.as_secs(), lease(&response).internal_data == secret.internal_data), (3600, true));
    // Without the role, what the host knows of the lease serves.
    ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    assert_eq!(lease(&some(world.renew(&secret, Value::Null).await)).ttl.as_secs(), 3600);
    ok(world.revoke(&secret).await);
    assert_eq!((world.astra.live(), world.keys("token/").len()), (0, 0));
}

#[tokio::test]
async fn its_junk_takes_no_name_and_its_leases_end_without_a_call() {
    let world = old_mount(1).await;
    world.stored(&format!("token/{}", named_id()), junk()).await;
    world.stored("token/", junk()).await;
    world.initialize().await;
    let names = json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": "org1"});
    refused(world.read("org/token", names.clone()).await);
    for token_id in [named_id(), String::new()] {
        ok(world.revoke(&old_lease("", &token_id)).await);
    }
    assert!(world.astra.state().requests.is_empty());
    some(world.write("org/token", names.clone()).await);
    data(world.read("org/token", names).await);
}
