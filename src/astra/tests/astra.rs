//! A stand-in for Astra: tokens that live, and answers that go wrong when told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::{OTHER_ORG, ROLE_ID, ROOT};

pub(super) struct Astra {
    server: MockServer,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(super) struct State {
    org: String,
    /// Live tokens by client id, with the request that made them.
    pub(super) live: BTreeMap<String, Value>,
    /// Method and path of each request.
    pub(super) requests: Vec<String>,
    /// The roles that are listed, as JSON.
    pub(super) roles: Value,
    /// Headers of the last request.
    pub(super) headers: BTreeMap<String, String>,
    made: usize,
    faults: Vec<Fault>,
}

/// One answer that goes wrong, or many.
#[derive(Clone)]
struct Fault {
    method: &'static str,
    /// Whether it stays for every attempt, until [`Astra::heal`].
    lasting: bool,
    /// Whether the operation takes effect all the same.
    effective: bool,
    answer: Option<ResponseTemplate>,
    delay: Duration,
    change: Option<(&'static str, Value)>,
}

impl Fault {
    /// One that changes nothing yet.
    fn of(method: &'static str) -> Self {
        Self { method, lasting: false, effective: true, answer: None, delay: Duration::ZERO, change: None }
    }
}

struct Service(Arc<Mutex<State>>);

/// The tokens of one point in time.
pub(super) struct Saved {
    live: BTreeMap<String, Value>,
    made: usize,
}

impl Astra {
    pub(super) async fn start(org: &str) -> Self {
        let state = Arc::new(Mutex::new(State { org: org.to_owned(), roles: roles(), ..State::default() }));
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

    /// Returns what a later [`Astra::restore`] brings back.
    pub(super) fn save(&self) -> Saved {
        let state = self.state();
        Saved { live: state.live.clone(), made: state.made }
    }

    /// Brings back the tokens of then, and forgets all requests and faults.
    pub(super) fn restore(&self, saved: &Saved) {
        let mut state = self.state();
        (state.live, state.made) = (saved.live.clone(), saved.made);
        state.requests.clear();
        state.faults.clear();
    }

    pub(super) fn live(&self) -> usize {
        self.state().live.len()
    }

    pub(super) fn count(&self, method: &str) -> usize {
        self.state().requests.iter().filter(|request| request.starts_with(method)).count()
    }

    /// Lets the next request with this method be answered with this, and without effect.
    pub(super) fn answer(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { effective: false, answer: Some(answer), ..Fault::of(method) });
    }

    /// Lets every request with this method be answered with this, and without effect, until [`Astra::heal`].
    pub(super) fn answer_all(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { lasting: true, effective: false, answer: Some(answer), ..Fault::of(method) });
    }

    /// Lets the next request with this method take effect, and be answered with this.
    pub(super) fn answer_after(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { answer: Some(answer), ..Fault::of(method) });
    }

    /// Lets every request with this method take effect, and be answered with this, until [`Astra::heal`].
    pub(super) fn answer_after_all(&self, method: &'static str, answer: ResponseTemplate) {
        self.fault(Fault { lasting: true, answer: Some(answer), ..Fault::of(method) });
    }

    /// Lets the next answer to a request with this method come late.
    pub(super) fn delay(&self, method: &'static str, delay: Duration) {
        self.fault(Fault { delay, ..Fault::of(method) });
    }

    /// Lets the next answer to a mint have another member.
    pub(super) fn change(&self, member: &'static str, value: Value) {
        self.fault(Fault { change: Some((member, value)), ..Fault::of("POST") });
    }

    /// Lets nothing go wrong any more.
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
        let fault = state.faults.iter().position(|fault| fault.method == method);
        let Some(index) = fault else { return state.serve(request, None) };
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
        if self.headers.get("authorization").is_none_or(|value| *value != format!("Bearer {ROOT}")) {
            let body = json!({"errors": [{"ID": 340_018, "message": "Resource not found: token"}]});
            return ResponseTemplate::new(401).set_body_json(body);
        }
        match (method, path) {
            ("GET", "/v2/currentOrg") => ResponseTemplate::new(200).set_body_json(json!({"id": self.org})),
            ("GET", "/v2/clientIdSecrets") => {
                let root = json!({"clientId": ROOT.split(':').nth(1), "roles": []});
                let listed = |(id, asked): (&String, &Value)| json!({"clientId": id, "roles": asked["roles"], "description": asked["description"]});
                let clients: Vec<Value> = std::iter::once(root).chain(self.live.iter().map(listed)).collect();
                ResponseTemplate::new(200).set_body_json(json!({"clients": clients}))
            }
            ("GET", "/v2/organizations/roles") => ResponseTemplate::new(200).set_body_json(&self.roles),
            ("POST", "/v2/clientIdSecrets") => self.create(request, change),
            ("DELETE", path) => match path.strip_prefix("/v2/clientIdSecrets/").and_then(|id| self.live.remove(id)) {
                Some(_) => ResponseTemplate::new(204),
                None => {
                    let body = json!({"errors": [{"ID": 1, "message": "no such token"}]});
                    ResponseTemplate::new(404).set_body_json(body)
                }
            },
            _ => ResponseTemplate::new(404).set_body_string("404 page not found\n"),
        }
    }

    fn create(&mut self, request: &Request, change: Option<(&'static str, Value)>) -> ResponseTemplate {
        let asked: Value = serde_json::from_slice(&request.body).expect("the request is JSON");
        self.made += 1;
        let client_id = format!("DTEUyKUZZrvFzzLzPGCb{:04}", self.made);
        let secret = format!("s3cret-{}", self.made);
        let mut body = json!({
            "clientId": client_id, "secret": secret, "orgId": self.org, "roles": asked["roles"],
            "token": format!("AstraCS:{client_id}:{:x}", Sha256::digest(&secret)),
            "generatedOn": "2022-09-21T17:48:15.260897295Z",
        });
        if let Some((member, value)) = change {
            body[member] = value;
        }
        self.live.insert(client_id, asked);
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
