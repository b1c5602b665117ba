//! `config` and `configs`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Storage as _, SystemView as _};
use wiremock::ResponseTemplate;

use super::astra::other_org;
use super::{ORG, OTHER_ORG, ROOT, World, data, eventually, ok, refused, some, status};

fn config(world: &World) -> Value {
    json!({"org_id": ORG, "astra_token": ROOT, "url": world.astra.url(), "logical_name": "retailOrg"})
}

#[tokio::test]
async fn a_config_is_stored_as_by_the_go_plugin_and_shown_without_its_token() {
    let world = World::new().await;
    assert!(ok(world.write("config", config(&world)).await).is_none(), "a 204");
    let stored = json!({"astra_token": ROOT, "url": world.astra.url(), "org_id": ORG, "logical_name": "retailOrg",
        "caller_mode": 1, "astra_org_id": ORG});
    assert!(world.storage.json(&format!("config/{ORG}")) == Some(stored), "stored JSON has another shape");

    let shown = json!({
        "astra_org_id": ORG, "astra_token": "AstraCS:ONqZCOA...", "ca_cert": "", "caller_mode": "standard", "description": true,
        "last_rotated_at": null, "logical_name": "retailOrg", "next_rotation_at": null, "org_id": ORG,
        "request_timeout": "30s", "root_created_at": null, "root_expires_at": null, "rotation_period": "0s",
        "token_expiry": true, "url": world.astra.url(),
    });
    assert_eq!(data(world.read("config", json!({"org_id": ORG})).await), shown);
    assert_eq!(data(world.read("config", json!({"logical_name": "retailOrg"})).await), shown);
    let listed = world.list("configs/", json!({})).await;
    let info = json!({ORG: {"caller_mode": "standard", "logical_name": "retailOrg"}});
    assert_eq!((&listed["keys"], &listed["key_info"]), (&json!([ORG]), &info));
}

#[tokio::test]
async fn an_update_changes_only_given_fields_and_null_restores_the_default() {
    let world = World::new().await;
    ok(world.write("config", config(&world)).await);
    let asked = world.astra.count("GET /v2/currentOrg");
    let change = json!({"org_id": ORG, "caller_mode": "SideCar", "request_timeout": "5s", "description": "false"});
    ok(world.write("config", change).await);
    ok(world
        .ask(Operation::Patch, "config", json!({"org_id": ORG, "logical_name": "other", "description": null}))
        .await);
    let stored = json!({"astra_token": ROOT, "url": world.astra.url(), "org_id": ORG, "logical_name": "other",
        "former_names": ["retailOrg"], "astra_org_id": ORG,
        "caller_mode": 2, "request_timeout": 5_000_000_000_i64});
    assert!(world.storage.json(&format!("config/{ORG}")) == Some(stored), "stored JSON is another");
    assert_eq!(
        world.astra.count("GET /v2/currentOrg"),
        asked,
        "Astra is only asked when the token or the way to it changes"
    );
    assert_eq!(data(world.read("config", json!({"logical_name": "other"})).await)["org_id"], ORG);
    refused(world.read("config", json!({"logical_name": "retailOrg"})).await);
}

#[tokio::test]
async fn the_error_for_a_missing_config_says_what_to_do() {
    let world = World::new().await;
    let text = refused(world.read("config", json!({"org_id": ORG})).await);
    assert!(text.contains(ORG) && text.contains("vault write astra/config"), "{text}");
    let text = refused(world.read("config", json!({"logical_name": "nobody"})).await);
    assert!(text.contains("nobody") && text.contains("astra/configs"), "{text}");
    assert_eq!(status(world.ask(Operation::Patch, "config", json!({"org_id": ORG})).await).0, 404);
    assert!(ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await).is_none());
    assert!(world.list("configs/", json!({})).await.is_empty(), "an empty list is a 404");
}

#[tokio::test]
async fn the_root_token_is_verified_before_it_is_stored() {
    let unknown = json!({"errors": [{"ID": 340_018, "message": "Resource not found"}]});
    let cases = [
        (ResponseTemplate::new(401).set_body_json(unknown), "astra_token cannot be used"),
        (ResponseTemplate::new(403).set_body_string("no"), "astra_token cannot be used"),
        (ResponseTemplate::new(500), "verify_connection=false"),
        (ResponseTemplate::new(200), "verify_connection=false"),
        (ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/"), "verify_connection=false"),
    ];
    let world = World::new().await;
    for (answer, expected) in cases {
        world.astra.answer_all("GET", answer);
        let text = refused(world.write("config", config(&world)).await);
        assert!(text.contains(expected), "{text}");
        world.astra.heal();
    }
    let echo = json!({"id": format!("{ROOT} {}", "x".repeat(100_000))});
    world.astra.answer("GET", ResponseTemplate::new(200).set_body_json(echo));
    let text = refused(world.write("config", config(&world)).await);
    assert!(text.len() < 1000 && !text.contains(ROOT), "an answer is shown as it came, {} bytes", text.len());
    other_org(&world.astra);
    let mut foreign = config(&world);
    foreign["org_id"] = json!("6a4c2d1e-5c0f-4b8e-9a57-000000000001");
    let text = refused(world.write("config", foreign).await);
    assert!(text.contains("astra_token belongs to") && text.contains(OTHER_ORG), "{text}");
    let mut dead = config(&world);
    dead["url"] = json!("http://127.0.0.1:1");
    assert!(refused(world.write("config", dead.clone()).await).contains("verify_connection=false"));
    assert!(world.keys("config/").is_empty(), "nothing is stored on an error");

    dead["verify_connection"] = json!(false);
    assert!(ok(world.write("config", dead).await).is_none());
}

#[tokio::test]
async fn a_401_without_a_reason_gives_a_warning() {
    let world = World::new().await;
    world.astra.answer("GET", ResponseTemplate::new(401).set_body_json(Value::Null));
    let response = some(world.write("config", config(&world)).await);
    assert!(response.whole_data().is_none() && response.warnings[0].contains("401"), "{:?}", response.warnings);
    assert_eq!(world.keys("config/").len(), 1);
}

#[tokio::test]
async fn calls_send_the_root_token_and_the_user_agent() {
    let world = World::new().await;
    ok(world.write("config", config(&world)).await);
    let state = world.astra.state();
    assert!(state.headers["authorization"] == format!("Bearer {ROOT}"));
    let agent = concat!("vault-plugin-secrets-datastax-astra/", env!("CARGO_PKG_VERSION"), " vault/2.7.2");
    assert_eq!(state.headers["user-agent"], agent);
}

#[tokio::test]
async fn two_orgs_cannot_have_the_same_logical_name() {
    let world = World::new().await;
    ok(world.write("config", config(&world)).await);
    let mut second = config(&world);
    second["org_id"] = json!(OTHER_ORG);
    second["verify_connection"] = json!(false);
    let text = refused(world.write("config", second.clone()).await);
    assert!(text.starts_with("logical_name") && text.contains(ORG), "{text}");
    // Of two concurrent writes with the same name, only one succeeds.
    second["logical_name"] = json!("new");
    let first = json!({"org_id": ORG, "logical_name": "new"});
    let (one, two) = tokio::join!(world.write("config", first), world.write("config", second));
    assert!(one.is_ok() != two.is_ok());
}

#[tokio::test]
async fn a_config_with_live_tokens_is_only_deleted_with_force() {
    let world = World::with_role("standard").await;
    world.mint("org1").await;
    let text = refused(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    assert!(text.contains("force=true"), "{text}");
    assert!(ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": "true"})).await).is_none());
    assert!(world.keys("config/").is_empty());
    refused(world.read("config", json!({"org_id": ORG})).await);
}

#[tokio::test]
async fn the_existence_check_distinguishes_create_from_update() {
    let world = World::new().await;
    let ask = |data: Value| world.backend.exists(super::request(Operation::Update, "config", data));
    assert_eq!(ask(json!({"org_id": ORG})).await.unwrap(), Some(false));
    assert_eq!(ask(json!({"org_id": "a/b"})).await.unwrap(), Some(false));
    ok(world.write("config", config(&world)).await);
    assert_eq!(ask(json!({"org_id": ORG})).await.unwrap(), Some(true));
}

#[tokio::test]
async fn a_change_of_another_node_is_read_after_its_invalidation() {
    let world = World::new().await;
    ok(world.write("config", config(&world)).await);
    data(world.read("config", json!({"logical_name": "retailOrg"})).await);
    let key = format!("config/{ORG}");
    let stored =
        json!({"astra_token": ROOT, "url": "http://new", "org_id": ORG, "logical_name": "new", "caller_mode": 2});
    world.stored(&key, stored).await;
    world.backend.invalidate(&key);
    assert_eq!(data(world.read("config", json!({"org_id": ORG})).await)["url"], "http://new");
    assert_eq!(data(world.read("config", json!({"logical_name": "new"})).await)["caller_mode"], "sidecar");
}

#[tokio::test]
async fn a_standby_changes_nothing_and_does_not_call_astra() {
    let world = World::new().await;
    world.system.set_state(vault_plugin_sdk::logical::ReplicationState::PERFORMANCE_STANDBY);
    assert!(!world.system.is_writable().await.unwrap());
    let error = super::failed(world.write("config", config(&world)).await);
    assert!(matches!(error, vault_plugin_sdk::logical::Error::ReadOnly), "{error}");
    assert!(world.astra.state().requests.is_empty());
    assert!(world.storage.get(&format!("config/{ORG}")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_write_that_waits_for_astra_blocks_no_other_write_and_overwrites_no_setting() {
    let world = Arc::new(World::new().await);
    ok(world.write("config", config(&world)).await);
    let slow_write = |path: &str| {
        world.astra.delay("GET", Duration::from_millis(1500));
        let change = json!({"org_id": ORG, "url": format!("{}{path}", world.astra.url())});
        let world = world.clone();
        tokio::spawn(async move { world.write("config", change).await })
    };
    let slow = slow_write("/v2");
    eventually(|| world.astra.count("GET /v2/currentOrg") == 2).await;
    ok(world.write("config", json!({"org_id": ORG, "logical_name": "other"})).await);
    assert!(!slow.is_finished(), "a write waited for the Astra of another");
    ok(slow.await.unwrap());
    let shown = data(world.read("config", json!({"org_id": ORG})).await);
    assert_eq!((&shown["logical_name"], &shown["url"]), (&json!("other"), &json!(format!("{}/v2", world.astra.url()))));
    assert_eq!(world.astra.count("GET /v2/currentOrg"), 2, "what was verified did not change");

    // The root token changes during the verification of another URL, so the combination must be verified again.
    let slow = slow_write("/");
    eventually(|| world.astra.count("GET /v2/currentOrg") == 3).await;
    let wrong = json!({"org_id": ORG, "astra_token": "AstraCS:other:token", "verify_connection": false});
    ok(world.write("config", wrong).await);
    let text = refused(slow.await.unwrap());
    assert!(text.starts_with("astra_token cannot be used"), "{text}");
}

#[tokio::test]
async fn an_unverified_root_token_is_verified_when_it_is_written_again() {
    let world = World::new().await;
    let mut wrong = config(&world);
    wrong["astra_token"] = json!("AstraCS:other:token");
    wrong["verify_connection"] = json!(false);
    ok(world.write("config", wrong.clone()).await);
    assert_eq!(world.astra.count("GET /v2/currentOrg"), 0);
    wrong.as_object_mut().unwrap().remove("verify_connection");
    for again in [wrong, json!({"org_id": ORG, "verify_connection": "true"})] {
        let text = refused(world.write("config", again).await);
        assert!(text.starts_with("astra_token cannot be used"), "{text}");
    }
    // A setting that does not change the calls of Astra needs no verification.
    ok(world.write("config", json!({"org_id": ORG, "caller_mode": "sidecar"})).await);
    assert_eq!(world.astra.count("GET /v2/currentOrg"), 2);
}

#[tokio::test]
async fn the_stored_root_token_is_not_sent_to_another_server() {
    let world = World::new().await;
    ok(world.write("config", config(&world)).await);
    let stored = world.storage.json(&format!("config/{ORG}"));
    let mask = data(world.read("config", json!({"org_id": ORG})).await)["astra_token"].clone();
    let url = world.astra.url();
    let port = url.rsplit(':').next().unwrap();
    let others = [
        json!("http://127.0.0.1:1"),
        json!(format!("https://127.0.0.1:{port}")),
        json!(format!("http://localhost:{port}")),
        json!("http://127.0.0.1"),
        Value::Null,
    ];
    for other in others {
        for token in [None, Some(&mask)] {
            let mut change = json!({"org_id": ORG, "url": other, "verify_connection": false});
            if let Some(token) = token {
                change["astra_token"] = token.clone();
            }
            for operation in [Operation::Update, Operation::Patch] {
                let text = refused(world.ask(operation, "config", change.clone()).await);
                assert!(text.starts_with("astra_token is required if url changes"), "{text}");
            }
        }
    }
    assert!(world.storage.json(&format!("config/{ORG}")) == stored, "the config changed");
    // Another path on the same server needs no root token.
    ok(world.write("config", json!({"org_id": ORG, "url": format!("{url}/v2/")})).await);
    let both = json!({"org_id": ORG, "url": "http://127.0.0.1:1", "astra_token": ROOT, "verify_connection": false});
    ok(world.write("config", both).await);
}

#[tokio::test]
async fn a_config_that_was_read_can_be_written_back() {
    let world = World::new().await;
    ok(world.write("config", config(&world)).await);
    let stored = world.storage.json(&format!("config/{ORG}"));
    let asked = world.astra.count("GET /v2/currentOrg");
    let mut shown = data(world.read("config", json!({"org_id": ORG})).await);
    shown.as_object_mut().unwrap().remove("astra_org_id");
    ok(world.write("config", shown.clone()).await);
    assert!(world.storage.json(&format!("config/{ORG}")) == stored, "the config changed");
    assert_eq!(world.astra.count("GET /v2/currentOrg"), asked, "a mask is not a new root token");

    for mask in ["AstraCS:ABcDeFg...", "AstraCS:...", "AstraCS:ONqZCOAA...", "AstraCS:ONqZCOA", "..."] {
        shown["astra_token"] = json!(mask);
        let text = refused(world.write("config", shown.clone()).await);
        assert!(text.starts_with("astra_token ") && !text.contains(ROOT), "{mask}: {text}");
    }
    // A new config has no root token to keep.
    shown["org_id"] = json!(OTHER_ORG);
    shown["astra_token"] = json!("AstraCS:ONqZCOA...");
    shown["logical_name"] = json!("other");
    let text = refused(world.write("config", shown).await);
    assert!(text.starts_with("astra_token "), "{text}");
}
