//! Failures of Astra, of the storage and of callers.

use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Secret};
use wiremock::ResponseTemplate;

use super::{ORG, ROOT, World, eventually, failed, lease, ok, order, refused, some, status};

#[tokio::test]
async fn each_answer_of_astra_leads_to_the_right_status() {
    let errors = |message: &str| json!({"errors": [{"ID": 7, "message": message}]});
    let cases = [
        (ResponseTemplate::new(400).set_body_json(errors("bad role")), 400, "bad role"),
        (ResponseTemplate::new(404).set_body_json("unable to get role"), 400, "unable to get role"),
        (ResponseTemplate::new(409).set_body_string("conflict"), 400, "conflict"),
        (ResponseTemplate::new(401).set_body_json(errors("who")), 403, "who"),
        (ResponseTemplate::new(401).set_body_json(Value::Null), 403, "401"),
        (ResponseTemplate::new(403).set_body_json("forbidden"), 403, "forbidden"),
        (ResponseTemplate::new(429).set_body_string("slow down"), 429, "slow down"),
        (ResponseTemplate::new(500).set_body_json(errors("oops")), 502, "oops"),
        (ResponseTemplate::new(502).set_body_raw("<html>AstraCS:leak</html>", "text/html"), 502, "502"),
        (ResponseTemplate::new(503), 503, "503"),
        (ResponseTemplate::new(504), 504, "504"),
        (ResponseTemplate::new(404).set_body_string("404 page not found\n"), 502, "404 page not found"),
        (ResponseTemplate::new(307).insert_header("location", "http://127.0.0.1:1/"), 502, "307"),
        (ResponseTemplate::new(200), 502, "empty"),
        (ResponseTemplate::new(200).set_body_json(Value::Null), 502, "not a JSON object"),
        (ResponseTemplate::new(200).set_body_json(json!([])), 502, "not a JSON object"),
        (ResponseTemplate::new(200).set_body_json(json!({})), 502, "clientId"),
        (
            ResponseTemplate::new(200).set_body_raw(r#"{"clientId":"abc","secret":"s3cr"#, "application/json"),
            502,
            "not JSON",
        ),
        (ResponseTemplate::new(200).set_body_raw("<html></html>", "text/html"), 502, "content type is \"text/html\""),
        (ResponseTemplate::new(200).set_body_string("x".repeat((1 << 20) + 1)), 502, "longer than"),
    ];
    let world = World::with_role("standard").await;
    for (answer, expected, quoted) in cases {
        world.astra.answer_all("POST", answer);
        let (code, text) = status(world.write("org/token", order("org1")).await);
        world.astra.heal();
        assert_eq!(code, expected, "{text}");
        assert!(text.contains(quoted), "{text}");
        assert!(!text.contains("leak") && !text.contains("s3cr"), "a body is quoted");
        assert!(world.keys("token/").is_empty() && world.keys("client/").is_empty());
    }
}

#[tokio::test]
async fn no_message_holds_a_token() {
    let world = World::with_role("standard").await;
    let echo = json!({"errors": [{"ID": 1, "message": format!("token {ROOT} is bad")}]});
    world.astra.answer("POST", ResponseTemplate::new(400).set_body_json(echo));
    let text = failed(world.write("org/token", order("org1")).await).to_string();
    assert!(text.contains("is bad") && !text.contains("608ba"), "a token is quoted");
}

#[tokio::test]
async fn a_slow_astra_returns_504_and_an_unreachable_astra_returns_503() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": 1})).await);
    world.astra.delay("POST", Duration::from_secs(20));
    let (code, text) = status(world.write("org/token", order("org1")).await);
    assert_eq!(code, 504, "{text}");
    let dead = json!({"org_id": ORG, "astra_token": ROOT, "url": "http://127.0.0.1:1", "verify_connection": false});
    ok(world.write("config", dead).await);
    let (code, text) = status(world.write("org/token", order("org1")).await);
    assert_eq!(code, 503, "{text}");
}

#[tokio::test]
async fn a_broken_connection_returns_502() {
    use tokio::io::AsyncReadExt as _;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let _ = connection.read(&mut [0; 4096]).await;
    });
    let world = World::with_role("standard").await;
    ok(world
        .write("config", json!({"org_id": ORG, "astra_token": ROOT, "url": url, "verify_connection": false}))
        .await);
    let (code, text) = status(world.write("org/token", order("org1")).await);
    assert_eq!(code, 502, "{text}");
    server.await.unwrap();
}

#[tokio::test]
async fn a_token_that_does_not_match_the_request_is_deleted() {
    let world = World::with_role("standard").await;
    for (member, value) in [
        ("orgId", json!("another")),
        ("orgId", Value::Null),
        ("token", json!("AstraCS:another:abc")),
        ("token", json!("nonsense")),
        ("token", json!("AstraCS:DTEUyKUZZrvFzzLzPGCb0005:")),
    ] {
        world.astra.change(member, value);
        let (code, text) = status(world.write("org/token", order("org1")).await);
        assert_eq!(code, 502, "{text}");
        eventually(|| world.astra.live() == 0).await;
        assert!(!text.contains("nonsense") && !text.contains("AstraCS:a"), "a body is quoted");
    }
    // The engine can compute a missing `token` and a missing `generatedOn`.
    world.astra.change("token", Value::Null);
    world.mint("org1").await;
    world.astra.change("generatedOn", Value::Null);
    world.mint("org2").await;
    // If the answer names a token in use, the engine does not delete that token.
    world.astra.change("clientId", json!("DTEUyKUZZrvFzzLzPGCb0006"));
    assert_eq!(
        status(world.write("org/token", json!({"org_id": ORG, "role": "r_w_user", "logical_name": "x"})).await).0,
        502
    );
    assert!(world.astra.state().live.contains_key("DTEUyKUZZrvFzzLzPGCb0006"));
}

#[tokio::test]
async fn a_mint_with_a_storage_fault_leaves_nothing() {
    // The loop stops when the faulty call comes after the last call of a mint.
    for n in 1.. {
        let world = World::with_role("standard").await;
        world.storage.fail_nth(n);
        match world.write("org/token", order("org1")).await {
            Ok(_) => {
                assert!(n > 4, "the mint makes {n} storage calls");
                return;
            }
            Err(error) => {
                assert!(error.to_string().contains("told to fail"), "call {n}: {error}");
                world.until_undone().await;
                assert!(world.is_clean(), "call {n}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn an_error_names_the_token_that_is_left_in_astra() {
    let world = World::with_role("standard").await;
    world.mint("first").await;
    // With config and role in the caches: the check of the name, the log, the check of the client id, the token.
    world.storage.fail_nth(4);
    world.astra.answer_all("DELETE", ResponseTemplate::new(500));
    let (code, text) = status(world.write("org/token", order("org1")).await);
    assert!(
        code == 500 && text.contains("DTEUyKUZZrvFzzLzPGCb0002") && text.contains("stays in Astra"),
        "{code} {text}"
    );
    // The tick retries.
    world.astra.heal();
    ok(world.ask(Operation::Rollback, "", json!({"immediate": true})).await);
    assert_eq!((world.astra.live(), world.keys("wal/").len(), world.keys("token/").len()), (1, 0, 1));
}

#[tokio::test]
async fn a_caller_who_hangs_up_leaves_nothing() {
    let world = World::with_role("standard").await;
    let caller = world.minting("org1", Duration::from_millis(1500)).await;
    caller.abort();
    eventually(|| world.astra.count("DELETE") == 1 && world.astra.live() == 0).await;
    assert!(world.keys("token/").is_empty() && world.keys("client/").is_empty());
    // After the undo, the name is free again.
    world.mint("org1").await;
}

#[tokio::test]
async fn if_a_config_is_deleted_during_a_mint_the_token_is_deleted() {
    let world = World::with_role("standard").await;
    let caller = world.minting("org1", Duration::from_millis(1500)).await;
    let (code, text) = status(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    assert!(code == 503 && text.contains("unfinished mint"), "{text}");
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    let (code, text) = status(caller.await.unwrap());
    assert!(code == 400 && text.contains("deleted during the mint"), "{text}");
    assert_eq!((world.astra.live(), world.keys("token/").len()), (0, 0));
}

#[tokio::test]
async fn a_slow_org_does_not_block_another_org() {
    let world = World::with_role("standard").await;
    let other = super::Astra::start("o2").await;
    ok(world.write("config", json!({"org_id": "o2", "astra_token": ROOT, "url": other.url()})).await);
    ok(world.write("role", json!({"org_id": "o2", "role_name": "r", "role_id": "i"})).await);
    let slow = world.minting("org1", Duration::from_millis(1500)).await;
    some(world.write("org/token", json!({"org_id": "o2", "role_name": "r", "logical_name": "l"})).await);
    assert!(!slow.is_finished());
    some(slow.await.unwrap());
}

#[tokio::test]
async fn a_new_root_token_is_used_at_once() {
    let world = World::with_role("standard").await;
    let secret: Secret = lease(&world.mint("org1").await);
    let wrong = json!({"org_id": ORG, "astra_token": "AstraCS:other:token", "verify_connection": false});
    ok(world.write("config", wrong).await);
    assert_eq!(status(world.revoke(&secret).await).0, 403);
    ok(world.write("config", json!({"org_id": ORG, "astra_token": ROOT})).await);
    ok(world.revoke(&secret).await);
    assert!(refused(world.read("org/token", order("org1")).await).contains("no live token"));
}
