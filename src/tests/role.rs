//! `role` and `roles`.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;
use vault_plugin_sdk::testing::HostFault;

use super::{ORG, OTHER_ORG, ROLE_ID, World, data, failed, ok, refused, some, status};

fn role() -> Value {
    json!({"role_name": "R_W_User", "role_id": ROLE_ID, "org_id": ORG, "ttl": "3600", "max_ttl": "36000"})
}

#[tokio::test]
async fn a_role_is_written_and_read_as_in_the_guide() {
    let world = World::new().await;
    world.write_config("standard").await;
    assert!(ok(world.write("role", role()).await).is_none(), "a 204");
    let stored = json!({"role_name": "r_w_user", "role_id": ROLE_ID, "org_id": ORG,
        "ttl": 3_600_000_000_000_i64, "max_ttl": 36_000_000_000_000_i64});
    assert_eq!(world.storage.json(&format!("role/{ORG}:r_w_user")).unwrap(), stored);
    let shown =
        json!({"max_ttl": "10h0m0s", "org_id": ORG, "role_id": ROLE_ID, "role_name": "r_w_user", "ttl": "1h0m0s"});
    assert_eq!(data(world.read("role", json!({"org_id": ORG, "role": "R_W_User"})).await), shown);
    assert_eq!(data(world.read("role", json!({"org_id": ORG, "role_name": "r_w_user"})).await), shown);
}

#[tokio::test]
async fn ttls_get_their_defaults_and_limits_with_a_warning() {
    let world = World::new().await;
    world.write_config("standard").await;
    let cases = [
        (json!({}), "24h0m0s", "24h0m0s", 2),
        (json!({"ttl": 0, "max_ttl": "0"}), "24h0m0s", "24h0m0s", 2),
        (json!({"ttl": "2h", "max_ttl": "1h"}), "1h0m0s", "1h0m0s", 1),
        (json!({"max_ttl": "1h"}), "1h0m0s", "1h0m0s", 2),
        (json!({"ttl": "2d"}), "24h0m0s", "24h0m0s", 2),
    ];
    for (ttls, ttl, max_ttl, warnings) in cases {
        ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r"})).await);
        let mut new = json!({"role_name": "r", "role_id": ROLE_ID, "org_id": ORG});
        new.as_object_mut().unwrap().append(&mut ttls.as_object().unwrap().clone());
        let response = some(world.write("role", new).await);
        assert!(response.whole_data().is_none());
        assert_eq!(response.warnings.len(), warnings, "{ttls}: {:?}", response.warnings);
        let shown = data(world.read("role", json!({"org_id": ORG, "role": "r"})).await);
        assert_eq!((shown["ttl"].as_str(), shown["max_ttl"].as_str()), (Some(ttl), Some(max_ttl)), "{ttls}");
    }
}

#[tokio::test]
async fn an_update_changes_only_given_fields() {
    let world = World::new().await;
    world.write_config("standard").await;
    ok(world.write("role", role()).await);
    assert!(ok(world.write("role", json!({"org_id": ORG, "role": "r_w_user", "ttl": "10m"})).await).is_none());
    let answer = world.ask(Operation::Patch, "role", json!({"org_id": ORG, "role": "r_w_user", "max_ttl": "5m"})).await;
    assert_eq!(some(answer).warnings.len(), 1, "the ttl is cut");
    let shown = data(world.read("role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    assert_eq!(
        shown,
        json!({"max_ttl": "5m0s", "org_id": ORG, "role_id": ROLE_ID, "role_name": "r_w_user", "ttl": "5m0s"})
    );
}

#[tokio::test]
async fn the_error_for_a_missing_role_says_what_to_do() {
    let world = World::new().await;
    let name = json!({"org_id": ORG, "role": "nope"});
    let text = refused(world.read("role", name.clone()).await);
    assert!(text.contains("nope") && text.contains("astra/roles"), "{text}");
    assert_eq!(status(world.ask(Operation::Patch, "role", name.clone()).await).0, 404);
    assert!(ok(world.ask(Operation::Delete, "role", name).await).is_none());
    assert!(world.list("roles/", json!({})).await.is_empty());
    let response = some(world.write("role", role()).await);
    assert!(response.warnings[0].contains("no config"), "{:?}", response.warnings);
}

#[tokio::test]
async fn a_list_has_one_flat_row_for_each_name() {
    let world = World::new().await;
    for (org, name, ttl) in [(ORG, "b", 60), (ORG, "a", 60), (OTHER_ORG, "b", 60), (OTHER_ORG, "a", 90)] {
        let ttls = json!({"org_id": org, "role_name": name, "role_id": ROLE_ID, "ttl": ttl, "max_ttl": 120});
        ok(world.write("role", ttls).await);
    }
    let all = world.list("roles/", json!({})).await;
    assert_eq!(all["keys"], json!(["a", "b"]));
    let both = json!([OTHER_ORG, ORG]);
    // The TTLs of "a" differ, so the row of "a" has no TTL.
    let same = json!({"org_ids": both, "role_id": ROLE_ID, "max_ttl": "2m0s"});
    let equal = json!({"org_ids": both, "role_id": ROLE_ID, "ttl": "1m0s", "max_ttl": "2m0s"});
    assert_eq!(all["key_info"], json!({"a": same, "b": equal}));
    let one = world.list("roles/", json!({"org_id": OTHER_ORG})).await;
    assert_eq!(one["keys"], json!(["a", "b"]));
    assert_eq!(
        one["key_info"]["a"],
        json!({"org_ids": [OTHER_ORG], "role_id": ROLE_ID, "ttl": "1m30s", "max_ttl": "2m0s"})
    );
}

#[tokio::test]
async fn a_cached_role_needs_no_storage_call_and_is_never_old() {
    let world = World::new().await;
    ok(world.write("role", role()).await);
    let name = json!({"org_id": ORG, "role": "r_w_user"});
    data(world.read("role", name.clone()).await);
    let before = world.storage.calls();
    data(world.read("role", name.clone()).await);
    assert_eq!(world.storage.calls(), before);

    let key = format!("role/{ORG}:r_w_user");
    world.stored(&key, json!({"role_name": "r_w_user", "role_id": "new", "org_id": ORG, "ttl": 0, "max_ttl": 0})).await;
    world.backend.invalidate(&key);
    let shown = data(world.read("role", name.clone()).await);
    assert_eq!((shown["role_id"].as_str(), shown["ttl"].as_str()), (Some("new"), Some("24h0m0s")));

    ok(world.ask(Operation::Delete, "role", name.clone()).await);
    refused(world.read("role", name).await);
}

#[tokio::test]
async fn a_read_shows_the_present_role_although_answers_are_kept() {
    let (world, other_mount) = (World::with_role("standard").await, World::with_role("standard").await);
    let key = json!({"org_id": ORG, "role": "r_w_user"});
    let entry = format!("role/{ORG}:r_w_user");
    let (guide, in_path) = ("role", "orgs/retailOrg/roles/r_w_user");
    // The second read of a path gets the answer of the first one.
    let shows = async |text: &str, seconds: u64| {
        for _ in 0..2 {
            assert_eq!(data(world.read(guide, key.clone()).await)["ttl"], text);
            assert_eq!(data(world.read(in_path, json!({})).await)["ttl"], seconds);
            assert_eq!(data(other_mount.read(guide, key.clone()).await)["ttl"], "1h0m0s");
        }
    };
    let stored = |ttl: u64| {
        world.stored(
            &entry,
            json!({"role_name": "r_w_user", "role_id": ROLE_ID, "org_id": ORG, "ttl": ttl * 1_000_000_000,
                "max_ttl": 36_000_000_000_000_i64}),
        )
    };
    shows("1h0m0s", 3600).await;
    world.write_role(json!({"ttl": 60})).await;
    shows("1m0s", 60).await;
    ok(world.ask(Operation::Patch, in_path, json!({"ttl": 120})).await);
    shows("2m0s", 120).await;
    // Another node writes the role. The host tells this node the key of the entry, or only that everything changed.
    for (ttl, text, told) in [(180, "3m0s", entry.as_str()), (240, "4m0s", "")] {
        stored(ttl).await;
        world.backend.invalidate(told);
        shows(text, ttl).await;
    }
    ok(world.ask(Operation::Delete, guide, key.clone()).await);
    refused(world.read(guide, key.clone()).await);
    assert!(ok(world.read(in_path, json!({})).await).is_none(), "a 404");
    world.write_role(json!({"ttl": 300})).await;
    shows("5m0s", 300).await;
}

#[tokio::test]
async fn a_failed_write_drops_the_kept_answer() {
    let world = World::with_role("standard").await;
    let key = json!({"org_id": ORG, "role": "r_w_user"});
    let reads = world.storage.calls();
    for _ in 0..3 {
        data(world.read("role", key.clone()).await);
    }
    assert!(world.storage.calls() - reads <= 1, "the answer comes from storage once");
    world.storage.inject(HostFault::AfterEffectAt(1));
    failed(world.write("role", json!({"org_id": ORG, "role": "r_w_user", "ttl": 60})).await);
    world.storage.heal();
    assert_eq!(data(world.read("role", key).await)["ttl"], "1m0s", "the write took effect, although it failed");
}
