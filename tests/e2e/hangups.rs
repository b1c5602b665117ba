//! A client that hangs up affects no other client.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bao::{Server, wait};
use crate::world::{Mode, Org, ROLE_ID, TICK, Token, World};

const REQUESTS: usize = 10_000;

const THREADS: usize = 4;

/// Logical names of the tokens. Their number limits the inventory, so that lists stay short.
const NAMES: u8 = 40;

/// The longest time that a client waits for an answer, in microseconds.
const PATIENCE_US: f64 = 5000.0;

/// Method, path and body.
type Request = (&'static str, String, Value);

/// Two orgs with tokens and leases for impatient clients, and an org for a patient caller.
struct HangUpMount {
    world: World,
    standard: Org,
    sidecar: Org,
    steady: Org,
    tokens: Vec<Token>,
}

impl HangUpMount {
    fn new() -> Self {
        let server = Arc::new(Server::dev());
        let world = World::at_mount(&server, "astra");
        world.knobs(|knobs| knobs.latency_ms = Some((0, 8)));
        let org = |name: &str, mode: Mode, ttl: u32| {
            let org = world.next_org();
            let fields = json!({"logical_name": name, "caller_mode": mode.name(), "request_timeout": "2s"});
            world.configure(&org, &fields);
            world.role(&org, "reader", ttl, 36000);
            org
        };
        let (standard, sidecar) = (org("shop", Mode::Standard, 3600), org("agents", Mode::Sidecar, 5));
        let steady = org("steady", Mode::Standard, 3600);
        let tokens = (0..20).map(|number| world.mint(&standard, "reader", &format!("there-{number}"))).collect();
        Self { world, standard, sidecar, steady, tokens }
    }

    /// Returns a random request.
    fn request(&self, rng: &mut fastrand::Rng) -> Request {
        let (shop, agents) = (&self.standard.id, &self.sidecar.id);
        let token = rng.choice(&self.tokens).expect("tokens");
        let (name, client_id) = (rng.u8(..NAMES), &token.client_id);
        let role = json!({"org_id": shop, "role_name": "other", "role_id": ROLE_ID, "ttl": rng.u32(60..600)});
        let config = json!({
            "org_id": shop, "astra_token": self.standard.root_token, "url": self.world.url(), "logical_name": "shop",
            "verify_connection": rng.bool(),
        });
        let mint = json!({"org_id": shop, "role_name": "reader", "logical_name": format!("new-{name}")});
        let null = Value::Null;
        let (method, path, body) = match rng.u8(..32) {
            0 => ("GET", format!("config?org_id={shop}"), null),
            1 => ("GET", "config?logical_name=agents".into(), null),
            2 => ("POST", "config".into(), config),
            3 => ("PATCH", "config".into(), json!({"org_id": shop, "request_timeout": "2s"})),
            // Refused, because there are live tokens.
            4 => ("DELETE", format!("config?org_id={shop}"), null),
            5 => ("LIST", "configs".into(), null),
            6 => ("GET", format!("role?org_id={shop}&role_name=reader"), null),
            7 => ("POST", "role".into(), role),
            8 => ("PATCH", "role".into(), role),
            9 => ("DELETE", format!("role?org_id={shop}&role_name=other"), null),
            10 => ("LIST", "roles".into(), null),
            11 => ("LIST", format!("roles?org_id={shop}"), null),
            12..16 => ("POST", "org/token".into(), mint),
            16..19 => ("GET", format!("org/token?org_id={agents}&role_name=reader"), null),
            19 => ("GET", format!("org/token?org_id={shop}&client_id={client_id}"), null),
            20 => ("GET", format!("org/token?org_id={shop}&role_name=reader&logical_name=there-1"), null),
            21..23 => ("LIST", "org/tokens".into(), null),
            23 => ("LIST", format!("org/tokens?org_id={agents}&limit=5"), null),
            24 => ("GET", "org/token?help=1".into(), null),
            25 => ("GET", "?help=1".into(), null),
            26 => ("GET", "no/such/path".into(), null),
            27 => {
                let renewal = json!({"lease_id": token.lease_id, "increment": rng.u32(60..3600)});
                return ("POST", "sys/leases/renew".into(), renewal);
            }
            28..30 => ("DELETE", format!("org/token?org_id={shop}&role_name=reader&logical_name=new-{name}"), null),
            _ => return self.deletion(rng),
        };
        (method, self.world.at(&path), body)
    }

    /// Mints a token, and returns a random request that deletes or revokes it.
    fn deletion(&self, rng: &mut fastrand::Rng) -> Request {
        let (name, shop) = (format!("doomed-{:x}", rng.u64(..)), &self.standard.id);
        let Token { client_id, lease_id, .. } = self.world.mint(&self.standard, "reader", &name);
        match rng.u8(..4) {
            0 => ("POST", "sys/leases/revoke".into(), json!({"lease_id": lease_id, "sync": true})),
            1 => ("POST", "sys/leases/revoke".into(), json!({"lease_id": lease_id})),
            2 => ("POST", format!("sys/leases/revoke-prefix/{lease_id}"), json!({})),
            _ => ("DELETE", self.world.at(&format!("org/token?org_id={shop}&client_id={client_id}")), Value::Null),
        }
    }

    /// Sends requests until enough of them had no answer.
    fn hang_up_on_everything(&self, mut rng: fastrand::Rng) {
        let mut left = 0;
        while left < REQUESTS / THREADS {
            let (method, path, body) = self.request(&mut rng);
            // Most answers arrive within a millisecond, so most clients wait for less time.
            let patience = Duration::from_micros((rng.f64().powi(3) * PATIENCE_US) as u64);
            left += usize::from(self.world.server.hang_up(method, &path, &body, patience));
        }
    }

    /// Works as a patient caller, and panics at the first failure.
    fn assert_works(&self, name: &str) {
        let (world, org) = (&self.world, &self.steady);
        let token = world.mint(org, "reader", name);
        assert_eq!(world.fetch(org, &token).data()["token"], token.data["token"]);
        assert_eq!(world.renew(&token, 0).ok()["lease_duration"], 3600);
        assert_eq!(world.keys(&format!("org/tokens?org_id={}", org.id)), [token.client_id.as_str()]);
        world.get(&format!("config?org_id={}", org.id)).ok();
        world.role(org, "another", 60, 600);
        assert_eq!(world.keys(&format!("roles?org_id={}", org.id)), ["another", "reader"]);
        if name.len().is_multiple_of(2) {
            world.revoke(&token).ok();
        } else {
            world.delete(&format!("org/token?org_id={}&client_id={}", org.id, token.client_id)).ok();
        }
        assert!(!world.is_alive(&token.client_id));
    }

    fn alive(&self) -> BTreeSet<String> {
        self.world.orgs().iter().flat_map(|org| self.world.alive(org)).collect()
    }
}

#[test]
fn ten_thousand_hang_ups_affect_no_other_client() {
    let mount = HangUpMount::new();
    let server = &mount.world.server;
    let plugins = server.plugins();
    let over = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let steady = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                rounds += 1;
                mount.assert_works(&format!("round-{rounds}"));
            }
            rounds
        });
        let impatient: Vec<_> = (0..THREADS)
            .map(|thread| fastrand::Rng::with_seed(thread as u64))
            .map(|rng| scope.spawn(|| mount.hang_up_on_everything(rng)))
            .collect();
        let ends: Vec<_> = impatient.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.expect("an impatient client"));
        steady.join().expect("the steady caller")
    });
    assert!(rounds > 10, "the steady caller did only {rounds} rounds");
    assert!(mount.world.minted() > 200, "only {} tokens were minted", mount.world.minted());

    assert_eq!(server.plugins(), plugins, "the plugin was restarted");
    let known = || -> BTreeSet<String> { mount.world.keys("org/tokens").into_iter().collect() };
    wait("Vault and Astra to know the same tokens", TICK, || (known() == mount.alive()).then_some(()));
    mount.assert_works("after-all");
    assert_log(&mount);
}

/// Checks the server's log. The only errors in it are cancelled requests.
fn assert_log(mount: &HangUpMount) {
    let log = mount.world.server.log();
    mount.world.assert_no_secret("the server's log", &log);
    let is_bad = |entry: &&str| {
        // The plugin is not responsible for a port that another process uses.
        let elsewhere = entry.contains("cluster-listener");
        entry.contains("panic") || (entry.contains("[ERROR]") && !is_cancelled(entry) && !elsewhere)
    };
    let entries = entries(&log);
    let bad: Vec<&str> = entries.into_iter().filter(is_bad).collect();
    let some = bad[..bad.len().min(20)].join("\n");
    assert!(bad.is_empty(), "{} unexpected errors in the log:\n{}", bad.len(), crate::bao::redact::clean(&some));
}

/// Whether an entry of the log only reports cancelled requests. This must be true for each error that the entry lists.
fn is_cancelled(entry: &str) -> bool {
    let cancelled =
        |text: &str| ["context canceled", "code = Canceled", "context deadline"].iter().any(|end| text.contains(end));
    let mut listed = entry.lines().filter(|line| line.contains("\\t* ")).peekable();
    if listed.peek().is_some() { listed.all(cancelled) } else { cancelled(entry) }
}

/// Splits a log at lines that begin with a time, because an entry with a list of errors has several lines.
fn entries(log: &str) -> Vec<&str> {
    let begins = |line: &str| line.get(..11).is_some_and(|date| date.starts_with("20") && date.ends_with('T'));
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    for line in log.split_inclusive('\n') {
        if starts.is_empty() || begins(line) {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([log.len()]);
    starts.iter().zip(ends).map(|(&start, end)| &log[start..end]).collect()
}

#[test]
fn every_error_in_a_log_entry_is_checked() {
    const LOG: &str = "==> server started\n\
        2026-11-27T18:09:58.910Z [ERROR] core: failed to run existence check: error=\"code = Canceled\"\n\
        2026-11-27T18:09:58.976Z [ERROR] core: failed to register lease: request_path=astra/org/token\n  error=\n\
        \x20 | 2 errors occurred:\n  | \\t* failed to persist lease index entry: context canceled\n\
        \x20 | \\t* failed to delete lease entry: context canceled\n  | \n  \n\
        2026-11-27T18:09:59.150Z [INFO]  core: next\n";
    let parts = entries(LOG);
    assert_eq!(parts.len(), 4);
    assert_eq!(parts.concat(), LOG);
    assert!(is_cancelled(parts[1]) && is_cancelled(parts[2]) && !is_cancelled(parts[3]));
    let another = parts[2].replace("failed to delete lease entry: context canceled", "the secret could not be revoked");
    assert!(!is_cancelled(&another), "an error that is not a cancelled request was accepted");
}
