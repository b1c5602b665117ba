//! Rotation of the root token: mint, check and store the new root token, then delete the old root token; or undo all.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use vault_plugin_sdk::logical::{Answer, Operation};
use vault_plugin_sdk::testing::HostFault;
use wiremock::ResponseTemplate;

use super::astra::ROOT_ROLE;
use super::{ORG, ROOT, World, data, eventually, failed, lease, ok, refused, some, status, text};

/// Client id of the first root token.
fn first() -> &'static str {
    ROOT.split(':').nth(1).unwrap()
}

fn org() -> Value {
    json!({"org_id": ORG})
}

impl World {
    async fn rotate(&self) -> Answer {
        self.write("config/rotate-root", org()).await
    }

    /// The client id of the root token that the stored config holds.
    pub(super) fn held(&self) -> String {
        let config = self.storage.json(&format!("config/{ORG}")).unwrap();
        config["astra_token"].as_str().unwrap().split(':').nth(1).unwrap().to_owned()
    }

    /// Checks that the config holds a root token that works.
    #[track_caller]
    fn check_held(&self, when: &str) {
        let config = self.storage.json(&format!("config/{ORG}")).unwrap();
        let works = self.astra.state().roots.values().any(|root| config["astra_token"] == root.token.as_str());
        assert!(works, "{when}: the config holds a root token that does not work");
    }

    /// Checks that there is one root token, and that it mints.
    async fn check_one(&self, when: &str) {
        self.check_held(when);
        assert_eq!(self.astra.roots(), [self.held()], "{when}");
        assert!(self.unfinished().is_empty(), "{when}: the log is not empty");
        let minted = self.mint("probe").await;
        ok(self.revoke(&lease(&minted)).await);
    }
}

#[tokio::test]
async fn a_rotation_replaces_the_root_token() {
    let world = World::with_role("standard").await;
    let minted = world.mint("before").await;
    let response = some(world.rotate().await);
    let shown = Value::Object(response.data.clone().unwrap());
    assert_eq!((&shown, response.warnings.len()), (&json!({"client_id": world.held()}), 0));
    assert_ne!(world.held(), first());
    let root = world.astra.state().roots[&world.held()].clone();
    assert_eq!(root.roles, json!([ROOT_ROLE]));
    let description = root.description.as_str().unwrap();
    let marked = description.strip_prefix("vault ").and_then(|text| text.strip_suffix(" mount=astra/ root")).unwrap();
    let (instance, marker) = marked.split_once('/').unwrap();
    assert!(marked.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'/'), "{description}");
    assert_eq!((instance.len(), marker.len()), (12, 32), "{description}");
    let config = data(world.read("config", org()).await);
    assert_eq!(config["astra_token"], format!("AstraCS:{}...", &world.held()[..7]));
    world.check_one("after a rotation").await;
    ok(world.revoke(&lease(&minted)).await);
    let world = world.remounted().await;
    world.check_one("after a restart").await;
}

#[tokio::test]
async fn with_description_off_a_rotation_sends_no_description() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "description": false})).await);
    some(world.rotate().await);
    assert_eq!(world.astra.state().roots[&world.held()].description, Value::Null);
    world.check_one("without a description").await;
}

/// Without a description, only the client id leads to a new token, so the client id must never be lost.
#[tokio::test]
async fn without_a_description_a_known_client_id_is_enough() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "description": false})).await);
    let before = world.storage.calls();
    some(world.rotate().await);
    for n in 1..=world.storage.calls() - before {
        world.storage.fail_nth(n);
        drop(world.rotate().await);
        world.storage.heal();
        world.until_undone().await;
        world.check_one(&format!("storage call {n} failed")).await;
    }
    for member in ["orgId", "token"] {
        world.astra.change(member, json!("another"));
        assert_eq!(status(world.rotate().await).0, 502);
        world.check_one(member).await;
    }
}

#[tokio::test]
async fn errors_of_a_rotation_name_the_missing_permission_or_role() {
    let world = World::with_role("standard").await;
    assert!(refused(world.write("config/rotate-root", json!({})).await).contains("org_id"));
    let unknown = refused(world.write("config/rotate-root", json!({"org_id": "nowhere"})).await);
    assert!(unknown.contains("no config for org_id \"nowhere\""), "{unknown}");

    for status_code in [401, 403] {
        for (method, permission) in [("GET", "org-token-read"), ("POST", "org-token-write")] {
            world.astra.answer(method, ResponseTemplate::new(status_code).set_body_string("null"));
            let (code, message) = status(world.rotate().await);
            assert!(code == 403 && message.contains(permission), "{code} {message}");
            assert!(world.unfinished().is_empty());
        }
    }
    world.astra.answer("POST", ResponseTemplate::new(400).set_body_json(json!("no description, please")));
    let (code, message) = status(world.rotate().await);
    assert!(code == 400 && message.contains("description=false"), "{code} {message}");

    for roles in [json!([]), Value::Null] {
        world.astra.state().roots.get_mut(first()).unwrap().roles = roles;
        let message = refused(world.rotate().await);
        assert!(message.contains(first()) && message.contains("has no Astra roles"), "{message}");
    }
    world.astra.state().roots.get_mut(first()).unwrap().roles = json!([ROOT_ROLE]);
    let other = json!({"clients": [{"clientId": "another", "roles": [ROOT_ROLE]}]});
    world.astra.answer("GET", ResponseTemplate::new(200).set_body_json(other));
    let message = refused(world.rotate().await);
    assert!(message.contains(first()) && message.contains("is not in Astra's list"), "{message}");
    assert_eq!(world.held(), first());
    world.check_one("after all of that").await;
}

#[tokio::test]
async fn a_rotation_waits_if_astra_rejects_the_new_token_for_a_moment() {
    let world = World::with_role("standard").await;
    world.astra.state().refuse_fresh = 3;
    some(world.rotate().await);
    world.check_one("after some refusals").await;
    // A new token that Astra always rejects is not stored.
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
    let held = world.held();
    world.astra.state().refuse_fresh = 10_000;
    let (code, message) = status(world.rotate().await);
    assert!(code == 403 && message.contains("does not work") && message.contains("was deleted in Astra"), "{message}");
    assert_eq!(world.held(), held);
    world.check_one("after a refusal").await;
}

#[tokio::test]
async fn an_unusable_answer_of_astra_changes_nothing() {
    let world = World::with_role("standard").await;
    let taken = text(&world.mint("a").await, "clientId");
    for (member, value) in [
        ("clientId", json!(first())),
        ("clientId", json!(taken)),
        ("clientId", json!("a/b")),
        ("orgId", json!("another")),
        ("token", json!("AstraCS:other:abc")),
        ("token", Value::Null),
    ] {
        world.astra.change(member, value.clone());
        if member == "token" && value.is_null() {
            world.astra.heal();
            world.astra.answer_after("POST", ResponseTemplate::new(200).set_body_string("{\"clientId\":"));
        }
        let (code, message) = status(world.rotate().await);
        assert!(code == 502 && message.contains("was not rotated"), "{member} {message}");
        assert_eq!((world.held().as_str(), world.astra.live()), (first(), 1), "{member}");
        world.check_one(member).await;
    }
}

#[tokio::test]
async fn a_config_that_changes_during_a_rotation_is_not_overwritten() {
    let world = Arc::new(World::with_role("standard").await);
    for (change, stays) in [
        (json!({"org_id": ORG, "caller_mode": "standard", "logical_name": "renamed"}), false),
        (json!({"org_id": ORG, "url": format!("{}/v2", world.astra.url())}), true),
    ] {
        let held = world.held();
        world.astra.delay("POST", Duration::from_millis(200));
        let posts = world.astra.count("POST");
        let rotation = tokio::spawn({
            let world = world.clone();
            async move { world.rotate().await }
        });
        eventually(|| world.astra.count("POST") > posts).await;
        ok(world.write("config", change).await);
        let answer = rotation.await.unwrap();
        assert_eq!(world.held() == held, stays);
        if stays {
            let message = status(answer).1;
            assert!(
                message.contains("the config was changed during the rotation") && message.contains("deleted"),
                "{message}"
            );
        } else {
            some(answer);
            assert_eq!(data(world.read("config", org()).await)["logical_name"], "renamed");
        }
        world.check_one("after a change").await;
    }
}

#[tokio::test]
async fn concurrent_rotations_run_one_after_the_other() {
    let world = Arc::new(World::with_role("standard").await);
    let rotations: Vec<_> = (0..4)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { text(&some(world.rotate().await), "client_id") })
        })
        .collect();
    let mut made = Vec::new();
    for rotation in rotations {
        made.push(rotation.await.unwrap());
    }
    made.sort();
    made.dedup();
    assert!(made.len() == 4 && made.contains(&world.held()), "{made:?}");
    world.check_one("after four rotations").await;
}

#[tokio::test]
async fn an_old_token_that_cannot_be_deleted_is_named_and_deleted_later() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
    world.astra.answer_all("DELETE", ResponseTemplate::new(503));
    let warnings = some(world.rotate().await).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains(first()), "{warnings:?}");
    let second = world.held();
    // Neither another rotation nor a write of the config hides the old token.
    assert_eq!(some(world.rotate().await).warnings.len(), 1);
    assert_eq!((world.astra.roots().len(), world.unfinished().len()), (3, 2));
    assert_ne!(world.held(), second);
    world.astra.heal();
    let world = world.remounted().await;
    ok(world.tick(true).await);
    world.check_one("after the tick").await;
}

#[tokio::test]
async fn a_token_that_the_config_holds_is_never_deleted() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
    world.astra.answer_all("DELETE", ResponseTemplate::new(503));
    some(world.rotate().await);
    // The operator writes the old root token again during its deletion.
    let back = json!({"org_id": ORG, "astra_token": ROOT, "verify_connection": false});
    let message = refused(world.write("config", back.clone()).await);
    assert!(message.contains("astra_token was rotated out"), "{message}");
    // A new process reads this from the config.
    let world = world.remounted().await;
    refused(world.write("config", back).await);
    // A server that is restored from a backup has the old config.
    let mut config = world.storage.json(&format!("config/{ORG}")).expect("the config is stored");
    config["astra_token"] = json!(ROOT);
    config.as_object_mut().expect("an object").remove("former_roots");
    world.stored(&format!("config/{ORG}"), config).await;
    world.backend.invalidate(&format!("config/{ORG}"));
    world.astra.heal();
    ok(world.tick(true).await);
    assert_eq!(world.held(), first());
    world.check_one("after the operator's change").await;
}

/// Two labels of one organization, with one root token.
#[tokio::test]
async fn a_root_token_that_another_config_holds_is_not_rotated_away() {
    let world = World::with_role("standard").await;
    let second = |root: &str| json!({"org_id": "second", "astra_token": root, "url": world.astra.url(), "verify_connection": false});
    ok(world.write("config", second(ROOT)).await);
    for (path, data) in [("config/rotate-root", org()), ("orgs/retailOrg/rotate-root", json!({}))] {
        let text = refused(world.write(path, data).await);
        assert!(text.contains("\"second\""), "{text}");
    }
    assert_eq!((world.astra.roots(), world.astra.count("POST")), (vec![first().to_owned()], 0));
    // With its own root token, the other config is not in the way.
    ok(world.write("config", second("AstraCS:other:0123")).await);
    ok(world.write("config/rotate-root", org()).await);
    assert_ne!(world.astra.root(), ROOT);
}

#[tokio::test]
async fn the_entry_of_a_rotation_stays_without_a_config_or_astra() {
    let world = World::with_role("standard").await;
    world.storage.inject(HostFault::From(4));
    failed(world.rotate().await);
    world.storage.heal();
    assert_eq!((world.astra.roots().len(), world.unfinished().len()), (2, 1));
    // A young entry stays, and the config that the entry needs cannot be deleted.
    ok(world.tick(false).await);
    let (code, message) = status(world.ask(Operation::Delete, "config", org()).await);
    assert!(code == 503 && message.contains("rotation"), "{message}");
    world.astra.answer_all("GET", ResponseTemplate::new(403));
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    failed(world.tick(true).await);
    world.astra.heal();
    assert_eq!((world.astra.roots().len(), world.unfinished().len()), (2, 1));
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    let world = world.remounted().await;
    let error = failed(world.tick(true).await).to_string();
    assert!(error.contains("no config for org_id"), "{error}");
    world.write_config("standard").await;
    let world = world.remounted().await;
    ok(world.tick(true).await);
    world.check_one("with Astra and a config").await;
}

#[tokio::test]
async fn a_call_with_the_old_token_is_repeated_with_the_new_token() {
    for method in ["POST", "DELETE"] {
        let world = Arc::new(World::with_role("standard").await);
        let minted = world.mint("a").await;
        // The call waits in Astra's queue while the root token is replaced and deleted.
        let refusal = ResponseTemplate::new(401).set_body_json(json!({"errors": [{"ID": 340_018, "message": "gone"}]}));
        world.astra.answer(method, refusal.set_delay(Duration::from_millis(300)));
        let asked = world.astra.count(method);
        let caller = tokio::spawn({
            let (world, secret) = (world.clone(), lease(&minted));
            async move {
                match method {
                    "POST" => {
                        world
                            .write("org/token", json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": "b"}))
                            .await
                    }
                    _ => world.revoke(&secret).await,
                }
            }
        });
        eventually(|| world.astra.count(method) > asked).await;
        some(world.rotate().await);
        ok(caller.await.unwrap());
        assert_eq!((world.astra.live(), world.held() == first()), (if method == "POST" { 2 } else { 0 }, false));
    }
    // If the root token did not change, the call fails after one attempt.
    let world = World::with_role("standard").await;
    world.astra.answer_all("POST", ResponseTemplate::new(403));
    assert_eq!(
        status(world.write("org/token", json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": "b"})).await).0,
        403
    );
    assert_eq!(world.astra.count("POST"), 1);
}

#[tokio::test]
async fn the_old_token_is_deleted_after_its_calls_have_finished() {
    let world = Arc::new(World::with_role("standard").await);
    world.astra.delay("POST", Duration::from_millis(400));
    let caller = tokio::spawn({
        let world = world.clone();
        async move { world.mint("slow").await }
    });
    eventually(|| world.astra.live() == 1).await;
    some(world.rotate().await);
    assert!(caller.is_finished(), "the root token was deleted under a mint");
    caller.await.unwrap();
    world.check_one("after a slow mint").await;
}

/// A fault at every call of Astra, before or after the effect of the call, for one call or for all later calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_astra_at_any_call_leaves_one_root_token() {
    let calls = {
        let world = World::with_role("standard").await;
        let before = world.astra.state().requests.len();
        some(world.rotate().await);
        world.astra.state().requests.split_off(before)
    };
    let methods: Vec<&str> = calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(methods, ["GET", "POST", "GET", "GET", "DELETE"], "list, make, prove twice, delete");
    let mut trials = JoinSet::new();
    for nth in 0..calls.len() {
        for (effective, lasting) in [(false, false), (false, true), (true, false), (true, true)] {
            // With a rejection or a rate limit, Astra has done nothing.
            let codes: &[u16] = if effective { &[404, 500, 503] } else { &[401, 403, 404, 429, 500, 503] };
            for &code in codes {
                trials.spawn(one_fault(nth, effective, lasting, code));
            }
        }
    }
    trials.join_all().await;
}

async fn one_fault(nth: usize, effective: bool, lasting: bool, code: u16) {
    let when = &format!("call {nth} answered {code}, effective {effective}, lasting {lasting}");
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
    world.astra.fault_nth(nth, effective, lasting, ResponseTemplate::new(code));
    let answer = world.rotate().await;
    world.check_held(when);
    match &answer {
        Ok(response) => {
            let warnings = &response.as_ref().unwrap().warnings;
            assert_eq!(warnings.is_empty(), world.unfinished().is_empty(), "{when}: {warnings:?}");
        }
        Err(error) => assert!(!error.detail().contains("s3cret") && !error.detail().contains("AstraCS"), "{when}"),
    }
    world.astra.heal();
    let world = world.remounted().await;
    ok(world.tick(true).await);
    world.check_one(when).await;
}

/// Also after a restart, and without asking Astra. A tool that writes its config again and again has the first root token.
#[tokio::test]
async fn a_config_knows_the_root_tokens_of_operators_and_its_last_ten_replaced_root_tokens() {
    let mut world = World::new().await;
    world.write_config("standard").await;
    let mut roots = vec![world.astra.root()];
    for _ in 0..11 {
        some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
        roots.push(world.astra.root());
    }
    world = world.remounted().await;
    let stored = world.storage.json(&format!("config/{ORG}")).expect("the config is stored");
    let id = |root: &String| root.split(':').nth(1).expect("a client id").to_owned();
    let ids: Vec<String> = roots[1..11].iter().map(id).collect();
    assert_eq!(stored["former_roots"], json!(ids));
    assert_eq!(stored["root"]["given"], json!([id(&roots[0])]));
    for root in &roots[..11] {
        for verify in [true, false] {
            // Nothing changes, neither in the storage nor in Astra.
            let write =
                json!({"org_id": ORG, "astra_token": root, "logical_name": "again", "verify_connection": verify});
            let requests = world.astra.state().requests.len();
            for path in ["config", "orgs/retailOrg"] {
                let text = refused(world.write(path, write.clone()).await);
                assert!(text.contains("astra_token was rotated out"), "{text}");
                assert!(!text.contains(root), "the error holds the token");
            }
            assert_eq!(world.storage.json(&format!("config/{ORG}")), Some(stored.clone()));
            assert_eq!(world.astra.state().requests.len(), requests);
        }
    }
    ok(world.tick(true).await);
    assert_eq!(world.astra.roots(), [id(&roots[11])]);
    let same = json!({"org_id": ORG, "astra_token": roots[11], "verify_connection": false});
    ok(world.write("config", same).await);
}
