//! Names that the Go plugin accepted, and that this engine rejects for new entries.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;

use super::labels::{REAL, go_token};
use super::takeover::go_plugin::{GoToken, labels, odd_labels, odd_names, role};
use super::takeover::{GO_CONFIG, GO_LEASE, GO_ROLE, GO_TOKEN, assert_loads_in_go};
use super::{ROLE_ID, World, data, lease, ok, refused, some, text};

/// Logical names: the odd role names, and names that no key can hold. A logical name is not part of a key.
fn odd_logical_names() -> Vec<(String, String)> {
    let more = ["a..b", "..", ".", "a\nb", "a\u{200b}b"].map(|name| (name.to_owned(), name.to_owned()));
    odd_names().into_iter().chain(more).collect()
}

#[tokio::test]
async fn roles_with_any_name_are_listed_read_changed_and_deleted_but_not_created() {
    let world = World::labelled("prod", false).await;
    for (_, stored) in odd_names() {
        world.store_bytes(&format!("role/prod:{stored}"), &role("prod", &stored)).await;
    }
    world.initialize().await;
    let mut expected: Vec<String> =
        odd_names().into_iter().map(|(_, stored)| stored).chain(["reader".into()]).collect();
    expected.sort();
    assert_eq!(world.list("roles/", json!({"org_id": "prod"})).await["keys"], json!(expected));
    for (given, stored) in odd_names() {
        let names = json!({"org_id": "prod", "role_name": given});
        let shown = data(world.read("role", names.clone()).await);
        assert_eq!((&shown["role_name"], &shown["ttl"]), (&json!(stored), &json!("1h0m0s")), "{given:?}");
        ok(world.ask(Operation::Patch, "role", json!({"org_id": "prod", "role_name": given, "ttl": "30m"})).await);
        assert_eq!(data(world.read("role", names.clone()).await)["ttl"], "30m0s");

        // The role still mints tokens.
        let order = json!({"org_id": "prod", "role_name": given, "logical_name": "one"});
        let minted = some(world.write("org/token", order.clone()).await);
        assert_eq!(text(&minted, "roleName"), stored);
        assert!(refused(world.write("org/token", order.clone()).await).contains("is taken by"));
        ok(world.revoke(&lease(&minted)).await);

        ok(world.ask(Operation::Delete, "role", names.clone()).await);
        refused(world.read("role", names).await);
        let new = json!({"org_id": "prod", "role_name": given, "role_id": ROLE_ID, "ttl": 60, "max_ttl": 60});
        let is_odd = stored.contains(['/', ':']) || stored.len() > 255;
        if is_odd {
            let text = refused(world.write("role", new).await);
            assert!(text.starts_with("role_name must not"), "{text}");
        } else {
            assert!(ok(world.write("role", new).await).is_none());
            ok(world.ask(Operation::Delete, "role", json!({"org_id": "prod", "role_name": stored})).await);
        }
    }
    assert_eq!(world.keys("role/"), ["role/prod:reader"]);
    assert!(world.keys("client/").is_empty() && world.keys("live/").is_empty());
}

#[tokio::test]
async fn a_limit_counts_the_tokens_of_a_role_with_any_name() {
    for (_, name) in odd_names() {
        let world = World::labelled("prod", false).await;
        world.store_bytes(&format!("role/prod:{name}"), &role("prod", &name)).await;
        let token = GoToken { role_name: name.clone(), ..go_token("prod", "one", false) };
        let old = world.store_go_token(&token).await;
        world.initialize().await;
        ok(world.ask(Operation::Patch, "role", json!({"org_id": "prod", "role_name": name, "max_tokens": 2})).await);
        let mint = |logical: &str| {
            let order = json!({"org_id": "prod", "role_name": name, "logical_name": logical});
            world.write("org/token", order)
        };
        let minted = some(mint("two").await);
        assert!(refused(mint("three").await).contains("is full"), "{name:?}");
        ok(world.revoke(&old).await);
        some(mint("three").await);
        world.backend.invalidate(&format!("role/prod:{name}"));
        assert!(refused(mint("four").await).contains("is full"), "{name:?}");
        ok(world.revoke(&lease(&minted)).await);
        ok(world.ask(Operation::Patch, "role", json!({"org_id": "prod", "role_name": name, "max_tokens": 0})).await);
        assert!(world.keys("live/").is_empty(), "{name:?}");
    }
}

#[tokio::test]
async fn tokens_with_any_name_are_found_and_their_names_stay_taken() {
    let world = World::labelled("prod", false).await;
    let mut leases = Vec::new();
    for (_, stored) in odd_logical_names() {
        leases.push(world.store_go_token(&go_token("prod", &stored, false)).await);
    }
    world.initialize().await;
    let listed = world.list("org/tokens/", json!({"org_id": "prod"})).await;
    assert_eq!(listed["keys"].as_array().unwrap().len(), leases.len());
    for ((given, stored), old) in odd_logical_names().into_iter().zip(&leases) {
        let names = json!({"org_id": "prod", "role_name": "reader", "logical_name": given});
        let client_id = old.internal_data["clientId"].clone();
        let found = data(world.read("org/token", names.clone()).await);
        assert_eq!((&found["clientId"], &found["logicalName"]), (&client_id, &json!(stored)), "{given:?}");
        let by_id = json!({"org_id": "prod", "client_id": client_id, "logical_name": given});
        assert_eq!(data(world.read("org/token", by_id).await)["clientId"], client_id);
        // A second token with the same name is refused, for the taken name or for the name itself.
        let text = refused(world.write("org/token", names.clone()).await);
        let is_odd = stored.contains(['/', ':', '\n']) || stored.contains("..") || stored == "." || stored.len() > 255;
        assert_eq!(text.starts_with("logical_name must not"), is_odd, "{text}");
        some(world.renew(old, Value::Null).await);
        ok(world.ask(Operation::Delete, "org/token", names.clone()).await);
        ok(world.revoke(old).await);
        refused(world.read("org/token", names).await);
    }
    assert_eq!((world.astra.live(), world.keys("client/").len(), world.keys("token/").len()), (0, 0, 0));
}

#[tokio::test]
async fn an_org_id_with_any_text_is_listed_read_changed_and_deleted_but_not_created() {
    for org_id in odd_labels() {
        let world = World::labelled(&org_id, false).await;
        let lease = world.store_go_token(&go_token(&org_id, "one", false)).await;
        world.initialize().await;
        assert_eq!(world.list("configs/", json!({})).await["keys"], json!([org_id]));
        let org = json!({"org_id": org_id});
        assert_eq!(data(world.read("config", org.clone()).await)["org_id"], json!(org_id));
        let change = json!({"org_id": org_id, "logical_name": "shop", "request_timeout": "5s"});
        ok(world.ask(Operation::Patch, "config", change).await);
        assert_eq!(data(world.read("config", json!({"logical_name": "shop"})).await)["request_timeout"], "5s");
        some(world.read("creds/shop/reader", Value::Null).await);
        let tokens = world.list("org/tokens/", org.clone()).await;
        assert_eq!(tokens["keys"].as_array().unwrap().len(), 2);
        assert_eq!(tokens["key_info"]["Go6f6e65"]["org_id"], json!(org_id));
        assert_eq!(world.list("org/tokens/", json!({})).await, tokens);
        refused(world.ask(Operation::Delete, "config", org.clone()).await);
        ok(world.revoke(&lease).await);
        ok(world.ask(Operation::Delete, "config", json!({"org_id": org_id, "force": true})).await);
        assert!(world.keys("config/").is_empty());

        let new = json!({"org_id": org_id, "astra_token": super::ROOT, "url": world.astra.url()});
        assert!(refused(world.write("config", new).await).starts_with("org_id must not"));
        let new = json!({"org_id": org_id, "role_name": "new", "role_id": ROLE_ID, "ttl": 60, "max_ttl": 60});
        assert!(refused(world.write("role", new).await).starts_with("org_id must not"));
    }
}

/// If an `org_id` or a role name has a colon, the key of the role does not tell where the `org_id` ends.
#[tokio::test]
async fn names_with_a_colon_never_match_the_role_or_token_of_another_org() {
    let world = World::labelled("a", false).await;
    world.store_go_config("a:b", false).await;
    world.store_bytes("role/a:b:c", &role("a", "b:c")).await;
    let token = GoToken { role_name: "b:c".into(), ..go_token("a", "one", false) };
    world.store_go_token(&token).await;
    world.initialize().await;
    assert_eq!(data(world.read("role", json!({"org_id": "a", "role_name": "b:c"})).await)["org_id"], "a");
    refused(world.read("role", json!({"org_id": "a:b", "role_name": "c"})).await);
    refused(world.ask(Operation::Delete, "role", json!({"org_id": "a:b", "role_name": "c"})).await);
    refused(world.write("role", json!({"org_id": "a:b", "role_name": "c", "role_id": ROLE_ID})).await);
    let info = world.list("roles/", json!({})).await;
    assert_eq!(info["key_info"]["b:c"]["org_ids"], json!(["a"]));
    let names = |org: &str, role: &str| json!({"org_id": org, "role_name": role, "logical_name": "one"});
    assert_eq!(data(world.read("org/token", names("a", "b:c")).await)["orgId"], REAL);
    refused(world.read("org/token", names("a:b", "c")).await);
    refused(world.ask(Operation::Delete, "org/token", names("a:b", "c")).await);
    assert_eq!(world.astra.live(), 1);
}

/// One mount with all labels and names. Checks that the Go plugin can read the mount after a downgrade.
#[tokio::test]
async fn a_mount_with_every_kind_of_name_stays_readable_for_the_go_plugin() {
    for is_sidecar in [false, true] {
        let world = World::labelled("prod", is_sidecar).await;
        let orgs: Vec<String> = labels(REAL).into_iter().chain(odd_labels()).collect();
        let mut leases = Vec::new();
        for (n, org_id) in orgs.iter().enumerate() {
            world.store_go_config(org_id, is_sidecar).await;
            for (m, (_, name)) in odd_names().iter().enumerate() {
                world.store_bytes(&format!("role/{org_id}:{name}"), &role(org_id, name)).await;
                let named = go_token(org_id, name, is_sidecar);
                let token = GoToken { role_name: name.clone(), client_id: format!("Go{n}x{m}"), ..named };
                leases.push(world.store_go_token(&token).await);
            }
        }
        world.initialize().await;
        let operation = if is_sidecar { Operation::Read } else { Operation::Update };
        for org_id in &orgs {
            for (given, stored) in odd_names() {
                let order = json!({"org_id": org_id, "role_name": given, "logical_name": "next"});
                let minted = lease(&some(world.ask(operation, "org/token", order).await)).internal_data;
                assert_loads_in_go("a lease", &minted, GO_LEASE);
                assert_eq!(minted["orgId"], json!(org_id));
                world.assert_stored_loads_in_go(&format!("role/{org_id}:{stored}"), GO_ROLE);
                let id = minted["tokenId"].as_str().unwrap();
                let entry = world.assert_stored_loads_in_go(&format!("token/{id}"), GO_TOKEN);
                assert_eq!(entry["roleName"], json!(stored));
                // The token has the same id as in the Go plugin.
                let token = GoToken { role_name: stored, ..go_token(org_id, "next", is_sidecar) };
                assert!(is_sidecar || id == token.id());
            }
            let config = world.assert_stored_loads_in_go(&format!("config/{org_id}"), GO_CONFIG);
            assert_eq!((&config["org_id"], &config["astra_org_id"]), (&json!(org_id), &json!(REAL)));
        }
        for old in &leases {
            let renewed = lease(&some(world.renew(old, Value::Null).await)).internal_data;
            assert_eq!(renewed, old.internal_data);
            ok(world.revoke(old).await);
        }
        assert_eq!(world.astra.live(), orgs.len() * odd_names().len());
        assert_eq!(world.keys("token/").len(), world.astra.live());
    }
}
