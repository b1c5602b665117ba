//! A stand-in for Astra: live tokens, and faults on demand.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::{OTHER_ORG, ROLE_ID, ROOT};

/// Id of the Astra role of root tokens.
pub(super) const ROOT_ROLE: &str = "a3f2c1d0-0000-4000-8000-00000000000a";

/// When Astra mints a token, unless a test says otherwise.
const GENERATED_ON: &str = "2022-09-21T17:48:15.260897295Z";

pub(super) struct Astra {
    server: MockServer,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) org: String,
    /// Live tokens by client id, with the request of each mint.
    pub(super) live: BTreeMap<String, Value>,
    /// Live root tokens by client id. A token that is minted with [`ROOT_ROLE`] is also a root token.
    pub(super) roots: BTreeMap<String, Root>,
    /// Further members of the entries of root tokens in the list, by client id: when they were generated and expire.
    pub(super) dates: BTreeMap<String, Value>,
    /// The `tokenExpiry` of the last request for a root token.
    pub(super) asked_expiry: Value,
    /// Whether Astra rejects a request for a root token that has a `tokenExpiry`.
    pub(super) refuses_expiry: bool,
    /// Method and path of each request.
    pub(super) requests: Vec<String>,
    /// The roles that Astra lists, as JSON.
    pub(super) roles: Value,
    /// Headers of the last request.
    pub(super) headers: BTreeMap<String, String>,
    /// How many calls with a new root token Astra rejects first.
    pub(super) refuse_fresh: usize,
    made: usize,
    faults: Vec<Fault>,
}

/// A token that can manage tokens.
#[derive(Clone)]
pub(super) struct Root {
    pub(super) token: String,
    pub(super) roles: Value,
    pub(super) description: Value,
    /// How many calls with this token Astra rejects first.
    pub(super) refused: usize,
}

/// A fault in one or many answers.
#[derive(Clone)]
struct Fault {
    /// Method of the requests with the fault. Empty for all methods.
    method: &'static str,
    /// How many of these requests succeed first.
    skip: usize,
    /// Whether the fault stays for every attempt, until [`Astra::heal`].
    lasting: bool,
    /// Whether the operation takes effect despite the fault.
    effective: bool,
    answer: Option<ResponseTemplate>,
    delay: Duration,
    change: Option<(&'static str, Value)>,
}

impl Fault {
    /// A fault that changes nothing yet.
    fn of(method: &'static str) -> Self {
        Self { method, skip: 0, lasting: false, effective: true, answer: None, delay: Duration::ZERO, change: None }
    }
}

struct Service(Arc<Mutex<State>>);

/// A copy of the tokens.
pub(super) struct Saved {
    live: BTreeMap<String, Value>,
    roots: BTreeMap<String, Root>,
    made: usize,
}

impl Astra {
    pub(super) async fn start(org: &str) -> Self {
        let root = Root { token: ROOT.to_owned(), roles: json!([ROOT_ROLE]), description: Value::Null, refused: 0 };
        let roots = BTreeMap::from([(ROOT.split(':').nth(1).unwrap_or_default().to_owned(), root)]);
        let state = State { org: org.to_owned(), roles: roles(), roots, ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(Service(state.clone())).mount(&server).await;
        Self { server, state }
    }

    pub(super) fn url(&self) -> String {
        self.server.uri()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Copies the tokens for a later [`Astra::restore`].
    pub(super) fn save(&self) -> Saved {
        let state = self.state();
        Saved { live: state.live.clone(), roots: state.roots.clone(), made: state.made }
    }

    /// Restores the tokens of a copy, and clears all requests and faults.
    pub(super) fn restore(&self, saved: &Saved) {
        let mut state = self.state();
        (state.live, state.roots, state.made) = (saved.live.clone(), saved.roots.clone(), saved.made);
        state.requests.clear();
        state.faults.clear();
    }

    /// Client ids of the live root tokens.
    pub(super) fn roots(&self) -> Vec<String> {
        self.state().roots.keys().cloned().collect()
    }

    /// The only live root token.
    pub(super) fn root(&self) -> String {
        let state = self.state();
        assert_eq!(state.roots.len(), 1, "live root tokens: {:?}", state.roots.keys());
        state.roots.values().next().map(|root| root.token.clone()).unwrap_or_default()
    }

    pub(super) fn live(&self) -> usize {
        self.state().live.len()
    }

    pub(super) fn count(&self, method: &str) -> usize {
        self.state().requests.iter().filter(|request| request.starts_with(method)).count()
    }

    /// Answers the next request with this method with `answer`, without effect.
    pub(super) fn answer(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { effective: false, answer: Some(answer), ..Fault::of(method) });
    }

    /// Answers every request with this method with `answer`, without effect, until [`Astra::heal`].
    pub(super) fn answer_all(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { lasting: true, effective: false, answer: Some(answer), ..Fault::of(method) });
    }

    /// Lets the next request with this method take effect, and answers with `answer`.
    pub(super) fn answer_after(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { answer: Some(answer), ..Fault::of(method) });
    }

    /// Lets every request with this method take effect, and answers with `answer`, until [`Astra::heal`].
    pub(super) fn answer_after_all(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { lasting: true, answer: Some(answer), ..Fault::of(method) });
    }

    /// Lets the n-th request from now be answered with this, with or without effect, and those after it as well if it
    /// lasts until [`Astra::heal`].
    pub(super) fn fault_nth(&self, n: usize, effective: bool, lasting: bool, answer: ResponseTemplate) {
        let fault = Fault { lasting, effective, answer: Some(answer), skip: n, ..Fault::of("") };
        self.fault(fault);
    }

    /// Delays the next answer to a request with this method.
    pub(super) fn delay(&self, method: &'static str, delay: Duration) {
        self.fault(Fault { delay, ..Fault::of(method) });
    }

    /// Changes a member of the next answer to a mint.
    pub(super) fn change(&self, member: &'static str, value: Value) {
        self.fault(Fault { change: Some((member, value)), ..Fault::of("POST") });
    }

    /// Removes all faults.
    pub(super) fn heal(&self) {
        self.state().faults.clear();
    }

    fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }
}

impl Respond for Service {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut state = self.0.lock().unwrap();
        let (method, path) = (request.method.as_str(), request.url.path());
        state.requests.push(format!("{method} {path}"));
        let header = |(name, value): (&_, &wiremock::http::HeaderValue)| {
            (format!("{name}"), value.to_str().unwrap_or_default().to_owned())
        };
        state.headers = request.headers.iter().map(header).collect();
        let fault = state.faults.iter().position(|fault| fault.method == method || fault.method.is_empty());
        let Some(index) = fault else { return state.serve(request, None) };
        if state.faults[index].skip > 0 {
            state.faults[index].skip -= 1;
            return state.serve(request, None);
        }
        let fault = if state.faults[index].lasting { state.faults[index].clone() } else { state.faults.remove(index) };
        if !fault.effective {
            return fault.answer.expect("a fault without effect has an answer");
        }
        let answer = state.serve(request, fault.change);
        fault.answer.unwrap_or(answer).set_delay(fault.delay)
    }
}

impl State {
    fn serve(&mut self, request: &Request, change: Option<(&'static str, Value)>) -> ResponseTemplate {
        let (method, path) = (request.method.as_str(), request.url.path());
        let sent = self.headers.get("authorization").cloned().unwrap_or_default();
        // Each live token may ask this.
        let mut live = self.live.keys();
        if path == "/v2/currentOrg" && live.any(|id| sent.starts_with(&format!("Bearer AstraCS:{id}:"))) {
            return ResponseTemplate::new(200).set_body_json(json!({"id": self.org}));
        }
        let root = self.roots.values_mut().find(|root| format!("Bearer {}", root.token) == sent);
        let is_refused = root.is_none_or(|root| {
            let is_refused = root.refused > 0;
            root.refused = root.refused.saturating_sub(1);
            is_refused
        });
        if is_refused {
            let body = json!({"errors": [{"ID": 340_018, "message": "Resource not found: token"}]});
            return ResponseTemplate::new(401).set_body_json(body);
        }
        match (method, path) {
            ("GET", "/v2/currentOrg") => ResponseTemplate::new(200).set_body_json(json!({"id": self.org})),
            ("GET", "/v2/clientIdSecrets") => {
                let root = |(id, root): (&String, &Root)| {
                    let mut entry = json!({"clientId": id, "roles": root.roles, "description": root.description});
                    let dates = self.dates.get(id).and_then(Value::as_object).cloned().unwrap_or_default();
                    entry.as_object_mut().expect("an object").extend(dates);
                    entry
                };
                let listed = |(id, asked): (&String, &Value)| {
                    let time = asked.get("generatedOn").cloned().unwrap_or_else(|| json!(GENERATED_ON));
                    json!({"clientId": id, "roles": asked["roles"], "description": asked["description"],
                        "generatedOn": time, "tokenExpiry": asked["tokenExpiry"]})
                };
                let clients: Vec<Value> = self.roots.iter().map(root).chain(self.live.iter().map(listed)).collect();
                ResponseTemplate::new(200).set_body_json(json!({"clients": clients}))
            }
            ("GET", "/v2/organizations/roles") => ResponseTemplate::new(200).set_body_json(&self.roles),
            ("POST", "/v2/clientIdSecrets") => self.create(request, change),
            ("DELETE", path) => match path.strip_prefix("/v2/clientIdSecrets/") {
                Some(id) if self.live.remove(id).is_some() || self.roots.remove(id).is_some() => {
                    ResponseTemplate::new(204)
                }
                _ => {
                    let body = json!({"errors": [{"ID": 1, "message": "no such token"}]});
                    ResponseTemplate::new(404).set_body_json(body)
                }
            },
            _ => ResponseTemplate::new(404).set_body_string("404 page not found\n"),
        }
    }

    fn create(&mut self, request: &Request, change: Option<(&'static str, Value)>) -> ResponseTemplate {
        let asked: Value = serde_json::from_slice(&request.body).expect("the request is JSON");
        if asked["roles"] == json!([ROOT_ROLE]) {
            self.asked_expiry = asked["tokenExpiry"].clone();
            if self.refuses_expiry && !self.asked_expiry.is_null() {
                return ResponseTemplate::new(400).set_body_json(json!({"message": "invalid tokenExpiry"}));
            }
        }
        self.made += 1;
        let client_id = format!("DTEUyKUZZrvFzzLzPGCb{:04}", self.made);
        let secret = format!("s3cret-{}", self.made);
        let mut body = json!({
            "clientId": client_id, "secret": secret, "orgId": self.org, "roles": asked["roles"],
            "token": format!("AstraCS:{client_id}:{:x}", Sha256::digest(&secret)),
            "generatedOn": GENERATED_ON,
            "description": asked["description"], "tokenExpiry": asked["tokenExpiry"],
        });
        if asked["roles"] == json!([ROOT_ROLE]) {
            let token = body["token"].as_str().unwrap_or_default().to_owned();
            let (roles, description) = (asked["roles"].clone(), asked["description"].clone());
            let dates = json!({"generatedOn": body["generatedOn"], "tokenExpiry": asked["tokenExpiry"]});
            self.dates.insert(client_id.clone(), dates);
            self.roots.insert(client_id, Root { token, roles, description, refused: self.refuse_fresh });
        } else {
            self.live.insert(client_id, asked);
        }
        if let Some((member, value)) = change {
            body[member] = value;
        }
        ResponseTemplate::new(200).set_body_json(body)
    }
}

/// Two roles that the tests write by hand as well, and one that they do not.
fn roles() -> Value {
    json!([{"id": ROLE_ID, "name": "R/W User"}, {"id": ROLE_ID, "name": "Spare"}, {"id": "fresh-id", "name": "Fresh"}])
}

/// The root token of another org.
pub(super) fn other_org(astra: &Astra) {
    astra.state().org = OTHER_ORG.to_owned();
}
