//! Configs whose `org_id` is not Astra's id of the organization.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Secret};
use wiremock::ResponseTemplate;

use super::astra::Astra;
use super::logs::capture;
use super::takeover::go_plugin::{GoToken, config, labels, parsed, role};
use super::{OTHER_ORG, ROOT, World, data, eventually, failed, lease, ok, refused, some, status, text};

/// The organization in Astra.
pub(super) const REAL: &str = "6a4c2d1e-5c0f-4b8e-9a57-00000000000f";

impl World {
    /// Returns a mount of the Go plugin with a config of the organization [`REAL`], not initialized yet.
    pub(super) async fn labelled(org_id: &str, is_sidecar: bool) -> Self {
        let world = Self::with(Arc::default(), Arc::new(Astra::start(REAL).await));
        world.store_go_config(org_id, is_sidecar).await;
        world
    }

    pub(super) async fn store_go_config(&self, org_id: &str, is_sidecar: bool) {
        let config = config(org_id, ROOT, &self.astra.url(), "", is_sidecar);
        self.store_bytes(&format!("config/{org_id}"), &config).await;
        self.store_bytes(&format!("role/{org_id}:reader"), &role(org_id, "reader")).await;
    }

    /// Stores a live token as the Go plugin does. Returns its lease.
    pub(super) async fn store_go_token(&self, token: &GoToken) -> Secret {
        self.store_bytes(&format!("token/{}", token.id()), &token.entry()).await;
        self.astra.state().live.insert(token.client_id.clone(), Value::Null);
        go_lease(token)
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.astra.state().requests)
    }

    async fn config_of(&self, org_id: &str) -> Value {
        data(self.read("config", json!({"org_id": org_id})).await)
    }
}

pub(super) fn go_token(org_id: &str, name: &str, is_sidecar: bool) -> GoToken {
    GoToken {
        org_id: org_id.to_owned(),
        astra_org_id: REAL.to_owned(),
        role_name: "reader".to_owned(),
        logical_name: name.to_owned(),
        client_id: format!("Go{}", name.bytes().map(|byte| format!("{byte:02x}")).collect::<String>()),
        is_sidecar,
    }
}

pub(super) fn go_lease(token: &GoToken) -> Secret {
    let internal = parsed(&token.lease())["internal_data"].as_object().unwrap().clone();
    let hour = Duration::from_secs(3600);
    Secret::new(hour, 10 * hour, internal).issue_time(Timestamp::now())
}

fn named(org_id: &str, name: &str) -> Value {
    json!({"org_id": org_id, "role_name": "reader", "logical_name": name})
}

#[tokio::test]
async fn a_mount_mints_after_a_takeover_whatever_its_org_id_is() {
    let mut org_ids = labels(REAL);
    org_ids.extend([OTHER_ORG.to_owned(), "team/a".to_owned(), "eu:prod".to_owned(), "y".repeat(256)]);
    for org_id in org_ids {
        let world = World::labelled(&org_id, false).await;
        world.initialize().await;
        assert_eq!(world.config_of(&org_id).await["astra_org_id"], "", "{org_id:?}");
        let minted = some(world.write("org/token", named(&org_id, "one")).await);
        assert_eq!(text(&minted, "orgId"), org_id);
        some(world.write("org/token", named(&org_id, "two")).await);
        assert_eq!(world.requests(), ["POST /v2/clientIdSecrets"; 2], "{org_id:?}");
        assert_eq!(world.config_of(&org_id).await["astra_org_id"], REAL);
        assert_eq!(world.list("org/tokens/", json!({"org_id": org_id})).await["keys"].as_array().unwrap().len(), 2);

        // From now on, the config accepts only that organization.
        world.astra.change("orgId", json!(OTHER_ORG));
        let (code, text) = status(world.write("org/token", named(&org_id, "three")).await);
        assert!(code == 502 && text.contains("another org"), "{text}");
        some(world.renew(&lease(&minted), Value::Null).await);
        ok(world.revoke(&lease(&minted)).await);
        world.until_undone().await;
        assert_eq!(world.astra.live(), 1);
        some(world.write("config/rotate-root", json!({"org_id": org_id})).await);
        some(world.write("org/token", named(&org_id, "four")).await);
    }
}

#[tokio::test]
async fn a_known_organization_needs_no_call_in_a_mint() {
    let world = World::labelled("prod", false).await;
    world.initialize().await;
    let mut costs = Vec::new();
    for name in ["one", "two", "three"] {
        let before = (world.storage.calls(), world.system.calls());
        some(world.write("org/token", named("prod", name)).await);
        costs.push((world.storage.calls() - before.0, world.system.calls() - before.1));
    }
    assert!(costs[0].0 > costs[1].0 && costs[1] == costs[2], "{costs:?}");
    // A config that this engine created, for comparison.
    let own = World::with(Arc::default(), Arc::new(Astra::start(REAL).await));
    own.initialize().await;
    let config = json!({"org_id": REAL, "astra_token": ROOT, "url": own.astra.url()});
    assert!(ok(own.write("config", config).await).is_none());
    let role = json!({"org_id": REAL, "role_name": "reader", "role_id": "1", "ttl": 3600, "max_ttl": 3600});
    ok(own.write("role", role).await);
    some(own.write("org/token", named(REAL, "one")).await);
    let before = own.storage.calls();
    some(own.write("org/token", named(REAL, "two")).await);
    assert_eq!(own.storage.calls() - before, costs[2].0);
}

#[tokio::test]
async fn a_mint_succeeds_although_the_storage_cannot_store_the_organization() {
    for nth in 1..40 {
        let world = World::labelled("prod", false).await;
        world.initialize().await;
        world.storage.fail_nth(nth);
        let minted = world.write("org/token", named("prod", "one")).await;
        world.storage.heal();
        world.until_undone().await;
        assert_eq!(world.astra.live(), usize::from(minted.is_ok()), "call {nth}");
        some(world.write("org/token", named("prod", "two")).await);
        assert_eq!(world.config_of("prod").await["astra_org_id"], REAL);
    }
}

#[tokio::test]
async fn a_label_is_accepted_with_a_warning_that_names_the_organization() {
    let world = World::with(Arc::default(), Arc::new(Astra::start(REAL).await));
    world.initialize().await;
    let config = |org_id: &str| json!({"org_id": org_id, "astra_token": ROOT, "url": world.astra.url()});
    let warned = some(world.write("config", config("prod")).await).warnings;
    assert!(warned.len() == 1 && warned[0].contains(REAL) && warned[0].contains("prod"), "{warned:?}");
    assert_eq!(world.config_of("prod").await["astra_org_id"], REAL);
    assert!(ok(world.write("config", config(REAL)).await).is_none());

    // A UUID means the organization with this id, and the root token belongs to another organization.
    let text = refused(world.write("config", config(OTHER_ORG)).await);
    assert!(text.contains("belongs to") && text.contains(REAL) && text.contains(OTHER_ORG), "{text}");
    assert_eq!(world.keys("config/"), [format!("config/{REAL}"), "config/prod".to_owned()]);
    // A label must not move to another organization either.
    super::astra::other_org(&world.astra);
    let text = refused(world.write("config", config("prod")).await);
    assert!(text.contains(OTHER_ORG) && text.contains(REAL) && text.contains("delete the config"), "{text}");
}

#[tokio::test]
async fn a_root_token_that_was_not_verified_mints_for_its_own_organization_only() {
    let world = World::with(Arc::default(), Arc::new(Astra::start(REAL).await));
    world.initialize().await;
    for org_id in [OTHER_ORG, "prod"] {
        let config =
            json!({"org_id": org_id, "astra_token": ROOT, "url": world.astra.url(), "verify_connection": false});
        assert!(ok(world.write("config", config).await).is_none());
        let role = json!({"org_id": org_id, "role_name": "reader", "role_id": "1", "ttl": 60, "max_ttl": 60});
        ok(world.write("role", role).await);
    }
    assert_eq!(status(world.write("org/token", named(OTHER_ORG, "one")).await).0, 502);
    some(world.write("org/token", named("prod", "one")).await);
    assert_eq!(world.config_of("prod").await["astra_org_id"], REAL);
    // Now the root token of the label belongs to another organization.
    super::astra::other_org(&world.astra);
    assert_eq!(status(world.write("org/token", named("prod", "two")).await).0, 502);
}

#[tokio::test]
async fn an_org_id_of_another_organization_from_the_go_plugin_works_with_a_warning_in_the_log() {
    let (log, _guard) = capture();
    let world = World::labelled(OTHER_ORG, false).await;
    world.initialize().await;
    some(world.write("org/token", named(OTHER_ORG, "one")).await);
    assert!(log.has("WARN", REAL) && log.has("WARN", OTHER_ORG));
    // Once the organization is known, another root token of this organization can replace the root token.
    let config = json!({"org_id": OTHER_ORG, "astra_token": ROOT});
    let warned = some(world.write("config", config).await).warnings;
    assert!(warned[0].contains(REAL), "{warned:?}");
}

#[tokio::test]
async fn tokens_stored_with_astras_id_of_the_organization_belong_to_the_label() {
    for is_sidecar in [false, true] {
        let world = World::labelled("prod", is_sidecar).await;
        let tokens = ["a", "b", "c"].map(|name| go_token("prod", name, is_sidecar));
        let mut leases = Vec::new();
        for token in &tokens {
            leases.push(world.store_go_token(token).await);
        }
        world.initialize().await;
        let asked = if is_sidecar { vec!["GET /v2/currentOrg"] } else { Vec::new() };
        assert_eq!(world.requests(), asked);
        let ids = json!(["Go61", "Go62", "Go63"]);
        assert_eq!(world.list("org/tokens/", json!({"org_id": "prod"})).await["keys"], ids);
        assert_eq!(world.keys("client/").len(), 3);
        refused(world.ask(Operation::Delete, "config", json!({"org_id": "prod"})).await);

        let by_id = json!({"org_id": "prod", "client_id": "Go61"});
        if !is_sidecar {
            assert_eq!(data(world.read("org/token", by_id.clone()).await)["logicalName"], "a");
            let text = refused(world.write("org/token", named("prod", "A")).await);
            assert!(text.contains("Go61"), "{text}");
        }
        ok(world.ask(Operation::Delete, "org/token", by_id).await);
        // The renewal uses the TTLs of the label's role, not those that the host knows.
        world
            .stored(
                "role/prod:reader",
                json!({"role_name": "reader", "role_id": "1", "org_id": "prod",
            "ttl": 60_000_000_000_i64, "max_ttl": 600_000_000_000_i64}),
            )
            .await;
        world.backend.invalidate("role/prod:reader");
        assert_eq!(lease(&some(world.renew(&leases[1], Value::Null).await)).ttl.as_secs(), 60);
        for lease in &leases {
            ok(world.revoke(lease).await);
        }
        assert_eq!((world.astra.live(), world.keys("client/").len(), world.keys("token/").len()), (0, 0, 0));
        ok(world.ask(Operation::Delete, "config", json!({"org_id": "prod"})).await);
    }
}

#[tokio::test]
async fn when_the_organization_of_a_label_is_learned_its_tokens_move_to_the_label() {
    let world = World::labelled("prod", true).await;
    let token = go_token("prod", "a", true);
    let lease = world.store_go_token(&token).await;
    world.astra.answer_all("GET", ResponseTemplate::new(503));
    world.initialize().await;
    assert_eq!(world.keys("client/"), [format!("client/{REAL}/Go61")]);
    // A config must not be deleted while these tokens may belong to it.
    assert_eq!(status(world.ask(Operation::Delete, "config", json!({"org_id": "prod"})).await).0, 503);
    world.astra.heal();
    some(world.read("org/token", named("prod", "b")).await);
    assert_eq!(world.keys("client/prod/").len(), 2);
    assert!(world.keys(&format!("client/{REAL}")).is_empty());
    ok(world.revoke(&lease).await);
    assert_eq!((world.astra.live(), world.keys("token/").len()), (1, 1));
}

#[tokio::test]
async fn a_revocation_for_a_label_without_a_known_organization_asks_astra() {
    let world = World::labelled("prod", true).await;
    let lease = world.store_go_token(&go_token("prod", "a", true)).await;
    world.astra.answer_all("GET", ResponseTemplate::new(503));
    world.initialize().await;
    failed(world.revoke(&lease).await);
    assert_eq!(world.astra.live(), 1);
    world.astra.heal();
    // The engine skips an organization for a while after Astra failed. A new mount does not.
    let world = World::with(world.storage.clone(), world.astra.clone());
    ok(world.revoke(&lease).await);
    assert_eq!((world.astra.live(), world.keys("client/").len(), world.keys("token/").len()), (0, 0, 0));
}

#[tokio::test]
async fn two_labels_of_one_organization_keep_their_tokens_apart() {
    let world = World::labelled("prod", false).await;
    world.store_go_config("team", false).await;
    let tokens = [go_token("prod", "a", false), go_token("team", "b", false)];
    for token in &tokens {
        world.store_go_token(token).await;
    }
    world.initialize().await;
    for (org, id) in [("prod", "Go61"), ("team", "Go62")] {
        assert_eq!(world.list("org/tokens/", json!({"org_id": org})).await["keys"], json!([id]));
        refused(
            world
                .read("org/token", json!({"org_id": org, "client_id": if id == "Go61" { "Go62" } else { "Go61" }}))
                .await,
        );
    }
    eventually(|| world.storage.keys().contains(&"client-index".to_owned())).await;
}

#[tokio::test]
async fn the_inventory_is_built_although_a_config_cannot_be_read() {
    let world = World::labelled("prod", false).await;
    let lease = world.store_go_token(&go_token("prod", "a", false)).await;
    world.store_bytes("config/damaged", "no JSON").await;
    world.initialize().await;
    assert_eq!(world.list("org/tokens/", json!({"org_id": "prod"})).await["keys"], json!(["Go61"]));
    ok(world.revoke(&lease).await);
    assert_eq!(world.astra.live(), 0);
}

/// Lets the next root tokens be those of another organization, which has none of the tokens.
fn other_organization(world: &World) -> std::collections::BTreeMap<String, Value> {
    super::astra::other_org(&world.astra);
    std::mem::take(&mut world.astra.state().live)
}

#[tokio::test]
async fn a_label_with_tokens_rejects_the_root_token_of_another_organization() {
    let world = World::labelled("prod", false).await;
    let lease = world.store_go_token(&go_token("prod", "a", false)).await;
    world.initialize().await;
    let tokens = other_organization(&world);
    let config = json!({"org_id": "prod", "astra_token": ROOT});
    let text = refused(world.write("config", config.clone()).await);
    assert!(text.contains(OTHER_ORG) && text.contains(REAL) && text.contains("delete the config"), "{text}");
    {
        let mut state = world.astra.state();
        (state.org, state.live) = (REAL.to_owned(), tokens);
    }
    some(world.write("config", config).await);
    assert_eq!(world.config_of("prod").await["astra_org_id"], REAL);
    ok(world.revoke(&lease).await);
    assert_eq!((world.astra.live(), world.keys("token/").len()), (0, 0));
}

#[tokio::test]
async fn an_org_id_of_another_organization_accepts_the_root_token_of_its_tokens() {
    let world = World::labelled(OTHER_ORG, false).await;
    world.store_go_token(&go_token(OTHER_ORG, "a", false)).await;
    world.initialize().await;
    some(world.write("config", json!({"org_id": OTHER_ORG, "astra_token": ROOT})).await);
    assert_eq!(world.config_of(OTHER_ORG).await["astra_org_id"], REAL);
}

#[tokio::test]
async fn a_token_is_not_revoked_with_the_root_token_of_another_organization() {
    for is_sidecar in [false, true] {
        let world = World::labelled("prod", is_sidecar).await;
        let lease = world.store_go_token(&go_token("prod", "a", is_sidecar)).await;
        world.initialize().await;
        ok(world.ask(Operation::Delete, "config", json!({"org_id": "prod", "force": true})).await);
        other_organization(&world);
        let config = json!({"org_id": "prod", "astra_token": ROOT, "url": world.astra.url()});
        some(world.write("config", config).await);
        world.requests();
        let error = failed(world.revoke(&lease).await).detail();
        // A lease without a name that leads to the label names Astra's id of the organization, which has no config.
        assert!(error.contains(REAL) && (is_sidecar || error.contains(OTHER_ORG)), "{error}");
        let by_id = json!({"org_id": "prod", "client_id": "Go61"});
        if !is_sidecar {
            refused(world.ask(Operation::Delete, "org/token", by_id).await);
        }
        assert!(!world.requests().iter().any(|request| request.starts_with("DELETE")));
        assert_eq!((world.keys("token/").len(), world.keys("client/").len()), (1, 1));
    }
}

#[tokio::test]
async fn a_named_token_is_renewed_and_revoked_after_its_config_got_a_label() {
    let world = World::labelled(REAL, false).await;
    let lease = world.store_go_token(&go_token(REAL, "a", false)).await;
    world.initialize().await;
    ok(world.ask(Operation::Delete, "config", json!({"org_id": REAL, "force": true})).await);
    let config = json!({"org_id": "prod", "astra_token": ROOT, "url": world.astra.url()});
    some(world.write("config", config).await);
    assert_eq!(world.keys("client/"), ["client/prod/Go61"]);
    for _ in 0..2 {
        some(world.renew(&lease, Value::Null).await);
        assert_eq!(world.keys("client/"), ["client/prod/Go61"]);
    }
    ok(world.revoke(&lease).await);
    assert_eq!((world.astra.live(), world.keys("client/").len(), world.keys("token/").len()), (0, 0, 0));
}

#[tokio::test]
async fn a_record_that_moves_to_a_label_keeps_its_data() {
    let world = World::labelled(REAL, false).await;
    world.initialize().await;
    some(world.write("org/token", named(REAL, "one")).await);
    let key = world.keys("client/").remove(0);
    let record = world.storage.json(&key).unwrap();
    assert!(record["expires_at"] != "" && record["marker"] != "" && record["created_at"] != "");
    ok(world.ask(Operation::Delete, "config", json!({"org_id": REAL, "force": true})).await);
    let config = json!({"org_id": "prod", "astra_token": ROOT, "url": world.astra.url()});
    some(world.write("config", config).await);
    assert_eq!(world.keys("client/"), [key.replace(REAL, "prod")]);
    assert_eq!(world.storage.json(&key.replace(REAL, "prod")), Some(record));
}
