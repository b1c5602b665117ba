//! Leases of the Go plugin with missing data.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Answer, Map, Operation, Secret};

use super::labels::{REAL, go_lease, go_token};
use super::logs::capture;
use super::takeover::go_plugin::{GoToken, parsed};
use super::{ROOT, World, data, failed, lease, lease_request, ok, refused, some};

impl World {
    /// Renews or revokes a lease with this stored response.
    async fn of_lease(&self, operation: Operation, secret: &Secret, data: &Value) -> Answer {
        self.backend.handle(lease_request(operation, secret, data.clone())).await
    }

    fn assert_all_is_gone(&self) {
        assert_eq!((self.astra.live(), self.keys("client/").len(), self.keys("token/").len()), (0, 0, 0));
    }
}

fn without(secret: &Secret, members: &[&str]) -> Secret {
    let mut secret = secret.clone();
    members.iter().for_each(|name| drop(secret.internal_data.remove(*name)));
    secret
}

fn bare(secret: &Secret) -> Secret {
    secret.clone().internal_data(Map::new())
}

#[tokio::test]
async fn a_lease_without_internal_data_belongs_to_the_token_in_its_response() {
    for (org_id, is_sidecar) in [("prod", false), ("prod", true), (REAL, false), (REAL, true)] {
        let world = World::labelled(org_id, is_sidecar).await;
        let token = go_token(org_id, "one", is_sidecar);
        let secret = bare(&world.store_go_token(&token).await);
        let answer = parsed(&token.lease())["data"].clone();
        // A revocation fails until the engine knows the token for certain.
        if !is_sidecar {
            failed(world.of_lease(Operation::Revoke, &secret, &answer).await);
        }
        world.initialize().await;
        let renewed = some(world.of_lease(Operation::Renew, &secret, &answer).await);
        assert_eq!((lease(&renewed).ttl.as_secs(), lease(&renewed).renewable), (3600, true));
        assert_eq!(renewed.data.map(Value::Object), Some(answer.clone()));
        // The renewal restores the lost data.
        let internal = lease(&some(world.of_lease(Operation::Renew, &secret, &answer).await)).internal_data;
        assert_eq!((&internal["tokenId"], &internal["orgId"]), (&json!(token.id()), &json!(org_id)));
        ok(world.of_lease(Operation::Revoke, &secret, &answer).await);
        world.assert_all_is_gone();
        ok(world.of_lease(Operation::Revoke, &secret, &answer).await);
    }
}

#[tokio::test]
async fn a_lease_without_any_data_is_revoked_with_a_log_line_and_deletes_no_token() {
    let (log, _guard) = capture();
    let world = World::labelled("prod", false).await;
    let old = world.store_go_token(&go_token("prod", "one", false)).await;
    world.initialize().await;
    let mut secret = bare(&old);
    secret.lease_id = "astra/org/token/abc".into();
    let renewed = some(world.of_lease(Operation::Renew, &secret, &Value::Null).await);
    let left = lease(&renewed);
    assert!(!left.renewable && left.ttl <= old.ttl && left.internal_data.contains_key("secret_type"));
    ok(world.of_lease(Operation::Revoke, &secret, &Value::Null).await);
    assert!(log.has("ERROR", "astra/org/token/abc") && log.has("ERROR", "did not identify a token"));
    assert!(world.astra.state().requests.is_empty());
    assert_eq!((world.astra.live(), world.keys("token/").len()), (1, 1));
    ok(world.revoke(&old).await);
    world.assert_all_is_gone();
}

#[tokio::test]
async fn a_lease_without_an_org_leads_only_to_its_own_token() {
    for is_sidecar in [false, true] {
        let world = World::labelled("prod", is_sidecar).await;
        world.store_go_config("other", is_sidecar).await;
        let (one, two) = (go_token("prod", "one", is_sidecar), go_token("prod", "two", is_sidecar));
        let secret = without(&world.store_go_token(&one).await, &["orgId"]);
        let whole = world.store_go_token(&two).await;
        world.initialize().await;
        some(world.renew(&secret, Value::Null).await);
        ok(world.revoke(&secret).await);
        assert_eq!(world.astra.state().live.keys().collect::<Vec<_>>(), [&two.client_id]);
        // Another token has the same name now.
        let again = GoToken { client_id: "GoAgain".into(), ..one.clone() };
        let next = world.store_go_token(&again).await;
        ok(world.revoke(&secret).await);
        refused_renewal(&world, &secret).await;
        assert_eq!(world.astra.live(), 2);
        // Without the token id, the client id still leads to the token.
        ok(world.revoke(&without(&whole, &["tokenId"])).await);
        ok(world.revoke(&next).await);
        world.assert_all_is_gone();
    }
}

/// Which of two configs of one organization has the record depends on which of them was known first.
#[tokio::test]
async fn a_revocation_removes_the_record_from_any_config_of_the_organization() {
    for later in ["other", "z"] {
        let world = World::labelled("prod", true).await;
        let secret = world.store_go_token(&go_token("prod", "one", true)).await;
        world.initialize().await;
        let config = json!({"org_id": later, "astra_token": ROOT, "url": world.astra.url(), "caller_mode": "sidecar"});
        ok(world.write("config", config).await);
        assert!(world.keys("client/").iter().all(|key| key.starts_with("client/prod/")), "{later}");
        ok(world.revoke(&without(&secret, &["orgId", "tokenId"])).await);
        world.assert_all_is_gone();
    }
}

async fn refused_renewal(world: &World, secret: &Secret) {
    failed(world.renew(secret, Value::Null).await);
}

#[tokio::test]
async fn a_lease_whose_client_id_does_not_fit_into_a_key_is_revoked() {
    let (log, _guard) = capture();
    for client_id in ["..", ".", "a/b", "a\nb", "a..b", "x:y"] {
        for is_sidecar in [false, true] {
            let world = World::labelled("prod", is_sidecar).await;
            let token = GoToken { client_id: client_id.into(), ..go_token("prod", "one", is_sidecar) };
            let secret = if is_sidecar { go_lease(&token) } else { world.store_go_token(&token).await };
            world.astra.state().live.clear();
            world.initialize().await;
            if !is_sidecar {
                some(world.renew(&secret, Value::Null).await);
            }
            ok(world.revoke(&secret).await);
            assert!(world.keys("client/").is_empty() && world.keys("token/").is_empty(), "{client_id:?}");
            // A client id such as `..` must not change the path of the URL: the request would delete something else.
            let state = world.astra.state();
            let stray = |request: &&String| {
                request.starts_with("DELETE") && !request.starts_with("DELETE /v2/clientIdSecrets/")
            };
            assert_eq!(state.requests.iter().find(stray), None, "{client_id:?}");
        }
    }
    assert!(log.has("ERROR", "the client id did not fit into a URL"));
}

#[tokio::test]
async fn the_list_names_each_stored_token_that_cannot_be_in_the_inventory() {
    let (log, _guard) = capture();
    let world = World::labelled("prod", false).await;
    let odd = GoToken { client_id: "..".into(), ..go_token("prod", "odd", false) };
    let secret = world.store_go_token(&odd).await;
    world.store_go_token(&go_token("prod", "fine", false)).await;
    world.store_bytes("token/broken", "no JSON").await;
    world.initialize().await;
    let warnings = async |world: &World| some(world.ask(Operation::List, "org/tokens/", json!({})).await).warnings;
    let warned = warnings(&world).await;
    assert!(warned[0].contains(&odd.id()) && warned[0].contains("token/broken"), "{warned:?}");
    assert!(log.has("WARN", &odd.id()) && log.has("WARN", "broken") && log.has("INFO", "left_out=2"));
    // The token can still be read by its names.
    let named = json!({"org_id": "prod", "role_name": "reader", "logical_name": "odd"});
    assert_eq!(data(world.read("org/token", named).await)["clientId"], "..");
    ok(world.revoke(&secret).await);
    let world = world.remounted().await;
    let warned = warnings(&world).await;
    assert!(!warned[0].contains(&odd.id()) && warned[0].contains("token/broken"), "{warned:?}");
    refused(world.read("org/token", json!({"org_id": "prod", "client_id": "missing"})).await);
}

#[tokio::test]
async fn a_lease_whose_token_cannot_be_read_is_revoked() {
    let (log, _guard) = capture();
    for is_sidecar in [false, true] {
        let world = World::labelled("prod", is_sidecar).await;
        let token = go_token("prod", "one", is_sidecar);
        let whole = world.store_go_token(&token).await;
        let secret = without(&whole, &["orgId"]);
        world.initialize().await;
        world.store_bytes(&format!("token/{}", token.id()), "no JSON").await;
        ok(world.revoke(&secret).await);
        world.assert_all_is_gone();
    }
    assert!(log.has("ERROR", "its entry is not the expected JSON"));
}
