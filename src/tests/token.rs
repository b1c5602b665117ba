//! `org/token` and `org/tokens`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;

use super::{ORG, OTHER_ORG, ROLE_ID, World, data, lease, ok, order, refused, some, text};

fn name(name: &str) -> Value {
    json!({"org_id": ORG, "role_name": "R_W_User", "logical_name": name})
}

#[tokio::test]
async fn a_write_mints_and_a_read_fetches_in_standard_mode() {
    let world = World::with_role("standard").await;
    let minted = world.mint("Org1").await;
    let client_id = text(&minted, "clientId");
    let token = text(&minted, "token");
    let shown = json!({"clientId": client_id, "generatedOn": "2022-09-21T17:48:15.260897295Z", "logicalName": "org1",
        "metadata": null, "orgId": ORG, "roleName": "r_w_user", "token": token});
    assert!(Value::Object(minted.data.clone().unwrap()) == shown, "the answer has another shape");
    let secret = lease(&minted);
    assert_eq!((secret.ttl.as_secs(), secret.max_ttl.as_secs(), secret.renewable), (3600, 36000, true));

    for by in [json!({"org_id": ORG, "client_id": client_id}), name("ORG1")] {
        let response = some(world.read("org/token", by).await);
        assert!(response.secret.is_none(), "a fetched token has no lease");
        assert!(Value::Object(response.whole_data().unwrap()) == shown, "the answer has another shape");
    }
    assert_eq!(world.astra.count("POST"), 1);
}

#[tokio::test]
async fn a_token_is_stored_as_by_the_go_plugin() {
    let world = World::with_role("standard").await;
    let secret = lease(&world.mint("org1").await);
    // sha256 of "<org>:r_w_user:org1".
    let id = secret.internal_data["tokenId"].as_str().unwrap();
    assert_eq!(world.keys("token/"), [format!("token/{id}")]);
    assert_eq!(id.len(), 64);
    let client_id = "DTEUyKUZZrvFzzLzPGCb0001";
    let stored = world.storage.json(&format!("token/{id}")).unwrap();
    let token = stored["token"].as_str().unwrap();
    let expected = json!({"clientId": client_id, "secret": "s3cret-1", "orgId": ORG, "roleName": "r_w_user",
        "roles": [ROLE_ID], "token": token, "generatedOn": "2022-09-21T17:48:15.260897295Z", "logicalName": "org1",
        "metadata": null});
    assert!(stored == expected, "stored JSON has another shape");

    let data = &secret.internal_data;
    assert_eq!(
        (&data["orgId"], &data["clientId"], &data["roleName"]),
        (&json!(ORG), &json!(client_id), &json!("r_w_user"))
    );
    assert_eq!(
        (&data["secret_type"], &data["ttl_seconds"], &data["max_ttl_seconds"]),
        (&json!("astra_token"), &json!(3600), &json!(36000))
    );

    let record = world.storage.json(&format!("client/{ORG}/{client_id}")).unwrap().to_string();
    assert!(!record.contains("AstraCS") && !record.contains("s3cret"), "the inventory holds a secret");
}

#[tokio::test]
async fn the_id_of_a_named_token_is_the_hash_of_its_names() {
    let world = World::new().await;
    let config =
        json!({"org_id": "o", "astra_token": super::ROOT, "url": world.astra.url(), "verify_connection": false});
    ok(world.write("config", config).await);
    ok(world.write("role", json!({"org_id": "o", "role_name": "r", "role_id": "i"})).await);
    world.astra.change("orgId", json!("o"));
    some(world.write("org/token", json!({"org_id": "o", "role_name": "r", "logical_name": "l"})).await);
    // printf o:r:l | sha256sum
    let id = "cb9628292a2333eaa549c32e69de5d9b0b50974d26199f496a2eb2088e1575d0";
    assert_eq!(world.keys("token/"), [format!("token/{id}")]);
}

#[tokio::test]
async fn a_read_mints_in_sidecar_mode() {
    let world = World::with_role("sidecar").await;
    let by = json!({"org_id": ORG, "role": "r_w_user", "metadata": ["team=a", "env=b"], "ttl": "60"});
    let minted = some(world.read("org/token", by).await);
    let client_id = text(&minted, "clientId");
    assert_eq!(minted.whole_data().unwrap()["metadata"], json!({"deletion_time": "", "env": "b", "team": "a"}));
    assert_eq!(minted.whole_data().unwrap()["logicalName"], "");
    assert_eq!(lease(&minted).ttl.as_secs(), 60);
    assert_eq!(world.keys("token/"), [format!("token/{client_id}")]);
    let stored = world.storage.json(&format!("token/{client_id}")).unwrap();
    assert_eq!(stored["metadata"], json!({"env": "b", "team": "a"}));

    // Labels do not need to be unique. Without pairs, `metadata` is null.
    for _ in 0..2 {
        let minted = some(world.read("org/token", name("same")).await);
        assert_eq!(minted.whole_data().unwrap()["metadata"], Value::Null);
    }
    assert_eq!(world.astra.live(), 3);

    assert!(refused(world.write("org/token", name("x")).await).contains("vault read astra/org/token"));
    assert!(
        refused(world.read("org/token", json!({"org_id": ORG, "client_id": client_id})).await).starts_with("client_id")
    );
    assert_eq!(world.astra.count("POST"), 3);
}

#[tokio::test]
async fn metadata_of_a_write_is_shown_unchanged() {
    let world = World::with_role("standard").await;
    let mut order = name("org1");
    order["metadata"] = json!({"team": "a"});
    assert_eq!(data(world.write("org/token", order).await)["metadata"], json!({"team": "a"}));
    assert_eq!(data(world.read("org/token", name("org1")).await)["metadata"], json!({"team": "a"}));
}

#[tokio::test]
async fn astra_gets_the_description_and_the_expiry_of_a_token() {
    let world = World::with_role("standard").await;
    let before = Timestamp::now().as_second();
    world.mint(&"é".repeat(120)).await;
    let asked = world.astra.state().live.values().next().unwrap().clone();
    assert_eq!(asked["roles"], json!([ROLE_ID]));
    let description = asked["description"].as_str().unwrap();
    assert!(description.len() <= 255 && description.is_ascii(), "{description}");
    assert!(description.contains("astra/") && description.contains("r_w_user"), "{description}");
    let (marked, rest) = description.strip_prefix("vault ").and_then(|text| text.split_once(' ')).unwrap();
    let (instance, marker) = marked.split_once('/').unwrap();
    assert_eq!((instance.len(), marker.len()), (12, 32), "{description}");
    assert!(rest.starts_with("mount=astra/ role=r_w_user name="), "{description}");
    let expiry = asked["tokenExpiry"].as_str().unwrap();
    assert!(expiry.ends_with('Z') && !expiry.contains('.'), "{expiry}");
    let life = expiry.parse::<Timestamp>().unwrap().as_second() - before;
    assert!((36000 + 3600..36000 + 3660).contains(&life), "{life}");

    ok(world.write("config", json!({"org_id": ORG, "description": false, "token_expiry": false})).await);
    world.mint("second").await;
    let state = world.astra.state();
    assert_eq!(state.live.values().next_back().unwrap(), &json!({"roles": [ROLE_ID]}));
}

#[tokio::test]
async fn ttls_are_capped_before_minting() {
    let world = World::with_role("standard").await;
    let mut order = name("a");
    order["ttl"] = json!("20h");
    let response = some(world.write("org/token", order).await);
    assert_eq!(lease(&response).ttl.as_secs(), 36000);
    assert_eq!(response.warnings, ["ttl of 20h0m0s is longer than role and mount allow and was cut to 10h0m0s"]);
    world.system.set_max_lease_ttl(Duration::from_secs(600));
    let secret = lease(&world.mint("b").await);
    assert_eq!((secret.ttl.as_secs(), secret.max_ttl.as_secs()), (600, 600));
}

#[tokio::test]
async fn the_name_of_a_live_token_is_taken_until_the_token_is_deleted() {
    let world = World::with_role("standard").await;
    let client_id = text(&world.mint("org1").await, "clientId");
    let text = refused(world.write("org/token", name("org1")).await);
    assert!(text.contains(&client_id), "{text}");
    assert!(ok(world.ask(Operation::Delete, "org/token", name("org1")).await).is_none());
    assert_eq!((world.astra.live(), world.keys("token/").len(), world.keys("client/").len()), (0, 0, 0));
    refused(world.read("org/token", name("org1")).await);
    world.mint("org1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_callers_for_one_name_get_one_token() {
    let world = Arc::new(World::with_role("standard").await);
    world.astra.delay("POST", Duration::from_millis(30));
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.write("org/token", name("org1")).await })
        })
        .collect();
    let mut minted = Vec::new();
    let mut refusals = Vec::new();
    for caller in callers {
        match caller.await.unwrap() {
            Ok(response) => minted.push(text(&response.unwrap(), "clientId")),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    assert_eq!((minted.len(), refusals.len(), world.astra.count("POST")), (1, 15, 1));
    assert!(refusals.iter().all(|text| text.contains(&minted[0])), "{refusals:?}");
}

#[tokio::test]
async fn after_a_delete_by_client_id_the_lease_revokes_without_an_error() {
    let world = World::with_role("sidecar").await;
    let minted = some(world.read("org/token", name("x")).await);
    let by = json!({"org_id": ORG, "client_id": text(&minted, "clientId")});
    assert!(ok(world.ask(Operation::Delete, "org/token", by.clone()).await).is_none());
    assert_eq!(world.astra.live(), 0);
    ok(world.revoke(&lease(&minted)).await);
    let reason = refused(world.ask(Operation::Delete, "org/token", by).await);
    assert!(reason.contains("no live token"), "{reason}");
}

#[tokio::test]
async fn errors_for_missing_objects_say_what_to_do() {
    let world = World::new().await;
    assert!(refused(world.write("org/token", name("x")).await).contains("astra/config"));
    world.write_config("standard").await;
    assert!(refused(world.write("org/token", name("x")).await).contains("astra/role"));
    assert!(refused(world.read("org/token", name("x")).await).contains("astra/org/tokens"));
    let by = json!({"org_id": ORG, "client_id": "nope"});
    assert!(refused(world.read("org/token", by.clone()).await).contains("nope"));
    assert!(refused(world.ask(Operation::Delete, "org/token", by).await).contains("nope"));
    assert_eq!(world.astra.count("POST"), 0);
}

#[tokio::test]
async fn a_snapshot_and_a_standby_never_mint() {
    let world = World::with_role("sidecar").await;
    let request = super::request(Operation::Read, "org/token", name("x"));
    refused(world.backend.handle(request.from_snapshot("6c1f")).await);
    world.system.set_state(vault_plugin_sdk::logical::ReplicationState::PERFORMANCE_STANDBY);
    let error = super::failed(world.read("org/token", name("x")).await);
    assert!(matches!(error, vault_plugin_sdk::logical::Error::ReadOnly), "{error}");
    assert_eq!(world.astra.count("POST"), 0);
}

#[tokio::test]
async fn reads_make_the_fewest_possible_storage_calls() {
    let world = World::with_role("standard").await;
    let client_id = text(&world.mint("org1").await, "clientId");
    let by_id = json!({"org_id": ORG, "client_id": client_id});
    for (by, calls) in [(name("org1"), 1), (by_id, 2)] {
        let before = (world.storage.calls(), world.system.calls());
        data(world.read("org/token", by).await);
        assert_eq!((world.storage.calls() - before.0, world.system.calls() - before.1), (calls, 0));
    }
}

#[tokio::test]
async fn mints_and_renewals_make_the_fewest_possible_calls_of_the_host() {
    for (mode, stored) in [("standard", 6), ("sidecar", 5)] {
        let world = World::with_role(mode).await;
        let operation = if mode == "standard" { Operation::Update } else { Operation::Read };
        let cost = || (world.storage.calls(), world.system.calls());
        // The first mint creates the client and fills the caches.
        some(world.ask(operation, "org/token", name("first")).await);
        let before = cost();
        let minted = some(world.ask(operation, "org/token", name("second")).await);
        let after = cost();
        // The name in standard mode, the client id; log, token, record, log. Whether the node may write, and
        // the mount's maximum.
        assert_eq!((after.0 - before.0, after.1 - before.1), (stored, 2), "{mode}");
        some(world.renew(&lease(&minted), Value::Null).await);
        assert_eq!((cost().0 - after.0, cost().1 - after.1), (1, 1), "{mode}");
    }
}

#[tokio::test]
async fn the_inventory_lists_pages_without_secrets() {
    let world = World::with_role("standard").await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        ids.push(text(&world.mint(name).await, "clientId"));
    }
    world.stored(&format!("client/{OTHER_ORG}/AAA"), json!({"token_id": "t", "role_name": "r"})).await;
    let all = world.list("org/tokens/", json!({})).await;
    assert_eq!(all["keys"], json!(["AAA", ids[0], ids[1], ids[2]]));
    let info = &all["key_info"][&ids[0]];
    let expected = [
        ("org_id", ORG),
        ("role_name", "r_w_user"),
        ("logical_name", "a"),
        ("display_name", "token-bob"),
        ("entity_id", "entity-1"),
    ];
    for (member, value) in expected {
        assert_eq!(info[member], value);
    }
    let time = |member: &str| info[member].as_str().unwrap().parse::<Timestamp>().unwrap();
    let longest = time("lease_end").duration_since(time("created_at")).as_secs();
    assert!((35990..=36000).contains(&longest), "{longest} is not the max_ttl of the role");
    assert_eq!(all["key_info"]["AAA"]["lease_end"], "", "it is not known");
    let shown = Value::Object(all.clone()).to_string();
    assert!(!shown.contains("AstraCS") && !shown.contains("s3cret"), "a secret is listed");

    let page = |data: Value| async { world.list("org/tokens/", data).await["keys"].clone() };
    assert_eq!(page(json!({"org_id": ORG})).await, json!(ids));
    assert_eq!(page(json!({"limit": "2"})).await, json!(["AAA", ids[0]]));
    assert_eq!(page(json!({"limit": "2", "after": ids[0]})).await, json!([ids[1], ids[2]]));
    assert_eq!(page(json!({"org_id": ORG, "limit": 1, "after": ids[1]})).await, json!([ids[2]]));
    assert!(world.list("org/tokens/", json!({"after": ids[2]})).await.is_empty());
}

#[tokio::test]
async fn a_client_id_with_the_names_of_another_token_is_an_error() {
    let world = World::with_role("standard").await;
    let client_id = text(&world.mint("org1").await, "clientId");
    world.mint("org2").await;
    for (field, value) in [("logical_name", "org2"), ("role", "another")] {
        let mut by = json!({"org_id": ORG, "client_id": client_id});
        by[field] = json!(value);
        for operation in [Operation::Read, Operation::Delete] {
            let text = refused(world.ask(operation, "org/token", by.clone()).await);
            assert!(text.starts_with("client_id") && text.contains("org1"), "{text}");
        }
    }
    assert_eq!(world.astra.live(), 2);
    let mut by = name("ORG1");
    by["client_id"] = json!(client_id);
    assert_eq!(data(world.read("org/token", by).await)["clientId"], json!(client_id));
}

#[tokio::test]
async fn a_ttl_below_one_second_is_refused() {
    let world = World::with_role("standard").await;
    for ttl in [json!("500ms"), json!("999ms"), json!("0"), json!(0), json!(0.5), json!("")] {
        let mut short = order("short");
        short["ttl"] = ttl.clone();
        let answers =
            [world.write("org/token", short).await, world.read("creds/retailOrg/r_w_user", json!({"ttl": ttl})).await];
        for answer in answers {
            let text = refused(answer);
            assert!(text.starts_with("ttl must be at least 1s"), "{ttl}: {text}");
        }
    }
    assert_eq!(world.astra.count("POST"), 0);
    let mut whole = order("short");
    whole["ttl"] = json!("1900ms");
    assert_eq!(lease(&some(world.write("org/token", whole).await)).ttl.as_secs(), 1);
}

#[tokio::test]
async fn a_ttl_that_the_mount_cuts_gives_a_warning() {
    let world = World::with_role("standard").await;
    world.system.set_max_lease_ttl(Duration::from_secs(600));
    let response = world.mint("org1").await;
    assert_eq!(lease(&response).ttl.as_secs(), 600);
    assert_eq!(response.warnings, ["ttl of 1h0m0s is longer than role and mount allow and was cut to 10m0s"]);
}
