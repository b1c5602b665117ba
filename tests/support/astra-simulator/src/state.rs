//! The state of the simulated service, behind one lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::armed::ArmedFaults;
use super::inspect::Log;
use super::knobs::{Knobs, RateLimit};
use super::late::LateRequests;
use super::roles::{self, Role};

/// The data that all tasks of one simulator share.
pub struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether the listener should refuse connections.
    pub refuse: watch::Sender<bool>,
}

impl Shared {
    pub fn new(state: State) -> Self {
        let refuse = watch::Sender::new(state.knobs.refuse_connections);
        Self { state: Mutex::new(state), changed: Condvar::new(), refuse }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up();
        state
    }

    /// Changes the state, and wakes all waiting threads.
    pub fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        let refuse = state.knobs.refuse_connections;
        drop(state);
        self.refuse.send_if_modified(|current| std::mem::replace(current, refuse) != refuse);
        self.changed.notify_all();
        result
    }

    /// Blocks until the condition holds. Returns false if `deadline` passes first.
    pub fn wait(&self, deadline: Duration, mut condition: impl FnMut(&mut State) -> bool) -> bool {
        let guard = self.lock();
        let (_guard, result) = self
            .changed
            .wait_timeout_while(guard, deadline, |state| !condition(state))
            .unwrap_or_else(PoisonError::into_inner);
        !result.timed_out()
    }
}

pub struct State {
    pub data: AstraData,
    pub knobs: Knobs,
    pub faults: ArmedFaults,
    /// Requests that take effect later.
    pub late: LateRequests,
    pub log: Log,
    pub rng: Rng,
    /// How far [`State::now`] is ahead of the real clock.
    pub clock: SignedDuration,
    /// Whether the listener is open.
    pub listening: bool,
    /// Why the simulator stopped, if it did.
    pub failure: Option<String>,
    /// The client id of the token that the current operation minted.
    pub fresh: Option<String>,
    /// The state that a reset restores.
    pub initial: (AstraData, Knobs),
    buckets: HashMap<String, (f64, Timestamp)>,
}

impl State {
    pub fn new(seed: u64, knobs: Knobs) -> Self {
        Self {
            data: AstraData::default(),
            initial: (AstraData::default(), knobs.clone()),
            knobs,
            faults: ArmedFaults::default(),
            late: LateRequests::new(),
            log: Log::default(),
            rng: Rng::new(seed),
            clock: SignedDuration::ZERO,
            listening: false,
            failure: None,
            fresh: None,
            buckets: HashMap::new(),
        }
    }

    /// Restores the state right after the start. Does not reset the generator, so no token is generated twice.
    pub fn reset(&mut self) {
        (self.data, self.knobs) = self.initial.clone();
        self.faults.clear();
        self.late.clear();
        self.log = Log::default();
        self.clock = SignedDuration::ZERO;
        self.buckets.clear();
    }

    /// Whether the listener is in the state that the knob `refuse_connections` asks for.
    pub fn knobs_in_force(&self) -> bool {
        self.listening != self.knobs.refuse_connections
    }

    /// Returns the time of the simulator's clock.
    pub fn now(&self) -> Timestamp {
        Timestamp::now().saturating_add(self.clock).expect("a signed duration can be added")
    }

    pub fn after_ms(&self, milliseconds: u64) -> Timestamp {
        later(self.now(), milliseconds)
    }

    /// Returns the actions that the roles currently allow.
    pub fn actions(&self, org_id: &str, roles: &[String]) -> Vec<String> {
        let now = self.now();
        let roles = roles.iter().filter_map(|id| self.role(org_id, id));
        roles.flat_map(|role| role.actions_at(now).iter().cloned()).collect()
    }

    /// Finds a role of an organization by its id.
    pub fn role(&self, org_id: &str, id: &str) -> Option<&Role> {
        let custom = self.data.roles.get(org_id).and_then(|roles| roles.iter().find(|role| role.id == id));
        custom.or_else(|| roles::built_in().iter().find(|role| role.id == id))
    }

    /// Takes a permit from the bucket of `key`. If the bucket is empty, returns the seconds to wait.
    pub fn throttle(&mut self, key: &str, limit: RateLimit) -> Option<u64> {
        let now = self.now();
        let (level, since) = self.buckets.get(key).copied().unwrap_or((limit.burst, now));
        let level = (level + now.duration_since(since).as_secs_f64() * limit.per_second).min(limit.burst);
        let wait = (level < 1.0).then(|| ((1.0 - level) / limit.per_second).ceil() as u64);
        self.buckets.insert(key.into(), (if wait.is_some() { level } else { level - 1.0 }, now));
        wait
    }
}

/// The data that the operations of the API read and change.
#[derive(Clone, Default)]
pub struct AstraData {
    pub orgs: Vec<Organization>,
    /// By client id.
    pub tokens: BTreeMap<String, Token>,
    /// Custom roles by organization.
    pub roles: BTreeMap<String, Vec<Role>>,
    pub users: BTreeMap<String, Vec<User>>,
    /// Number of tokens minted through the API.
    pub minted: u64,
}

impl AstraData {
    pub fn org(&self, id: &str) -> Option<&Organization> {
        self.orgs.iter().find(|org| org.id == id)
    }
}

#[derive(Clone)]
pub struct Organization {
    pub id: String,
    pub name: String,
    pub enterprise: Option<String>,
    /// The longest time until expiry that the organization allows for a token.
    pub max_token_age: Option<SignedDuration>,
}

#[derive(Clone)]
pub struct User {
    pub id: String,
    pub email: String,
    pub status: &'static str,
    pub roles: Vec<String>,
}

#[derive(Clone)]
pub struct Token {
    pub client_id: String,
    pub secret: String,
    pub digest: String,
    /// The organization, or the enterprise of an enterprise token.
    pub org_id: String,
    pub enterprise: bool,
    pub roles: Vec<String>,
    pub generated_on: Timestamp,
    pub description: Option<String>,
    pub token_expiry: Option<Timestamp>,
    /// The client id of the calling token; `None` for a token created outside the API.
    pub creator: Option<String>,
    pub deleted: bool,
    /// Whether the answer to its create call was sent completely and unaltered.
    pub delivered: bool,
    pub listed_from: Timestamp,
    pub listed_until: Option<Timestamp>,
    pub usable_from: Timestamp,
    pub usable_until: Option<Timestamp>,
}

impl Token {
    pub fn text(&self) -> String {
        format!("AstraCS:{}:{}", self.client_id, self.digest)
    }

    pub fn expired(&self, now: Timestamp) -> bool {
        self.token_expiry.is_some_and(|expiry| expiry <= now)
    }

    pub fn live(&self, now: Timestamp) -> bool {
        !self.deleted && !self.expired(now)
    }

    pub fn usable(&self, now: Timestamp) -> bool {
        self.usable_from <= now && self.usable_until.is_none_or(|until| now < until)
    }

    pub fn listed(&self, now: Timestamp) -> bool {
        self.listed_from <= now && self.listed_until.is_none_or(|until| now < until)
    }
}

/// A small random number generator (SplitMix64). The same seed gives the same ids and tokens on every machine.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns a number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        ((self.next() >> 11) as f64) < probability * (1u64 << 53) as f64
    }

    pub fn text(&mut self, length: usize, alphabet: &[u8]) -> String {
        (0..length).map(|_| char::from(alphabet[self.below(alphabet.len() as u64) as usize])).collect()
    }

    pub fn uuid(&mut self) -> String {
        let bytes = (u128::from(self.next()) << 64 | u128::from(self.next())).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }
}

pub fn later(time: Timestamp, milliseconds: u64) -> Timestamp {
    let by = SignedDuration::from_millis(i64::try_from(milliseconds).unwrap_or(i64::MAX));
    time.saturating_add(by).expect("a signed duration can be added")
}

pub fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
pub const SECRET_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,+-_";
