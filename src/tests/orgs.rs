//! The paths below `orgs/:org`.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;

use super::{ORG, OTHER_ORG, ROLE_ID, ROOT, World, data, lease, ok, refused, some, status, text};

const CONFIG: &str = "orgs/retailOrg";
const ROLE: &str = "orgs/retailOrg/roles/reader";

impl World {
    /// A mount whose org was created by its path.
    async fn with_org() -> Self {
        let world = Self::new().await;
        let config = json!({"org_id": ORG, "astra_token": ROOT, "url": world.astra.url(), "caller_mode": "sidecar"});
        assert!(ok(world.ask(Operation::Create, CONFIG, config).await).is_none());
        world
    }

    async fn with_org_and_role() -> Self {
        let world = Self::with_org().await;
        let role = json!({"role_id": ROLE_ID, "ttl": 3600, "max_ttl": "10h"});
        assert!(ok(world.ask(Operation::Create, ROLE, role).await).is_none());
        world
    }

    async fn is_there(&self, path: &str) -> bool {
        self.backend.exists(super::request(Operation::Update, path, json!({}))).await.unwrap() == Some(true)
    }
}

#[tokio::test]
async fn both_spellings_of_the_api_manage_the_same_objects() {
    let world = World::with_org_and_role().await;
    let of_guide = data(world.read("config", json!({"org_id": ORG})).await);
    let mut of_path = data(world.read(CONFIG, json!({})).await);
    assert_eq!((&of_guide["logical_name"], &of_guide["request_timeout"]), (&json!("retailOrg"), &json!("30s")));
    assert_eq!((&of_path["request_timeout"], &of_path["rotation_period"]), (&json!(30), &json!(0)));
    of_path["request_timeout"] = json!("30s");
    of_path["rotation_period"] = json!("0s");
    assert_eq!(of_path, of_guide);

    let role = data(world.read(ROLE, json!({})).await);
    let shown = json!({"org_id": ORG, "role_name": "reader", "role_id": ROLE_ID, "ttl": 3600, "max_ttl": 36000});
    assert_eq!(role, shown);
    let of_guide = data(world.read("role", json!({"org_id": ORG, "role_name": "reader"})).await);
    assert_eq!((&of_guide["ttl"], &of_guide["max_ttl"]), (&json!("1h0m0s"), &json!("10h0m0s")));

    let orgs = world.list("orgs/", json!({})).await;
    let info = json!({"retailOrg": {"caller_mode": "sidecar", "logical_name": "retailOrg", "org_id": ORG}});
    assert_eq!((&orgs["keys"], &orgs["key_info"]), (&json!(["retailOrg"]), &info));
    let roles = world.list("orgs/retailOrg/roles/", json!({})).await;
    let info = json!({"reader": {"role_id": ROLE_ID, "ttl": 3600, "max_ttl": 36000}});
    assert_eq!((&roles["keys"], &roles["key_info"]), (&json!(["reader"]), &info));

    ok(world.ask(Operation::Delete, ROLE, json!({})).await);
    refused(world.read("role", json!({"org_id": ORG, "role_name": "reader"})).await);
    ok(world.ask(Operation::Delete, CONFIG, json!({})).await);
    refused(world.read("config", json!({"org_id": ORG})).await);
}

#[tokio::test]
async fn what_was_read_can_be_written_back_without_a_warning() {
    let world = World::with_org_and_role().await;
    for path in [CONFIG, ROLE] {
        let read = data(world.read(path, json!({})).await);
        for operation in [Operation::Update, Operation::Patch] {
            assert!(ok(world.ask(operation, path, read.clone()).await).is_none(), "{path}: a 204");
            assert_eq!(data(world.read(path, json!({})).await), read, "{path}");
        }
    }
    let changed = json!({"astra_org_id": OTHER_ORG});
    let warnings = some(world.write(CONFIG, changed).await).warnings;
    assert!(warnings[0].contains("astra_org_id") && warnings[0].contains("ignored"), "{warnings:?}");
    assert_eq!(data(world.read(CONFIG, json!({})).await)["astra_org_id"], ORG);
}

#[tokio::test]
async fn another_org_id_or_role_than_in_the_path_changes_nothing() {
    let world = World::with_org_and_role().await;
    for path in [CONFIG, ROLE] {
        let before = data(world.read(path, json!({})).await);
        let change = json!({"org_id": OTHER_ORG, "ttl": 60, "request_timeout": 60});
        let error = refused(world.write(path, change).await);
        assert!(error.contains("org_id") && error.contains(ORG), "{error}");
        assert_eq!(data(world.read(path, json!({})).await), before);
    }
}

#[tokio::test]
async fn a_new_config_takes_its_names_from_the_path() {
    let world = World::new().await;
    let config = |more: Value| {
        let mut config = json!({"astra_token": ROOT, "url": world.astra.url(), "verify_connection": false});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let create = async |path: &str, more: Value| world.ask(Operation::Create, path, config(more)).await;

    let error = refused(create("orgs/retail", json!({})).await);
    assert!(error.contains("org_id") && error.contains("UUID"), "{error}");
    let error = refused(create("orgs/retail", json!({"org_id": ORG, "logical_name": "shop"})).await);
    assert!(error.contains("logical_name") && error.contains("orgs/shop"), "{error}");
    let error = refused(create("orgs/re%20tail", json!({"org_id": ORG})).await);
    assert!(error.contains("org") && error.contains("letters"), "{error}");
    let error = refused(create(&format!("orgs/{OTHER_ORG}"), json!({"logical_name": "shop"})).await);
    assert!(error.contains("logical_name") && error.contains("orgs/shop"), "{error}");
    assert_eq!(world.keys("config/"), [""; 0]);

    ok(create(&format!("orgs/{OTHER_ORG}"), json!({})).await);
    ok(create("orgs/retail", json!({"org_id": ORG, "logical_name": "retail"})).await);
    let shown = data(world.read(&format!("orgs/{OTHER_ORG}"), json!({})).await);
    assert_eq!((&shown["org_id"], &shown["logical_name"]), (&json!(OTHER_ORG), &json!("")));
    assert_eq!(world.list("orgs/", json!({})).await["keys"], json!([OTHER_ORG, "retail"]));

    let error = refused(create("orgs/shop", json!({"org_id": ORG})).await);
    assert!(error.contains("org_id") && error.contains("astra/orgs/retail"), "{error}");
    assert_eq!(world.list("orgs/", json!({})).await["keys"], json!([OTHER_ORG, "retail"]));
}

#[tokio::test]
async fn every_other_spelling_of_a_path_is_an_error_that_names_the_path() {
    let world = World::with_org_and_role().await;
    for path in [
        format!("orgs/{ORG}"),
        "orgs/RETAILORG".into(),
        "orgs/retailorg".into(),
        format!("orgs/{ORG}/roles/reader"),
        "orgs/retailorg/roles/reader".into(),
        "orgs/retailOrg/roles/READER".into(),
        "orgs/retailorg/tokens/x".into(),
    ] {
        assert!(!world.is_there(&path).await, "{path}");
        for operation in [Operation::Read, Operation::Update, Operation::Patch, Operation::Delete] {
            if path.ends_with("/x") && matches!(operation, Operation::Update | Operation::Patch) {
                continue;
            }
            let answer = world.ask(operation, &path, json!({"role_id": ROLE_ID, "org_id": ORG})).await;
            let error = refused(answer);
            let right = if path.contains("roles") { ROLE } else { CONFIG };
            let right = if path.ends_with("/x") { "orgs/retailOrg/tokens/x" } else { right };
            assert!(error.contains(right), "{operation:?} {path}: {error}");
        }
    }
    for path in ["orgs/retailorg/roles/", "orgs/retailorg/tokens/"] {
        let error = refused(world.ask(Operation::List, path, json!({})).await);
        assert!(error.contains(path.replace("retailorg", "retailOrg").trim_end_matches('/')), "{error}");
    }
    for path in ["orgs/retailorg/rotate-root", "orgs/retailorg/sync-roles"] {
        refused(world.write(path, json!({})).await);
    }
    assert!(world.is_there(CONFIG).await && world.is_there(ROLE).await);
    assert_eq!(world.keys("config/").len(), 1);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_to_a_read_and_a_204_to_a_delete() {
    let world = World::with_org().await;
    for path in ["orgs/none", "orgs/none/roles/reader", ROLE, "orgs/none/tokens/x", "orgs/retailOrg/tokens/x"] {
        assert!(ok(world.read(path, json!({})).await).is_none(), "{path}");
        assert!(ok(world.ask(Operation::Delete, path, json!({})).await).is_none(), "{path}");
    }
    for path in ["orgs/none", "orgs/none/roles/reader", ROLE] {
        assert!(!world.is_there(path).await);
        assert_eq!(
            status(world.ask(Operation::Patch, path, json!({"ttl": 1, "description": true})).await).0,
            404,
            "{path}"
        );
    }
    for path in ["orgs/none/roles/", "orgs/none/tokens/", "orgs/retailOrg/roles/", "orgs/retailOrg/tokens/"] {
        let listed = ok(world.ask(Operation::List, path, json!({})).await);
        assert!(
            listed.and_then(|response| response.whole_data()).is_none_or(|data| !data.contains_key("keys")),
            "{path}"
        );
    }
    for path in ["orgs/none/roles/reader", "orgs/none/rotate-root", "orgs/none/sync-roles"] {
        let error = refused(world.write(path, json!({"role_id": ROLE_ID})).await);
        assert!(error.contains("none") && error.contains("vault list astra/orgs"), "{error}");
    }
    assert_eq!(world.astra.count("DELETE"), 0);
}

#[tokio::test]
async fn a_renamed_org_has_another_path_and_the_old_one_names_it() {
    let world = World::with_org_and_role().await;
    let warnings = some(world.write(CONFIG, json!({"logical_name": "shop"})).await).warnings;
    assert!(warnings[0].contains("astra/orgs/shop") && warnings[0].contains("policies"), "{warnings:?}");
    let error = refused(world.read(CONFIG, json!({})).await);
    assert!(error.contains("astra/orgs/shop"), "{error}");
    assert_eq!(data(world.read("orgs/shop/roles/reader", json!({})).await)["role_id"], ROLE_ID);
    // Without a logical name, the path has the id.
    some(world.write("orgs/shop", json!({"logical_name": ""})).await);
    assert_eq!(data(world.read(&format!("orgs/{ORG}"), json!({})).await)["logical_name"], "");
}

#[tokio::test]
async fn tokens_are_listed_shown_and_deleted_by_path() {
    let world = World::with_org_and_role().await;
    let minted = some(world.read("creds/retailOrg/reader", json!({"metadata": {"team": "shop"}})).await);
    let client = text(&minted, "clientId");
    let path = format!("orgs/retailOrg/tokens/{client}");
    let record = data(world.read(&path, json!({})).await);
    let expected = ("reader", "shop", ORG, "token-bob");
    let found = (&record["role_name"], &record["metadata"]["team"], &record["org_id"], &record["display_name"]);
    assert_eq!(found, (&json!(expected.0), &json!(expected.1), &json!(expected.2), &json!(expected.3)));
    assert!(!record.to_string().contains(&text(&minted, "token")) && !record.to_string().contains("AstraCS:"));
    let listed = world.list("orgs/retailOrg/tokens/", json!({"limit": 5})).await;
    assert_eq!((&listed["keys"], &listed["key_info"][&client]), (&json!([client]), &record));

    assert!(refused(world.ask(Operation::Delete, CONFIG, json!({})).await).contains("live tokens"));
    ok(world.ask(Operation::Delete, &path, json!({})).await);
    assert_eq!((world.astra.live(), ok(world.read(&path, json!({})).await).is_none()), (0, true));
    ok(world.revoke(&lease(&minted)).await);
}

#[tokio::test]
async fn roles_are_imported_and_the_root_token_is_replaced_by_path() {
    let world = World::with_org().await;
    let report = data(world.write("orgs/retailOrg/sync-roles", json!({})).await);
    assert!(!report["created"][ORG].as_array().unwrap().is_empty(), "{report}");
    let before = world.astra.root();
    let rotated = data(world.write("orgs/retailOrg/rotate-root", json!({})).await);
    assert!(rotated["client_id"].is_string() && world.astra.root() != before);
}
