//! Each value of the knobs, for behaviour of the real service that is unknown or varies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::Method;
use serde_json::{Value, json};

use crate::astra::{
    Astra, BadExpiry, BodyForm, DeleteSuccess, FieldPolicy, MalformedToken, PermissionFailure, RateLimit, RoleStyle,
    Seed, UnknownId, Unset, UserStyle, built_in_id,
};
use crate::client::{CURRENT_ORG, Client, ROLES, TOKENS, USERS};

#[tokio::test]
async fn knobs_change_the_answer_to_a_create() {
    let astra = Astra::builder()
        .knobs(|knobs| {
            knobs.create_status = 201;
            knobs.create_echo = true;
            knobs.create_omit = vec!["token".into(), "generatedOn".into()];
            knobs.chunked = true;
        })
        .spawn();
    let answer = Client::new(&astra).create(json!({ "roles": ["x"], "description": "d" })).await;
    assert_eq!((answer.status, answer.header("transfer-encoding")), (201, "chunked"));
    let body = answer.json();
    assert_eq!((&body["description"], &body["tokenExpiry"]), (&json!("d"), &Value::Null));
    assert!(body.get("token").is_none() && body.get("generatedOn").is_none());
}

#[tokio::test]
async fn description_and_expiry_can_be_rejected_or_ignored() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let body = json!({ "roles": ["x"], "description": "d", "tokenExpiry": "2099-01-31T12:00:00Z" });
    astra.knobs(|knobs| knobs.description = FieldPolicy::Reject);
    assert_eq!(client.create(body.clone()).await.status, 400);
    astra.knobs(|knobs| (knobs.description, knobs.token_expiry) = (FieldPolicy::Ignore, FieldPolicy::Reject));
    assert_eq!(client.create(body.clone()).await.status, 400);
    assert_eq!(astra.minted(), 0);
    astra.knobs(|knobs| knobs.token_expiry = FieldPolicy::Ignore);
    assert_eq!(client.create(body).await.status, 200);
    let token = &astra.live(&astra.org().id)[0];
    assert!(token.description.is_none() && token.token_expiry.is_none());
}

#[tokio::test]
async fn a_long_description_is_rejected_or_cut_off() {
    let astra = Astra::builder().knobs(|knobs| knobs.description_max = Some(4)).spawn();
    let client = Client::new(&astra);
    let body = json!({ "roles": ["x"], "description": "\u{e9}bcdef" });
    assert_eq!(client.create(body.clone()).await.status, 400);
    astra.knobs(|knobs| knobs.description_cut = true);
    let answer = client.create(body).await;
    assert_eq!((answer.status, &answer.json()["description"]), (200, &json!("\u{e9}bcd")));
    let listed = client.get(TOKENS).await.json();
    let ours = listed["clients"].as_array().unwrap().iter().find(|token| token["description"] != "").unwrap();
    assert_eq!(ours["description"], "\u{e9}bcd");
}

#[tokio::test]
async fn an_expiry_above_the_maximum_is_rejected_clamped_or_ignored() {
    let astra = Astra::builder().org(Seed::new().max_token_age(SignedDuration::from_hours(1))).spawn();
    let client = Client::new(&astra);
    let mut outcome = Vec::new();
    for policy in [BadExpiry::Reject, BadExpiry::Clamp, BadExpiry::Ignore] {
        astra.knobs(|knobs| knobs.bad_expiry = policy);
        let answer = client.create(json!({ "roles": ["x"], "tokenExpiry": "2099-01-31T12:00:00Z" })).await;
        let id = (answer.status == 200).then(|| answer.json()["clientId"].as_str().unwrap().to_owned());
        outcome.push((answer.status, id.and_then(|id| astra.token(&id).unwrap().token_expiry).is_some()));
    }
    assert_eq!(outcome, [(400, false), (200, true), (200, false)]);
}

#[tokio::test]
async fn strict_roles_reject_unknown_roles_in_each_form_of_error() {
    let astra = Astra::builder().knobs(|knobs| knobs.strict_roles = true).spawn();
    let client = Client::new(&astra);
    for (form, body) in [
        (BodyForm::Errors, r#"{"errors":[{"ID":340001,"message":"unknown role"}]}"#),
        (BodyForm::JsonString, "\"unknown role\""),
        (BodyForm::Text, "unknown role"),
    ] {
        astra.knobs(|knobs| knobs.bad_body = form);
        let answer = client.create(json!({ "roles": ["x"] })).await;
        assert_eq!((answer.status, answer.text()), (400, body));
    }
}

#[tokio::test]
async fn knobs_change_the_list_of_tokens() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    for _ in 0..20 {
        client.mint("x").await;
    }
    let sorted = client.listed().await;
    astra.knobs(|knobs| (knobs.list_shuffle, knobs.list_unset) = (true, Unset::Omit));
    let mut shuffled = client.listed().await;
    assert_ne!(shuffled, sorted);
    shuffled.sort();
    assert_eq!(shuffled, sorted);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&client.get(TOKENS).await.json()["clients"][0]), ["clientId", "generatedOn", "roles"]);

    let other = sorted.iter().find(|id| **id != astra.org().client_id).unwrap();
    assert!(astra.expire_token(other));
    assert_eq!(client.listed().await.len(), 21);
    astra.knobs(|knobs| knobs.list_expired = false);
    assert_eq!(client.listed().await.len(), 20);
}

#[tokio::test]
async fn deletes_have_every_form_of_success_and_of_not_found() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    for (knob, status, empty) in [
        (DeleteSuccess::NoContent, 204, true),
        (DeleteSuccess::OkEmpty, 200, true),
        (DeleteSuccess::OkJson, 200, false),
        (DeleteSuccess::Accepted, 202, true),
    ] {
        astra.knobs(|knobs| knobs.delete_success = knob);
        let (client_id, _) = client.mint("x").await;
        let answer = client.try_delete(&client_id).await.unwrap();
        assert_eq!((answer.status, answer.body.is_empty()), (status, empty));
    }
    for (knob, status, content_type) in [
        (UnknownId::NotFoundErrors, 404, "application/json; charset=UTF-8"),
        (UnknownId::NotFoundText, 404, "text/plain; charset=utf-8"),
        (UnknownId::BadRequestString, 400, "application/json; charset=UTF-8"),
        (UnknownId::NoContent, 204, ""),
        (UnknownId::ServerErrorString, 500, "application/json; charset=UTF-8"),
    ] {
        astra.knobs(|knobs| knobs.unknown_id = knob);
        let answer = client.try_delete("nobody").await.unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (status, content_type));
        assert_ne!(answer.body, b"404 page not found\n");
    }
}

#[tokio::test]
async fn knobs_change_the_errors_for_callers() {
    let astra = Astra::spawn();
    let viewer = astra.mint(&astra.org().id, &[built_in_id("UI View Only")]);
    let viewer = Client::with_token(&astra, &viewer.token);
    for (knob, status, body) in [
        (PermissionFailure::Errors403, 403, r#"{"errors":[{"ID":340003,"message":"insufficient permissions"}]}"#),
        (PermissionFailure::Null401, 401, "null"),
        (PermissionFailure::String403, 403, "\"insufficient permissions\""),
        (PermissionFailure::Text403, 403, "insufficient permissions"),
    ] {
        astra.knobs(|knobs| knobs.permission_failure = knob);
        let answer = viewer.get(TOKENS).await;
        assert_eq!((answer.status, answer.text()), (status, body));
    }
    astra.knobs(|knobs| knobs.list_empty_without_permission = true);
    assert!(viewer.listed().await.is_empty());

    let malformed = Client::with_token(&astra, "nonsense");
    for (knob, status, id) in [
        (MalformedToken::Id340016, 401, 340_016),
        (MalformedToken::Id340012, 401, 340_012),
        (MalformedToken::Id340017, 403, 340_017),
    ] {
        astra.knobs(|knobs| knobs.malformed_token = knob);
        let answer = malformed.get(CURRENT_ORG).await;
        assert_eq!((answer.status, answer.error_id()), (status, id));
    }
    astra.knobs(|knobs| knobs.expired_token_id = 1);
    assert!(astra.expire_token(&astra.org().client_id));
    assert_eq!(Client::new(&astra).get(CURRENT_ORG).await.error_id(), 1);
}

#[tokio::test]
async fn roles_users_and_organizations_have_every_key_style() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    for (style, keys, policy_is_text) in [
        (RoleStyle::Lower, "id last_update_date_time last_update_user_id name policy", false),
        (RoleStyle::Spec, "id last_update_datetime last_update_userid name policy", false),
        (RoleStyle::Pascal, "ID LastUpdateDateTime LastUpdateUserID Name OrgID Policy", false),
        (RoleStyle::PascalStringPolicy, "ID LastUpdateDateTime LastUpdateUserID Name OrgID Policy", true),
    ] {
        astra.knobs(|knobs| knobs.role_style = style);
        let list = client.get(ROLES).await.json();
        let one = client.get(&format!("{ROLES}/{}", built_in_id("RO User"))).await.json();
        for role in [&list[0], &one] {
            let role = role.as_object().unwrap();
            assert_eq!(role.keys().map(String::as_str).collect::<Vec<_>>().join(" "), keys);
            let policy = role.get("policy").or_else(|| role.get("Policy")).unwrap();
            assert_eq!(policy.is_string(), policy_is_text);
        }
    }
    astra.knobs(|knobs| (knobs.user_style, knobs.current_org_name) = (UserStyle::LowerCamel, true));
    assert!(client.get(USERS).await.json()["users"][0]["userID"].is_string());
    assert_eq!(client.get(CURRENT_ORG).await.json()["name"], "Simulated");
}

#[tokio::test]
async fn consistency_delays_follow_the_simulated_clock() {
    let astra = Astra::builder()
        .knobs(|knobs| {
            knobs.list_delay_after_create_ms = 60_000;
            knobs.auth_delay_after_create_ms = 120_000;
            knobs.list_delay_after_delete_ms = 60_000;
            knobs.auth_delay_after_delete_ms = 120_000;
            knobs.role_edit_delay_ms = 60_000;
        })
        .spawn();
    let client = Client::new(&astra);
    let policy = |action: &str| json!({ "description": "", "resources": [], "actions": [action], "effect": "allow" });
    let role = json!({ "name": "own", "policy": policy("org-token-read") });
    let role = client.send(Method::POST, ROLES, Some(role)).await.json()["ID"].as_str().unwrap().to_owned();
    let (client_id, token) = client.mint(&role).await;
    let holder = Client::with_token(&astra, &token);
    let mut seen = Vec::new();
    let advance = || astra.advance(Duration::from_secs(61));
    for _ in 0..3 {
        seen.push((client.listed().await.contains(&client_id), holder.get(CURRENT_ORG).await.status));
        advance();
    }
    assert_eq!(seen, [(false, 401), (true, 401), (true, 200)]);

    let path = format!("{ROLES}/{role}");
    client.send(Method::PUT, &path, Some(json!({ "name": "own", "policy": policy("db-cql") }))).await;
    assert_eq!(holder.get(TOKENS).await.status, 200);
    advance();
    assert_eq!(holder.get(TOKENS).await.status, 403);

    assert_eq!(client.try_delete(&client_id).await.unwrap().status, 204);
    seen.clear();
    for _ in 0..3 {
        seen.push((client.listed().await.contains(&client_id), holder.get(CURRENT_ORG).await.status));
        advance();
    }
    assert_eq!(seen, [(true, 200), (false, 200), (false, 401)]);
}

#[tokio::test]
async fn a_rate_limit_is_per_organization_or_per_token() {
    let limit = |per_token| Some(RateLimit { per_second: 0.001, burst: 2.0, per_token });
    for (per_token, expected) in [(false, [200, 200, 429]), (true, [200, 200, 200])] {
        let astra = Astra::builder().knobs(|knobs| knobs.rate_limit = limit(per_token)).spawn();
        let root = Client::new(&astra);
        let other = Client::with_token(&astra, &astra.mint(&astra.org().id, &["x"]).token);
        let first = [root.get(CURRENT_ORG).await, root.get(CURRENT_ORG).await, other.get(CURRENT_ORG).await];
        assert_eq!(first.each_ref().map(|answer| answer.status), expected);
        let rejected = root.get(CURRENT_ORG).await;
        assert_eq!(rejected.status, 429);
        let wait: u64 = rejected.header("retry-after").parse().unwrap();
        astra.advance(Duration::from_secs(wait));
        assert_eq!(root.get(CURRENT_ORG).await.status, 200);
    }
}

#[tokio::test]
async fn the_server_closes_connections_with_and_without_notice() {
    let astra = Astra::builder().knobs(|knobs| knobs.connection_close = true).spawn();
    let client = Client::new(&astra);
    for _ in 0..3 {
        assert_eq!(client.get(CURRENT_ORG).await.header("connection"), "close");
    }
    assert_eq!(astra.connections(), 3);

    let astra = Astra::builder().knobs(|knobs| knobs.max_requests_per_connection = Some(2)).spawn();
    let mut stream = TcpStream::connect(astra.url().strip_prefix("http://").unwrap()).unwrap();
    let request = format!("GET {CURRENT_ORG} HTTP/1.1\r\nauthorization: Bearer {}\r\n\r\n", astra.org().root_token);
    stream.write_all(request.repeat(2).as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 2);
    assert!(!answers.contains("\r\nconnection:"), "no notice");
}

#[tokio::test]
async fn a_closed_listener_opens_again_on_the_same_port() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    assert_eq!(client.get(CURRENT_ORG).await.status, 200);
    for _ in 0..3 {
        astra.refuse_connections(true);
        // The first call may still use the pooled connection, which is closed.
        assert!(client.try_get(CURRENT_ORG).await.is_err());
        assert!(client.try_get(CURRENT_ORG).await.unwrap_err().is_connect());
        astra.refuse_connections(false);
        assert_eq!(client.get(CURRENT_ORG).await.status, 200);
    }
}

#[tokio::test]
async fn latency_and_request_ids_can_be_turned_on() {
    let astra = Astra::builder().knobs(|knobs| (knobs.latency_ms, knobs.request_id) = (Some((35, 45)), true)).spawn();
    let begin = std::time::Instant::now();
    let answer = Client::new(&astra).get(CURRENT_ORG).await;
    assert!(begin.elapsed() >= Duration::from_millis(35));
    assert_eq!(answer.header("x-request-id").len(), 36);
}

/// A new process holds a copy of every descriptor until it executes its program.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_refused_while_processes_start() {
    let stop = Arc::new(AtomicBool::new(false));
    let spawner = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        })
    };
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    for _ in 0..200 {
        astra.refuse_connections(true);
        // The first call may still use the pooled connection, which is closed.
        assert!(client.try_get(CURRENT_ORG).await.is_err());
        assert!(client.try_get(CURRENT_ORG).await.unwrap_err().is_connect());
        astra.refuse_connections(false);
        assert_eq!(client.get(CURRENT_ORG).await.status, 200);
    }
    stop.store(true, Ordering::Relaxed);
    spawner.join().unwrap();
}
