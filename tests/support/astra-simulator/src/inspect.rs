//! The data that tests can inspect: the request log, counters and tokens. It contains no secrets.

use std::collections::{BTreeMap, VecDeque};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::armed::Context;
use super::http::Request;
use super::routes::Route;
use super::state::{State, Token, sha256_hex};

/// A request and its result.
#[derive(Clone, Debug, Serialize)]
pub struct Call {
    pub seq: u64,
    /// The time of the simulator's clock.
    #[serde(serialize_with = "as_text")]
    pub time: Timestamp,
    pub method: String,
    pub path: String,
    pub route: Option<Route>,
    /// The organization of the calling token.
    pub org: Option<String>,
    /// The client id of the calling token.
    pub caller: Option<String>,
    /// SHA-256 of the token in the request, even if the token is unknown.
    pub token_hash: Option<String>,
    /// The value of `authorization` is replaced by its hash.
    pub headers: Vec<(String, String)>,
    pub body: Value,
    /// `None` if no answer was started.
    pub status: Option<u16>,
    pub faults: Vec<String>,
    /// The client id of the token that the request minted.
    pub minted: Option<String>,
    pub took_ms: Option<u64>,
}

/// A token without its secrets.
#[derive(Clone, Debug, Serialize)]
pub struct TokenView {
    pub client_id: String,
    pub org_id: String,
    pub roles: Vec<String>,
    pub description: Option<String>,
    #[serde(serialize_with = "as_optional_text")]
    pub token_expiry: Option<Timestamp>,
    #[serde(serialize_with = "as_text")]
    pub generated_on: Timestamp,
    /// The client id of the calling token; `None` for a token created outside the API.
    pub creator: Option<String>,
    /// Whether the answer to its create call was sent completely and unaltered.
    pub delivered: bool,
    pub live: bool,
    pub deleted: bool,
}

impl TokenView {
    pub fn of(token: &Token, now: Timestamp) -> Self {
        Self {
            client_id: token.client_id.clone(),
            org_id: token.org_id.clone(),
            roles: token.roles.iter().map(|role| redact(role)).collect(),
            description: token.description.as_deref().map(redact),
            token_expiry: token.token_expiry,
            generated_on: token.generated_on,
            creator: token.creator.clone(),
            delivered: token.delivered,
            live: token.live(now),
            deleted: token.deleted,
        }
    }
}

#[derive(Default)]
pub struct Log {
    calls: VecDeque<Call>,
    next: u64,
    by_route: BTreeMap<String, u64>,
    by_status: BTreeMap<String, u64>,
    by_fault: BTreeMap<String, u64>,
    pub connections: u64,
}

impl Log {
    /// Returns the last calls, at most [`CALLS_KEPT`].
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter()
    }

    pub fn count(&self, route: Route) -> u64 {
        self.by_route.get(&name(Some(route))).copied().unwrap_or_default()
    }

    pub fn find(&mut self, seq: u64) -> Option<&mut Call> {
        let first = self.calls.front()?.seq;
        self.calls.get_mut(usize::try_from(seq.checked_sub(first)?).ok()?)
    }

    pub fn faulted(&mut self, seq: u64, names: impl Iterator<Item = String>) {
        for name in names {
            *self.by_fault.entry(name.clone()).or_default() += 1;
            if let Some(call) = self.find(seq) {
                call.faults.push(name);
            }
        }
    }

    pub fn answered(&mut self, seq: u64, status: u16) {
        if let Some(call) = self.find(seq) {
            call.status = Some(status);
            let key = format!("{} {status}", name(call.route));
            *self.by_status.entry(key).or_default() += 1;
        }
    }

    pub fn counters(&self) -> Value {
        json!({
            "routes": self.by_route, "statuses": self.by_status, "faults": self.by_fault,
            "connections": self.connections,
        })
    }
}

impl State {
    /// Logs a request and returns its number.
    pub fn record(&mut self, request: &Request, context: &Context) -> u64 {
        let time = self.now();
        let headers = request.headers.iter().map(|(name, value)| {
            let secret = name == "authorization";
            (name.clone(), if secret { format!("sha256:{}", sha256_hex(value)) } else { redact(value) })
        });
        let body = redact(&String::from_utf8_lossy(&request.body));
        let call = Call {
            seq: self.log.next,
            time,
            method: request.method.clone(),
            path: redact(&request.path),
            route: context.route,
            org: context.org.clone(),
            caller: context.caller.clone(),
            token_hash: request.bearer().map(sha256_hex),
            headers: headers.collect(),
            body: serde_json::from_str(&body).unwrap_or_else(|_| body.into()),
            status: None,
            faults: Vec::new(),
            minted: None,
            took_ms: None,
        };
        *self.log.by_route.entry(name(context.route)).or_default() += 1;
        self.log.calls.push_back(call);
        if self.log.calls.len() > CALLS_KEPT {
            self.log.calls.pop_front();
        }
        self.log.next += 1;
        self.log.next - 1
    }

    /// Returns all tokens of one organization, or of all organizations.
    pub fn views(&self, org_id: Option<&str>) -> Vec<TokenView> {
        let now = self.now();
        let tokens = self.data.tokens.values().filter(|token| org_id.is_none_or(|org_id| token.org_id == org_id));
        tokens.map(|token| TokenView::of(token, now)).collect()
    }
}

/// Replaces a text that contains a token.
fn redact(text: &str) -> String {
    if text.contains("AstraCS:") { "[redacted]".into() } else { text.to_owned() }
}

fn name(route: Option<Route>) -> String {
    let value = serde_json::to_value(route).unwrap_or_default();
    value.as_str().unwrap_or("unknown").to_owned()
}

fn as_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn as_optional_text<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_string()).serialize(serializer)
}

const CALLS_KEPT: usize = 10_000;
