//! Stored entries that cannot be read: each harms only its own object, answers name it, and a write or a delete repairs
//! it.

use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Response, Storage as _};

use super::logs::capture;
use super::{ORG, OTHER_ORG, ROLE_ID, ROOT, World, data, eventually, lease, ok, refused, request, some, status, text};

/// The other org. This `org_id` is a label.
const SECOND: &str = "second-org";

/// Values that are not the JSON of any entry: no JSON, another type, and a member of another type.
const DAMAGED: [&str; 3] = ["\u{0}garbled", "[7]", r#"{"org_id": 7, "role_id": {}, "token_id": 7, "clientId": 7}"#];

impl World {
    /// A mount with two orgs, each with a role, and one token of each.
    async fn with_two_orgs() -> Self {
        let world = Self::with_role("standard").await;
        ok(world.write("config", world.second_config()).await);
        ok(world.write("role", json!({"org_id": SECOND, "role_name": "reader", "role_id": ROLE_ID})).await);
        world
    }

    fn second_config(&self) -> Value {
        json!({"org_id": SECOND, "astra_token": ROOT, "url": self.astra.url(), "logical_name": "second",
            "verify_connection": false})
    }

    /// Writes a root token without asking Astra.
    async fn write_root(&self, org: &str, root: &str) {
        ok(self.write("config", json!({"org_id": org, "astra_token": root, "verify_connection": false})).await);
    }

    /// Damages an entry. The caches are empty afterwards, as in a new process.
    async fn damage(&self, key: &str, value: &str) {
        assert!(self.storage.keys().contains(&key.to_owned()), "{key} is not stored");
        self.store_bytes(key, value).await;
        self.backend.invalidate("");
    }

    async fn listed(&self, path: &str) -> Response {
        some(self.ask(Operation::List, path, Value::Null).await)
    }
}

#[track_caller]
fn keys(response: &Response) -> Vec<&str> {
    let keys = response.data.as_ref().expect("there is data")["keys"].as_array().expect("a list");
    keys.iter().map(|key| key.as_str().expect("a text")).collect()
}

#[track_caller]
fn assert_warns(response: &Response, key: &str) {
    assert!(response.warnings.iter().any(|warning| warning.contains(key)), "{:?}", response.warnings);
}

#[tokio::test]
async fn a_damaged_config_harms_no_other_org() {
    for value in DAMAGED {
        let world = World::with_two_orgs().await;
        let key = format!("config/{SECOND}");
        world.damage(&key, value).await;

        let minted = some(world.read("creds/retailOrg/r_w_user", Value::Null).await);
        some(world.renew(&lease(&minted), Value::Null).await);
        world.mint("one").await;
        ok(world.write("config", json!({"org_id": ORG, "request_timeout": "20s"})).await);
        ok(world.write("config", json!({"org_id": ORG, "logical_name": "renamed"})).await);
        let third = json!({"org_id": "third", "astra_token": ROOT, "url": world.astra.url(), "logical_name": "third"});
        ok(world.write("config", third).await);
        ok(world.ask(Operation::Delete, "config", json!({"org_id": "third"})).await);
        some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
        ok(world.revoke(&lease(&minted)).await);

        let configs = world.listed("configs/").await;
        assert_eq!(keys(&configs), [ORG, SECOND]);
        assert_warns(&configs, &key);
        let info = &configs.whole_data().expect("there is data")["key_info"];
        assert_eq!((&info[ORG]["logical_name"], &info[SECOND]), (&json!("renamed"), &json!({})));
        let roles = some(world.write("roles/sync", Value::Null).await);
        let imported = roles.whole_data().expect("there is data");
        assert!(imported["created"][ORG].is_array());
        let error = imported["errors"][SECOND].as_str().expect("the other org failed");
        assert!(error.contains(&key), "{error}");
        let (_, text) = status(world.read("config", json!({"org_id": SECOND})).await);
        assert!(text.contains(&key) && text.contains("force=true"), "{text}");
    }
}

#[tokio::test]
async fn a_complete_write_or_a_forced_delete_repairs_a_damaged_config() {
    for value in DAMAGED {
        let world = World::with_two_orgs().await;
        let key = format!("config/{SECOND}");
        world.damage(&key, value).await;
        let exists = request(Operation::Update, "config", json!({"org_id": SECOND}));
        assert_eq!(world.backend.exists(exists).await.expect("answers"), Some(true));
        let complete = world.second_config();
        for (operation, incomplete) in [
            (Operation::Update, json!({"org_id": SECOND, "logical_name": "second"})),
            (Operation::Patch, json!({"org_id": SECOND, "logical_name": "second"})),
            (Operation::Patch, complete.clone()),
            (Operation::Delete, json!({"org_id": SECOND})),
        ] {
            let text = refused(world.ask(operation, "config", incomplete).await);
            assert!(text.contains(&key) && text.contains("force=true"), "{operation:?}: {text}");
            assert_eq!(world.storage.get(&key).await.unwrap().unwrap().value, value.as_bytes());
        }
        assert_warns(&some(world.write("config", complete.clone()).await), "default");
        assert_eq!(data(world.read("config", json!({"logical_name": "second"})).await)["org_id"], SECOND);
        some(world.read("creds/second/reader", Value::Null).await);

        world.damage(&key, value).await;
        ok(world.ask(Operation::Delete, "config", json!({"org_id": SECOND, "force": true})).await);
        assert!(world.storage.get(&key).await.unwrap().is_none());
        refused(world.read("config", json!({"org_id": SECOND})).await);
    }
}

/// The path has a name that the damaged config may have had, or any other name.
#[tokio::test]
async fn a_write_at_another_path_does_not_replace_a_damaged_config() {
    for value in DAMAGED {
        let world = World::with_two_orgs().await;
        let key = format!("config/{SECOND}");
        world.damage(&key, value).await;
        let mut config = world.second_config();
        config.as_object_mut().unwrap().remove("logical_name");
        for path in ["orgs/second", "orgs/other"] {
            for operation in [Operation::Create, Operation::Update] {
                let text = refused(world.ask(operation, path, config.clone()).await);
                for part in ["org_id", &key, "\"astra/orgs/second-org\"", "astra_token", "force=true"] {
                    assert!(text.contains(part), "{path}: {text}");
                }
                assert_eq!(world.storage.get(&key).await.unwrap().unwrap().value, value.as_bytes());
            }
        }
        let complete = world.second_config();
        assert_warns(&some(world.write("orgs/second-org", complete).await), "default");
        assert_eq!(data(world.read("orgs/second", Value::Null).await)["org_id"], SECOND);
    }
}

/// A damaged config whose `org_id` does not fit into a path is repaired by its `org_id`.
#[tokio::test]
async fn a_damaged_config_without_a_path_is_repaired_at_the_path_config() {
    let world = World::with_role("standard").await;
    world.store_bytes("config/team a", "garbled").await;
    world.backend.invalidate("");
    let config = json!({"org_id": "team a", "astra_token": ROOT, "url": world.astra.url()});
    let text = refused(world.write("orgs/team", config.clone()).await);
    assert!(text.contains("\"astra/config\"") && !text.contains("orgs/team"), "{text}");
    some(world.write("config", config).await);
}

/// The token can be the root token of the damaged config.
#[tokio::test]
async fn a_lookup_says_that_configs_cannot_be_read() {
    for value in DAMAGED {
        let world = World::with_two_orgs().await;
        let look_up = async |wanted: Value| some(world.write("lookup", wanted).await);
        world.write_root(SECOND, "AstraCS:second:root").await;
        let root = json!({"token": "AstraCS:second:root"});
        assert_eq!(look_up(root.clone()).await.data.unwrap()["known"], true);

        world.damage(&format!("config/{SECOND}"), value).await;
        let unknown = look_up(root).await;
        assert_eq!(unknown.data.as_ref().unwrap()["known"], false);
        assert_warns(&unknown, "number of configs that cannot be read: 1 (\"second-org\")");
        let of_damaged = look_up(json!({"client_id": "second", "org": SECOND})).await;
        assert_warns(&of_damaged, "number of configs that cannot be read: 1");
        // The other org has a complete answer, and so has a token that is known.
        let of_other = look_up(json!({"client_id": "second", "org": ORG})).await;
        assert_eq!((of_other.data.unwrap()["known"].clone(), of_other.warnings), (json!(false), vec![]));
        let known = look_up(json!({"token": ROOT})).await;
        assert_eq!((known.data.unwrap()["known"].clone(), known.warnings), (json!(true), vec![]));
    }
}

/// A name that is refused for a new config can be stored already.
#[tokio::test]
async fn a_damaged_config_of_the_go_plugin_is_repaired_under_its_name() {
    let world = World::with_role("standard").await;
    world.store_bytes("config/team/a", "garbled").await;
    world.backend.invalidate("");
    let config = json!({"org_id": "team/a", "astra_token": ROOT, "url": world.astra.url()});
    some(world.write("config", config).await);
    world.damage("config/team/a", "garbled").await;
    ok(world.ask(Operation::Delete, "config", json!({"org_id": "team/a", "force": true})).await);
    assert!(!world.storage.keys().contains(&"config/team/a".to_owned()));
}

#[tokio::test]
async fn a_damaged_role_is_skipped_and_repaired() {
    for value in DAMAGED {
        let world = World::with_two_orgs().await;
        let key = format!("role/{SECOND}:reader");
        world.damage(&key, value).await;
        // With several colons, only the entry shows where the name of the role begins.
        world.store_bytes("role/eu:prod:reader", value).await;

        let roles = world.listed("roles/").await;
        assert_eq!(keys(&roles), ["r_w_user", "reader"]);
        assert_warns(&roles, &key);
        assert_warns(&roles, "role/eu:prod:reader");
        some(world.read("creds/retailOrg/r_w_user", Value::Null).await);
        let synced = some(world.write("roles/sync", Value::Null).await);
        assert_warns(&synced, "reader");
        assert_warns(&synced, "role/eu:prod:reader");
        assert_eq!(synced.whole_data().expect("there is data")["errors"], json!({}));
        assert_eq!(
            world.storage.get(&key).await.unwrap().unwrap().value,
            value.as_bytes(),
            "an import replaces no role"
        );

        let name = json!({"org_id": SECOND, "role_name": "reader"});
        let (_, text) = status(world.read("role", name.clone()).await);
        assert!(text.contains(&key), "{text}");
        let exists = request(Operation::Update, "role", name.clone());
        assert_eq!(world.backend.exists(exists).await.expect("answers"), Some(true));
        let text = refused(world.write("role", json!({"org_id": SECOND, "role": "reader", "ttl": 60})).await);
        assert!(text.contains(&key) && text.contains("role_id"), "{text}");
        let patch = json!({"org_id": SECOND, "role": "reader", "role_id": ROLE_ID});
        refused(world.ask(Operation::Patch, "role", patch.clone()).await);
        assert_warns(&some(world.write("role", patch).await), "default");
        some(world.read("creds/second/reader", Value::Null).await);
        world.damage(&key, value).await;
        ok(world.ask(Operation::Delete, "role", name.clone()).await);
        assert!(!world.storage.keys().contains(&key));
        refused(world.read("role", name).await);
    }
}

/// An Astra role has the name of a damaged role.
#[tokio::test]
async fn an_import_does_not_replace_a_damaged_role() {
    let world = World::with_role("standard").await;
    let key = format!("role/{ORG}:r_w_user");
    world.damage(&key, "garbled").await;
    let synced = some(world.write("roles/sync", json!({"org_id": ORG})).await);
    assert_warns(&synced, "\"r_w_user\"");
    assert_eq!(synced.whole_data().expect("there is data")["created"][ORG], json!(["fresh", "spare"]));
    assert_eq!(world.storage.get(&key).await.unwrap().unwrap().value, b"garbled");
}

/// The application of the lease must not lose its token because an entry in Vault is damaged.
#[tokio::test]
async fn a_lease_is_renewed_past_a_damaged_role_record_token_or_config() {
    for value in DAMAGED {
        for damaged in ["role/", "client/", "token/", "config/"] {
            let world = World::with_role("standard").await;
            let minted = world.mint("one").await;
            // The renewal has a later end than the record, which it then writes.
            world.write_role(json!({"ttl": 3600, "max_ttl": 39_000})).await;
            let key = world.keys(damaged).pop().expect("the entry is stored");
            world.damage(&key, value).await;
            let (log, _guard) = capture();
            let renewed = some(world.renew(&lease(&minted), Value::Null).await);
            let secret = lease(&renewed);
            assert!((3598..=3600).contains(&secret.ttl.as_secs()), "{key}: {:?}", secret.ttl);
            // Without its role, the lease keeps the max TTL of its mint.
            let max_ttl = if damaged == "role/" { 36_000 } else { 39_000 };
            assert!(secret.renewable && secret.max_ttl.as_secs().abs_diff(max_ttl) < 3, "{key}: {:?}", secret.max_ttl);
            // A renewal needs no config.
            assert_eq!(log.has("WARN", &key), damaged != "config/", "{key}");
            assert_eq!(world.storage.get(&key).await.unwrap().unwrap().value, value.as_bytes(), "{key}");
            // No increment passes the limits.
            let asked = lease(&minted).increment(Duration::from_secs(10_000_000));
            let granted = lease(&some(world.renew(&asked, Value::Null).await)).ttl.as_secs();
            assert!(granted.abs_diff(max_ttl) < 3, "{key}: {granted}");
        }
    }
}

#[tokio::test]
async fn the_renewal_of_a_deleted_token_fails_past_a_damaged_record() {
    let world = World::with_role("standard").await;
    let minted = world.mint("one").await;
    world.damage(&format!("client/{ORG}/{}", text(&minted, "clientId")), "garbled").await;
    let key = world.keys("token/").pop().expect("the token is stored");
    world.storage.delete(&key).await.expect("deletes");
    let (code, text) = status(world.renew(&lease(&minted), Value::Null).await);
    assert!(code == 400 && text.contains("was deleted"), "{text}");
}

#[tokio::test]
async fn a_damaged_record_is_listed_and_its_token_can_be_deleted() {
    for value in DAMAGED {
        let world = World::with_two_orgs().await;
        let (named, other) = (world.mint("one").await, world.mint("two").await);
        let read = some(world.read("creds/retailOrg/r_w_user", Value::Null).await);
        let [named_id, other_id, read_id] = [&named, &other, &read].map(|minted| text(minted, "clientId"));
        for id in [&named_id, &read_id] {
            world.damage(&format!("client/{ORG}/{id}"), value).await;
        }
        let listed = world.listed("org/tokens/").await;
        assert_eq!(keys(&listed), [named_id.as_str(), &other_id, &read_id]);
        assert_warns(&listed, &format!("client/{ORG}/{named_id}"));
        let info = &listed.whole_data().expect("there is data")["key_info"];
        assert_eq!((&info[&other_id]["logical_name"], &info[&named_id]), (&json!("two"), &json!({})));
        ok(world.backend.handle(request(Operation::Rollback, "", json!({"immediate": true}))).await);

        let limit = json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": 3});
        ok(world.ask(Operation::Patch, "role", limit).await);
        let more = world.mint("three").await;
        ok(world.revoke(&lease(&more)).await);

        let (_, error) = status(world.read("org/token", json!({"org_id": ORG, "client_id": named_id})).await);
        assert!(error.contains(&format!("client/{ORG}/{named_id}")) && error.contains("logical_name"), "{error}");
        let path = format!("orgs/retailOrg/tokens/{named_id}");
        let (code, error) = status(world.read(&path, Value::Null).await);
        for part in [&format!("client/{ORG}/{named_id}"), &format!("\"vault delete astra/{path}\""), "revoke its lease"]
        {
            assert!(code == 500 && error.contains(part), "{code}: {error}");
        }
        for (path, id) in [(path.as_str(), &named_id), ("org/token", &read_id)] {
            ok(world.ask(Operation::Delete, path, json!({"org_id": ORG, "client_id": id})).await);
            assert!(!world.storage.keys().contains(&format!("client/{ORG}/{id}")));
            assert!(!world.astra.state().live.contains_key(id.as_str()));
        }
        ok(world.revoke(&lease(&named)).await);
        ok(world.revoke(&lease(&read)).await);
        ok(world.revoke(&lease(&other)).await);
        assert_eq!((world.keys("client/").len(), world.keys("token/").len(), world.astra.live()), (0, 0, 0));
        ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    }
}

/// The tokens of a label move to the config when Astra names the organization. One of the tokens, its record, or its
/// role is damaged.
#[tokio::test]
async fn records_move_to_a_new_config_past_damaged_entries() {
    for damaged in ["token/OLD1", "role/prod:reader", &format!("client/{OTHER_ORG}/OLD1")] {
        let world = World::new().await;
        super::astra::other_org(&world.astra);
        for id in ["OLD1", "OLD2"] {
            let token = json!({"clientId": id, "secret": "s", "orgId": OTHER_ORG, "roleName": "reader", "roles": [ROLE_ID],
                "token": format!("AstraCS:{id}:abc"), "generatedOn": "2023-01-01T00:00:00Z", "logicalName": "", "metadata": null});
            world.stored(&format!("token/{id}"), token).await;
            let record = json!({"token_id": id, "role_name": "reader", "generated_on": "2023-01-01T00:00:00Z"});
            world.stored(&format!("client/{OTHER_ORG}/{id}"), record).await;
        }
        world
            .stored(
                "role/prod:reader",
                json!({"role_name": "reader", "org_id": "prod", "role_id": ROLE_ID, "ttl": 0, "max_ttl": 0}),
            )
            .await;
        world.damage(damaged, "garbled").await;
        let config = json!({"org_id": "prod", "astra_token": ROOT, "url": world.astra.url()});
        some(world.write("config", config).await);
        assert!(world.storage.keys().contains(&"client/prod/OLD2".to_owned()), "{damaged}");
        let moved = world.storage.keys().contains(&"client/prod/OLD1".to_owned());
        assert_eq!(moved, !damaged.starts_with("client/"), "{damaged}");
        let listed = world.listed("org/tokens/").await;
        assert_eq!(keys(&listed), ["OLD1", "OLD2"], "{damaged}");
    }
}

#[tokio::test]
async fn a_damaged_wal_entry_does_not_keep_configs_from_being_deleted() {
    let world = World::with_two_orgs().await;
    world.store_bytes("wal/damaged", "garbled").await;
    ok(world.ask(Operation::Delete, "config", json!({"org_id": SECOND})).await);
}

#[tokio::test]
async fn the_inventory_is_built_past_damaged_entries() {
    let world = World::unprepared().await;
    world.write_config("standard").await;
    let token = json!({"clientId": "OLD1", "secret": "s", "orgId": ORG, "roleName": "reader", "roles": [ROLE_ID],
        "token": "AstraCS:OLD1:abc", "generatedOn": "2023-01-01T00:00:00Z", "logicalName": "", "metadata": null});
    world.stored("token/OLD1", token).await;
    world.store_bytes(&format!("client/{ORG}/OLD1"), "garbled").await;
    world.store_bytes(&format!("config/{SECOND}"), "garbled").await;
    world.backend.invalidate("");
    world.backend.initialize().await.expect("initializes");
    eventually(|| world.storage.keys().contains(&"client-index".to_owned())).await;
    let record = world.storage.json(&format!("client/{ORG}/OLD1")).expect("the record is written again");
    assert_eq!(record["token_id"], "OLD1");
}
