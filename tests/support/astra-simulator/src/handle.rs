//! The handle of a running simulator.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::oneshot;

use super::builder::Builder;
use super::fault::AstraFault;
use super::inspect::{Call, TokenView};
use super::knobs::Knobs;
use super::roles;
use super::routes::Route;
use super::state::{Shared, State, Token};

/// A running simulator. Dropping the handle closes all connections and frees the ports.
pub struct Astra {
    shared: Arc<Shared>,
    orgs: Vec<Org>,
    url: String,
    control_url: String,
    ca_pem: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// An organization that exists from the start.
#[derive(Clone)]
pub struct Org {
    pub id: String,
    pub name: String,
    /// The client id of the root token.
    pub client_id: String,
    pub root_token: String,
}

impl Org {
    pub fn new(id: &str, name: &str, client_id: &str, root_token: String) -> Self {
        Self { id: id.into(), name: name.into(), client_id: client_id.into(), root_token }
    }
}

impl fmt::Debug for Org {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Org").field("id", &self.id).field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// A token created outside the API.
pub struct Minted {
    pub client_id: String,
    pub secret: String,
    pub token: String,
}

impl Astra {
    /// Starts a simulator with one organization.
    pub fn spawn() -> Self {
        Self::builder().spawn()
    }

    /// Like [`Astra::spawn`], but asynchronous.
    pub async fn start() -> Self {
        Self::spawn()
    }

    pub fn builder() -> Builder {
        Builder::new()
    }

    pub fn new(
        shared: Arc<Shared>,
        orgs: Vec<Org>,
        url: String,
        control_url: String,
        ca_pem: Option<String>,
        stop: oneshot::Sender<()>,
        thread: JoinHandle<io::Result<()>>,
    ) -> Self {
        Self { shared, orgs, url, control_url, ca_pem, stop: Some(stop), thread: Some(thread) }
    }

    /// Returns the base URL, without `/v2`.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn control_url(&self) -> &str {
        &self.control_url
    }

    /// Returns the CA to trust; `None` without TLS.
    pub fn ca_pem(&self) -> Option<&str> {
        self.ca_pem.as_deref()
    }

    /// Returns the first organization.
    pub fn org(&self) -> &Org {
        &self.orgs[0]
    }

    pub fn orgs(&self) -> &[Org] {
        &self.orgs
    }

    /// Sets a fault and returns its id.
    pub fn fault(&self, fault: AstraFault) -> u64 {
        self.shared.update(|state| {
            let now = state.now();
            state.faults.add(fault, now)
        })
    }

    /// Returns how often a fault took effect.
    pub fn fired(&self, fault: u64) -> u64 {
        self.shared.lock().faults.fired(fault)
    }

    pub fn clear_fault(&self, fault: u64) {
        self.shared.update(|state| state.faults.remove(fault));
    }

    pub fn clear_faults(&self) {
        self.shared.update(|state| state.faults.clear());
    }

    /// Changes the knobs. When this returns, the new knobs are in force.
    pub fn knobs(&self, change: impl FnOnce(&mut Knobs)) {
        self.shared.update(|state| change(&mut state.knobs));
        let in_force = self.shared.wait(Duration::from_secs(60), |state| state.knobs_in_force());
        let failure = self.shared.lock().failure.clone();
        assert!(in_force, "the listener did not follow the knobs; the simulator stopped: {failure:?}");
    }

    pub fn refuse_connections(&self, refuse: bool) {
        self.knobs(|knobs| knobs.refuse_connections = refuse);
    }

    /// Sets the simulator's clock forward.
    pub fn advance(&self, by: Duration) {
        let by = SignedDuration::try_from(by).expect("a duration of human length");
        self.shared.update(|state| state.clock = state.clock.saturating_add(by));
    }

    pub fn now(&self) -> Timestamp {
        self.shared.lock().now()
    }

    /// Returns all tokens of an organization, including deleted tokens and the root token.
    pub fn tokens(&self, org_id: &str) -> Vec<TokenView> {
        self.shared.lock().views(Some(org_id))
    }

    /// Returns the live tokens of an organization that were minted through the API. The root token was not.
    pub fn live(&self, org_id: &str) -> Vec<TokenView> {
        self.tokens(org_id).into_iter().filter(|token| token.live && token.creator.is_some()).collect()
    }

    /// Returns the live tokens of an organization for which the caller never got the answer.
    pub fn undelivered(&self, org_id: &str) -> Vec<TokenView> {
        self.live(org_id).into_iter().filter(|token| !token.delivered).collect()
    }

    pub fn token(&self, client_id: &str) -> Option<TokenView> {
        let state = self.shared.lock();
        state.data.tokens.get(client_id).map(|token| TokenView::of(token, state.now()))
    }

    /// Returns the number of tokens minted through the API, including deleted tokens.
    pub fn minted(&self) -> u64 {
        self.shared.lock().data.minted
    }

    /// Returns the number of requests of a route, with or without an answer.
    pub fn calls(&self, route: Route) -> u64 {
        self.shared.lock().log.count(route)
    }

    pub fn requests(&self) -> Vec<Call> {
        self.shared.lock().log.calls().cloned().collect()
    }

    /// Returns the number of accepted connections.
    pub fn connections(&self) -> u64 {
        self.shared.lock().log.connections
    }

    pub fn counters(&self) -> Value {
        self.shared.lock().log.counters()
    }

    /// Creates a token outside the API, given the ids of its roles.
    pub fn mint(&self, org_id: &str, roles: &[&str]) -> Minted {
        self.plant(org_id, roles, false)
    }

    /// Creates a token in the portal, where people choose any description, and an expiry or none.
    pub fn portal(&self, org_id: &str, description: Option<&str>, expiry: Option<Timestamp>) -> Minted {
        self.shared.update(|state| {
            let token = state.make_in_portal(org_id, description, expiry);
            Minted { client_id: token.client_id.clone(), secret: token.secret.clone(), token: token.text() }
        })
    }

    /// Creates this token, `AstraCS:<client id>:<digest>`, outside the API.
    pub fn adopt(&self, org_id: &str, text: &str) {
        let mut parts = text.splitn(3, ':').skip(1).map(str::to_owned);
        let (client_id, digest) = (parts.next().expect("a client id"), parts.next().expect("a digest"));
        self.shared.update(|state| {
            let token = Token { client_id, digest, ..state.generate_token(org_id, Vec::new()) };
            state.data.tokens.insert(token.client_id.clone(), token);
        });
    }

    /// Creates an enterprise token outside the API.
    pub fn mint_enterprise(&self, enterprise_id: &str) -> Minted {
        self.plant(enterprise_id, &[roles::built_in_id("Organization Administrator")], true)
    }

    /// Returns every token, secret and digest so far. Tests search for them in places that must not contain secrets.
    pub fn secrets(&self) -> Vec<String> {
        let state = self.shared.lock();
        let of = |token: &Token| [token.text(), token.secret.clone(), token.digest.clone()];
        state.data.tokens.values().flat_map(of).collect()
    }

    /// Deletes a token outside the API. Returns false if the token does not exist.
    pub fn delete_token(&self, client_id: &str) -> bool {
        self.shared.update(|state| state.remove_token(client_id))
    }

    /// Lets a token expire now. Returns false if the token does not exist.
    pub fn expire_token(&self, client_id: &str) -> bool {
        self.shared.update(|state| {
            let now = state.now();
            let token = state.data.tokens.get_mut(client_id);
            token.map(|token| token.token_expiry = Some(now)).is_some()
        })
    }

    /// Changes when a token was generated and when it expires, both counted from now. Returns false if the token does not
    /// exist.
    pub fn date_token(&self, client_id: &str, generated: SignedDuration, expires: SignedDuration) -> bool {
        self.shared.update(|state| {
            let later = |by| state.now().saturating_add(by).expect("a signed duration can be added");
            let (generated_on, expiry) = (later(generated), later(expires));
            let token = state.data.tokens.get_mut(client_id);
            token.map(|token| (token.generated_on, token.token_expiry) = (generated_on, Some(expiry))).is_some()
        })
    }

    /// Creates a custom role outside the API, and returns its id.
    pub fn create_role(&self, org_id: &str, name: &str, actions: &[&str]) -> String {
        self.shared.update(|state| {
            let id = state.rng.uuid();
            let mut role = roles::custom(id.clone(), name, org_id, actions);
            role.updated = Some(state.now());
            state.data.roles.entry(org_id.to_owned()).or_default().push(role);
            id
        })
    }

    /// Changes the actions of a custom role outside the API.
    pub fn edit_role(&self, org_id: &str, role_id: &str, actions: &[&str]) -> bool {
        self.shared.update(|state| {
            let roles = state.data.roles.get_mut(org_id);
            let role = roles.and_then(|roles| roles.iter_mut().find(|role| role.id == role_id));
            let actions = actions.iter().map(|&action| action.to_owned()).collect();
            role.map(|role| (role.actions, role.previous) = (actions, None)).is_some()
        })
    }

    pub fn delete_role(&self, org_id: &str, role_id: &str) -> bool {
        self.shared.update(|state| state.remove_role(org_id, role_id))
    }

    /// Restores the state at the start, including knobs, faults and clock.
    pub fn reset(&self) {
        self.shared.update(State::reset);
    }

    /// Blocks until the condition holds.
    ///
    /// # Panics
    /// When the condition does not hold within the deadline.
    #[track_caller]
    pub fn wait_for(&self, deadline: Duration, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + deadline;
        while !condition(self) {
            assert!(Instant::now() < end, "the condition did not hold within {deadline:?}");
            self.shared.wait(POLL, |_| false);
        }
    }

    /// Like [`Astra::wait_for`], but does not block the runtime.
    pub async fn until(&self, deadline: Duration, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + deadline;
        while !condition(self) {
            assert!(Instant::now() < end, "the condition did not hold within {deadline:?}");
            tokio::time::sleep(POLL).await;
        }
    }

    fn plant(&self, org_id: &str, roles: &[&str], enterprise: bool) -> Minted {
        self.shared.update(|state| {
            let mut token = state.generate_token(org_id, roles.iter().map(|&role| role.to_owned()).collect());
            token.enterprise = enterprise;
            let minted =
                Minted { client_id: token.client_id.clone(), secret: token.secret.clone(), token: token.text() };
            state.data.tokens.insert(token.client_id.clone(), token);
            minted
        })
    }
}

impl fmt::Debug for Astra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Astra").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Drop for Astra {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _result = thread.join();
        }
    }
}

const POLL: Duration = Duration::from_millis(5);
