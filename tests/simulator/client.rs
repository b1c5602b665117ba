//! A small HTTP client that returns each status and body unchanged.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::astra::Astra;

pub struct Client {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// An answer. Its `Debug` shows only the status, because the body can hold a token.
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({})", self.status)
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// Returns the id in an error body of the form [`BodyForm::Errors`](crate::astra::BodyForm::Errors).
    pub fn error_id(&self) -> i64 {
        self.json()["errors"][0]["ID"].as_i64().expect("an error id")
    }
}

impl Client {
    /// Returns a client with the root token of the first organization.
    pub fn new(astra: &Astra) -> Self {
        Self::with_token(astra, &astra.org().root_token)
    }

    pub fn with_token(astra: &Astra, token: &str) -> Self {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { http, url: astra.url().to_owned(), token: token.to_owned() }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    pub async fn try_send(&self, request: RequestBuilder) -> Result<Answer, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await?.to_vec() })
    }

    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        self.try_send(request).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, None).await
    }

    pub async fn create(&self, body: Value) -> Answer {
        self.send(Method::POST, TOKENS, Some(body)).await
    }

    pub async fn try_create(&self, role: &str) -> Result<Answer, reqwest::Error> {
        self.try_send(self.request(Method::POST, TOKENS).json(&json!({ "roles": [role] }))).await
    }

    pub async fn try_get(&self, path: &str) -> Result<Answer, reqwest::Error> {
        self.try_send(self.request(Method::GET, path)).await
    }

    pub async fn try_delete(&self, client_id: &str) -> Result<Answer, reqwest::Error> {
        self.try_send(self.request(Method::DELETE, &format!("{TOKENS}/{client_id}"))).await
    }

    /// Mints a token. Returns its client id and the token.
    pub async fn mint(&self, role: &str) -> (String, String) {
        let answer = self.create(json!({ "roles": [role] })).await;
        assert!(answer.status < 300, "{answer:?}");
        let body = answer.json();
        (body["clientId"].as_str().unwrap().to_owned(), body["token"].as_str().unwrap().to_owned())
    }

    /// Returns the client ids in the list of tokens.
    pub async fn listed(&self) -> Vec<String> {
        let answer = self.get(TOKENS).await;
        assert_eq!(answer.status, 200);
        let clients = answer.json()["clients"].as_array().unwrap().clone();
        clients.iter().map(|client| client["clientId"].as_str().unwrap().to_owned()).collect()
    }
}

pub const TOKENS: &str = "/v2/clientIdSecrets";
pub const ROLES: &str = "/v2/organizations/roles";
pub const USERS: &str = "/v2/organizations/users";
pub const CURRENT_ORG: &str = "/v2/currentOrg";
