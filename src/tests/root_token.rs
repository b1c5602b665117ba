//! A root token that is not what the config says: of another organization, or minted by the mount itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;
use wiremock::ResponseTemplate;

use super::astra::{Root, other_org};
use super::{ORG, OTHER_ORG, ROOT, World, eventually, lease, ok, order, refused, request, some, status, text};

/// Returns the parameters of a write of the config that asks Astra nothing.
fn unverified(world: &World) -> Value {
    json!({"org_id": ORG, "astra_token": ROOT, "url": world.astra.url(), "verify_connection": false})
}

impl World {
    /// Writes a root token of another organization to the config, which has other tokens. Returns the tokens of the
    /// former organization.
    async fn take_root_of_another_org(&self) -> BTreeMap<String, Value> {
        other_org(&self.astra);
        let live = std::mem::take(&mut self.astra.state().live);
        ok(self.write("config", unverified(self)).await);
        live
    }

    /// Writes a root token of the first organization to the config.
    async fn give_back(&self, live: BTreeMap<String, Value>) {
        {
            let mut state = self.astra.state();
            state.live = live;
            ORG.clone_into(&mut state.org);
        }
        ok(self.write("config", unverified(self)).await);
    }
}

#[tokio::test]
async fn with_a_root_token_of_another_organization_no_token_counts_as_deleted() {
    // Astra says that it does not have the token. Or its answer is unclear, and its list does not have the token.
    for unclear in [false, true] {
        let world = World::with_role("standard").await;
        let minted = world.mint("a").await;
        let live = world.take_root_of_another_org().await;
        if unclear {
            world.astra.answer_all("DELETE", ResponseTemplate::new(501));
        }
        for answer in [world.revoke(&lease(&minted)).await, world.ask(Operation::Delete, "org/token", order("a")).await]
        {
            let (status, text) = status(answer);
            assert_eq!(status, 400, "{text}");
            assert!(text.contains(ORG) && text.contains(OTHER_ORG) && text.contains("astra_token"), "{text}");
        }
        assert_eq!((world.keys("client/").len(), world.keys("wal/").len()), (1, 0));
        world.astra.heal();
        world.give_back(live).await;
        ok(world.revoke(&lease(&minted)).await);
        assert_eq!((world.astra.live(), world.keys("client/").len()), (0, 0));
    }
}

#[tokio::test]
async fn with_a_root_token_of_another_organization_the_tick_finishes_nothing() {
    let world = World::with_role("standard").await;
    // A mint and a deletion whose outcome is unknown.
    world.astra.answer_after("POST", ResponseTemplate::new(500));
    // The engine does not repeat a request with this answer, so it does not look for the lost token later in this test.
    world.astra.answer_all("GET", ResponseTemplate::new(501));
    let asked = world.astra.count("GET");
    assert!(world.write("org/token", order("lost")).await.is_err());
    eventually(|| world.astra.count("GET") > asked).await;
    world.astra.heal();
    world.mint("a").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(500));
    assert!(world.ask(Operation::Delete, "org/token", order("a")).await.is_err());
    world.astra.heal();
    assert_eq!((world.keys("wal/").len(), world.astra.live()), (2, 2));
    // A new process does not pause because Astra failed.
    let world = world.remounted().await;
    let live = world.take_root_of_another_org().await;
    assert!(world.tick(true).await.is_err());
    assert_eq!((world.keys("wal/").len(), world.keys("client/").len()), (2, 1));
    world.give_back(live).await;
    let world = world.remounted().await;
    // The deletion can still take effect, so its entry stays.
    world.until_unfinished(1).await;
    assert_eq!(world.astra.live(), 1);
}

#[tokio::test]
async fn astra_is_asked_once_whose_root_token_it_is() {
    let world = World::with_role("standard").await;
    let minted: Vec<_> = [world.mint("a").await, world.mint("b").await, world.mint("c").await].into();
    world.astra.state().live.clear();
    // A new process, which has minted nothing.
    let world = world.remounted().await;
    world.astra.state().requests.clear();
    for minted in &minted {
        ok(world.revoke(&lease(minted)).await);
    }
    let asked = world.astra.state().requests.iter().filter(|request| request.ends_with("currentOrg")).count();
    assert_eq!((asked, world.astra.count("DELETE")), (1, 3));
}

#[tokio::test]
async fn a_root_token_that_may_not_ask_for_its_organization_can_revoke_tokens_that_are_gone() {
    for refusal in [ResponseTemplate::new(401), ResponseTemplate::new(403).set_body_string("\"no permission\"")] {
        let world = World::with_role("standard").await;
        let minted = world.mint("a").await;
        world.astra.state().live.clear();
        let world = world.remounted().await;
        world.astra.answer_all("GET", refusal);
        ok(world.revoke(&lease(&minted)).await);
    }
}

/// Lets Astra accept a minted token as a root token.
fn promote(world: &World, token: &str) {
    let client_id = token.split(':').nth(1).unwrap_or_default().to_owned();
    let mut state = world.astra.state();
    let asked = state.live.remove(&client_id).expect("the token is live");
    let root = Root { token: token.to_owned(), roles: asked["roles"].clone(), description: Value::Null, refused: 0 };
    state.roots.insert(client_id, root);
}

#[tokio::test]
async fn a_token_that_the_mount_minted_is_no_root_token() {
    for (mode, path, named) in [
        ("standard", "org/token", true),
        ("sidecar", "org/token", false),
        ("standard", "creds/retailOrg/r_w_user", false),
    ] {
        let world = World::with_role(mode).await;
        let data = if named { order("a") } else { json!({"org_id": ORG, "role_name": "r_w_user"}) };
        let operation = if named { Operation::Update } else { Operation::Read };
        let data = if path.starts_with("creds") { json!({}) } else { data };
        let token = text(&some(world.ask(operation, path, data).await), "token");
        promote(&world, &token);
        for verify in [true, false] {
            let config = json!({"org_id": ORG, "astra_token": token, "verify_connection": verify});
            let text = refused(world.write("config", config).await);
            assert!(text.starts_with("astra_token ") && text.contains("minted"), "{text}");
            assert!(!text.contains(&token), "the error holds the token");
        }
    }
}

#[tokio::test]
async fn a_token_that_the_mount_minted_under_another_label_is_no_root_token() {
    let world = World::with_role("standard").await;
    let label = |token: &str, verify: bool| json!({"org_id": "team-b", "astra_token": token, "url": world.astra.url(), "verify_connection": verify});
    let token = text(&world.mint("a").await, "token");
    promote(&world, &token);
    let refuse = async |verify: bool| {
        let text = refused(world.write("config", label(&token, verify)).await);
        assert!(text.starts_with("astra_token ") && text.contains("minted"), "{text}");
        assert!(!text.contains(&token), "the error holds the token");
    };
    refuse(true).await;
    // Astra has named the organization of the label before.
    some(world.write("config", label(ROOT, true)).await);
    refuse(true).await;
    refuse(false).await;
}

#[tokio::test]
async fn the_root_token_is_never_deleted() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    let token = text(&minted, "token");
    promote(&world, &token);
    // An earlier version accepted the token as a root token.
    let mut config = world.storage.json(&format!("config/{ORG}")).unwrap();
    config["astra_token"] = json!(token);
    world.stored(&format!("config/{ORG}"), config).await;
    let client_id = text(&minted, "clientId");
    let key = format!("client/{ORG}/{client_id}");
    let mut record = world.storage.json(&key).unwrap();
    record["expires_at"] = json!("2020-01-01T00:00:00Z");
    world.stored(&key, record.clone()).await;
    let world = world.remounted().await;
    for answer in [
        world.revoke(&lease(&minted)).await,
        world.ask(Operation::Delete, "org/token", order("a")).await,
        world.ask(Operation::Delete, "org/token", json!({"org_id": ORG, "client_id": client_id})).await,
    ] {
        let (status, text) = status(answer);
        assert!(status == 400 && text.contains("root token") && text.contains("astra_token"), "{text}");
    }
    // The sweep finds a token without a lease, and the tick finds an unfinished mint.
    let note = json!({"org_id": ORG, "role_name": "r_w_user", "marker": record["marker"], "described": true,
        "client_id": client_id, "timeout_seconds": 30});
    let created_at = jiff::Timestamp::now().as_second() - 600;
    world.stored("wal/1", json!({"type": "token-mint", "data": note, "created_at": created_at})).await;
    ok(world.backend.handle(request(Operation::Rollback, "", json!({"immediate": true}))).await);
    assert_eq!(world.astra.roots().len(), 2);
    assert_eq!(world.astra.count("DELETE"), 0);
    // With another root token, the token is deleted like any other token.
    ok(world.write("config", unverified(&world)).await);
    ok(world.revoke(&lease(&minted)).await);
    assert_eq!((world.astra.roots().len(), world.keys("client/").len()), (1, 0));
}
