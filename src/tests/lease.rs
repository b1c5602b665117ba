//! Renewals and revocations.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Secret};
use wiremock::ResponseTemplate;

use super::{ORG, ROLE_ID, World, lease, ok, order, some, status, text};

fn seconds_ago(secret: Secret, seconds: i64) -> Secret {
    let issued = Timestamp::from_second(Timestamp::now().as_second() - seconds).unwrap();
    secret.issue_time(issued)
}

async fn renewed(world: &World, secret: &Secret) -> Secret {
    lease(&some(world.renew(secret, Value::Null).await))
}

#[tokio::test]
async fn a_renewal_uses_the_present_ttls_of_the_role() {
    let world = World::with_role("standard").await;
    let minted = world.mint("org1").await;
    let secret = seconds_ago(lease(&minted), 60);
    let shown = Value::Object(minted.data.clone().unwrap());
    let response = some(world.renew(&secret, shown.clone()).await);
    let renewal = lease(&response);
    assert_eq!(renewal.ttl.as_secs(), 3600);
    assert!((35998..=36000).contains(&renewal.max_ttl.as_secs()), "{:?}", renewal.max_ttl);
    assert_eq!(renewal.issue_time, secret.issue_time);
    assert!(renewal.internal_data == secret.internal_data, "internal data changed");
    assert!(Value::Object(response.whole_data().unwrap()) == shown, "data changed");

    world.write_role(json!({"ttl": 600, "max_ttl": 1200})).await;
    let renewal = renewed(&world, &secret).await;
    assert_eq!((renewal.ttl.as_secs(), renewal.max_ttl.as_secs()), (600, 1200));

    ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    let renewal = renewed(&world, &secret).await;
    assert_eq!(renewal.ttl.as_secs(), 3600, "the values recorded at minting serve");
}

#[tokio::test]
async fn an_increment_is_granted_up_to_every_limit() {
    let world = World::with_role("standard").await;
    let secret = lease(&world.mint("org1").await);
    let asked = |seconds: u64, secret: &Secret| secret.clone().increment(Duration::from_secs(seconds));
    let fresh = seconds_ago(secret.clone(), 0);
    assert_eq!(renewed(&world, &asked(60, &fresh)).await.ttl.as_secs(), 60);
    assert!((35998..=36000).contains(&renewed(&world, &asked(1_000_000, &fresh)).await.ttl.as_secs()));

    // 100 seconds before the max TTL.
    let old = seconds_ago(secret.clone(), 35900);
    let renewal = renewed(&world, &asked(3600, &old)).await;
    assert!((98..=100).contains(&renewal.ttl.as_secs()), "{:?}", renewal.ttl);

    // The limits are the maximum of the mount and the expiry in Astra, although the role now allows more.
    world.system.set_max_lease_ttl(Duration::from_secs(300));
    assert!((298..=300).contains(&renewed(&world, &asked(3600, &fresh)).await.ttl.as_secs()));
    world.system.set_max_lease_ttl(Duration::from_secs(10_000_000));
    world.write_role(json!({"ttl": 3600, "max_ttl": 5_000_000})).await;
    let capped = renewed(&world, &asked(4_000_000, &fresh)).await;
    assert!((39598..=39602).contains(&capped.ttl.as_secs()), "{:?}", capped.ttl);
}

#[tokio::test]
async fn the_renewal_of_a_lease_that_cannot_be_extended_succeeds() {
    let world = World::with_role("standard").await;
    let secret = seconds_ago(lease(&world.mint("org1").await), 40000);
    let renewal = renewed(&world, &secret).await;
    assert_eq!((renewal.ttl.as_secs(), renewal.renewable), (1, false));
    // The host rejects a renewal after the max TTL.
    assert!(renewal.max_ttl.as_secs() > 40000);
}

#[tokio::test]
async fn the_host_sees_the_whole_granted_ttl_near_the_max_ttl() {
    let world = World::with_role("standard").await;
    let age = jiff::SignedDuration::from_millis(40_000_950);
    let issued = Timestamp::now().checked_sub(age).unwrap();
    let secret = lease(&world.mint("org1").await).issue_time(issued);
    let renewal = renewed(&world, &secret).await;
    let end = issued.checked_add(jiff::SignedDuration::try_from(renewal.max_ttl).unwrap()).unwrap();
    let left = end.duration_since(Timestamp::now()).as_millis();
    assert!(left > 500, "{left} ms");
}

#[tokio::test]
async fn a_renewal_restores_lost_data_and_fails_for_a_deleted_token() {
    let world = World::with_role("standard").await;
    let minted = world.mint("org1").await;
    let secret = seconds_ago(lease(&minted), 10);
    let response = some(world.renew(&secret, Value::Null).await);
    assert!(response.data == minted.data, "the data is another");
    ok(world.revoke(&secret).await);
    let (code, text) = status(world.renew(&secret, Value::Null).await);
    assert!(code == 400 && text.contains("was deleted"), "{text}");
    // A new token with the same name does not belong to the old lease.
    world.mint("org1").await;
    assert_eq!(status(world.renew(&secret, Value::Null).await).0, 400);
}

#[tokio::test]
async fn a_revocation_needs_neither_role_nor_the_old_root_token() {
    let world = World::with_role("standard").await;
    let secret = lease(&world.mint("org1").await);
    ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    ok(world.write("config", json!({"org_id": ORG, "logical_name": "other"})).await);
    assert!(ok(world.revoke(&secret).await).is_none());
    assert_eq!((world.astra.live(), world.keys("token/").len(), world.keys("client/").len()), (0, 0, 0));
    ok(world.revoke(&secret).await);
}

#[tokio::test]
async fn only_an_answer_of_astra_itself_proves_that_a_token_is_deleted() {
    let not_success = [
        (ResponseTemplate::new(404).set_body_string("404 page not found\n"), 502),
        (ResponseTemplate::new(404).set_body_raw("<html>no</html>", "text/html"), 502),
        (
            ResponseTemplate::new(401).set_body_json(json!({"errors": [{"ID": 340_018, "message": "not found 404"}]})),
            403,
        ),
        (ResponseTemplate::new(401).set_body_json(Value::Null), 403),
        (ResponseTemplate::new(403), 403),
        (ResponseTemplate::new(500), 502),
        (ResponseTemplate::new(503), 503),
        (ResponseTemplate::new(429), 429),
        (ResponseTemplate::new(400).set_body_json("bad"), 400),
        (ResponseTemplate::new(302), 502),
        (ResponseTemplate::new(200).set_body_raw("<html>Log in to go on</html>", "text/html"), 502),
        (ResponseTemplate::new(200).set_body_string("maintenance"), 502),
    ];
    let world = World::with_role("standard").await;
    let secret = lease(&world.mint("org1").await);
    for (answer, expected) in not_success {
        world.astra.answer_all("DELETE", answer);
        let (code, text) = status(world.revoke(&secret).await);
        assert_eq!(code, expected, "{text}");
        assert!(!text.contains("role_id"), "a revocation has nothing to do with it: {text}");
        assert_eq!((world.astra.live(), world.keys("token/").len(), world.keys("client/").len()), (1, 1, 1));
        world.astra.heal();
    }
    for answer in [ResponseTemplate::new(200), ResponseTemplate::new(202), ResponseTemplate::new(204)] {
        world.mint("other").await;
        world.astra.answer_after("DELETE", answer);
        ok(world
            .ask(Operation::Delete, "org/token", json!({"org_id": ORG, "role": "r_w_user", "logical_name": "other"}))
            .await);
    }
    assert_eq!(world.astra.live(), 1);
}

#[tokio::test]
async fn the_list_decides_when_the_answer_is_unclear() {
    for answer in [
        ResponseTemplate::new(404).set_body_string("nope"),
        ResponseTemplate::new(400).set_body_json("unable to delete token"),
        ResponseTemplate::new(500).set_body_json("unable to delete token"),
    ] {
        let world = World::with_role("standard").await;
        let secret = lease(&world.mint("org1").await);
        world.astra.answer_after("DELETE", answer);
        ok(world.revoke(&secret).await);
        assert!(world.keys("token/").is_empty());
    }
}

#[tokio::test]
async fn without_a_config_only_a_deleted_token_can_be_revoked() {
    let world = World::with_role("standard").await;
    let secret = lease(&world.mint("org1").await);
    let deleted = lease(&world.mint("org2").await);
    ok(world.revoke(&deleted).await);
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    ok(world.revoke(&deleted).await);
    let (code, text) = status(world.revoke(&secret).await);
    assert!(code == 400 && text.contains("no config"), "{text}");
}

#[tokio::test]
async fn without_an_expiry_in_astra_a_renewal_extends_the_record() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "token_expiry": false})).await);
    let minted = world.mint("org1").await;
    let secret = seconds_ago(lease(&minted), 0);
    assert!(!secret.internal_data.contains_key("expires_at"));
    let key = format!("client/{ORG}/{}", text(&minted, "clientId"));
    let expires = || world.storage.json(&key).unwrap()["expires_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
    let before = expires();
    world.system.set_max_lease_ttl(Duration::from_secs(10_000_000));
    ok(world.write("role", json!({"org_id": ORG, "role": "r_w_user", "role_id": ROLE_ID, "max_ttl": 72000})).await);
    renewed(&world, &secret).await;
    let moved = expires().duration_since(before).as_secs();
    assert!((35990..=36010).contains(&moved), "{moved}");
}

#[tokio::test]
async fn the_inventory_shows_the_end_of_a_lease_after_the_max_ttl_was_raised() {
    for token_expiry in [true, false] {
        let world = World::with_role("standard").await;
        world.system.set_max_lease_ttl(Duration::from_secs(10_000_000));
        ok(world.write("config", json!({"org_id": ORG, "token_expiry": token_expiry})).await);
        let minted = world.mint("org1").await;
        let secret = seconds_ago(lease(&minted), 0);
        let issued = secret.issue_time.unwrap();
        let id = text(&minted, "clientId");
        let shown = async || {
            let listed = world.list("org/tokens/", json!({})).await;
            let end: Timestamp = listed["key_info"][&id]["lease_end"].as_str().unwrap().parse().unwrap();
            end.duration_since(issued).as_secs()
        };
        assert!((35_998..=36_002).contains(&shown().await));
        let writes = world.storage.writes();
        renewed(&world, &secret).await;
        renewed(&world, &secret).await;
        assert!(world.storage.writes() - writes <= 1, "a renewal writes although the end is the same");
        // The expiry in Astra is an hour after the max TTL at the mint. No lease can last longer.
        let after_raise = if token_expiry { 39_600 } else { 72_000 };
        for (max_ttl, expected) in [(38_000, 38_000), (72_000, after_raise)] {
            world.write_role(json!({"ttl": 3600, "max_ttl": max_ttl})).await;
            let granted = renewed(&world, &secret.clone().increment(Duration::from_secs(1_000_000))).await;
            let end = i64::try_from(granted.ttl.as_secs()).unwrap();
            for end in [end, shown().await] {
                assert!((expected - 2..=expected + 2).contains(&end), "{end} s with max_ttl={max_ttl}");
            }
        }
    }
}

#[tokio::test]
async fn a_json_404_of_a_gateway_does_not_count_as_astras() {
    // Answers of API gateways without a matching route.
    for body in [json!({"message": "no Route matched with those values"}), json!({"error": "Not Found"}), json!({})] {
        let world = World::with_role("standard").await;
        let secret = lease(&world.mint("org1").await);
        world.astra.answer("DELETE", ResponseTemplate::new(404).set_body_json(&body));
        let (code, text) = status(world.revoke(&secret).await);
        assert_eq!((code, world.astra.live(), world.keys("token/").len()), (502, 1, 1), "{text}");
        // The list shows whether the token is deleted.
        world.astra.answer_after("DELETE", ResponseTemplate::new(404).set_body_json(&body));
        ok(world.revoke(&secret).await);
        assert!(world.keys("token/").is_empty());
    }
    // Both forms of Astra's own 404.
    for body in [json!({"errors": [{"ID": 1, "message": "no such token"}]}), json!("no such token")] {
        let world = World::with_role("standard").await;
        let secret = lease(&world.mint("org1").await);
        world.astra.answer_after("DELETE", ResponseTemplate::new(404).set_body_json(&body));
        let asked = world.astra.count("GET");
        ok(world.revoke(&secret).await);
        assert_eq!(world.astra.count("GET"), asked, "the list is not asked");
    }
}

#[tokio::test]
async fn an_empty_list_proves_nothing() {
    // A complete list always has the root token itself.
    let world = World::with_role("standard").await;
    let secret = lease(&world.mint("org1").await);
    world.astra.answer_all("DELETE", ResponseTemplate::new(500));
    world.astra.answer("GET", ResponseTemplate::new(200).set_body_json(json!({"clients": []})));
    let (code, text) = status(world.revoke(&secret).await);
    assert_eq!((code, world.astra.live(), world.keys("token/").len()), (502, 1, 1), "{text}");
}

#[tokio::test]
async fn a_token_expires_an_hour_after_the_last_lease_that_renewals_can_reach() {
    const HOUR: i64 = 3600;
    let world = World::with_role("standard").await;
    world.write_role(json!({"ttl": "1h", "max_ttl": "24h"})).await;
    let mut short = order("short");
    short["ttl"] = json!("1m");
    let minted = [
        world.mint("plain").await,
        some(world.write("org/token", short).await),
        some(world.read("creds/retailOrg/r_w_user", Value::Null).await),
    ];
    for minted in minted {
        let secret = lease(&minted);
        let told = secret.internal_data["expires_at"].as_str().unwrap().parse::<Timestamp>().unwrap();
        let sent = world.astra.state().live[&text(&minted, "clientId")]["tokenExpiry"].clone();
        assert_eq!(sent, secret.internal_data["expires_at"], "Astra was told another time");
        // The same lease, with its mint this long ago.
        for age in [HOUR / 2, HOUR, 2 * HOUR - 60, 3 * HOUR, 23 * HOUR] {
            let mut aged = seconds_ago(secret.clone(), age);
            let told = Timestamp::from_second(told.as_second() - age).unwrap();
            aged.internal_data.insert("expires_at".to_owned(), json!(told.to_string()));
            let granted = i64::try_from(renewed(&world, &aged).await.ttl.as_secs()).unwrap();
            assert!((HOUR - 2..=HOUR).contains(&granted), "{age} s after the mint, {granted} s were granted");
            let kept = told.as_second() - (Timestamp::now().as_second() + granted);
            assert!(kept >= HOUR - 2, "{age} s after the mint, the token expires {kept} s after its lease");
        }
    }
}
