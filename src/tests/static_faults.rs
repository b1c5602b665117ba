//! Static roles whose tokens, records, entries and roles change or break without them.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;
use wiremock::ResponseTemplate;

use super::static_roles::{PATH, minutes, text};
use super::trial::live;
use super::{ORG, World, data, eventually, failed, ok, refused, request};
use crate::clock;

/// Another static role.
const OTHER: &str = "orgs/retailOrg/static-roles/cd";

impl World {
    async fn current(&self) -> String {
        text(&self.static_role().await, "client_id")
    }

    /// Makes the record of a token unreadable.
    async fn damage_record(&self, client: &str) {
        let key = format!("client/{ORG}/{client}");
        assert!(self.storage.keys().contains(&key));
        self.store_bytes(&key, "garbled").await;
    }

    fn deletion(client: &str) -> String {
        format!("orgs/retailOrg/tokens/{client}")
    }

    /// A tick, and the work that it starts.
    async fn work(&self) {
        ok(self.tick(true).await);
        eventually(|| self.tasks.is_empty()).await;
    }

    async fn assert_current_is_live(&self) {
        let current = text(&self.static_token().await, "clientId");
        assert!(live(self).contains(&current), "the current token is not live");
    }
}

#[tokio::test]
async fn a_damaged_record_of_a_token_stops_no_static_role() {
    let world = World::with_static_role().await;
    let fields = json!({"role": "r_w_user", "rotation_period": "1h", "overlap": "10m"});
    ok(world.ask(Operation::Update, OTHER, fields).await);
    let first = world.current().await;
    world.damage_record(&first).await;
    ok(world.ask(Operation::Patch, PATH, json!({"rotation_period": "50m"})).await);
    let world = world.crashed();
    world.pass(minutes(61)).await;
    assert_eq!(live(&world).len(), 4, "both static roles have a new token");
    assert_eq!(world.static_role().await["previous_client_id"], first);
    world.pass(minutes(11)).await;
    assert!(world.agrees(2), "the old tokens are deleted");
    // The deletion of a static role, too.
    world.damage_record(&world.current().await).await;
    ok(world.ask(Operation::Delete, PATH, Value::Null).await);
    assert!(world.agrees(1));
}

#[tokio::test]
async fn a_token_whose_entry_is_damaged_is_replaced_when_work_is_due() {
    let world = World::with_static_role().await;
    world.write_static_role(json!({"rotate": true})).await;
    let damaged = world.current().await;
    world.store_bytes(&format!("token/{damaged}"), "garbled").await;
    world.pass(minutes(11)).await;
    assert_ne!(world.current().await, damaged);
    world.pass(minutes(11)).await;
    assert!(world.agrees(1));
    world.assert_current_is_live().await;
}

#[tokio::test]
async fn a_token_is_replaced_if_the_caller_of_its_deletion_hangs_up() {
    let world = World::with_static_role().await;
    world.work().await;
    let first = world.current().await;
    world.astra.delay("DELETE", Duration::from_millis(300));
    let (backend, deletion) =
        (world.backend.clone(), request(Operation::Delete, &World::deletion(&first), Value::Null));
    let caller = tokio::spawn(async move { backend.handle(deletion).await });
    eventually(|| world.astra.live() == 0).await;
    caller.abort();
    eventually(|| world.tasks.is_empty()).await;
    world.work().await;
    world.assert_current_is_live().await;
}

#[tokio::test]
async fn a_token_whose_deletion_was_unclear_is_replaced_when_the_tick_has_deleted_it() {
    let world = World::with_static_role().await;
    world.work().await;
    let first = world.current().await;
    world.astra.answer_after_all("DELETE", ResponseTemplate::new(503));
    assert!(world.ask(Operation::Delete, &World::deletion(&first), Value::Null).await.is_err());
    world.astra.heal();
    for _ in 0..2 {
        world.work().await;
    }
    world.assert_current_is_live().await;
}

#[tokio::test]
async fn a_write_replaces_a_token_that_somebody_has_deleted() {
    let world = World::with_static_role().await;
    world.work().await;
    let first = world.current().await;
    world.astra.answer_all("POST", ResponseTemplate::new(503));
    ok(world.ask(Operation::Delete, &World::deletion(&first), Value::Null).await);
    eventually(|| world.tasks.is_empty()).await;
    world.astra.heal();
    ok(world.ask(Operation::Patch, PATH, json!({"overlap": "5m"})).await);
    world.assert_current_is_live().await;
    assert_eq!(world.static_role().await["previous_client_id"], "");
}

#[tokio::test]
async fn a_replaced_token_that_cannot_be_deleted_stops_no_rotation() {
    let world = World::with_static_role().await;
    world.write_static_role(json!({"rotate": true})).await;
    let second = world.current().await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    world.pass(minutes(61)).await;
    let third = world.static_role().await;
    assert_eq!(third["previous_client_id"], second);
    world.assert_current_is_live().await;
    world.astra.heal();
    let world = world.crashed();
    world.pass(minutes(11)).await;
    assert!(world.agrees(1));
    assert_eq!(world.current().await, text(&third, "client_id"));
}

#[tokio::test]
async fn a_replaced_token_is_not_promised_beyond_its_expiry() {
    let world = World::with_static_role().await;
    let key = format!("client/{ORG}/{}", world.current().await);
    let mut record = world.storage.json(&key).unwrap();
    let expiry = clock::now().saturating_add(minutes(3)).unwrap();
    record["expires_at"] = json!(expiry.to_string());
    world.stored(&key, record).await;
    world.write_static_role(json!({"rotate": true})).await;
    let end: Timestamp = text(&world.static_token().await, "previous_expires_at").parse().unwrap();
    assert!(end <= expiry, "{end} is after {expiry}");
}

#[tokio::test]
async fn a_role_that_is_deleted_during_the_first_rotation_leaves_no_static_role() {
    let world = World::with_role("standard").await;
    world.astra.delay("POST", Duration::from_millis(300));
    let fields = json!({"role": "r_w_user", "rotation_period": "1h"});
    let (backend, write) = (world.backend.clone(), request(Operation::Update, PATH, fields));
    let caller = tokio::spawn(async move { backend.handle(write).await });
    eventually(|| world.astra.live() == 1).await;
    ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role_name": "r_w_user"})).await);
    let error = failed(caller.await.unwrap()).to_string();
    assert!(error.contains("role \"r_w_user\""), "{error}");
    assert!(world.agrees(0) && world.keys("static-role/").is_empty());
}

#[tokio::test]
async fn a_role_stays_if_a_static_role_cannot_be_read() {
    let world = World::with_static_role().await;
    let [key] = world.keys("static-role/").try_into().unwrap();
    world.store_bytes(&key, "garbled").await;
    let deletion = || world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role_name": "r_w_user"}));
    let text = refused(deletion().await);
    assert!(text.contains(&format!("{key:?}")), "{text}");
    ok(world.ask(Operation::Delete, PATH, Value::Null).await);
    ok(deletion().await);
}

#[tokio::test]
async fn the_deletion_of_a_damaged_static_role_deletes_its_tokens() {
    let world = World::with_static_role().await;
    world.write_static_role(json!({"rotate": true})).await;
    let fields = json!({"role": "r_w_user", "rotation_period": "1h"});
    ok(world.ask(Operation::Update, OTHER, fields).await);
    world.mint("checkout").await;
    assert_eq!(live(&world).len(), 4);
    let [_, key] = world.keys("static-role/").try_into().unwrap();
    world.store_bytes(&key, "garbled").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(503));
    assert!(world.ask(Operation::Delete, PATH, Value::Null).await.is_err());
    assert_eq!(world.keys("static-role/").len(), 2, "another deletion can go on");
    world.astra.heal();
    ok(world.ask(Operation::Delete, PATH, Value::Null).await);
    assert_eq!((live(&world).len(), world.keys("static-role/").len()), (2, 1));
    let other = data(world.ask(Operation::Read, OTHER, Value::Null).await);
    assert!(live(&world).contains(&text(&other, "client_id")));
}

#[tokio::test]
async fn a_rotation_that_loses_a_token_waits_for_another_period() {
    let world = World::with_static_role().await;
    ok(world.write("config", json!({"org_id": ORG, "description": false})).await);
    let first = world.current().await;
    world.astra.answer_after_all("POST", ResponseTemplate::new(503));
    world.pass(minutes(61)).await;
    let lost = live(&world).len();
    assert!(lost > 1, "Astra has a token that nothing identifies");
    for _ in 0..3 {
        world.pass(minutes(19)).await;
    }
    assert_eq!(live(&world).len(), lost, "the engine tries again too early");
    assert_eq!(text(&world.static_token().await, "clientId"), first);
    world.astra.heal();
    world.pass(minutes(5)).await;
    assert_ne!(world.current().await, first);
}

#[tokio::test]
async fn a_rotation_waits_for_another_period_if_astra_keeps_no_descriptions() {
    let world = World::with_static_role().await;
    world.astra.change("description", Value::Null);
    world.write_static_role(json!({"rotate": true})).await;
    world.astra.answer_after_all("POST", ResponseTemplate::new(503));
    world.astra.answer_all("GET", ResponseTemplate::new(503));
    world.pass(minutes(61)).await;
    let left = world.static_token().await["ttl"].as_i64().unwrap();
    assert!((3590..=3600).contains(&left), "{left}");
}

#[tokio::test]
async fn a_rotation_that_loses_a_token_waits_no_longer_than_the_current_token_lives() {
    let world = World::with_static_role().await;
    ok(world.write("config", json!({"org_id": ORG, "description": false})).await);
    let key = format!("client/{ORG}/{}", world.current().await);
    let mut record = world.storage.json(&key).unwrap();
    record["expires_at"] = json!(clock::now().saturating_add(minutes(91)).unwrap().to_string());
    world.stored(&key, record).await;
    world.astra.answer_after_all("POST", ResponseTemplate::new(503));
    world.pass(minutes(61)).await;
    // The overlap is ten minutes.
    let left = world.static_token().await["ttl"].as_i64().unwrap();
    assert!((1190..=1200).contains(&left), "{left}");
}
