//! Mounts of the Go plugin 2.0.0: entries, empty entries and leases, and the downgrade to the Go plugin.

#[path = "../../tests/fixtures/go-2.0.0/mod.rs"]
pub(super) mod go_plugin;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Answer, Entry, Map, Operation, Secret, Storage as _};
use vault_plugin_sdk::testing::HostFault;

use self::go_plugin::{Fixtures, ROLE, SIDECAR, STANDARD, URL, parsed};
use super::request;
use super::{ORG, OTHER_ORG, ROLE_ID, ROOT, World, data, lease, ok, order, refused, some, status, text};

/// A token of the Go plugin that is live in Astra and has a lease.
struct Old {
    client_id: String,
    token_id: String,
    logical_name: String,
    data: Value,
    lease: Secret,
}

impl Old {
    fn of((token, lease): (&str, &str)) -> Self {
        let (token, lease) = (parsed(token), parsed(lease));
        let part = |name: &str| token[name].as_str().unwrap().to_owned();
        let internal = lease["internal_data"].as_object().unwrap().clone();
        let (hour, now) = (Duration::from_secs(3600), Timestamp::now());
        Self {
            client_id: part("clientId"),
            token_id: internal["tokenId"].as_str().unwrap().to_owned(),
            logical_name: part("logicalName"),
            data: lease["data"].clone(),
            lease: Secret::new(hour, 10 * hour, internal).issue_time(now),
        }
    }
}

impl World {
    /// A mount of the Go plugin, not initialized yet.
    async fn old(fixtures: &Fixtures) -> (Self, Vec<Old>) {
        let world = Self::unprepared().await;
        let config = fixtures.config.replace(URL, &world.astra.url());
        world.store_bytes(&format!("config/{ORG}"), &config).await;
        world.store_bytes(&format!("role/{ORG}:r_w_user"), ROLE).await;
        let mut tokens = Vec::new();
        for pair in fixtures.tokens {
            let old = Old::of(pair);
            world.store_bytes(&format!("token/{}", old.token_id), pair.0).await;
            world.astra.state().live.insert(old.client_id.clone(), Value::Null);
            tokens.push(old);
        }
        world.store_bytes(&junk_key(fixtures), fixtures.junk.0).await;
        (world, tokens)
    }

    pub(super) async fn store_bytes(&self, key: &str, value: &str) {
        let entry = Entry::new(key, value);
        self.storage.put(entry).await.expect("stores");
    }

    fn record(&self, old: &Old) -> Option<Value> {
        self.storage.json(&format!("client/{ORG}/{}", old.client_id))
    }
}

/// Returns the key of the empty entry of the Go plugin. In sidecar mode, the key is only `token/`.
fn junk_key(fixtures: &Fixtures) -> String {
    format!("token/{}", Old::of(fixtures.junk).token_id)
}

fn sorted_ids(tokens: &[Old]) -> Value {
    let mut ids: Vec<&str> = tokens.iter().map(|old| old.client_id.as_str()).collect();
    ids.sort_unstable();
    json!(ids)
}

#[tokio::test]
async fn configs_and_roles_of_the_go_plugin_are_read() {
    for (fixtures, mode) in [(&STANDARD, "standard"), (&SIDECAR, "sidecar")] {
        let (world, _) = World::old(fixtures).await;
        let config = data(world.read("config", json!({"logical_name": "retailOrg"})).await);
        assert_eq!((&config["org_id"], &config["caller_mode"]), (&json!(ORG), &json!(mode)));
        assert_eq!((&config["url"], &config["request_timeout"]), (&json!(world.astra.url()), &json!("30s")));
        let role = data(world.read("role", json!({"org_id": ORG, "role": "r_w_user"})).await);
        assert_eq!((&role["ttl"], &role["max_ttl"]), (&json!("1h0m0s"), &json!("10h0m0s")));
        assert_eq!(world.list("configs/", json!({})).await["keys"], json!([ORG]));
        assert_eq!(world.list("roles/", json!({})).await["keys"], json!(["r_w_user"]));
    }
}

#[tokio::test]
async fn tokens_of_the_go_plugin_are_listed_after_the_inventory_is_built() {
    let (world, tokens) = World::old(&STANDARD).await;
    let pairs = &tokens[1];
    let by_id = json!({"org_id": ORG, "client_id": pairs.client_id});

    // Before the inventory is complete, reads by names succeed, and no error says that a client id is unknown.
    for old in &tokens {
        assert_eq!(data(world.read("org/token", order(&old.logical_name)).await)["clientId"], json!(old.client_id));
    }
    let (code, text) = status(world.read("org/token", by_id.clone()).await);
    assert!(code == 503 && text.contains("still being built"), "{text}");
    let (code, _) = status(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    assert_eq!(code, 503);

    world.initialize().await;
    let shown = data(world.read("org/token", by_id).await);
    let metadata = json!({"owner": "R&D <retail@example.com>", "team": "a"});
    assert_eq!((&shown["logicalName"], &shown["metadata"]), (&json!("org2"), &metadata));
    let listed = world.list("org/tokens/", json!({})).await;
    assert_eq!(listed["keys"], sorted_ids(&tokens));
    let info = &listed["key_info"][&pairs.client_id];
    assert_eq!((&info["generated_on"], &info["metadata"]), (&json!("2022-09-21T17:48:15.260897295Z"), &metadata));
    assert_eq!(listed["key_info"][&tokens[0].client_id]["metadata"], Value::Null);
    refused(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
}

#[tokio::test]
async fn names_of_live_tokens_of_the_go_plugin_stay_taken() {
    let (world, tokens) = World::old(&STANDARD).await;
    for old in &tokens {
        let refusal = refused(world.write("org/token", order(&old.logical_name)).await);
        assert!(refusal.contains(&old.client_id), "{refusal}");
    }
    assert_eq!(world.astra.count("POST"), 0);
    // The token id of a name is the same as in the Go plugin.
    world.write("org/token", order("Org9")).await.expect("mints");
    world.ask(Operation::Delete, "org/token", order(&tokens[0].logical_name)).await.expect("deletes");
    let minted = some(world.write("org/token", order(&tokens[0].logical_name)).await);
    assert_eq!(lease(&minted).internal_data["tokenId"], json!(tokens[0].token_id));
}

#[tokio::test]
async fn leases_of_the_go_plugin_renew_and_get_their_data_back() {
    for fixtures in [&STANDARD, &SIDECAR] {
        let (world, tokens) = World::old(fixtures).await;
        world.initialize().await;
        for old in &tokens {
            let response = some(world.renew(&old.lease, old.data.clone()).await);
            assert_eq!(text(&response, "clientId"), old.client_id);
            if old.data.is_null() {
                let stored = parsed(fixtures.tokens[1].0);
                assert!(text(&response, "token") == stored["token"], "another token");
            } else {
                assert!(Value::Object(response.data.clone().unwrap()) == old.data, "the data changed");
            }
            assert_eq!((lease(&response).ttl.as_secs(), lease(&response).max_ttl.as_secs()), (3600, 36000));
            assert_eq!(lease(&response).internal_data, old.lease.internal_data);
        }
        // Without the role, the renewal uses the TTLs that the host knows.
        ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user"})).await);
        assert_eq!(lease(&some(world.renew(&tokens[0].lease, Value::Null).await)).ttl.as_secs(), 3600);
    }
}

#[tokio::test]
async fn leases_of_the_go_plugin_revoke_with_or_without_the_inventory() {
    for fixtures in [&STANDARD, &SIDECAR] {
        let (world, tokens) = World::old(fixtures).await;
        ok(world.revoke(&tokens[0].lease).await);
        world.initialize().await;
        assert_eq!(world.list("org/tokens/", json!({})).await["keys"], sorted_ids(&tokens[1..]));
        for old in &tokens {
            ok(world.revoke(&old.lease).await);
        }
        assert_eq!((world.astra.live(), world.keys("client/").len()), (0, 0));
        assert_eq!(world.keys("token/"), [junk_key(fixtures)]);
    }
}

#[tokio::test]
async fn empty_entries_of_the_go_plugin_take_no_name_and_revoke_without_a_call_of_astra() {
    for fixtures in [&STANDARD, &SIDECAR] {
        let (world, tokens) = World::old(fixtures).await;
        world.initialize().await;
        assert_eq!(world.list("org/tokens/", json!({})).await["keys"], sorted_ids(&tokens));
        let junk = Old::of(fixtures.junk);
        ok(world.revoke(&junk.lease).await);
        assert!(world.astra.state().requests.is_empty());
        let Err(_) = world.renew(&junk.lease, junk.data.clone()).await else {
            panic!("renewed a lease without a token")
        };
        if junk.token_id.is_empty() {
            continue;
        }
        refused(world.read("org/token", order(&junk.logical_name)).await);
        let minted = some(world.write("org/token", order(&junk.logical_name)).await);
        // The lease of the empty entry expires after the name has got a token, which must stay.
        ok(world.revoke(&junk.lease).await);
        let found = data(world.read("org/token", order(&junk.logical_name)).await);
        assert_eq!(found["clientId"], json!(text(&minted, "clientId")));
    }
}

/// During a request, holds back the n-th answer of the storage until the inventory is complete. Returns the answer to
/// the request; `None` if the request makes fewer calls to the storage.
async fn overtaken(nth: usize, operation: Operation, path: &str, data: Value) -> Option<(World, Answer)> {
    let (world, _) = World::old(&STANDARD).await;
    let before = world.storage.calls();
    world.storage.inject(HostFault::HangsAt(nth));
    let (backend, asked) = (world.backend.clone(), request(operation, path, data));
    let mut asked = tokio::spawn(async move { backend.handle(asked).await });
    while world.storage.calls() - before < nth {
        if let Ok(answer) = tokio::time::timeout(Duration::from_millis(1), &mut asked).await {
            assert!(nth > 1 && answer.is_ok(), "no call to the storage");
            return None;
        }
    }
    world.initialize().await;
    world.storage.heal();
    Some((world, asked.await.expect("does not panic")))
}

#[tokio::test]
async fn a_live_token_is_found_while_the_inventory_is_completed() {
    let client_id = Old::of(STANDARD.tokens[1]).client_id;
    for operation in [Operation::Read, Operation::Delete] {
        let mut nth = 1;
        let by_id = json!({"org_id": ORG, "client_id": client_id});
        while let Some((world, answer)) = overtaken(nth, operation, "org/token", by_id.clone()).await {
            if answer.is_err() {
                assert_eq!(status(answer).0, 503, "{operation:?}, call {nth}");
                assert_eq!(world.astra.live(), 3);
            } else {
                assert_eq!(world.astra.live(), if operation == Operation::Delete { 2 } else { 3 });
            }
            nth += 1;
        }
        assert!(nth > 3, "{operation:?} has {nth} calls");
    }
}

#[tokio::test]
async fn a_config_with_live_tokens_is_not_deleted_while_the_inventory_is_completed() {
    let mut nth = 1;
    let org = json!({"org_id": ORG});
    while let Some((world, answer)) = overtaken(nth, Operation::Delete, "config", org.clone()).await {
        let (code, text) = status(answer);
        assert!(code == 400 && text.contains("live tokens") || code == 503, "call {nth}: {text}");
        assert!(world.keys("config/").len() == 1);
        nth += 1;
    }
    assert!(nth > 3, "{nth} calls");
}

#[tokio::test]
async fn an_incomplete_list_has_a_warning_while_the_inventory_is_completed() {
    let mut nth = 1;
    while let Some((_, answer)) = overtaken(nth, Operation::List, "org/tokens/", Value::Null).await {
        let response = some(answer);
        let listed = response.whole_data().and_then(|data| Some(data.get("keys")?.as_array()?.len())).unwrap_or(0);
        let is_told = response.warnings.iter().any(|warning| warning.contains("still being built"));
        assert!(listed == 3 || is_told, "call {nth}: {listed} tokens");
        nth += 1;
    }
    assert!(nth > 2, "{nth} calls");
}

/// Token number `n` of many tokens.
fn one_of_many(n: usize) -> (String, Value) {
    let id = format!("OLD{n:04}");
    let token = json!({"clientId": id, "secret": "old-secret", "orgId": ORG, "roleName": "r_w_user", "roles": [ROLE_ID],
        "token": format!("AstraCS:{id}:abc"), "generatedOn": "2023-01-01T00:00:00Z", "logicalName": "", "metadata": null});
    (id, token)
}

#[tokio::test]
async fn the_build_of_the_inventory_resumes_and_skips_empty_entries() {
    let world = World::unprepared().await;
    let mut expected = Vec::new();
    for n in 0..600 {
        let (id, token) = one_of_many(n);
        world.stored(&format!("token/{id}"), token).await;
        expected.push(id);
    }
    for fixtures in [&STANDARD, &SIDECAR] {
        world.store_bytes(&junk_key(fixtures), fixtures.junk.0).await;
    }
    world.stored("token/broken", json!("not a token")).await;
    // These client ids do not fit into a key.
    for (member, text) in [("clientId", ".."), ("orgId", "")] {
        let (_, mut token) = one_of_many(600);
        token[member] = text.into();
        world.stored(&format!("token/odd-{member}"), token).await;
    }
    // The storage fails in the first attempt, and the engine retries.
    world.storage.fail_nth(700);
    world.initialize().await;
    let listed = world.list("org/tokens/", json!({"org_id": ORG})).await;
    assert_eq!(listed["keys"], json!(expected));

    // After the inventory is complete, the engine reads no token again.
    world.storage.fail_nth(usize::MAX / 2);
    let before = world.storage.calls();
    world.backend.initialize().await.unwrap();
    tokio::task::yield_now().await;
    assert!(world.storage.calls() - before <= 1);
}

#[tokio::test]
async fn initializing_never_fails_and_stops_at_cleanup() {
    let (world, _) = World::old(&STANDARD).await;
    world.storage.fail_nth(1);
    world.backend.initialize().await.expect("initializes");
    world.backend.cleanup().await;
    world.backend.cleanup().await;
    world.system.set_state(vault_plugin_sdk::logical::ReplicationState::PERFORMANCE_STANDBY);
    world.backend.initialize().await.expect("initializes on a standby");
}

/// After a downgrade and an upgrade, the inventory is marked as complete although tokens are missing.
#[tokio::test]
async fn a_token_minted_during_a_downgrade_gets_its_record_when_its_lease_is_renewed() {
    let (world, tokens) = World::old(&STANDARD).await;
    world.stored("client-index", json!({"version": 1})).await;
    world.initialize().await;
    let old = &tokens[1];
    assert!(world.record(old).is_none());
    some(world.renew(&old.lease, Value::Null).await);
    assert_eq!(world.record(old).unwrap()["token_id"], json!(old.token_id));
    assert_eq!(world.list("org/tokens/", json!({})).await["keys"], json!([old.client_id]));
    // The other tokens are found by their names, and their leases can be revoked.
    assert_eq!(data(world.read("org/token", order("org1")).await)["clientId"], json!(tokens[0].client_id));
    for old in &tokens {
        ok(world.revoke(&old.lease).await);
    }
    assert_eq!((world.astra.live(), world.keys("client/").len()), (0, 0));
}

#[tokio::test]
async fn a_config_with_tokens_minted_during_a_downgrade_is_not_deleted() {
    for fixtures in [&STANDARD, &SIDECAR] {
        let (world, tokens) = World::old(fixtures).await;
        world.stored("client-index", json!({"version": 1})).await;
        world.stored(&format!("config/{OTHER_ORG}"), json!({"astra_token": ROOT, "org_id": OTHER_ORG})).await;
        world.initialize().await;
        assert!(world.keys("client/").is_empty());
        let delete = async |org: &str| world.ask(Operation::Delete, "config", json!({"org_id": org})).await;
        let text = refused(delete(ORG).await);
        assert!(text.contains("live tokens"), "{text}");
        assert_eq!(world.keys("client/").len(), tokens.len());
        ok(delete(OTHER_ORG).await);
        for old in &tokens {
            ok(world.revoke(&old.lease).await);
        }
        ok(delete(ORG).await);
        assert!(world.keys("config/").is_empty());
    }
}

/// The Go plugin does not know records, so a revocation by the Go plugin leaves the record.
#[tokio::test]
async fn the_record_of_a_token_revoked_during_a_downgrade_is_removed() {
    let (world, tokens) = World::old(&STANDARD).await;
    world.initialize().await;
    let (gone, taken) = (&tokens[0], &tokens[1]);
    for old in [gone, taken] {
        world.astra.state().live.remove(&old.client_id);
        world.storage.delete(&format!("token/{}", old.token_id)).await.expect("deletes");
    }
    // Another token has the name of the second token.
    let (_, mut token) = one_of_many(1);
    token["logicalName"] = json!(taken.logical_name);
    world.stored(&format!("token/{}", taken.token_id), token).await;

    ok(world.tick(false).await);
    assert!(world.record(gone).is_none() && world.record(taken).is_none());
    assert!(world.record(&tokens[2]).is_some());
    assert_eq!(data(world.read("org/token", order(&taken.logical_name)).await)["clientId"], "OLD0001");
    assert_eq!((world.astra.live(), world.keys("token/").len()), (1, 3));
}

#[tokio::test]
async fn a_token_minted_by_a_read_is_deleted_by_its_client_id_without_the_inventory() {
    let (world, tokens) = World::old(&SIDECAR).await;
    let by_id = |org: &str| json!({"org_id": org, "client_id": tokens[0].client_id});
    // Another org cannot delete the token by this client id.
    let config = parsed(SIDECAR.config);
    let other = json!({"org_id": OTHER_ORG, "astra_token": config["astra_token"], "url": world.astra.url(),
        "logical_name": "other", "caller_mode": 2});
    world.stored(&format!("config/{OTHER_ORG}"), other).await;
    status(world.ask(Operation::Delete, "org/token", by_id(OTHER_ORG)).await);
    assert_eq!(world.astra.live(), 3);
    ok(world.ask(Operation::Delete, "org/token", by_id(ORG)).await);
    ok(world.revoke(&tokens[0].lease).await);
    assert_eq!((world.astra.live(), world.astra.count("DELETE")), (2, 2));
}

/// Types of the members of the Go plugin's structs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Go {
    String,
    Int,
    /// Nanoseconds.
    Duration,
    Strings,
    Pairs,
}

pub(super) const GO_CONFIG: &[(&str, Go)] = &[
    ("astra_token", Go::String),
    ("url", Go::String),
    ("org_id", Go::String),
    ("logical_name", Go::String),
    ("caller_mode", Go::Int),
];

pub(super) const GO_ROLE: &[(&str, Go)] = &[
    ("role_name", Go::String),
    ("role_id", Go::String),
    ("org_id", Go::String),
    ("ttl", Go::Duration),
    ("max_ttl", Go::Duration),
];

pub(super) const GO_TOKEN: &[(&str, Go)] = &[
    ("clientId", Go::String),
    ("secret", Go::String),
    ("orgId", Go::String),
    ("roleName", Go::String),
    ("roles", Go::Strings),
    ("token", Go::String),
    ("generatedOn", Go::String),
    ("logicalName", Go::String),
    ("metadata", Go::Pairs),
];

/// The Go plugin reads these members of a lease one by one, as strings.
pub(super) const GO_LEASE: &[(&str, Go)] = &[
    ("orgId", Go::String),
    ("clientId", Go::String),
    ("roleName", Go::String),
    ("tokenId", Go::String),
    ("secret_type", Go::String),
];

/// Checks that Go's `encoding/json` decodes this into a struct with these members.
#[track_caller]
pub(super) fn assert_loads_in_go(what: &str, stored: &Map, members: &[(&str, Go)]) {
    for (name, go) in members {
        let value = stored.get(*name).unwrap_or_else(|| panic!("{what} has no {name}"));
        let fits = match go {
            Go::String => value.is_string(),
            Go::Int | Go::Duration => value.is_i64(),
            Go::Strings => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
            Go::Pairs => value.as_object().map_or(value.is_null(), |pairs| pairs.values().all(Value::is_string)),
        };
        assert!(fits, "{name} of {what} is no {go:?}");
    }
    // Go ignores unknown members, but accepts known members in any letter case.
    for name in stored.keys() {
        let same = members.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        for (known, _) in same {
            assert_eq!(name, known, "{what} has two members that Go takes for one");
        }
    }
}

impl World {
    #[track_caller]
    pub(super) fn assert_stored_loads_in_go(&self, key: &str, members: &[(&str, Go)]) -> Map {
        let stored = self.storage.json(key).unwrap_or_else(|| panic!("nothing at {key}"));
        let stored = stored.as_object().expect("an object").clone();
        assert_loads_in_go(key, &stored, members);
        stored
    }
}

#[tokio::test]
async fn the_go_plugin_can_decode_every_stored_entry() {
    for (mode, number) in [("standard", 1), ("Sidecar", 2)] {
        let world = World::with_role(mode).await;
        let extra = json!({"org_id": ORG, "astra_token": ROOT, "request_timeout": "1500ms", "description": false,
            "token_expiry": false});
        ok(world.write("config", extra).await);
        let config = world.assert_stored_loads_in_go(&format!("config/{ORG}"), GO_CONFIG);
        assert_eq!(config["caller_mode"], json!(number));
        assert!(config.contains_key("request_timeout") && config.contains_key("token_expiry"), "no extra is tried");
        let role = world.assert_stored_loads_in_go(&format!("role/{ORG}:r_w_user"), GO_ROLE);
        assert_eq!((&role["ttl"], &role["max_ttl"]), (&json!(3_600_000_000_000_i64), &json!(36_000_000_000_000_i64)));

        // Once with all settings of a config, once with none.
        for settings in [false, true] {
            let change = json!({"org_id": ORG, "description": settings, "token_expiry": settings});
            ok(world.write("config", change).await);
            let order = json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": format!("n-{settings}"), "ttl": 60,
                "metadata": if settings { json!({"team": "a"}) } else { Value::Null }});
            let minted = some(if number == 1 {
                world.write("org/token", order).await
            } else {
                world.read("org/token", order).await
            });
            let lease = lease(&minted);
            assert_loads_in_go("a lease", &lease.internal_data, GO_LEASE);
            let id = lease.internal_data["tokenId"].as_str().unwrap();
            let token = world.assert_stored_loads_in_go(&format!("token/{id}"), GO_TOKEN);
            assert_eq!(token["metadata"].is_null(), !settings);
            let renewed = some(world.renew(&lease, Value::Null).await).secret.unwrap();
            assert_loads_in_go("a renewed lease", &renewed.internal_data, GO_LEASE);
        }
    }
}

/// The Go plugin lists these folders and decodes every entry.
#[tokio::test]
async fn the_go_plugin_finds_only_its_own_kinds_of_entries() {
    let world = World::with_role("standard").await;
    let minted = world.mint("org1").await;
    some(world.renew(&lease(&minted), Value::Null).await);
    let id = lease(&minted).internal_data["tokenId"].as_str().unwrap().to_owned();
    assert_eq!(world.keys("config"), [format!("config/{ORG}")]);
    assert_eq!(world.keys("role"), [format!("role/{ORG}:r_w_user")]);
    assert_eq!(world.keys("token"), [format!("token/{id}")]);
}
