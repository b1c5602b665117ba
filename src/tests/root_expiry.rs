//! When a root token expires: what a config shows, what it warns about, and what the tick learns each day.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;
use wiremock::ResponseTemplate;

use super::logs::capture;
use super::{ORG, ROOT, World, data, ok, some};
use crate::clock::{self, test::move_by};

pub(super) fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// Returns the time that is `from_now` later than now, as Astra and answers write it.
fn time(from_now: SignedDuration) -> Timestamp {
    clock::now().checked_add(from_now).expect("a time")
}

impl World {
    /// Lets Astra's list say when the root token of the config was generated and expires, from now.
    pub(super) fn set_dates(&self, created: Option<SignedDuration>, expires: Option<SignedDuration>) {
        let shown = |from_now: Option<SignedDuration>| json!(from_now.map(|from_now| time(from_now).to_string()));
        let dates = json!({"generatedOn": shown(created), "tokenExpiry": shown(expires)});
        let id = self.root_in_config();
        self.astra.state().dates.insert(id, dates);
    }

    /// Client id of the root token that the config holds, or of the first one.
    fn root_in_config(&self) -> String {
        let config = self.storage.json(&format!("config/{ORG}"));
        let token = config.map_or(json!(ROOT), |config| config["astra_token"].clone());
        token.as_str().and_then(|token| token.split(':').nth(1)).expect("a client id").to_owned()
    }

    pub(super) async fn shown(&self) -> Value {
        data(self.read("orgs/retailOrg", json!({})).await)
    }

    async fn warnings(&self) -> Vec<String> {
        some(self.read("config", json!({"org_id": ORG})).await).warnings
    }

    /// Moves the clock to the end of the day. Each org is due once in a whole day.
    async fn end_the_day(&self) {
        let second = clock::now().as_second();
        move_by(SignedDuration::from_secs(86400 - second.rem_euclid(86400)));
        self.astra.state().requests.clear();
        ok(self.tick(false).await);
    }
}

fn write() -> Value {
    json!({"org_id": ORG, "astra_token": ROOT})
}

#[tokio::test]
async fn a_config_shows_the_dates_of_its_root_token() {
    let world = World::new().await;
    world.write_config("standard").await;
    let none = ["last_rotated_at", "next_rotation_at", "root_created_at", "root_expires_at"];
    let shown = world.shown().await;
    assert!(none.iter().all(|member| shown.get(member) == Some(&Value::Null)), "{shown}");

    world.set_dates(Some(days(-10)), Some(days(90)));
    assert!(ok(world.write("config", write()).await).is_none());
    let shown = world.shown().await;
    assert_eq!(shown["root_created_at"], json!(time(days(-10)).to_string()));
    assert_eq!(shown["root_expires_at"], json!(time(days(90)).to_string()));
    let of_guide = data(world.read("config", json!({"org_id": ORG})).await);
    assert!(none.iter().all(|member| of_guide[member] == shown[member]), "{of_guide}");
    // What was read can be written back.
    for operation in [Operation::Update, Operation::Patch] {
        assert!(ok(world.ask(operation, "orgs/retailOrg", shown.clone()).await).is_none());
    }
    assert_eq!(world.shown().await, shown);
    let other = json!({"root_expires_at": "2030-01-01T00:00:00Z"});
    let warnings = some(world.write("orgs/retailOrg", other).await).warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with("root_expires_at is set by the engine"), "{warnings:?}");
    assert_eq!(world.shown().await, shown);
    // Another root token has other dates.
    let other = json!({"org_id": ORG, "astra_token": "AstraCS:another:abc", "verify_connection": false});
    ok(world.write("config", other).await);
    assert_eq!(
        (&world.shown().await["root_created_at"], &world.shown().await["root_expires_at"]),
        (&Value::Null, &Value::Null)
    );
}

#[tokio::test]
async fn answers_about_a_config_warn_from_14_days_before_the_expiry() {
    let world = World::new().await;
    world.write_config("standard").await;
    for (expires, expected) in [
        (days(15), None),
        (days(13), Some("in 12 days; rotate it with \"vault write -f astra/orgs/retailOrg/rotate-root\"")),
        (SignedDuration::from_hours(30), Some("in 29 hours; rotate it")),
        (days(-1), Some("write another astra_token")),
    ] {
        world.set_dates(Some(days(-90)), Some(expires - SignedDuration::from_secs(5)));
        let written = ok(world.write("config", write()).await).map_or_else(Vec::new, |answer| answer.warnings);
        let read = world.warnings().await;
        let of_path = some(world.read("orgs/retailOrg", json!({})).await).warnings;
        for warnings in [written, read, of_path] {
            assert_eq!(warnings.len(), usize::from(expected.is_some()), "{warnings:?}");
            let is_right = |text: &str| warnings[0].contains(text) && warnings[0].contains("ONqZCOAAAAAAAAAAAAAAAAe");
            assert!(expected.is_none_or(is_right), "{warnings:?}");
        }
    }
    // Of several writes, each warns.
    let warnings = some(world.write("config", json!({"org_id": ORG, "request_timeout": "20s"})).await).warnings;
    assert!(warnings[0].contains("expired at"), "{warnings:?}");
}

#[tokio::test]
async fn a_failed_read_of_the_list_never_fails_the_write_of_a_config() {
    let world = World::new().await;
    world.write_config("standard").await;
    world.set_dates(Some(days(-10)), Some(days(90)));
    for answer in [ResponseTemplate::new(403), ResponseTemplate::new(200).set_body_json(json!({"clients": []}))] {
        // The first request asks for the organization.
        world.astra.fault_nth(1, false, false, answer);
        assert!(ok(world.write("config", write()).await).is_none());
        assert_eq!(world.shown().await["root_created_at"], Value::Null);
        world.astra.heal();
    }
}

#[tokio::test]
async fn the_tick_reads_the_dates_after_a_write_that_asked_astra_nothing() {
    let world = World::new().await;
    world.set_dates(Some(days(-10)), Some(days(90)));
    let config = json!({"org_id": ORG, "astra_token": ROOT, "url": world.astra.url(), "logical_name": "retailOrg",
        "verify_connection": false});
    ok(world.write("config", config).await);
    assert_eq!(world.astra.count("GET"), 0);
    ok(world.tick(false).await);
    assert_eq!(world.shown().await["root_expires_at"], json!(time(days(90)).to_string()));
    // Once.
    let requests = world.astra.state().requests.len();
    ok(world.tick(false).await);
    assert_eq!(world.astra.state().requests.len(), requests);
}

#[tokio::test]
async fn the_tick_reads_the_dates_once_a_day_and_writes_only_changes() {
    let world = World::new().await;
    world.write_config("standard").await;
    world.set_dates(Some(days(-10)), Some(days(90)));
    ok(world.tick(false).await);
    world.end_the_day().await;
    world.end_the_day().await;
    assert_eq!(world.astra.state().requests, ["GET /v2/clientIdSecrets"]);
    let shown = world.shown().await;
    assert!(shown["root_expires_at"].is_string());
    let writes = world.storage.writes();
    for _ in 0..3 {
        world.end_the_day().await;
        assert_eq!(world.astra.state().requests, ["GET /v2/clientIdSecrets"]);
    }
    assert_eq!((world.storage.writes(), &world.shown().await), (writes, &shown));
    // A new process has no work at once.
    let world = world.remounted().await;
    world.astra.state().requests.clear();
    ok(world.tick(false).await);
    assert_eq!(world.astra.state().requests, [""; 0]);
    // Somebody changes the expiry in Astra.
    world.set_dates(Some(days(-10)), Some(days(30)));
    world.end_the_day().await;
    world.end_the_day().await;
    assert_ne!(world.shown().await["root_expires_at"], shown["root_expires_at"]);
}

#[tokio::test]
async fn the_log_warns_each_day_also_while_astra_fails() {
    let (log, _guard) = capture();
    let world = World::new().await;
    world.write_config("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
    ok(world.tick(false).await);
    world.end_the_day().await;
    let soon = "found a root token that expires within 14 days";
    let urgent = "found a root token that expires within 3 days, or has expired";
    world.set_dates(Some(days(-10)), Some(days(17)));
    let mut seen = Vec::new();
    for day in 0..18 {
        if day == 5 {
            world.astra.answer_all("GET", ResponseTemplate::new(503));
        }
        let before = (log.count("WARN", soon), log.count("ERROR", urgent));
        world.end_the_day().await;
        seen.push((log.count("WARN", soon) - before.0, log.count("ERROR", urgent) - before.1));
    }
    // On the third and the fourteenth day, a second decides.
    assert_eq!(seen[..2], [(0, 0), (0, 0)], "{seen:?}");
    assert!(seen[3..13].iter().all(|lines| *lines == (1, 0)), "{seen:?}");
    assert!(seen[14..].iter().all(|lines| *lines == (0, 1)), "{seen:?}");
    assert!(log.has("WARN", "failed to read when a root token expires, will retry"));
    assert!(log.has("ERROR", "client_id=\"ONqZCOAAAAAAAAAAAAAAAAe\"") && log.has("ERROR", "next_rotation=\"none\""));
}

#[tokio::test]
async fn a_standby_and_a_config_that_cannot_be_read_have_no_daily_work() {
    let world = World::new().await;
    world.write_config("standard").await;
    world.stored(&format!("config/{ORG}"), json!({"astra_token": 1})).await;
    world.backend.invalidate(&format!("config/{ORG}"));
    ok(world.tick(false).await);
    world.end_the_day().await;
    assert_eq!(world.astra.state().requests, [""; 0]);
    world.end_the_day().await;
    assert_eq!(world.astra.state().requests, [""; 0]);
}
