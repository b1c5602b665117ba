//! Inspection and control of the simulator, in the process and over the control endpoint. Neither shows a secret.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::astra::{Astra, AstraFault, Certificate, Kind, Route, built_in_id};
use crate::client::{CURRENT_ORG, Client, ROLES, TOKENS};

async fn control(astra: &Astra, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = reqwest::Client::new().request(method, format!("{}{path}", astra.control_url()));
    let request = body.into_iter().fold(request, |request, body| request.json(&body));
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

#[tokio::test]
async fn faults_and_knobs_can_be_set_over_the_control_endpoint() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let fault = json!({
        "match": { "route": "create_token", "count": 1 },
        "phase": "after",
        "kind": { "status": { "code": 503, "body": "html", "retry_after": { "seconds": 2 } } },
    });
    let (status, answer) = control(&astra, Method::POST, "/faults", Some(fault)).await;
    assert_eq!((status, &answer["id"]), (200, &json!(1)));
    let failed = client.try_create("x").await.unwrap();
    assert_eq!((failed.status, failed.header("retry-after")), (503, "2"));
    let (_, faults) = control(&astra, Method::GET, "/faults", None).await;
    assert_eq!(faults["faults"][0]["fired"], 1);
    let (_, counters) = control(&astra, Method::GET, "/counters", None).await;
    assert_eq!(counters["faults"], json!({ "status": 1 }));
    assert_eq!(counters["statuses"], json!({ "create_token 503": 1 }));
    let (_, tokens) = control(&astra, Method::GET, "/tokens", None).await;
    assert_eq!((&tokens["minted"], tokens["tokens"].as_array().unwrap().len()), (&json!(1), 2));
    control(&astra, Method::DELETE, "/faults/1", None).await;
    assert_eq!(control(&astra, Method::GET, "/faults", None).await.1, json!({ "faults": [] }));

    let knobs = json!({ "create_status": 201, "latency_ms": [1, 2] });
    assert_eq!(control(&astra, Method::POST, "/knobs", Some(knobs)).await.0, 200);
    assert_eq!(client.try_create("x").await.unwrap().status, 201);
    let (status, answer) = control(&astra, Method::POST, "/knobs", Some(json!({ "nope": 1 }))).await;
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("nope"));
    assert_eq!(control(&astra, Method::POST, "/knobs", Some(json!({ "refuse_connections": true }))).await.0, 200);
    assert!(client.try_get(CURRENT_ORG).await.is_err());
    control(&astra, Method::POST, "/reset", None).await;
    assert_eq!(client.get(CURRENT_ORG).await.status, 200);
    assert_eq!((astra.minted(), astra.requests().len()), (0, 1));
    assert_eq!(control(&astra, Method::GET, "/nothing", None).await.0, 404);
}

#[tokio::test]
async fn tokens_and_roles_can_be_changed_outside_the_api() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let org_id = &astra.org().id;
    let role = astra.create_role(org_id, "own", &["org-token-read"]);
    let minted = astra.mint(org_id, &[&role]);
    let holder = Client::with_token(&astra, &minted.token);
    assert_eq!(holder.get(TOKENS).await.status, 200);
    assert!(astra.edit_role(org_id, &role, &["db-cql"]));
    assert_eq!(holder.get(TOKENS).await.status, 403);
    assert_eq!(control(&astra, Method::DELETE, &format!("/roles/{org_id}/{role}"), None).await.0, 200);
    assert_eq!(client.get(&format!("{ROLES}/{role}")).await.status, 404);
    assert!(!astra.delete_role(org_id, &role));

    let (one, _) = client.mint(built_in_id("RO User")).await;
    let (two, _) = client.mint(built_in_id("RO User")).await;
    assert_eq!(control(&astra, Method::DELETE, &format!("/tokens/{one}"), None).await.0, 200);
    assert_eq!(control(&astra, Method::DELETE, &format!("/tokens/{one}"), None).await.0, 404);
    assert_eq!(control(&astra, Method::POST, &format!("/tokens/{two}/expire"), None).await.0, 200);
    assert!(astra.live(org_id).is_empty());

    let before = astra.now();
    control(&astra, Method::POST, "/clock", Some(json!({ "advance_ms": 3_600_000 }))).await;
    assert!(astra.now().duration_since(before).as_secs() >= 3600);
    assert!(astra.delete_token(&astra.org().client_id), "a revoked root token");
    assert_eq!(client.get(CURRENT_ORG).await.error_id(), 340_018);
}

#[tokio::test]
async fn tokens_can_be_made_in_the_portal() {
    let astra = Astra::spawn();
    let (client, org_id) = (Client::new(&astra), &astra.org().id);
    let expiry = "2099-01-31T12:00:00Z";
    let made = [
        astra.portal(org_id, Some("for the demo"), Some(expiry.parse().unwrap())).client_id,
        astra.portal(org_id, None, None).client_id,
    ];
    let body = json!({ "description": "over HTTP", "token_expiry": expiry });
    let (status, answer) = control(&astra, Method::POST, &format!("/tokens/{org_id}"), Some(body)).await;
    assert_eq!(status, 200);
    let listed = client.get(TOKENS).await.json();
    let entry = |id: &str| listed["clients"].as_array().unwrap().iter().find(|token| token["clientId"] == id).unwrap();
    let shown = [made[0].as_str(), &made[1], answer["client_id"].as_str().unwrap()]
        .map(|id| (entry(id)["description"].clone(), entry(id)["tokenExpiry"].clone()));
    let expected = [("for the demo", json!(expiry)), ("", Value::Null), ("over HTTP", json!(expiry))];
    assert_eq!(shown, expected.map(|(description, expiry)| (json!(description), expiry)));
    // They are live, and the API did not mint them.
    assert_eq!((astra.minted(), astra.live(org_id).len(), astra.tokens(org_id).len()), (0, 0, 4));
    assert!(client.delete(&format!("{TOKENS}/{}", made[0])).await.status == 204);
    let wrong = json!({ "token_expiry": "soon" });
    assert_eq!(control(&astra, Method::POST, &format!("/tokens/{org_id}"), Some(wrong)).await.0, 400);
}

#[tokio::test]
async fn the_log_has_each_request_and_its_caller() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    client.create(json!({ "roles": ["x"], "description": "marker" })).await;
    client.get("/v2/nothing").await;
    let calls = astra.requests();
    let create = &calls[0];
    assert_eq!((create.method.as_str(), create.path.as_str()), ("POST", TOKENS));
    assert_eq!((create.route, create.status), (Some(Route::CreateToken), Some(200)));
    assert_eq!(create.caller.as_ref(), Some(&astra.org().client_id));
    assert_eq!(create.body["description"], "marker");
    assert_eq!((calls[1].route, calls[1].status), (None, Some(404)));
    let token = &astra.live(&astra.org().id)[0];
    assert_eq!((create.minted.as_ref(), token.creator.as_ref()), (Some(&token.client_id), create.caller.as_ref()));
    assert_eq!(token.description.as_deref(), Some("marker"));
    astra.until(Duration::from_secs(10), |astra| astra.requests()[1].took_ms.is_some()).await;
}

#[tokio::test]
async fn no_log_answer_or_debug_output_contains_a_secret() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let created = client.create(json!({ "roles": [built_in_id("RO User")] })).await.json();
    let root = &astra.org().root_token;
    client.create(json!({ "roles": [root] })).await;
    client.get(&format!("/v2/currentOrg/{root}")).await;
    client.get(&format!("/v2/currentOrg?token={root}")).await;
    client.try_send(client.request(Method::GET, CURRENT_ORG).header("x-copy", root)).await.unwrap();

    let mut seen = format!("{:?} {:?} {:?}", astra, astra.org(), astra.requests());
    for path in ["/tokens", "/requests", "/counters", "/faults", "/knobs"] {
        seen += &control(&astra, Method::GET, path, None).await.1.to_string();
    }
    let digest = |token: &str| token.rsplit(':').next().unwrap().to_owned();
    let secrets =
        [digest(root), digest(created["token"].as_str().unwrap()), created["secret"].as_str().unwrap().into()];
    let leaks = secrets.iter().map(|secret| seen.matches(secret.as_str()).count()).collect::<Vec<_>>();
    assert_eq!(leaks, [0, 0, 0]);
}

#[tokio::test]
async fn a_client_accepts_only_the_valid_certificate() {
    for (certificate, is_valid) in
        [(Certificate::Valid, true), (Certificate::Expired, false), (Certificate::WrongHost, false)]
    {
        let astra = Astra::builder().tls(certificate).spawn();
        let ca = reqwest::Certificate::from_pem(astra.ca_pem().unwrap().as_bytes()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
        let request = client.get(format!("{}{CURRENT_ORG}", astra.url())).bearer_auth(&astra.org().root_token);
        assert_eq!(request.send().await.is_ok_and(|response| response.status() == 200), is_valid, "{certificate:?}");
        assert!(reqwest::get(format!("{}{CURRENT_ORG}", astra.url())).await.is_err(), "an unknown CA");
    }
}

#[tokio::test]
async fn faults_work_over_tls() {
    let astra = Astra::builder().tls(Certificate::Valid).spawn();
    let ca = reqwest::Certificate::from_pem(astra.ca_pem().unwrap().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    let request = || client.get(format!("{}{CURRENT_ORG}", astra.url())).bearer_auth(&astra.org().root_token);
    let get = || request().timeout(Duration::from_secs(10)).send();
    let slow = astra.fault(AstraFault::before(Kind::SlowTls { delay_ms: 60_000 }).once());
    assert!(request().timeout(Duration::from_millis(300)).send().await.unwrap_err().is_timeout());
    assert_eq!((astra.fired(slow), astra.connections()), (1, 1));
    assert_eq!(get().await.unwrap().status(), 200);
    for kind in [Kind::Reset, Kind::CleanClose] {
        astra.fault(AstraFault::after(kind).once());
        assert!(!get().await.unwrap_err().is_timeout());
        assert_eq!(get().await.unwrap().status(), 200);
    }
}

#[test]
fn a_simulator_serves_synchronous_tests_and_frees_its_port() {
    let astra = Astra::spawn();
    let address = astra.url().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).unwrap();
    let token = &astra.org().root_token;
    // A chunked request body. The client of the other tests never sends one.
    let head = format!("POST {TOKENS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n");
    let body = "transfer-encoding: chunked\r\nconnection: close\r\n\r\n6\r\n{\"role\r\nA\r\ns\":[\"abc\"]\r\n1\r\n}\r\n0\r\n\r\n";
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"));
    astra.wait_for(Duration::from_secs(10), |astra| astra.live(&astra.org().id).iter().all(|token| token.delivered));
    assert_eq!(astra.minted(), 1);
    drop(astra);
    assert!(TcpStream::connect(&address).is_err());
}
