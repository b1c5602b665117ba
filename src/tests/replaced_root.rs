//! Writes of the config after a rotation: tools that write the same config again, and operators who write another root
//! token. Nobody but the engine knows a root token that the engine made, so the engine deletes it.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;
use wiremock::ResponseTemplate;

use super::astra::{ROOT_ROLE, Root};
use super::{ORG, ROOT, World, data, failed, ok, refused, some, status};

const SECOND: &str = "AstraCS:secondROOT:0123456789abcdef";
const THIRD: &str = "AstraCS:thirdROOT:0123456789abcdef";

fn id(token: &str) -> String {
    token.split(':').nth(1).expect("a client id").to_owned()
}

/// Returns a write of this root token.
fn with_token(token: &str) -> Value {
    json!({"org_id": ORG, "astra_token": token})
}

fn unverified(token: &str) -> Value {
    json!({"org_id": ORG, "astra_token": token, "verify_connection": false})
}

impl World {
    /// A mount after a rotation. Astra has two other root tokens of the operator. Returns the root token of the engine.
    async fn after_rotation() -> (Self, String) {
        let world = Self::with_role("standard").await;
        ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
        some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
        let made = id(&world.astra.root());
        for token in [SECOND, THIRD] {
            let (token, roles) = (token.to_owned(), json!([ROOT_ROLE]));
            let root = Root { token: token.clone(), roles, description: Value::Null, refused: 0 };
            world.astra.state().roots.insert(id(&token), root);
        }
        (world, made)
    }

    fn has_root(&self, client_id: &str) -> bool {
        self.astra.roots().iter().any(|root| root == client_id)
    }

    fn root_of_config(&self) -> String {
        let config = self.storage.json(&format!("config/{ORG}")).expect("the config is stored");
        config["astra_token"].as_str().expect("a text").to_owned()
    }
}

#[tokio::test]
async fn a_write_deletes_the_root_token_that_the_engine_had_made() {
    for path in ["config", "orgs/retailOrg"] {
        let (world, made) = World::after_rotation().await;
        let warnings = some(world.write(path, with_token(SECOND)).await).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(&made), "{warnings:?}");
        assert!(warnings[0].contains("was deleted in Astra"), "{warnings:?}");
        assert_eq!(world.astra.roots(), [id(SECOND), id(THIRD)]);
        assert!(world.keys("wal/").is_empty());
        world.mint("a").await;
        // The root token that an operator wrote belongs to the operator.
        assert!(ok(world.write(path, with_token(THIRD)).await).is_none());
        assert_eq!(world.astra.roots(), [id(SECOND), id(THIRD)]);
        let text = refused(world.write(path, with_token(ROOT)).await);
        assert!(text.contains("was rotated out"), "{text}");
    }
}

#[tokio::test]
async fn a_former_root_token_stays_until_astra_has_accepted_the_new_one() {
    let (world, made) = World::after_rotation().await;
    let dead = "AstraCS:deadROOT:0123456789abcdef";
    let warnings = some(world.write("config", unverified(dead)).await).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(&made), "{warnings:?}");
    assert!(warnings[0].contains("as soon as Astra accepts the new root token"), "{warnings:?}");
    let error = failed(world.tick(true).await).to_string();
    assert!(error.contains("former root token") && error.contains(&made), "{error}");
    assert!(world.has_root(&made));
    // The config cannot be deleted: without it, the former root token would stay in Astra.
    let (code, text) = status(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    assert!(code == 503 && text.contains("force=true"), "{text}");
    // A new process does not pause because Astra failed.
    let world = world.remounted().await;
    assert!(ok(world.write("config", unverified(SECOND)).await).is_none(), "an operator wrote the dead one");
    assert!(world.has_root(&made));
    ok(world.tick(true).await);
    assert_eq!((world.astra.roots(), world.keys("wal/").len()), (vec![id(SECOND), id(THIRD)], 0));
}

#[tokio::test]
async fn a_former_root_token_that_astra_does_not_delete_is_deleted_by_the_tick() {
    let (world, made) = World::after_rotation().await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(503));
    let warnings = some(world.write("config", with_token(SECOND)).await).warnings;
    assert!(warnings[0].contains(&made) && warnings[0].contains("retries once a minute"), "{warnings:?}");
    assert!(world.has_root(&made));
    world.astra.heal();
    let world = world.remounted().await;
    ok(world.tick(true).await);
    assert_eq!((world.astra.roots(), world.keys("wal/").len()), (vec![id(SECOND), id(THIRD)], 0));
}

/// Whichever storage call fails: the config holds a live root token, and the root token that the engine made is live only
/// if the config holds it.
#[tokio::test]
async fn a_fault_of_the_storage_loses_no_root_token() {
    for verify in [true, false] {
        let (world, _) = World::after_rotation().await;
        let before = world.storage.calls();
        some(world.write("config", json!({"org_id": ORG, "astra_token": SECOND, "verify_connection": verify})).await);
        let calls = world.storage.calls() - before;
        assert!(calls >= 3, "{calls}");
        for n in 1..=calls {
            let (world, made) = World::after_rotation().await;
            world.storage.fail_nth(n);
            let write = json!({"org_id": ORG, "astra_token": SECOND, "verify_connection": verify});
            drop(world.write("config", write).await);
            world.storage.heal();
            let world = world.remounted().await;
            world.until_undone().await;
            let held = id(&world.root_of_config());
            assert!(world.has_root(&held), "call {n}");
            assert_eq!(world.has_root(&made), held == made, "call {n}");
            assert!(world.has_root(&id(SECOND)) && world.has_root(&id(THIRD)), "call {n}");
        }
    }
}

#[tokio::test]
async fn two_writes_at_once_delete_only_the_root_token_of_the_engine() {
    let (world, made) = World::after_rotation().await;
    let (one, other) =
        tokio::join!(world.write("config", with_token(SECOND)), world.write("config", with_token(THIRD)));
    let warnings = [one, other].map(|answer| ok(answer).map_or(0, |response| response.warnings.len()));
    assert_eq!(warnings.iter().sum::<usize>(), 1);
    assert_eq!(world.astra.roots(), [id(SECOND), id(THIRD)]);
    assert!(!world.has_root(&made) && world.keys("wal/").is_empty());
    world.mint("a").await;
}

#[tokio::test]
async fn a_write_during_a_rotation_leaves_the_root_token_of_the_operator() {
    let (world, made) = World::after_rotation().await;
    world.astra.delay("POST", std::time::Duration::from_millis(100));
    let (rotated, written) = tokio::join!(world.write("config/rotate-root", json!({"org_id": ORG})), async {
        super::eventually(|| world.astra.roots().len() == 4).await;
        world.write("config", with_token(SECOND)).await
    });
    let (_, text) = status(rotated);
    assert!(text.contains("the config was changed during the rotation"), "{text}");
    assert!(some(written).warnings[0].contains(&made));
    world.until_undone().await;
    assert_eq!(world.astra.roots(), [id(SECOND), id(THIRD)]);
    assert_eq!(id(&world.root_of_config()), id(SECOND));
}

/// With `create_only=true`, a tool can write the same config before and after a rotation.
#[tokio::test]
async fn with_create_only_a_root_token_is_only_for_a_new_config() {
    let world = World::new().await;
    let create = async |path: &str, timeout: u64| {
        let config = json!({"org_id": ORG, "astra_token": ROOT, "url": world.astra.url(), "logical_name": "retailOrg",
            "request_timeout": timeout, "create_only": true});
        world.write(path, config).await
    };
    assert!(ok(create("orgs/retailOrg", 10).await).is_none());
    assert_eq!(world.root_of_config(), ROOT);
    some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
    let made = world.astra.root();
    let requests = world.astra.state().requests.len();
    for (path, timeout) in [("orgs/retailOrg", 20), ("config", 30)] {
        assert!(ok(create(path, timeout).await).is_none(), "{path}");
        let shown = data(world.read("orgs/retailOrg", json!({})).await);
        assert_eq!((shown["request_timeout"].as_u64(), shown.get("create_only")), (Some(timeout), None));
    }
    let patch = json!({"org_id": ORG, "astra_token": SECOND, "create_only": true, "request_timeout": 40});
    ok(world.ask(Operation::Patch, "config", patch).await);
    assert_eq!(world.root_of_config(), made);
    // An ignored root token is not asked for, and proves nothing: it does not open the way to another server.
    assert_eq!(world.astra.state().requests.len(), requests);
    let other = json!({"org_id": ORG, "astra_token": ROOT, "create_only": true, "url": "http://127.0.0.1:1"});
    let text = refused(world.write("config", other).await);
    assert!(text.starts_with("astra_token is required if url changes"), "{text}");
    // Without it, the root token is taken or rejected.
    assert!(refused(world.write("config", with_token(ROOT)).await).contains("create_only=true"));
    let patch = json!({"org_id": "none", "astra_token": ROOT, "create_only": true});
    assert_eq!(status(world.ask(Operation::Patch, "config", patch).await).0, 404);
    // A stored config that cannot be read holds no root token.
    world.stored(&format!("config/{ORG}"), json!({"astra_token": 1})).await;
    world.backend.invalidate(&format!("config/{ORG}"));
    let config = json!({"org_id": ORG, "astra_token": made, "url": world.astra.url(), "create_only": true});
    some(world.write("config", config).await);
    assert_eq!(world.root_of_config(), made);
}
