//! Static roles: tokens that a schedule replaces.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;
use vault_plugin_sdk::testing::{HostFault, MemoryStorage};
use wiremock::ResponseTemplate;

use super::trial::live;
use super::{ORG, ROLE_ID, World, data, eventually, ok, refused};
use crate::clock::{self, test::move_by};

pub(super) const PATH: &str = "orgs/retailOrg/static-roles/ci";

pub(super) fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

impl World {
    /// A mount with a static role that is rotated every hour, with an overlap of ten minutes.
    pub(super) async fn with_static_role() -> Self {
        let world = Self::with_role("standard").await;
        world.write_static_role(json!({"role": "r_w_user", "rotation_period": "1h", "overlap": "10m"})).await;
        world
    }

    pub(super) async fn write_static_role(&self, fields: Value) {
        ok(self.ask(Operation::Update, PATH, fields).await);
    }

    pub(super) async fn static_role(&self) -> Value {
        data(self.ask(Operation::Read, PATH, Value::Null).await)
    }

    pub(super) async fn static_token(&self) -> Value {
        data(self.ask(Operation::Read, "static-creds/retailOrg/ci", Value::Null).await)
    }

    /// Lets time pass, and then the host's tick.
    pub(super) async fn pass(&self, time: SignedDuration) {
        move_by(time);
        ok(self.tick(false).await);
        eventually(|| self.tasks.is_empty()).await;
    }

    pub(super) fn crashed(&self) -> Self {
        Self::with(Arc::new(MemoryStorage::holding(self.storage.entries())), self.astra.clone())
    }

    /// Whether Astra, the tokens and the records agree, and nothing is unfinished.
    pub(super) fn agrees(&self, tokens: usize) -> bool {
        let is = (live(self).len(), self.keys("token/").len(), self.keys("client/").len(), self.keys("wal/").len());
        is == (tokens, tokens, tokens, 0)
    }
}

pub(super) fn text(answer: &Value, member: &str) -> String {
    answer[member]
        .as_str()
        .unwrap_or_else(|| panic!("{member} in {:?}", answer.as_object().map(|all| all.keys().collect::<Vec<_>>())))
        .to_owned()
}

#[tokio::test]
async fn each_period_gives_a_new_token_and_the_old_one_lives_on_for_the_overlap() {
    let world = World::with_static_role().await;
    let first = world.static_token().await;
    assert_eq!((first["rotation_period"].as_i64(), &first["previous_client_id"]), (Some(3600), &json!("")));
    assert!((3595..=3600).contains(&first["ttl"].as_i64().unwrap()), "{}", first["ttl"]);
    assert!(first["token"].as_str().unwrap().contains(&text(&first, "clientId")));
    assert!(world.agrees(1));

    world.pass(minutes(59)).await;
    assert_eq!(world.static_token().await["clientId"], first["clientId"]);
    world.pass(minutes(2)).await;
    let second = world.static_token().await;
    assert!(second["clientId"] != first["clientId"] && second["previous_client_id"] == first["clientId"]);
    assert!(world.agrees(2), "both live during the overlap");
    let end: Timestamp = text(&second, "previous_expires_at").parse().unwrap();
    assert!((595..=600).contains(&end.duration_since(clock::now()).as_secs()));

    world.pass(minutes(9)).await;
    assert!(world.agrees(2));
    world.pass(minutes(2)).await;
    assert!(world.agrees(1) && live(&world).contains(&text(&second, "clientId")));
    assert_eq!(world.static_token().await["previous_client_id"], "");
}

#[tokio::test]
async fn the_inventory_shows_whose_token_it_is() {
    let world = World::with_role("standard").await;
    ok(world
        .write(
            "role",
            json!({"org_id": ORG, "role_name": "r_w_user", "required_metadata": "team", "default_metadata": "env=ci"}),
        )
        .await);
    let missing = world.ask(Operation::Update, PATH, json!({"role": "r_w_user", "rotation_period": "1h"})).await;
    assert!(refused(missing).contains("\"team\""));
    assert!(world.keys("static-role/").is_empty() && live(&world).is_empty());
    world.write_static_role(json!({"role": "r_w_user", "rotation_period": "1h", "metadata": "team=blue"})).await;
    let client = text(&world.static_role().await, "client_id");
    let record = data(world.ask(Operation::Read, &format!("orgs/retailOrg/tokens/{client}"), Value::Null).await);
    assert_eq!(
        (&record["kind"], &record["static_role"], &record["lease_end"]),
        (&json!("static"), &json!("ci"), &json!(""))
    );
    assert_eq!(record["metadata"], json!({"team": "blue", "env": "ci"}));
    assert_eq!(world.static_role().await["metadata"], json!({"team": "blue"}));
    // A read of the token is a use.
    world.static_token().await;
    let record = data(world.ask(Operation::Read, &format!("orgs/retailOrg/tokens/{client}"), Value::Null).await);
    assert_eq!(record["use_count"], 1);
}

#[tokio::test]
async fn a_write_changes_settings_and_rotates_only_if_it_must() {
    let world = World::with_static_role().await;
    let first = world.static_role().await;
    // What a read shows can be written back.
    let answer = world.ask(Operation::Update, PATH, first.clone()).await.unwrap();
    assert!(answer.is_none_or(|answer| answer.warnings.is_empty()));
    assert_eq!(world.static_role().await, first);
    ok(world.ask(Operation::Patch, PATH, json!({"rotation_period": 7200})).await);
    let changed = world.static_role().await;
    assert_eq!((&changed["client_id"], &changed["overlap"]), (&first["client_id"], &json!(600)));
    let [from, until] =
        ["last_vault_rotation", "next_vault_rotation"].map(|time| text(&changed, time).parse::<Timestamp>().unwrap());
    assert_eq!(until.duration_since(from).as_secs(), 7200);
    world.write_static_role(json!({"rotate": true})).await;
    let rotated = world.static_role().await;
    assert_eq!(rotated["previous_client_id"], first["client_id"]);
    // Another role takes effect at once.
    ok(world
        .write("role", json!({"org_id": ORG, "role_name": "other", "role_id": ROLE_ID, "ttl": 60, "max_ttl": 60}))
        .await);
    world.write_static_role(json!({"role": "other"})).await;
    assert_eq!(world.static_role().await["previous_client_id"], rotated["client_id"]);
    assert_eq!(live(&world).len(), 3);
    for role in ["r_w_user", "other"] {
        let deleted = world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role_name": role})).await;
        match role {
            "other" => assert!(refused(deleted).contains("\"ci\"")),
            _ => drop(ok(deleted)),
        }
    }
}

#[tokio::test]
async fn wrong_input_is_a_400_and_changes_nothing() {
    let world = World::with_static_role().await;
    let before = world.storage.entries();
    for (path, fields, part) in [
        (PATH, json!({"rotation_period": "59s"}), "rotation_period"),
        (PATH, json!({"rotation_period": "200y"}), "rotation_period"),
        (PATH, json!({"overlap": "31m"}), "overlap"),
        (PATH, json!({"rotation_period": "15m"}), "overlap"),
        (PATH, json!({"role": "unknown"}), "role"),
        ("orgs/retailOrg/static-roles/new", json!({"rotation_period": "1h"}), "role is required"),
        ("orgs/retailOrg/static-roles/new", json!({"role": "r_w_user"}), "rotation_period is required"),
        (
            "orgs/retailOrg/static-roles/CI",
            json!({"overlap": "1m"}),
            "another spelling of \"astra/orgs/retailOrg/static-roles/ci\"",
        ),
        ("orgs/none/static-roles/ci", json!({"overlap": "1m"}), "none"),
    ] {
        let text = refused(world.ask(Operation::Update, path, fields).await);
        assert!(text.contains(part), "{text}");
    }
    assert!(refused(world.ask(Operation::Read, "static-creds/retailOrg/CI", Value::Null).await).contains("spelling"));
    assert!(
        refused(world.ask(Operation::Read, &format!("static-creds/{ORG}/ci"), Value::Null).await).contains("spelling")
    );
    for path in ["orgs/retailOrg/static-roles/none", "static-creds/retailOrg/none", "static-creds/none/ci"] {
        assert!(world.ask(Operation::Read, path, Value::Null).await.unwrap().is_none(), "{path}");
    }
    assert!(world.storage.entries() == before, "a wrong request has changed something");
}

#[tokio::test]
async fn a_rotation_that_fails_keeps_the_token_and_is_repeated() {
    let world = World::with_static_role().await;
    let first = world.static_token().await;
    world.astra.answer_all("POST", ResponseTemplate::new(503));
    world.pass(minutes(61)).await;
    let kept = world.static_token().await;
    assert_eq!((&kept["clientId"], &kept["token"], &kept["ttl"]), (&first["clientId"], &first["token"], &json!(1)));
    world.astra.heal();
    let world = world.crashed();
    ok(world.tick(false).await);
    eventually(|| world.tasks.is_empty()).await;
    assert_ne!(world.static_token().await["clientId"], first["clientId"]);
}

#[tokio::test]
async fn the_deletion_deletes_all_tokens_and_goes_on_after_a_crash() {
    let world = World::with_static_role().await;
    world.write_static_role(json!({"rotate": true})).await;
    assert!(world.agrees(2));
    world.astra.answer_all("DELETE", ResponseTemplate::new(503));
    assert!(world.ask(Operation::Delete, PATH, Value::Null).await.is_err());
    assert!(world.ask(Operation::Read, PATH, Value::Null).await.unwrap().is_none(), "it is not shown any more");
    world.astra.heal();
    let world = world.crashed();
    ok(world.tick(false).await);
    eventually(|| world.tasks.is_empty()).await;
    assert!(world.is_clean() && world.keys("static-role/").is_empty());
    // Nothing brings a token back.
    world.pass(minutes(120)).await;
    assert!(live(&world).is_empty());
}

#[tokio::test]
async fn a_token_that_was_deleted_by_its_client_id_is_replaced_at_once() {
    let world = World::with_static_role().await;
    ok(world.tick(false).await);
    let first = text(&world.static_role().await, "client_id");
    ok(world.ask(Operation::Delete, &format!("orgs/retailOrg/tokens/{first}"), Value::Null).await);
    eventually(|| live(&world).len() == 1 && world.tasks.is_empty()).await;
    let second = world.static_token().await;
    assert_ne!(second["clientId"], first.as_str());
    assert_eq!(second["previous_client_id"], "");
    assert!(live(&world).contains(&text(&second, "clientId")));
}

#[tokio::test]
async fn a_deleted_token_is_replaced_by_the_next_process_if_this_process_ends() {
    let world = World::with_static_role().await;
    let first = text(&world.static_role().await, "client_id");
    world.astra.answer_all("POST", ResponseTemplate::new(503));
    ok(world.ask(Operation::Delete, &format!("orgs/retailOrg/tokens/{first}"), Value::Null).await);
    eventually(|| world.tasks.is_empty()).await;
    assert!(world.ask(Operation::Read, "static-creds/retailOrg/ci", Value::Null).await.is_err());
    world.astra.heal();
    let world = world.crashed();
    ok(world.tick(false).await);
    eventually(|| world.tasks.is_empty()).await;
    assert!(live(&world).contains(&text(&world.static_token().await, "clientId")));
}

#[tokio::test]
async fn a_token_that_a_tidy_finds_missing_is_replaced_at_once() {
    let world = World::with_static_role().await;
    ok(world.tick(false).await);
    let first = text(&world.static_role().await, "client_id");
    world.astra.state().live.remove(&first);
    ok(world.ask(Operation::Update, "orgs/retailOrg/tidy", json!({"dry_run": false, "safety_buffer": 0})).await);
    eventually(|| live(&world).len() == 1 && world.tasks.is_empty()).await;
    assert!(live(&world).contains(&text(&world.static_token().await, "clientId")));
    assert!(world.agrees(1));
}

#[tokio::test]
async fn a_longer_period_ends_before_the_token_does() {
    let world = World::with_static_role().await;
    world.write_static_role(json!({"rotation_period": "90d"})).await;
    let role = world.static_role().await;
    let key = format!("client/{ORG}/{}", text(&role, "client_id"));
    let expiry: Timestamp = text(&world.storage.json(&key).unwrap(), "expires_at").parse().unwrap();
    let next: Timestamp = text(&role, "next_vault_rotation").parse().unwrap();
    assert!(next < expiry, "the token expires at {expiry}, before its rotation at {next}");
    // The next token lives as long as the period wants.
    world.write_static_role(json!({"rotate": true})).await;
    let role = world.static_role().await;
    let [from, next] =
        ["last_vault_rotation", "next_vault_rotation"].map(|time| text(&role, time).parse::<Timestamp>().unwrap());
    assert_eq!(next.duration_since(from), SignedDuration::from_hours(90 * 24));
}

#[tokio::test]
async fn the_config_stays_as_long_as_a_static_role_needs_it() {
    let world = World::with_static_role().await;
    ok(world.tick(false).await);
    let client = text(&world.static_role().await, "client_id");
    world.astra.answer_all("POST", ResponseTemplate::new(503));
    ok(world.ask(Operation::Delete, &format!("orgs/retailOrg/tokens/{client}"), Value::Null).await);
    eventually(|| world.tasks.is_empty()).await;
    let deletion = |force: bool| world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": force}));
    let text = refused(deletion(false).await);
    assert!(text.contains("static role \"ci\""), "{text}");
    ok(deletion(true).await);
    assert_eq!(world.keys("static-role/"), [""; 0]);
    world.astra.heal();
    world.pass(minutes(120)).await;
    assert!(live(&world).is_empty());
}

#[tokio::test]
async fn the_description_in_astra_names_the_static_role_and_the_owner() {
    let world = World::with_role("standard").await;
    let fields = json!({"role": "r_w_user", "rotation_period": "1h", "metadata": "owner=bob"});
    world.write_static_role(fields).await;
    let described = world.astra.state().live.values().next().unwrap()["description"].as_str().unwrap().to_owned();
    assert!(described.contains(" mount=astra/ role=r_w_user owner=bob static=ci by="), "{described}");
}

#[tokio::test]
async fn the_tokens_do_not_count_towards_the_limit_of_the_role() {
    let world = World::with_static_role().await;
    ok(world.ask(Operation::Patch, "role", json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": 1})).await);
    world.write_static_role(json!({"rotate": true})).await;
    world.mint("checkout").await;
    world.write_static_role(json!({"rotate": true})).await;
    assert_eq!(live(&world).len(), 4);
}

/// The storage fails at any step of a rotation, and another process goes on. Afterwards, the static role has a token that works, and
/// Astra has no token that nobody knows.
#[tokio::test]
async fn a_rotation_that_is_interrupted_anywhere_leaves_a_token_that_works_and_no_other() {
    let world = World::with_static_role().await;
    let calls = |world: &World| world.storage.calls();
    let start = calls(&world);
    world.write_static_role(json!({"rotate": true})).await;
    let steps = calls(&world) - start;
    assert!(steps > 6, "{steps}");
    for kind in [HostFault::At, HostFault::AfterEffectAt, HostFault::From] {
        for n in 1..=steps {
            let world = World::with_static_role().await;
            let before = world.static_token().await;
            world.storage.inject(kind(n));
            _ = world.ask(Operation::Update, PATH, json!({"rotate": true})).await;
            let world = world.crashed();
            world.initialize().await;
            for _ in 0..3 {
                ok(world.tick(true).await);
                eventually(|| world.tasks.is_empty()).await;
            }
            let after = world.static_token().await;
            let known: Vec<String> = [text(&after, "clientId"), text(&after, "previous_client_id")]
                .into_iter()
                .filter(|id| !id.is_empty())
                .collect();
            let all: Vec<String> = live(&world).into_iter().collect();
            assert!(all.contains(&known[0]), "step {n}: the token is gone");
            assert!(all.iter().all(|id| known.contains(id)), "step {n}: Astra has a token that nobody knows");
            assert!(
                after["clientId"] == before["clientId"] || after["previous_client_id"] == before["clientId"],
                "step {n}"
            );
            // If the engine cannot know whether its request reached Astra, it looks again for a quarter of an hour.
            let is_waiting =
                |key: &String| world.storage.json(key).is_some_and(|entry| entry.to_string().contains("looked"));
            assert!(world.keys("wal/").iter().all(is_waiting), "step {n} is unfinished");
        }
    }
}
