//! Retries, deadlines and queues of calls to Astra.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::ROOT;
use super::eventually;
use super::peer::{Act, Peer, answer, json};
use crate::api::{Client, Error, NewToken, Pools, Settings};
use crate::engine::Engine;
use crate::error;
use crate::names::OrgId;
use crate::store::Config;

const DEADLINE: Duration = Duration::from_secs(30);
const METHODS: [&str; 3] = ["GET", "DELETE", "POST"];
const MADE: &str = r#"{"clientId": "abc", "secret": "s", "orgId": "o", "token": "AstraCS:abc:d"}"#;

pub(super) fn client(url: &str, timeout: Duration) -> Arc<Client> {
    let settings = Settings {
        url: url.to_owned(),
        token: ROOT.into(),
        astra_org_id: String::new(),
        ca_cert: String::new(),
        timeout,
        user_agent: "test".to_owned(),
    };
    Arc::new(Client::new(&settings, &Pools::default(), Arc::default()).unwrap())
}

/// Makes the call with this method.
async fn call(client: &Client, method: &str) -> Result<(), Error> {
    match method {
        "GET" => client.current_org().await.map(drop),
        "DELETE" => client.delete_token("abc").await,
        _ => {
            let token = NewToken { roles: vec!["r".to_owned()], description: None, token_expiry: None };
            client.create_token(&token).await.map(drop)
        }
    }
}

/// Returns the status for the caller.
fn status(outcome: &Result<(), Error>) -> u16 {
    outcome.as_ref().map_or_else(|error| error::status(error.case()), |()| 200)
}

/// A fault, with the attempts and the status for each method, and with whether the call may have had an effect.
type Case = (&'static str, Act, [usize; 3], [u16; 3], bool);

fn cases() -> Vec<Case> {
    let code = |status| Act::Answer(json(status, r#"{"errors":[{"ID":1,"message":"oops"}]}"#));
    let (all, once, not_post) = ([4, 4, 4], [1, 1, 1], [4, 4, 1]);
    let chunked =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n4\r\n{\"id\r\n";
    let short = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"id\"";
    let page = answer(200, "content-type: text/html\r\n", "<html></html>");
    let moved = answer(307, "location: /v2/elsewhere\r\n", "");
    vec![
        ("closed without a byte", Act::Close(String::new()), not_post, [502; 3], true),
        ("reset", Act::Reset, not_post, [502; 3], true),
        ("cut short", Act::Close(short.to_owned()), not_post, [502; 3], true),
        ("cut between chunks", Act::Close(chunked.to_owned()), not_post, [502; 3], true),
        ("429", code(429), all, [429; 3], false),
        ("500", code(500), not_post, [502; 3], true),
        ("502", code(502), not_post, [502; 3], true),
        ("503", code(503), not_post, [503; 3], true),
        ("504", code(504), not_post, [504; 3], true),
        ("501", code(501), once, [502; 3], true),
        ("408", code(408), once, [504; 3], true),
        ("400", code(400), once, [400; 3], false),
        ("401", code(401), once, [403; 3], false),
        ("403", code(403), once, [403; 3], false),
        ("404", code(404), once, [400, 200, 400], false),
        ("409", code(409), once, [400; 3], false),
        ("404 of a proxy", Act::Answer(answer(404, "", "404 page not found")), once, [502; 3], true),
        ("redirect", Act::Answer(moved), once, [502; 3], true),
        ("page", Act::Answer(page), once, [502; 3], true),
        ("success without a body", Act::Answer(answer(200, "", "")), once, [502, 200, 502], true),
        ("success that is cut JSON", Act::Answer(json(200, "{\"clientId\": ")), once, [502; 3], true),
    ]
}

#[tokio::test]
async fn each_fault_is_retried_only_if_a_retry_is_safe() {
    let runs = cases().into_iter().flat_map(|case| (0..METHODS.len()).map(move |index| (case.clone(), index)));
    join_all(runs.map(|((name, act, attempts, statuses, is_unclear), index)| async move {
        let (method, peer) = (METHODS[index], Peer::always(act).await);
        let start = Instant::now();
        let outcome = call(&client(&peer.url, DEADLINE), method).await;
        let text = format!("{method}, {name}: {outcome:?}");
        assert!(start.elapsed() < DEADLINE, "{text}");
        assert_eq!(status(&outcome), statuses[index], "{text}");
        assert_eq!(peer.count(method), attempts[index], "{text}");
        if let Err(error) = outcome {
            assert_eq!(error.may_have_happened(), is_unclear, "{text}");
            let error = error::Error::from(error);
            let told = error.to_string().contains(&format!(", after {} attempts;", attempts[index]));
            assert_eq!(told, attempts[index] > 1, "{error}");
        }
    }))
    .await;
}

#[tokio::test]
async fn a_mint_is_retried_after_a_refused_connection() {
    // The socket is bound and does not listen, so no other program can get the port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    for outcome in join_all(METHODS.map(|method| async {
        let client = client(&url, DEADLINE);
        call(&client, method).await
    }))
    .await
    {
        let error = outcome.unwrap_err();
        assert_eq!((error::status(error.case()), error.may_have_happened()), (503, false), "{error}");
        assert!(error.to_string().contains("refused") && error.to_string().contains("after 4 attempts"), "{error}");
    }
}

#[tokio::test]
async fn a_call_that_succeeds_at_the_second_attempt_is_a_success() {
    for (method, first, second) in [
        ("GET", Act::Reset, json(200, r#"{"id": "o"}"#)),
        ("DELETE", Act::Answer(json(503, "")), answer(204, "", "")),
        ("POST", Act::Answer(json(429, "")), json(200, MADE)),
    ] {
        let peer = Peer::start(move |_, n| if n == 0 { first.clone() } else { Act::Answer(second.clone()) }).await;
        call(&client(&peer.url, DEADLINE), method).await.unwrap_or_else(|error| panic!("{method}: {error}"));
        assert_eq!(peer.count(method), 2);
    }
}

#[tokio::test]
async fn a_mint_is_not_retried_if_a_reused_connection_breaks() {
    let peer = Peer::start(|seen, _| match seen.method.as_str() {
        "GET" => Act::Answer(json(200, r#"{"id": "o"}"#)),
        _ => Act::Reset,
    })
    .await;
    let client = client(&peer.url, DEADLINE);
    call(&client, "GET").await.unwrap();
    let error = call(&client, "POST").await.unwrap_err();
    assert!(error::status(error.case()) == 502 && error.may_have_happened(), "{error}");
    assert_eq!(peer.count("POST"), 1);
    assert!(peer.seen().iter().all(|seen| seen.connection == 0), "it was another connection");
    // An idempotent call is retried on a new connection.
    assert!(call(&client, "DELETE").await.is_err());
    assert_eq!(peer.count("DELETE"), 4);
}

#[tokio::test]
async fn the_deadline_stops_calls_that_never_finish() {
    let timeout = Duration::from_millis(500);
    join_all([Act::Hang, Act::Drip].into_iter().flat_map(|act| METHODS.map(|method| (act.clone(), method))).map(
        |(act, method)| async move {
            let peer = Peer::always(act).await;
            let start = Instant::now();
            let error = call(&client(&peer.url, timeout), method).await.unwrap_err();
            assert!((timeout..timeout * 10).contains(&start.elapsed()), "{:?}", start.elapsed());
            assert_eq!((error::status(error.case()), peer.count(method)), (504, 1), "{error}");
            assert!(error.may_have_happened());
            assert!(error.to_string().contains("did not answer within 500ms"), "{error}");
        },
    ))
    .await;
}

#[tokio::test]
async fn a_retry_waits_as_long_as_astra_asks() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3));
    let cases = [("POST", 429, "1".to_owned()), ("GET", 503, "1".to_owned()), ("DELETE", 429, date)];
    join_all(cases.map(|(method, code, wait)| async move {
        let head = format!("retry-after: {wait}\r\n");
        let peer = Peer::start(move |_, n| match n {
            0 => Act::Answer(answer(code, &head, "")),
            _ => Act::Answer(json(200, MADE.replace("clientId", "id\": \"o\", \"clientId").as_str())),
        })
        .await;
        let start = Instant::now();
        call(&client(&peer.url, DEADLINE), method).await.unwrap();
        assert_eq!(peer.count(method), 2);
        assert!(start.elapsed() >= Duration::from_secs(1), "{method} {wait}: {:?}", start.elapsed());
    }))
    .await;
}

#[tokio::test]
async fn if_astra_asks_to_wait_past_the_deadline_the_call_fails_at_once() {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(100_000));
    for (method, code, wait, told) in [
        ("POST", 429, "86400", "Astra asks to wait 86400 s; try again later"),
        ("GET", 503, "3600", "Astra asks to wait 3600 s; try again later"),
        ("DELETE", 429, date.as_str(), "Astra asks to wait "),
    ] {
        let peer = Peer::always(Act::Answer(answer(code, &format!("retry-after: {wait}\r\n"), ""))).await;
        let error = call(&client(&peer.url, DEADLINE), method).await.unwrap_err();
        assert_eq!((error::status(error.case()), peer.count(method)), (code, 1), "{error}");
        let error = error::Error::from(error);
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn an_invalid_retry_after_is_ignored() {
    join_all(["-5", "soon", "1.5", "0", "", "Sun, 06 Nov 1994 08:49:37 GMT"].map(|wait| async move {
        let peer = Peer::always(Act::Answer(answer(429, &format!("retry-after: {wait}\r\n"), ""))).await;
        let error = call(&client(&peer.url, DEADLINE), "POST").await.unwrap_err();
        assert_eq!(peer.count("POST"), 4, "{wait:?}: {error}");
        assert!(!error.to_string().contains("asks to wait"), "{error}");
    }))
    .await;
}

#[tokio::test]
async fn at_most_64_requests_of_an_org_run_at_the_same_time_and_the_others_queue_in_order() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let peer = Peer::start(move |_, _| Act::When(held.clone(), answer(204, "", ""))).await;
    let client = client(&peer.url, DEADLINE);
    let mut calls = JoinSet::new();
    for n in 0..200 {
        let client = client.clone();
        calls.spawn(async move { client.delete_token(&format!("id{n}")).await });
    }
    // The test runs on one thread, so all calls are in the queue when the first calls reach the peer.
    eventually(|| peer.seen().len() == 64).await;
    // Another org has its own queue.
    let other = Peer::always(Act::Answer(json(200, r#"{"id": "o"}"#))).await;
    call(&self::client(&other.url, DEADLINE), "GET").await.unwrap();
    assert_eq!(peer.seen().len(), 64);
    for n in 64..80 {
        gate.add_permits(1);
        eventually(|| peer.seen().len() > n).await;
        assert_eq!(peer.seen()[n].path, format!("/v2/clientIdSecrets/id{n}"));
    }
    gate.add_permits(200);
    while let Some(outcome) = calls.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!((peer.seen().len(), peer.most()), (200, 64));
}

#[tokio::test]
async fn calls_with_an_earlier_config_count_against_the_same_limit() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let peer = Peer::start(move |_, _| Act::When(held.clone(), answer(204, "", ""))).await;
    let (mount, _, _) = vault_plugin_sdk::testing::mount();
    let engine = Arc::new(Engine::new(&mount, Arc::default()));
    let config = |token: &str| {
        let mut config = Config::new(OrgId::stored("org"), "");
        (config.url, config.astra_token) = (peer.url.clone(), token.into());
        Arc::new(config)
    };
    // The callers with the earlier root token call before, during and after the change.
    let (old, new) = (config("AstraCS:old:d"), config("AstraCS:new:d"));
    let mut calls = JoinSet::new();
    for n in 0..200 {
        let (engine, config) = (engine.clone(), if n % 3 == 0 { &old } else { &new }.clone());
        if n == 50 {
            engine.clients.forget(&config.org_id);
        }
        calls.spawn(async move {
            engine.call(&config, |client| async move { client.delete_token(&format!("id{n}")).await }).await
        });
    }
    eventually(|| peer.seen().len() == 64).await;
    gate.add_permits(200);
    while let Some(outcome) = calls.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!((peer.seen().len(), peer.most()), (200, 64));
}

#[tokio::test]
async fn few_listings_run_at_the_same_time_and_they_block_no_other_call() {
    let gate = Arc::new(Semaphore::new(0));
    let held = gate.clone();
    let peer = Peer::start(move |seen, _| match seen.method.as_str() {
        "GET" => Act::When(held.clone(), json(200, r#"{"clients": [{"clientId": "root"}]}"#)),
        _ => Act::Answer(answer(204, "", "")),
    })
    .await;
    let client = client(&peer.url, DEADLINE);
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let client = client.clone();
        calls.spawn(async move { client.find_tokens("m1").await });
    }
    eventually(|| peer.count("GET") == 4).await;
    call(&client, "DELETE").await.unwrap();
    assert_eq!(peer.count("GET"), 4);
    gate.add_permits(100);
    while let Some(outcome) = calls.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!((peer.count("GET"), peer.most() <= 5), (100, true));
}

#[tokio::test]
async fn a_pause_before_a_retry_holds_no_permit() {
    let peer = Peer::start(|seen, _| match seen.method.as_str() {
        "DELETE" => Act::Answer(answer(503, "retry-after: 25\r\n", "")),
        _ => Act::Answer(json(200, r#"{"id": "o"}"#)),
    })
    .await;
    let client = client(&peer.url, DEADLINE);
    let mut calls = JoinSet::new();
    for _ in 0..64 {
        let client = client.clone();
        calls.spawn(async move { client.delete_token("abc").await });
    }
    eventually(|| peer.count("DELETE") == 64).await;
    call(&client, "GET").await.unwrap();
    assert!(calls.try_join_next().is_none() && peer.count("DELETE") == 64, "they are in their pause");
}

#[tokio::test]
async fn json_is_accepted_with_any_json_content_type_and_without_a_content_type() {
    let body = r#"{"id": "o"}"#;
    for label in
        ["application/json", "Application/JSON;charset=UTF-8", "application/problem+json", "a/b+JSON ; x=y", ""]
    {
        let peer = Peer::always(Act::Answer(answer(200, &format!("content-type: {label}\r\n"), body))).await;
        call(&client(&peer.url, DEADLINE), "GET").await.unwrap_or_else(|error| panic!("{label:?}: {error}"));
    }
    let bare = Peer::always(Act::Answer(answer(200, "", body))).await;
    call(&client(&bare.url, DEADLINE), "GET").await.unwrap();
    let long = format!("text/{}", "x".repeat(1000));
    for label in ["text/plain", "text/html; charset=utf-8", "application/jsonp", "json", "x/AstraCS:leak", &long] {
        let peer = Peer::always(Act::Answer(answer(200, &format!("content-type: {label}\r\n"), body))).await;
        let text = call(&client(&peer.url, DEADLINE), "GET").await.unwrap_err().to_string();
        let shown = label.split([';', ':']).next().unwrap().to_ascii_lowercase();
        assert!(
            text.contains("content type") && text.to_ascii_lowercase().contains(&shown[..6.min(shown.len())]),
            "{text}"
        );
        assert!(text.len() < 500 && !text.contains("leak"), "{text}");
    }
    // The engine does not read this body, so the content type does not matter.
    let empty = Peer::always(Act::Answer(answer(200, "content-type: text/html\r\n", ""))).await;
    call(&client(&empty.url, DEADLINE), "DELETE").await.unwrap();
}

#[tokio::test]
async fn a_token_is_found_by_its_marker_or_client_id() {
    let list =
        r#"{"clients": [{"clientId": "root"}, {"clientId": "abc", "description": "vault 0a1b/m1 mount=astra/"}]}"#;
    let peer = Peer::always(Act::Answer(json(200, list))).await;
    let found = client(&peer.url, DEADLINE);
    assert_eq!(found.find_tokens("m1").await.unwrap(), ["abc"]);
    assert_eq!(found.find_tokens("m2").await.unwrap(), [""; 0]);
    assert!(found.has_token("abc").await.unwrap() && !found.has_token("ABC").await.unwrap());
    let empty = Peer::always(Act::Answer(json(200, r#"{"clients": []}"#))).await;
    let empty = client(&empty.url, DEADLINE);
    assert!(empty.find_tokens("m1").await.is_err() && empty.has_token("abc").await.is_err());
}

#[tokio::test]
async fn if_astra_rejects_a_setting_the_error_names_the_setting() {
    let (description, expiry) = ("description=false", "token_expiry=false");
    for (message, expected) in [
        ("unknown field Description", vec![description]),
        ("TOKENEXPIRY is not allowed", vec![expiry]),
        ("neither description nor tokenExpiry is allowed", vec![description, expiry]),
        ("bad role", vec![]),
    ] {
        let peer = Peer::always(Act::Answer(json(400, &format!("{message:?}")))).await;
        let client = client(&peer.url, DEADLINE);
        let text = error::Error::from(call(&client, "POST").await.unwrap_err()).to_string();
        let named: Vec<_> = [description, expiry].into_iter().filter(|setting| text.contains(setting)).collect();
        assert_eq!((named, text.contains("role_id")), (expected.clone(), expected.is_empty()), "{text}");
        let text = error::Error::from(call(&client, "GET").await.unwrap_err()).to_string();
        assert!(!text.contains("=false"), "{text}");
    }
}
