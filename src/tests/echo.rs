//! What Astra's answer to a mint says about the description and the expiry of the token.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::logs::capture;
use super::{ORG, World, eventually, lease, map, ok, order, some, status, text};

const UNMARKED: &str = "got a token without its description";

/// Returns the time this many seconds from now, as Astra writes it.
fn in_seconds(seconds: i64) -> String {
    format!("{:.3}", Timestamp::now() + SignedDuration::from_secs(seconds))
}

#[tokio::test]
async fn a_lost_marker_is_noticed_once_for_each_org() {
    let (capture, _guard) = capture();
    let world = World::with_role("standard").await;
    world.mint("kept").await;
    assert!(!capture.has("WARN", UNMARKED));
    let cut = "vault 0123456789ab/0123";
    for (n, description) in [json!(null), json!(""), json!(cut), json!({"text": 1})].into_iter().enumerate() {
        world.astra.change("description", description);
        assert!(world.mint(&format!("lost{n}")).await.warnings.is_empty());
    }
    assert_eq!(capture.count("WARN", UNMARKED), 1);
    // An org whose config turns descriptions off expects no marker.
    let (capture, _guard) = self::capture();
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "description": false})).await);
    world.mint("a").await;
    assert!(!capture.has("WARN", UNMARKED));
}

#[tokio::test]
async fn a_lease_ends_before_the_earlier_expiry_that_astra_names() {
    let world = World::with_role("standard").await;
    for (name, life, ttl, max_ttl) in [("a", 7200, 3600, 7199), ("b", 600, 599, 599)] {
        let expiry = in_seconds(life);
        world.astra.change("tokenExpiry", json!(expiry));
        let minted = world.mint(name).await;
        let secret = lease(&minted);
        for (granted, most) in [(secret.ttl, ttl), (secret.max_ttl, max_ttl)] {
            let granted = granted.as_secs();
            assert!((most - 3..=most).contains(&granted), "{name}: {granted}");
        }
        let [warning] = &minted.warnings[..] else { panic!("{:?}", minted.warnings) };
        assert!(
            warning.contains("Astra lets the token expire at") && warning.contains("max_ttl was cut to"),
            "{warning}"
        );

        let whole: Timestamp = expiry.parse().unwrap();
        let record = world.storage.json(&format!("client/{ORG}/{}", text(&minted, "clientId"))).unwrap();
        for told in [&secret.internal_data["expires_at"], &record["expires_at"]] {
            let told: Timestamp = told.as_str().unwrap().parse().unwrap();
            assert_eq!(told.as_second(), whole.as_second());
        }
        let listed = world.list("org/tokens", json!({})).await;
        let end: Timestamp =
            listed["key_info"][text(&minted, "clientId")]["lease_end"].as_str().unwrap().parse().unwrap();
        assert!(end < whole && whole.duration_since(end) < SignedDuration::from_secs(5), "{end}");

        let renewed = lease(&some(world.renew(&secret.issue_time(Timestamp::now()), json!({})).await));
        assert!(renewed.max_ttl <= Duration::from_secs(life as u64), "{:?}", renewed.max_ttl);
    }
}

#[tokio::test]
async fn an_expiry_that_the_lease_does_not_reach_shortens_nothing() {
    let world = World::with_role("standard").await;
    // The max TTL is ten hours, and the engine asks for an hour more.
    for (name, echo) in [
        ("none", Value::Null),
        ("other", json!(17)),
        ("text", json!("soon")),
        ("later", json!(in_seconds(90_000))),
        ("rounded", json!(in_seconds(39_590))),
    ] {
        world.astra.change("tokenExpiry", echo);
        let minted = world.mint(name).await;
        assert_eq!((lease(&minted).max_ttl.as_secs(), minted.warnings.len()), (36_000, 0), "{name}");
    }
    let listed = world.list("org/tokens", json!({})).await;
    let ends =
        map(listed["key_info"].clone()).into_iter().map(|(_, info)| info["lease_end"].as_str().map(str::to_owned));
    for end in ends {
        let left = end.unwrap().parse::<Timestamp>().unwrap().duration_since(Timestamp::now()).as_secs();
        assert!((35_985..=36_000).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn an_expiry_is_followed_although_the_engine_asked_for_none() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "token_expiry": false})).await);
    world.astra.change("tokenExpiry", json!(in_seconds(600)));
    let minted = world.mint("a").await;
    assert!(lease(&minted).max_ttl < Duration::from_secs(600) && minted.warnings.len() == 1);
    let record = world.storage.json(&world.keys("client/")[0]).unwrap();
    assert_eq!(record["expires_in_astra"], true);
}

#[tokio::test]
async fn a_token_that_expires_at_once_is_undone() {
    let world = World::with_role("standard").await;
    for seconds in [-60, 0, 1] {
        world.astra.change("tokenExpiry", json!(in_seconds(seconds)));
        let (code, message) = status(world.write("org/token", order("a")).await);
        assert!(code == 502 && message.contains("expires too early"), "{code}: {message}");
        eventually(|| world.is_clean()).await;
    }
}
