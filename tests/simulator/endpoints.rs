//! Each call of the API with default knobs: its success and its errors.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::astra::{Astra, Route, Seed, built_in_id};
use crate::client::{CURRENT_ORG, Client, ROLES, TOKENS, USERS};

const RO: &str = "RO User";

#[tokio::test]
async fn a_created_token_has_the_real_format() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    for path in [TOKENS, "/v2/tokens"] {
        let answer = client.send(Method::POST, path, Some(json!({ "roles": [built_in_id(RO)] }))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/json; charset=UTF-8");
        let body = answer.json();
        let text = |key: &str| body[key].as_str().unwrap();
        let digest: String = Sha256::digest(text("secret")).iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(
            text("token") == format!("AstraCS:{}:{digest}", text("clientId")),
            "the token ends with the digest of the secret"
        );
        assert_eq!(
            (text("token").len(), text("clientId").len(), text("secret").len()),
            (97, 24, 128),
            "lengths of real tokens"
        );
        assert_eq!(text("generatedOn").rsplit('.').next().unwrap().len(), "123456789Z".len());
        assert_eq!(text("orgId"), astra.org().id);
        assert_eq!(body["roles"], json!([built_in_id(RO)]));
        assert_eq!((&body["description"], &body["tokenExpiry"]), (&json!(""), &Value::Null));
        assert_eq!(Client::with_token(&astra, text("token")).get(CURRENT_ORG).await.status, 200);
    }
    assert_eq!((astra.minted(), astra.calls(Route::CreateToken)), (2, 2));
    assert!(astra.live(&astra.org().id).iter().all(|token| token.delivered));
}

#[tokio::test]
async fn create_rejects_invalid_bodies() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    for body in [
        json!({}),
        json!({ "roles": [] }),
        json!({ "roles": [1] }),
        json!({ "roles": "x" }),
        json!([]),
        json!({ "roles": ["x"], "description": 1 }),
        json!({ "roles": ["x"], "description": "x".repeat(256) }),
        json!({ "roles": ["x"], "tokenExpiry": "tomorrow" }),
        json!({ "roles": ["x"], "tokenExpiry": "2001-01-01T00:00:00Z" }),
    ] {
        assert_eq!(client.create(body.clone()).await.status, 400, "{body}");
    }
    let unknown = client.create(json!({ "roles": ["x"], "orgId": "nobody" })).await;
    assert_eq!((unknown.status, unknown.text()), (404, "organization not found"));
    assert_eq!(astra.minted(), 0);
}

#[tokio::test]
async fn an_unknown_role_is_stored_and_gives_no_permissions() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let (client_id, token) = client.mint("Some Name").await;
    assert!(client.listed().await.contains(&client_id));
    let holder = Client::with_token(&astra, &token);
    assert_eq!(holder.get(CURRENT_ORG).await.status, 200);
    assert_eq!(holder.get(ROLES).await.status, 403);
}

#[tokio::test]
async fn a_token_cannot_mint_a_token_with_more_permissions() {
    let astra = Astra::spawn();
    let administrator = astra.mint(&astra.org().id, &[built_in_id("Database Administrator")]);
    let client = Client::with_token(&astra, &administrator.token);
    assert_eq!(client.try_create(built_in_id("Organization Administrator")).await.unwrap().status, 403);
    assert_eq!(client.try_create(built_in_id(RO)).await.unwrap().status, 200);
    astra.knobs(|knobs| knobs.escalation_check = false);
    assert_eq!(client.try_create(built_in_id("Organization Administrator")).await.unwrap().status, 200);
}

#[tokio::test]
async fn the_list_shows_all_tokens_without_secrets() {
    let astra = Astra::builder().orgs(2).spawn();
    let client = Client::new(&astra);
    let described = json!({
        "roles": [built_in_id(RO)], "description": "vault x", "tokenExpiry": "2099-01-31T12:00:00Z",
    });
    let created = client.create(described).await.json();
    let (plain, _) = client.mint(built_in_id(RO)).await;
    let clients = client.get(TOKENS).await.json()["clients"].as_array().unwrap().clone();
    assert_eq!(clients.len(), 3, "two new tokens and the root token");
    let entry = |id: &str| clients.iter().find(|client| client["clientId"] == id).unwrap().clone();
    let entry_of_created = entry(created["clientId"].as_str().unwrap());
    assert_eq!(entry_of_created["description"], "vault x");
    assert_eq!(entry_of_created["tokenExpiry"], "2099-01-31T12:00:00Z");
    assert_eq!(entry_of_created["generatedOn"].as_str().unwrap().rsplit('.').next().unwrap().len(), "123Z".len());
    assert_eq!((&entry(&plain)["description"], &entry(&plain)["tokenExpiry"]), (&json!(""), &json!(null)));
    for client in &clients {
        let keys: Vec<&String> = client.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["clientId", "description", "generatedOn", "roles", "tokenExpiry"]);
    }
    let stranger = Client::with_token(&astra, &astra.orgs()[1].root_token);
    assert_eq!(stranger.listed().await, [astra.orgs()[1].client_id.clone()]);
}

#[tokio::test]
async fn delete_takes_effect_at_once_and_only_in_the_callers_organization() {
    let astra = Astra::builder().orgs(2).spawn();
    let client = Client::new(&astra);
    let (client_id, token) = client.mint(built_in_id(RO)).await;
    let path = format!("{TOKENS}/{client_id}");

    let stranger = Client::with_token(&astra, &astra.orgs()[1].root_token);
    assert_eq!(stranger.delete(&path).await.status, 404);
    assert_eq!(client.delete(&path.to_uppercase().replace("/V2/CLIENTIDSECRETS", TOKENS)).await.status, 404);
    assert_eq!(astra.live(&astra.org().id).len(), 1);

    let deleted = client.delete(&path).await;
    assert_eq!((deleted.status, deleted.body.len()), (204, 0));
    assert!(!client.listed().await.contains(&client_id));
    let rejected = Client::with_token(&astra, &token).get(CURRENT_ORG).await;
    assert_eq!((rejected.status, rejected.error_id()), (401, 340_018));
    assert_eq!(client.delete(&path).await.status, 404);
    assert!(astra.live(&astra.org().id).is_empty());
}

#[tokio::test]
async fn a_token_may_delete_itself() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    assert_eq!(client.delete(&format!("{TOKENS}/{}", astra.org().client_id)).await.status, 204);
    assert_eq!(client.get(CURRENT_ORG).await.error_id(), 340_018);
}

#[tokio::test]
async fn routing_comes_before_authentication() {
    let astra = Astra::spawn();
    let nobody = Client::with_token(&astra, "nonsense");
    for (method, path) in [
        (Method::GET, "/v2/nothing"),
        (Method::GET, "/currentOrg"),
        (Method::GET, "/v2/v2/currentOrg"),
        (Method::GET, "/v2/currentOrg/"),
        (Method::GET, "/v2/clientIdSecrets/ABC"),
        (Method::PUT, TOKENS),
        (Method::GET, "/v2/tokens"),
        (Method::DELETE, "/v2/tokens/ABC"),
        (Method::DELETE, "/v2/clientIdSecret/ABC"),
        (Method::DELETE, "/v2/clientIdSecrets/"),
    ] {
        let answer = nobody.send(method, path, None).await;
        assert_eq!((answer.status, answer.text()), (404, "404 page not found\n"), "{path}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
    }
}

#[tokio::test]
async fn each_kind_of_invalid_token_has_its_own_error() {
    let astra = Astra::spawn();
    let anonymous = reqwest::get(format!("{}{CURRENT_ORG}", astra.url())).await.unwrap();
    assert_eq!(anonymous.status(), 401);
    let body: serde_json::Value = anonymous.json().await.unwrap();
    assert_eq!(body, json!({ "errors": [{ "ID": 340002, "message": "no bearer token in request" }] }));

    let malformed = Client::with_token(&astra, "AstraCS:short:1234").get(CURRENT_ORG).await;
    assert_eq!((malformed.status, malformed.error_id()), (401, 340_016));
    assert!(malformed.text().contains("%s/v2/admin/tokens?%s"));

    let unknown = format!("AstraCS:{}:{}", "x".repeat(24), "0".repeat(64));
    let unknown = Client::with_token(&astra, &unknown).get(CURRENT_ORG).await;
    assert_eq!((unknown.status, unknown.error_id()), (401, 340_018));

    let wrong_digest = format!("AstraCS:{}:{}", astra.org().client_id, "0".repeat(64));
    let wrong_digest = Client::with_token(&astra, &wrong_digest).get(CURRENT_ORG).await;
    assert_eq!((wrong_digest.status, wrong_digest.error_id()), (401, 340_018));
}

#[tokio::test]
async fn ids_can_have_the_format_of_a_users_guide() {
    let (org, token) = ("ccd_not_a_uuid", "AstraCS:shortClientId:608ba9");
    let astra = Astra::builder().org(Seed::new().id(org).root_token(token)).spawn();
    let client = Client::new(&astra);
    assert_eq!(client.get(CURRENT_ORG).await.json(), json!({ "id": org }));
    assert_eq!(client.listed().await, ["shortClientId"]);
    assert_eq!(client.delete("/v2/clientIdSecrets/shortClientId").await.status, 204);
}

#[tokio::test]
async fn expiry_follows_the_simulated_clock_and_the_maximum_of_the_organization() {
    let seed = Seed::new().max_token_age(SignedDuration::from_hours(2));
    let astra = Astra::builder().org(seed).spawn();
    let client = Client::new(&astra);
    let (by_default, token) = client.mint(built_in_id(RO)).await;
    let expiry = astra.token(&by_default).unwrap().token_expiry.unwrap();
    assert!(expiry > Timestamp::now().saturating_add(SignedDuration::from_mins(119)).unwrap());
    let too_late = json!({ "roles": ["x"], "tokenExpiry": "2099-01-31T12:00:00Z" });
    assert_eq!(client.create(too_late).await.status, 400);

    astra.advance(Duration::from_secs(2 * 3600 + 1));
    let rejected = Client::with_token(&astra, &token).get(CURRENT_ORG).await;
    assert_eq!((rejected.status, rejected.error_id()), (401, 340_018));
    assert!(client.listed().await.contains(&by_default), "an expired token stays in the list");
    assert!(astra.live(&astra.org().id).is_empty());
}

#[tokio::test]
async fn the_built_in_roles_match_the_recording() {
    let astra = Astra::spawn();
    let roles = Client::new(&astra).get(ROLES).await.json().as_array().unwrap().clone();
    let count = |name: &str| {
        let role = roles.iter().find(|role| role["name"] == name).unwrap();
        assert_eq!(role["id"], built_in_id(name));
        assert_eq!(role["last_update_date_time"], "0001-01-01T00:00:00Z");
        assert!(role["policy"]["resources"][0].as_str().unwrap().contains("__ORG_ID__"));
        role["policy"]["actions"].as_array().unwrap().len()
    };
    let expected = [
        ("Organization Administrator", 51),
        ("Database Administrator", 38),
        ("Admin User", 38),
        ("Admin Svc Acct", 38),
        ("API Admin User", 36),
        ("API Admin Svc Acct", 35),
        ("R/W User", 11),
        ("R/W Svc Acct", 9),
        ("API R/W User", 10),
        ("API R/W Svc Acct", 8),
        ("RO User", 10),
        ("RO Svc Acct", 8),
        ("API RO User", 9),
        ("API RO Svc Acct", 7),
        ("Billing Admin", 4),
        ("UI View Only", 3),
    ];
    assert_eq!(roles.len(), expected.len());
    assert_eq!(expected.map(|(name, _)| count(name)), expected.map(|(_, actions)| actions));
}

#[tokio::test]
async fn editing_or_deleting_a_custom_role_changes_its_tokens() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let policy =
        |actions: &[&str]| json!({ "description": "d", "resources": ["r"], "actions": actions, "effect": "allow" });
    let body = json!({ "name": "own", "policy": policy(&["org-token-read"]) });
    let created = client.send(Method::POST, ROLES, Some(body.clone())).await;
    assert_eq!(created.status, 201);
    let id = created.json()["ID"].as_str().unwrap().to_owned();
    assert!(created.json()["Policy"].is_string());
    let again = client.send(Method::POST, ROLES, Some(body)).await;
    assert_eq!((again.status, again.text()), (409, "\"unable to create role\""));
    assert_eq!(client.send(Method::POST, ROLES, Some(json!({ "name": "x" }))).await.status, 400);

    let path = format!("{ROLES}/{id}");
    assert_eq!(client.get(&path).await.json()["last_update_user_id"], astra.org().client_id);
    let (client_id, token) = client.mint(&id).await;
    let holder = Client::with_token(&astra, &token);
    assert_eq!(holder.get(TOKENS).await.status, 200);
    let weaker = json!({ "name": "own", "policy": policy(&["db-cql"]) });
    assert_eq!(client.send(Method::PUT, &path, Some(weaker)).await.status, 200);
    assert_eq!(holder.get(TOKENS).await.status, 403);
    assert_eq!(holder.get(ROLES).await.status, 200);

    assert_eq!(client.delete(&path).await.status, 204);
    assert_eq!(holder.get(ROLES).await.status, 403);
    assert!(client.listed().await.contains(&client_id));
    for answer in [client.get(&path).await, client.delete(&path).await] {
        assert_eq!((answer.status, answer.text()), (404, "\"unable to get role for organization\""));
    }
    assert_eq!(client.delete(&format!("{ROLES}/{}", built_in_id(RO))).await.status, 400);
}

#[tokio::test]
async fn users_are_invited_changed_and_removed() {
    let astra = Astra::builder().org(Seed::new().name("Acme")).spawn();
    let client = Client::new(&astra);
    let invitation = json!({ "email": "a@b.example", "orgID": astra.org().id, "roles": [built_in_id(RO)] });
    assert_eq!(client.send(Method::PUT, USERS, Some(invitation)).await.status, 200);
    let list = client.get(USERS).await.json();
    assert_eq!((&list["OrgName"], &list["OrgID"]), (&json!("Acme"), &json!(astra.org().id)));
    let user = list["Users"].as_array().unwrap().iter().find(|user| user["Status"] == "invited").unwrap();
    assert_eq!(user["Roles"][0]["Name"], RO);
    let path = format!("{USERS}/{}", user["UserID"].as_str().unwrap());
    let roles = json!({ "roles": [built_in_id("Billing Admin")] });
    assert_eq!(client.send(Method::PUT, &format!("{path}/roles"), Some(roles)).await.status, 204);
    assert_eq!(client.get(&path).await.json()["Roles"][0]["Name"], "Billing Admin");
    assert_eq!(client.delete(&path).await.status, 204);
    assert_eq!(client.get(&path).await.status, 404);
}

#[tokio::test]
async fn an_enterprise_token_creates_organizations_and_mints_their_tokens() {
    let astra = Astra::spawn();
    let enterprise = Client::with_token(&astra, &astra.mint_enterprise("ent-1").token);
    let body = json!({ "name": "new", "email": "a@b.example", "adminUserID": "u" });
    let path = "/v2/enterprises/organizations";
    let made = enterprise.send(Method::POST, path, Some(body.clone())).await;
    assert_eq!(made.status, 201);
    let org_id = made.json()["OrganizationID"].as_str().unwrap().to_owned();
    let minted = enterprise.create(json!({ "roles": [built_in_id(RO)], "orgId": org_id })).await.json();
    let member = Client::with_token(&astra, minted["token"].as_str().unwrap());
    assert_eq!(member.get(CURRENT_ORG).await.json()["id"], org_id.as_str());

    let lost = enterprise.get(CURRENT_ORG).await;
    assert_eq!((lost.status, lost.text().contains("organization ID not present")), (401, true));
    assert_eq!(enterprise.create(json!({ "roles": ["x"], "orgId": astra.org().id })).await.status, 403);
    assert_eq!(Client::new(&astra).send(Method::POST, path, Some(body)).await.status, 403);
}

#[tokio::test]
async fn answers_have_the_recorded_headers_and_connections_are_reused() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    for _ in 0..3 {
        let answer = client.get(CURRENT_ORG).await;
        assert_eq!(answer.header("server"), "istio-envoy");
        assert_eq!(answer.header("strict-transport-security"), "max-age=63072000; include-subdomains");
        assert!(answer.header("x-envoy-upstream-service-time").parse::<u64>().is_ok());
        assert!(answer.header("date").ends_with(" GMT"));
        assert_eq!(answer.header("content-length"), answer.body.len().to_string());
        assert_eq!(answer.header("x-request-id"), "");
    }
    assert_eq!(astra.connections(), 1);
}

#[test]
fn the_same_seed_gives_the_same_ids() {
    let ids = |seed| {
        let astra = Astra::builder().seed(seed).spawn();
        (astra.org().id.clone(), astra.org().client_id.clone())
    };
    assert_eq!(ids(7), ids(7));
    assert_ne!(ids(7), ids(8));
}
