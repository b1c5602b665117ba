//! Roles with several Astra roles.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Response};

use super::{ORG, ROLE_ID, World, data, ok, refused, some, status};

const ROLE: &str = "orgs/retailOrg/roles/r_w_user";

impl World {
    /// The Astra roles of a new token of the role.
    async fn roles_of_mint(&self) -> Value {
        let minted: Response = some(self.read("creds/retailOrg/r_w_user", Value::Null).await);
        let client = super::text(&minted, "clientId");
        self.astra.state().live[&client]["roles"].clone()
    }

    fn stored_role(&self) -> Value {
        self.storage.json(&format!("role/{ORG}:r_w_user")).expect("a role")
    }

    async fn change_role(&self, change: Value) {
        assert!(ok(self.write(ROLE, change).await).is_none(), "a 204");
    }
}

#[tokio::test]
async fn a_token_gets_all_astra_roles_of_its_role() {
    let world = World::with_role("standard").await;
    assert_eq!(world.roles_of_mint().await, json!([ROLE_ID]));
    for several in [json!("a,b, c"), json!(["a", "b", "c", "a"])] {
        world.change_role(json!({"role_ids": several})).await;
        assert_eq!(world.roles_of_mint().await, json!(["a", "b", "c"]));
        for (path, name) in [(ROLE, json!({})), ("role", json!({"org_id": ORG, "role": "r_w_user"}))] {
            let shown = data(world.read(path, name).await);
            assert_eq!((&shown["role_id"], &shown["role_ids"]), (&json!("a"), &json!(["a", "b", "c"])), "{path}");
        }
    }
    let listed = world.list("orgs/retailOrg/roles/", json!({})).await;
    assert_eq!(listed["key_info"]["r_w_user"]["role_ids"], json!(["a", "b", "c"]));
    // A named token and a token of the mode sidecar, too.
    world.mint("x").await;
    let asked = |world: &World| world.astra.state().live.values().next_back().unwrap()["roles"].clone();
    assert_eq!(asked(&world), json!(["a", "b", "c"]));
}

#[tokio::test]
async fn role_id_alone_replaces_the_list_and_the_list_sets_role_id() {
    let world = World::with_role("standard").await;
    let ids = async || {
        let shown = data(world.read(ROLE, json!({})).await);
        (shown["role_id"].clone(), shown.get("role_ids").cloned())
    };
    world.change_role(json!({"role_ids": "a,b"})).await;
    world.change_role(json!({"ttl": 60})).await;
    assert_eq!(ids().await, (json!("a"), Some(json!(["a", "b"]))));
    world.change_role(json!({"role_id": "a"})).await;
    assert_eq!(ids().await, (json!("a"), None));
    world.change_role(json!({"role_ids": ["c"]})).await;
    assert_eq!(ids().await, (json!("c"), None));
    assert!(world.stored_role().get("role_ids").is_none(), "one role is stored as before");
    world.change_role(json!({"role_id": "d", "role_ids": "d,e"})).await;
    assert_eq!(ids().await, (json!("d"), Some(json!(["d", "e"]))));
    for nothing in [json!(null), json!([]), json!("")] {
        ok(world.ask(Operation::Patch, ROLE, json!({"role_ids": ["d", "e"]})).await);
        ok(world.ask(Operation::Patch, ROLE, json!({"role_ids": nothing})).await);
        assert_eq!(ids().await, (json!("d"), None), "{nothing}");
    }
    // What was read can be written back.
    world.change_role(json!({"role_ids": "a,b"})).await;
    let read = data(world.read(ROLE, json!({})).await);
    for operation in [Operation::Update, Operation::Patch] {
        assert!(ok(world.ask(operation, ROLE, read.clone()).await).is_none());
        assert_eq!(data(world.read(ROLE, json!({})).await), read);
    }
}

#[tokio::test]
async fn a_new_role_needs_role_id_or_role_ids() {
    let world = World::with_role("standard").await;
    let new = "orgs/retailOrg/roles/new";
    for nothing in [json!({}), json!({"role_ids": ""}), json!({"role_ids": []}), json!({"role_ids": null})] {
        assert_eq!(refused(world.write(new, nothing).await), "role_id is required");
    }
    ok(world.write(new, json!({"role_ids": "a,b"})).await);
    assert_eq!(data(world.read(new, json!({})).await)["role_ids"], json!(["a", "b"]));
}

#[tokio::test]
async fn each_id_is_checked_and_a_wrong_list_changes_nothing() {
    let world = World::with_role("standard").await;
    world.change_role(json!({"role_ids": "a,b"})).await;
    let before = world.stored_role();
    let long = "x".repeat(256);
    let many: Vec<String> = (0..51).map(|n| n.to_string()).collect();
    for (change, expected) in [
        (json!({"role_ids": ["a", "b\nc"]}), "role_ids must be at most 255 bytes"),
        (json!({"role_ids": [long]}), "role_ids must be at most 255 bytes"),
        (json!({"role_ids": many}), "role_ids must not have more than 50 ids"),
        (json!({"role_id": "b", "role_ids": ["a", "b"]}), "role_ids must begin with role_id"),
        (json!({"role_id": null}), "role_id cannot be removed"),
    ] {
        let error = refused(world.ask(Operation::Patch, ROLE, change).await);
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(world.stored_role(), before);
    }
}

#[tokio::test]
async fn the_go_plugin_reads_the_first_role_and_its_changes_are_followed() {
    let world = World::with_role("standard").await;
    world.change_role(json!({"role_ids": "a,b"})).await;
    let stored = json!({"role_name": "r_w_user", "role_id": "a", "role_ids": ["a", "b"], "org_id": ORG,
        "ttl": 3_600_000_000_000_i64, "max_ttl": 36_000_000_000_000_i64});
    assert_eq!(world.stored_role(), stored);
    // The Go plugin drops the members that it does not know when it writes the role. An older version of this engine could
    // keep them.
    for (role_ids, expected) in [(None, json!(["new"])), (Some(json!(["a", "b"])), json!(["new"]))] {
        let mut entry = stored.clone();
        entry["role_id"] = json!("new");
        entry.as_object_mut().unwrap().remove("role_ids");
        entry.as_object_mut().unwrap().extend(role_ids.map(|ids| ("role_ids".to_owned(), ids)));
        world.stored(&format!("role/{ORG}:r_w_user"), entry).await;
        world.backend.invalidate(&format!("role/{ORG}:r_w_user"));
        assert_eq!(world.roles_of_mint().await, expected);
        let shown = data(world.read(ROLE, json!({})).await);
        assert_eq!((&shown["role_id"], shown.get("role_ids")), (&json!("new"), None));
    }
}

#[tokio::test]
async fn an_import_leaves_a_role_with_several_astra_roles_as_it_is() {
    let world = World::with_role("standard").await;
    world.astra.state().roles =
        json!([{"id": "A", "name": "R/W User"}, {"id": "b", "name": "Other"}, {"id": "c", "name": "Third"}]);
    for (role_ids, kind, other) in [
        ("a,b", "unchanged", "vanished"),
        ("c,b", "unchanged", "vanished"),
        ("a,gone", "vanished", "unchanged"),
        ("gone,a", "vanished", "unchanged"),
    ] {
        for name in ["r_w_user", "my_own"] {
            ok(world.write(&format!("orgs/retailOrg/roles/{name}"), json!({"role_ids": role_ids})).await);
        }
        let before = world.stored_role();
        let answer = some(world.write("roles/sync", json!({"org_id": ORG})).await);
        assert_eq!(world.stored_role(), before, "{role_ids}");
        let data = answer.whole_data().unwrap();
        let has = |kind: &str, name: &str| data[kind][ORG].as_array().unwrap().contains(&json!(name));
        assert!(has(kind, "r_w_user") && !has(other, "r_w_user"), "{role_ids}: {data:?}");
        // The name of a role with several Astra roles need not be one of theirs.
        assert_eq!(has("vanished", "my_own"), kind == "vanished", "{role_ids}: {data:?}");
        assert_eq!(data["renamed"][ORG], json!({}), "{role_ids}");
        assert_eq!(answer.warnings.iter().any(|warning| warning.contains("role_ids")), kind == "vanished");
    }
}

#[tokio::test]
async fn a_damaged_role_is_replaced_by_a_write_with_role_ids() {
    let world = World::with_role("standard").await;
    let key = format!("role/{ORG}:r_w_user");
    world.stored(&key, json!("damaged")).await;
    world.backend.invalidate(&key);
    assert_eq!(status(world.read("role", json!({"org_id": ORG, "role": "r_w_user"})).await).0, 500);
    some(world.write(ROLE, json!({"role_ids": "a,b", "ttl": 60, "max_ttl": 60})).await);
    assert_eq!(world.stored_role()["role_ids"], json!(["a", "b"]));
}
