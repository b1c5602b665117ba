//! Rotations that the engine starts on its own.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, ReplicationState};
use vault_plugin_sdk::testing::MemoryStorage;
use wiremock::ResponseTemplate;

use super::logs::capture;
use super::root_expiry::days;
use super::{ORG, World, eventually, ok, refused, some};
use crate::clock::{self, test::move_by};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

impl World {
    async fn with_period(period: &str) -> Self {
        let world = Self::with_role("standard").await;
        ok(world.write("config", json!({"org_id": ORG, "rotation_period": period, "request_timeout": "1s"})).await);
        ok(world.tick(false).await);
        world
    }

    /// Lets the stored config have these dates, as Astra's list says them.
    async fn learn_dates(&self, created: Option<SignedDuration>, expires: Option<SignedDuration>) {
        self.set_dates(created, expires);
        let root = self.astra.root();
        some(self.write("config", json!({"org_id": ORG, "astra_token": root, "verify_connection": true})).await);
    }

    async fn next(&self) -> Timestamp {
        self.shown().await["next_rotation_at"].as_str().expect("a time").parse().expect("a time")
    }

    fn posts(&self) -> usize {
        self.astra.count("POST")
    }
}

#[tokio::test]
async fn the_tick_rotates_a_root_token_when_its_period_is_over() {
    let (log, _guard) = capture();
    let world = World::with_period("10h").await;
    let (start, first) = (clock::now(), world.astra.root());
    let next = world.next().await;
    let left = next.duration_since(start);
    assert!(HOUR * 9 - HOUR / 60 <= left && left <= HOUR * 10, "{left}");
    move_by(HOUR * 8);
    // The time is stored: a restart changes nothing.
    let world = world.remounted().await;
    ok(world.tick(false).await);
    assert_eq!((world.next().await, world.astra.root()), (next, first.clone()));
    move_by(HOUR * 2);
    ok(world.tick(false).await);
    let second = world.astra.root();
    assert_ne!(second, first);
    let shown = world.shown().await;
    let rotated: Timestamp = shown["last_rotated_at"].as_str().expect("a time").parse().expect("a time");
    assert!(clock::now().duration_since(rotated) < HOUR);
    assert!(world.next().await > clock::now() && shown["root_created_at"].is_string(), "{shown}");
    assert_eq!(world.astra.state().roots.len(), 1);
    let description =
        world.astra.state().roots.values().next().and_then(|root| root.description.as_str().map(str::to_owned));
    assert!(description.is_some_and(|text| text.ends_with(" mount=astra/ root")));
    assert!(log.has("INFO", "rotated root token on schedule"));
    // Not again at the next tick, and again after another period.
    ok(world.tick(false).await);
    assert_eq!(world.astra.root(), second);
    move_by(HOUR * 10);
    ok(world.tick(false).await);
    assert_ne!(world.astra.root(), second);
    // Turned off.
    ok(world.write("config", json!({"org_id": ORG, "rotation_period": 0})).await);
    assert_eq!(world.shown().await["next_rotation_at"], Value::Null);
    let posts = world.posts();
    move_by(days(100));
    ok(world.tick(false).await);
    assert_eq!(world.posts(), posts);
    world.mint("a").await;
}

#[tokio::test]
async fn a_root_token_that_expires_is_rotated_in_its_last_tenth_and_gets_the_same_life() {
    let world = World::with_period("87600h").await;
    world.learn_dates(Some(days(-89)), Some(days(11))).await;
    let first = world.astra.root();
    ok(world.tick(false).await);
    assert_eq!(world.astra.root(), first);
    assert!((23..=24).contains(&(world.next().await.duration_since(clock::now()).as_secs() / 3600)));
    move_by(days(1));
    ok(world.tick(false).await);
    assert_ne!(world.astra.root(), first);
    let asked = world.astra.state().asked_expiry.clone();
    let expiry: Timestamp = asked.as_str().expect("an expiry").parse().expect("a time");
    let life = expiry.duration_since(clock::now());
    assert!(days(100) - HOUR < life && life <= days(100), "{life}");
    assert_eq!(world.shown().await["root_expires_at"], asked);
}

/// The alerts of the monitoring example must not fire if the engine rotates the root token in time, and fire if it fails to.
#[tokio::test]
async fn the_metrics_show_the_planned_rotation_and_an_expiry_without_one() {
    const EXPIRY: &str = "astra_root_token_next_expiry_timestamp_seconds";
    const UNPLANNED: &str = "astra_root_token_next_expiry_without_rotation_timestamp_seconds";
    const ROTATION: &str = "astra_root_token_next_rotation_timestamp_seconds";
    let world = World::with_period("87600h").await;
    let of_org = format!("astra_org_root_token_next_rotation_timestamp_seconds{{org=\"{ORG}\"}}");
    let times = async || {
        let series = world.series().await;
        [EXPIRY, UNPLANNED, ROTATION, &of_org].map(|name| series.get(name).map(|time| *time as i64))
    };
    world.learn_dates(Some(days(-89)), Some(days(11))).await;
    let (expiry, next) =
        (clock::now().checked_add(days(11)).unwrap().as_second(), Some(world.next().await.as_second()));
    assert_eq!(times().await, [Some(expiry), None, next, next]);
    // The rotation fails.
    world.astra.answer_all("POST", ResponseTemplate::new(403));
    move_by(days(1));
    ok(world.tick(false).await);
    assert_eq!(times().await, [Some(expiry), None, next, next], "it is late by less than an hour");
    move_by(HOUR * 2);
    assert_eq!(times().await, [Some(expiry), Some(expiry), next, next]);
    world.astra.heal();
    ok(world.write("config", json!({"org_id": ORG, "rotation_period": 0})).await);
    assert_eq!(times().await, [Some(expiry), Some(expiry), None, None]);
}

#[tokio::test]
async fn a_new_root_token_expires_only_if_the_old_one_did_and_if_the_config_sends_expiries() {
    let world = World::with_role("standard").await;
    for (expires, config, expected) in [
        (None, json!({"token_expiry": true}), false),
        (Some(days(50)), json!({"token_expiry": true}), true),
        (Some(days(50)), json!({"token_expiry": false}), false),
    ] {
        ok(world.ask(Operation::Patch, "orgs/retailOrg", config).await);
        world.set_dates(Some(days(-50)), expires);
        some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
        assert_eq!(world.astra.state().asked_expiry.is_string(), expected);
    }
}

/// The organization has a maximum that is shorter than the life of the old root token.
#[tokio::test]
async fn a_new_root_token_gets_the_maximum_of_the_organization() {
    let world = World::with_role("standard").await;
    world.set_dates(Some(days(-50)), Some(days(50)));
    world.astra.state().refuses_expiry = true;
    let first = world.astra.root();
    some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
    assert!(world.astra.root() != first && world.astra.state().asked_expiry.is_null());
    assert!(world.unfinished().is_empty());
}

#[tokio::test]
async fn a_failed_rotation_is_repeated_after_a_pause() {
    let (log, _guard) = capture();
    let world = World::with_period("1h").await;
    let first = world.astra.root();
    move_by(HOUR);
    for answer in [ResponseTemplate::new(403), ResponseTemplate::new(503)] {
        world.astra.answer_all("POST", answer);
        ok(world.tick(false).await);
        assert!(log.has("ERROR", "failed to rotate a root token on schedule, will retry"));
        let posts = world.posts();
        ok(world.tick(false).await);
        assert_eq!(world.posts(), posts, "the pause has begun");
        world.astra.heal();
    }
    assert_eq!(log.count("ERROR", "failed to rotate a root token on schedule"), 1);
    assert_eq!(world.astra.root(), first);
    // The time of the rotation is stored, and the pause is not.
    let world = world.remounted().await;
    ok(world.tick(false).await);
    assert_ne!(world.astra.root(), first);
    world.until_undone().await;
}

#[tokio::test]
async fn a_clock_that_jumps_back_does_no_harm() {
    let world = World::with_period("10h").await;
    ok(world.tick(false).await);
    move_by(days(1000));
    ok(world.tick(false).await);
    let second = world.astra.root();
    move_by(days(-1000));
    for _ in 0..3 {
        ok(world.tick(false).await);
    }
    assert_eq!(world.astra.root(), second, "no rotation after another");
    // At the next daily look, the stored time is corrected.
    for _ in 0..3 {
        move_by(SignedDuration::from_secs(86400 - clock::now().as_second().rem_euclid(86400)));
        ok(world.tick(false).await);
    }
    let next = world.next().await.duration_since(clock::now());
    assert!(next <= HOUR * 10, "{next}");
    move_by(HOUR * 10);
    ok(world.tick(false).await);
    assert_ne!(world.astra.root(), second);
}

#[tokio::test]
async fn only_the_active_node_of_a_mount_that_stays_rotates() {
    let world = World::with_period("1h").await;
    let first = world.astra.root();
    move_by(HOUR);
    world.system.set_state(ReplicationState::PERFORMANCE_STANDBY);
    ok(world.tick(false).await);
    world.system.set_state(ReplicationState::default());
    world.system.set_tainted(true);
    ok(world.tick(false).await);
    assert_eq!(world.astra.root(), first);
    world.system.set_tainted(false);
    ok(world.tick(false).await);
    assert_ne!(world.astra.root(), first);
}

#[tokio::test]
async fn a_rotation_by_hand_takes_the_place_of_a_planned_one() {
    let world = Arc::new(World::with_period("1h").await);
    move_by(HOUR);
    world.astra.delay("POST", Duration::from_millis(100));
    let by_hand = tokio::spawn({
        let world = world.clone();
        async move { some(world.write("config/rotate-root", json!({"org_id": ORG})).await) }
    });
    eventually(|| world.posts() == 1).await;
    ok(world.tick(false).await);
    by_hand.await.expect("ends");
    ok(world.tick(false).await);
    assert_eq!((world.posts(), world.astra.roots().len()), (1, 1));
}

/// The host cancels a tick after 90 seconds.
#[tokio::test]
async fn a_rotation_continues_if_the_host_cancels_its_tick() {
    let world = World::with_period("1h").await;
    let first = world.astra.root();
    move_by(HOUR);
    world.astra.delay("POST", Duration::from_millis(100));
    assert!(tokio::time::timeout(Duration::from_millis(50), world.tick(false)).await.is_err());
    ok(world.tick(false).await);
    let has_one = || world.astra.roots().len() == 1 && world.astra.root() != first;
    eventually(has_one).await;
    assert_eq!(world.posts(), 1);
}

/// Whichever storage call of the tick fails: there is one root token in the end, and the config holds it.
#[tokio::test]
async fn a_fault_of_the_storage_in_a_planned_rotation_leaves_one_root_token() {
    let world = World::with_period("1h").await;
    move_by(HOUR);
    let before = world.storage.calls();
    ok(world.tick(false).await);
    let calls = world.storage.calls() - before;
    assert!(calls >= 5, "{calls}");
    let mut world = world;
    for n in 1..=calls {
        move_by(HOUR);
        world.storage.fail_nth(n);
        drop(world.tick(false).await);
        world.storage.heal();
        world = world.remounted().await;
        world.until_undone().await;
        ok(world.tick(true).await);
        let stored = world.storage.json(&format!("config/{ORG}")).expect("the config is stored");
        assert_eq!(stored["astra_token"], json!(world.astra.root()), "call {n}");
    }
}

#[tokio::test]
async fn a_rotation_period_is_0_or_between_an_hour_and_ten_years() {
    let world = World::with_role("standard").await;
    for period in ["59m", "-1h", "87601h"] {
        let text = refused(world.write("config", json!({"org_id": ORG, "rotation_period": period})).await);
        assert!(text.contains("rotation_period"), "{text}");
    }
    for (period, shown) in [(json!("720h"), 2_592_000), (json!(3600), 3600), (json!("0"), 0)] {
        ok(world.ask(Operation::Patch, "orgs/retailOrg", json!({"rotation_period": period})).await);
        assert_eq!(world.shown().await["rotation_period"], shown);
    }
    assert_eq!(super::data(world.read("config", json!({"org_id": ORG})).await)["rotation_period"], "0s");
    let stored = world.storage.json(&format!("config/{ORG}")).expect("the config is stored");
    assert!(stored.get("root").is_none_or(|root| root.get("rotation_period").is_none()), "{stored}");
}

/// A mount whose next rotation leads to a root token that nothing identifies: the answer of Astra is lost.
async fn about_to_lose() -> World {
    let world = World::with_period("1h").await;
    ok(world.write("config", json!({"org_id": ORG, "description": false})).await);
    move_by(HOUR);
    world.astra.answer_after_all("POST", ResponseTemplate::new(503));
    world
}

const STOPPED: &str = "stopped rotating a root token on schedule";

#[tokio::test]
async fn a_rotation_whose_outcome_is_lost_stops_the_schedule_until_somebody_acts() {
    for by_hand in [false, true] {
        let (log, _guard) = capture();
        let world = about_to_lose().await;
        let (first, posts) = (world.held(), world.posts());
        ok(world.tick(false).await);
        assert_eq!(world.posts(), posts + 1);
        assert_eq!((log.count("ERROR", STOPPED), log.count("ERROR", "will retry")), (1, 0));
        let mut world = world.remounted().await;
        for _ in 0..3 {
            move_by(HOUR * 2);
            ok(world.tick(true).await);
            world = world.remounted().await;
        }
        assert_eq!((world.posts(), log.count("ERROR", STOPPED)), (posts + 1, 1));
        assert_eq!(world.shown().await["next_rotation_at"], Value::Null);
        let warnings = some(world.read("config", json!({"org_id": ORG})).await).warnings;
        assert!(warnings.iter().any(|warning| warning.contains("orgs/retailOrg/rotate-root")), "{warnings:?}");
        let status = world.status(json!({"org_id": ORG})).await["orgs"][ORG].take();
        assert!(status["rotation_stopped_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{status}");
        world.astra.heal();
        if by_hand {
            some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
        } else {
            ok(world.ask(Operation::Patch, "orgs/retailOrg", json!({"request_timeout": "2s"})).await);
            ok(world.tick(false).await);
        }
        assert_ne!(world.held(), first);
        assert!(world.next().await > clock::now());
        let status = world.status(json!({"org_id": ORG})).await["orgs"][ORG].take();
        assert_eq!(status["rotation_stopped_at"], "");
        move_by(HOUR);
        let second = world.held();
        ok(world.tick(false).await);
        assert_ne!(world.held(), second);
    }
}

/// The process is killed while Astra makes the root token, or the storage fails while the engine stops the schedule.
#[tokio::test]
async fn no_second_rotation_follows_one_whose_outcome_is_lost() {
    let world = about_to_lose().await;
    let posts = world.posts();
    world.astra.heal();
    world.astra.delay("POST", Duration::from_millis(200));
    let (backend, calls) = (world.backend.clone(), world.posts());
    let ticking = tokio::spawn(async move {
        backend.handle(super::request(Operation::Rollback, "", json!({"immediate": false}))).await
    });
    eventually(|| world.posts() == calls + 1).await;
    let next = World::with(Arc::new(MemoryStorage::holding(world.storage.entries())), world.astra.clone());
    drop(ticking.await);
    next.initialize().await;
    ok(next.tick(false).await);
    assert_eq!(next.posts(), posts + 1, "the entry of the rotation is not undone yet");
    drop(next.tick(true).await);
    move_by(HOUR);
    ok(next.tick(false).await);
    assert_eq!(next.posts(), posts + 1);
    assert_eq!(next.shown().await["next_rotation_at"], Value::Null);

    for n in 1.. {
        let (log, _guard) = capture();
        let world = about_to_lose().await;
        let (posts, before) = (world.posts(), world.storage.calls());
        world.storage.fail_nth(n);
        drop(world.tick(false).await);
        let is_over = world.storage.calls() - before < n;
        world.storage.heal();
        let world = world.remounted().await;
        for _ in 0..3 {
            drop(world.tick(true).await);
            move_by(HOUR * 2);
        }
        assert_eq!((world.posts(), log.count("ERROR", STOPPED)), (posts + 1, 1), "call {n}");
        if is_over {
            assert!(n > 5, "{n} storage calls");
            break;
        }
    }
}
