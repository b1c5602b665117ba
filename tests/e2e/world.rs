//! A mount of the plugin with its own simulated Astra: the start of nearly every test.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use crate::astra::Org;
use crate::astra::{Astra, Builder};
use crate::bao::{Reply, Server, redact, wait};

/// After this time, the tick has undone a change: its minimum age of 55 s, the minute between two ticks, and some time to
/// spare.
pub(crate) const TICK: Duration = Duration::from_secs(150);

/// The id of an Astra role, from the user's guide. The real service does not check it.
pub(crate) const ROLE_ID: &str = "946cfbde-24cc-4953-9355-d57bfd61bf39";

/// Caller mode of an org.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Standard,
    Sidecar,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Sidecar => "sidecar",
        }
    }
}

/// A mount and its Astra. It dereferences to the Astra.
pub(crate) struct World {
    pub(crate) server: Arc<Server>,
    /// Path of the mount, without slashes at its ends.
    pub(crate) mount: String,
    astra: Astra,
    given: AtomicUsize,
}

/// A minted token.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) client_id: String,
    pub(crate) lease_id: String,
    pub(crate) data: Value,
}

impl World {
    /// Returns a new mount on the server that most tests share.
    pub(crate) fn new() -> Self {
        Self::with(Astra::builder().orgs(3))
    }

    /// Returns a new mount on the shared server, with a configured Astra.
    pub(crate) fn with(astra: Builder) -> Self {
        static MOUNTS: AtomicUsize = AtomicUsize::new(0);
        Self::named(&format!("mount-{}", MOUNTS.fetch_add(1, Ordering::Relaxed)), astra)
    }

    /// Returns a new mount on the shared server, with this name. No other test may use the name.
    pub(crate) fn named(mount: &str, astra: Builder) -> Self {
        static SHARED: OnceLock<Arc<Server>> = OnceLock::new();
        let server = SHARED.get_or_init(|| Arc::new(Server::dev()));
        server.enable(mount);
        Self::with_astra(server, mount, astra)
    }

    /// Returns a new mount on this server.
    pub(crate) fn at_mount(server: &Arc<Server>, mount: &str) -> Self {
        server.enable(mount);
        Self::with_astra(server, mount, Astra::builder().orgs(3))
    }

    /// Returns a mount, which may exist already, with a configured Astra.
    pub(crate) fn with_astra(server: &Arc<Server>, mount: &str, astra: Builder) -> Self {
        // Two simulators with the same seed would generate the same tokens.
        static SEED: AtomicU64 = AtomicU64::new(1000);
        let astra = astra.seed(SEED.fetch_add(1, Ordering::Relaxed)).spawn();
        for org in astra.orgs() {
            redact::hide(&org.root_token);
        }
        Self { server: Arc::clone(server), mount: mount.into(), astra, given: AtomicUsize::new(0) }
    }

    /// Returns the full path of a path in the mount.
    pub(crate) fn at(&self, path: &str) -> String {
        format!("{}/{path}", self.mount)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.server.get(&self.at(path))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.server.post(&self.at(path), body)
    }

    pub(crate) fn patch(&self, path: &str, body: &Value) -> Reply {
        self.server.patch(&self.at(path), body)
    }

    pub(crate) fn delete(&self, path: &str) -> Reply {
        self.server.delete(&self.at(path))
    }

    pub(crate) fn list(&self, path: &str) -> Reply {
        self.server.list(&self.at(path))
    }

    #[track_caller]
    pub(crate) fn keys(&self, path: &str) -> Vec<String> {
        self.server.keys(&self.at(path))
    }

    /// Returns an org that this test has not used yet. There are three orgs.
    pub(crate) fn next_org(&self) -> Org {
        self.astra.orgs()[self.given.fetch_add(1, Ordering::Relaxed)].clone()
    }

    /// Writes the config of an org with additional fields.
    #[track_caller]
    pub(crate) fn configure(&self, org: &Org, fields: &Value) {
        let mut body = json!({"org_id": org.id, "astra_token": org.root_token, "url": self.astra.url()});
        for (name, value) in fields.as_object().expect("an object") {
            body[name] = value.clone();
        }
        self.post("config", &body).ok();
    }

    /// Returns an org with a config.
    #[track_caller]
    pub(crate) fn configured(&self, logical_name: &str, mode: Mode) -> Org {
        let org = self.next_org();
        self.configure(&org, &json!({"logical_name": logical_name, "caller_mode": mode.name()}));
        org
    }

    /// Writes a role. Times are in seconds.
    #[track_caller]
    pub(crate) fn role(&self, org: &Org, name: &str, ttl: u32, max_ttl: u32) {
        let body = json!({"org_id": org.id, "role_name": name, "role_id": ROLE_ID, "ttl": ttl, "max_ttl": max_ttl});
        self.post("role", &body).ok();
    }

    /// Mints in standard mode.
    #[track_caller]
    pub(crate) fn mint(&self, org: &Org, role: &str, logical_name: &str) -> Token {
        let body = json!({"org_id": org.id, "role_name": role, "logical_name": logical_name});
        Token::of(self.post("org/token", &body).ok())
    }

    /// Fetches a token by its client id.
    pub(crate) fn fetch(&self, org: &Org, token: &Token) -> Reply {
        self.get(&format!("org/token?org_id={}&client_id={}", org.id, token.client_id))
    }

    /// Renews a lease. 0 seconds means no increment.
    pub(crate) fn renew(&self, token: &Token, increment: u32) -> Reply {
        self.server.post("sys/leases/renew", &json!({"lease_id": token.lease_id, "increment": increment}))
    }

    /// Revokes a lease and waits for the result.
    pub(crate) fn revoke(&self, token: &Token) -> Reply {
        self.server.post("sys/leases/revoke", &json!({"lease_id": token.lease_id, "sync": true}))
    }

    pub(crate) fn lease_exists(&self, token: &Token) -> bool {
        self.server.post("sys/leases/lookup", &json!({"lease_id": token.lease_id})).status == 200
    }

    /// Waits until the mount has no leases.
    #[track_caller]
    pub(crate) fn wait_for_no_lease(&self) {
        let gone =
            || (self.server.list(&format!("sys/leases/lookup/{}/org/token", self.mount)).status == 404).then_some(());
        wait("the leases to be gone", std::time::Duration::from_secs(60), gone);
    }

    /// Returns the client ids of the live tokens in Astra, without root tokens, sorted.
    pub(crate) fn alive(&self, org: &Org) -> Vec<String> {
        let mut ids: Vec<String> = self.astra.live(&org.id).into_iter().map(|token| token.client_id).collect();
        ids.sort();
        ids
    }

    pub(crate) fn is_alive(&self, client_id: &str) -> bool {
        self.astra.token(client_id).is_some_and(|token| token.live)
    }

    /// Returns the client id of the token that minted a token.
    pub(crate) fn creator(&self, client_id: &str) -> String {
        self.astra.token(client_id).and_then(|token| token.creator).expect("a token that was minted")
    }

    /// Checks that a text contains no secret of this Astra. A failure only names the place.
    #[track_caller]
    pub(crate) fn assert_no_secret(&self, what: &str, text: &str) {
        let secrets = self.astra.secrets();
        // A long run has a long log and many secrets. A full comparison happens only where the start of a secret was
        // found.
        let length = secrets.iter().map(String::len).min().unwrap_or(1).clamp(1, 16);
        let mut beginnings: HashMap<&[u8], Vec<&String>> = HashMap::new();
        for secret in &secrets {
            beginnings.entry(&secret.as_bytes()[..length]).or_default().push(secret);
        }
        let found: Vec<&String> = text
            .as_bytes()
            .windows(length)
            .enumerate()
            .filter_map(|(at, window)| Some((at, beginnings.get(window)?)))
            .flat_map(|(at, secrets)| {
                secrets.iter().filter(move |secret| text.as_bytes()[at..].starts_with(secret.as_bytes()))
            })
            .copied()
            .collect();
        assert!(found.is_empty(), "{what} holds a secret:\n{}", {
            found.into_iter().for_each(redact::hide);
            let lines: Vec<String> = text.lines().map(redact::clean).filter(|line| line.contains("[hidden]")).collect();
            lines.join("\n")
        });
    }
}

impl Deref for World {
    type Target = Astra;

    fn deref(&self) -> &Astra {
        &self.astra
    }
}

impl Token {
    #[track_caller]
    pub(crate) fn of(mut body: Value) -> Self {
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        redact::hide(text(&body["data"]["token"]));
        Self {
            client_id: text(&body["data"]["clientId"]),
            lease_id: text(&body["lease_id"]),
            data: body["data"].take(),
        }
    }
}
