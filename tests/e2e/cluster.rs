//! Three nodes with one storage: the requests that a standby serves or forwards, and the work that a new active node
//! finishes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::astra::{Astra, AstraFault, Call, Kind, Route, built_in_id};
use crate::bao::cluster::{Cluster, Kill, revive};
use crate::bao::{Client, Reply, Server, redact, wait};
use crate::servers::on_vault;
use crate::world::{Mode, Org, TICK, Token, World};

/// How long a node may take to see a change of another node.
const SEEN: Duration = Duration::from_secs(1);

/// Long enough on a busy machine, for times that are not measured.
const SOON: Duration = Duration::from_secs(30);

/// How much later than a built-in engine the plugin may serve on a new active node: the time of a mint on a busy
/// machine.
const BEHIND: Duration = Duration::from_secs(3);

/// The cluster of the tests that kill no node.
fn shared_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

/// Returns the caller for which the standby itself serves as much as possible.
///
/// OpenBao: a caller whose requests must not be forwarded. Vault's standbys serve nothing, so there the caller permits
/// forwarding.
#[track_caller]
fn reader(standby: &Server, path: &str) -> Client {
    let alone = standby.without_forwarding();
    if on_vault("reads of standbys") {
        alone.get(path).fails(307);
        return (**standby).clone();
    }
    alone
}

/// Asks every standby until it answers as wanted. The limit counts from the call of this function, for all standbys.
#[track_caller]
fn assert_seen(nodes: &[Arc<Server>], what: &str, path: &str, wanted: impl Fn(&Reply) -> bool) {
    let begin = Instant::now();
    for node in nodes {
        let reader = reader(node, path);
        loop {
            let asked = begin.elapsed();
            let reply = reader.get(path);
            if wanted(&reply) {
                break;
            }
            assert!(asked < SEEN, "{} does not see {what} {asked:?} after the change\n{reply}", node.address());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The form in which the server logs the module that the plugin names in each line.
const PLUGIN_LINE: &str = "@module=vault_plugin_";

/// Returns the lines of a node's plugins about a mount.
fn plugin_lines(log: &str, mount: &str) -> Vec<String> {
    let mount = format!(" mount={mount}/ ");
    let ours = |line: &&str| line.contains(PLUGIN_LINE) && line.contains(&mount);
    log.lines().filter(ours).map(redact::clean).collect()
}

/// Checks that the plugin of a standby only read since position `since` of its log. Also checks that no request, start
/// or tick failed. A Vault standby has no plugin.
#[track_caller]
fn assert_only_read(node: &Server, mount: &str, since: usize) {
    if on_vault("reads of standbys") {
        assert!(node.plugins().is_empty(), "{} runs a plugin", node.address());
        let log = node.log().split_off(since);
        let lines: Vec<_> = log.lines().filter(|line| line.contains(PLUGIN_LINE)).map(redact::clean).collect();
        assert!(lines.is_empty(), "the plugin of {} wrote to the log:\n{lines:#?}", node.address());
        return;
    }
    let is_read = |line: &&String| line.contains(": read token: ");
    // A line may be logged after its request is answered.
    let log = wait("a read in the log", SOON, || {
        let log = node.log().split_off(since);
        plugin_lines(&log, mount).iter().any(|line| is_read(&line)).then_some(log)
    });
    let lines = plugin_lines(&log, mount);
    let other: Vec<_> = lines.iter().filter(|line| !is_read(line)).collect();
    assert!(other.is_empty(), "{} did more than read:\n{other:#?}", node.address());
    let complaint = |line: &&str| line.contains(PLUGIN_LINE) && (line.contains("[ERROR]") || line.contains("[WARN]"));
    let complaints: Vec<_> = log.lines().filter(complaint).map(redact::clean).collect();
    assert!(complaints.is_empty(), "the plugin of {} logged errors or warnings:\n{complaints:#?}", node.address());
}

fn order(org: &Org, name: &str) -> Value {
    json!({"org_id": org.id, "role_name": "reader", "logical_name": name})
}

#[test]
fn standbys_forward_changes_and_astra_gets_each_change_once() {
    let cluster = shared_cluster();
    let (active, standbys) = (cluster.active_node(), cluster.standbys());
    assert_eq!(standbys.len(), 2);
    let world = World::at_mount(&active, "passed-on");
    let (shop, cart) = (world.configured("shop", Mode::Standard), world.configured("cart", Mode::Sidecar));
    for org in [&shop, &cart] {
        world.role(org, "reader", 3600, 36000);
        assert_seen(&standbys, "a role", &world.at(&format!("role?org_id={}&role_name=reader", org.id)), |reply| {
            reply.status == 200
        });
    }
    let mut minted = 0;
    for node in &standbys {
        // If forwarding is off, a standby refuses a mint before it calls Astra.
        let alone = node.without_forwarding();
        let read_to_mint = world.at(&format!("org/token?org_id={}&role_name=reader", cart.id));
        alone.post(&world.at("org/token"), &order(&shop, "alone")).fails(307);
        alone.get(&read_to_mint).fails(307);
        assert_eq!(world.calls(Route::CreateToken), minted);

        let written = Token::of(node.post(&world.at("org/token"), &order(&shop, "cart")).ok());
        let read = Token::of(node.get(&read_to_mint).ok());
        minted += 2;
        assert_eq!(
            (world.minted(), world.calls(Route::CreateToken)),
            (minted, minted),
            "a request minted more than once"
        );

        let path = world.at(&format!("org/token?org_id={}&client_id={}", shop.id, written.client_id));
        assert_seen(&standbys, "a token", &path, |reply| reply.status == 200);
        let reader = reader(node, &path);
        assert_eq!(reader.get(&path).data(), written.data);
        let name = world.at(&format!("org/token?org_id={}&role_name=reader&logical_name=cart", shop.id));
        assert_eq!(reader.get(&name).data(), written.data);
        assert!(node.keys(&world.at("org/tokens")).contains(&read.client_id));

        for (org, token) in [(&shop, &written), (&cart, &read)] {
            let renewed = node.post("sys/leases/renew", &json!({"lease_id": token.lease_id, "increment": 120})).ok();
            assert_eq!(renewed["lease_duration"], 120);
            node.post("sys/leases/revoke", &json!({"lease_id": token.lease_id, "sync": true})).ok();
            assert!(world.alive(org).is_empty());
        }
        assert_eq!(world.calls(Route::DeleteToken), minted);
        assert_seen(&standbys, "the end of a token", &path, |reply| [400, 404].contains(&reply.status));
    }
    wait("the active node to log all tokens", SOON, || {
        let lines = plugin_lines(&active.log(), "passed-on");
        (lines.iter().filter(|line| line.contains(": created token: ")).count() == 4).then_some(())
    });
    standbys.iter().for_each(|node| assert_only_read(node, "passed-on", 0));
}

#[test]
fn a_standby_that_answers_reads_shows_its_own_status() {
    let cluster = shared_cluster();
    let world = World::at_mount(&cluster.active_node(), "shown");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    world.mint(&org, "reader", "cart");
    let path = world.at("status");
    let shown = world.get("status").data();
    assert_eq!((&shown["active"], &shown["orgs"][&org.id]["state"]), (&json!(true), &json!("ok")));
    assert_seen(&cluster.standbys(), "an organization", &path, |reply| reply.body["data"]["org_count"] == 1);
    let is_forwarded = on_vault("reads of standbys");
    for node in cluster.standbys() {
        let shown = reader(&node, &path).get(&path).data();
        let state = if is_forwarded { "ok" } else { "unknown" };
        assert_eq!((&shown["active"], &shown["orgs"][&org.id]["state"]), (&json!(is_forwarded), &json!(state)));
    }
}

#[test]
fn callers_at_all_nodes_get_one_token_for_one_name() {
    let cluster = shared_cluster();
    let world = World::at_mount(&cluster.active_node(), "race");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let role = world.at(&format!("role?org_id={}&role_name=reader", org.id));
    assert_seen(&cluster.standbys(), "a role", &role, |reply| reply.status == 200);
    world.knobs(|knobs| knobs.latency_ms = Some((50, 100)));

    let statuses: Vec<u16> = thread::scope(|scope| {
        let callers = cluster.nodes().iter().flat_map(|node| [node, node]);
        let calls: Vec<_> = callers
            .map(|node| scope.spawn(|| node.post(&world.at("org/token"), &order(&org, "cart")).status))
            .collect();
        calls.into_iter().map(|call| call.join().expect("a caller")).collect()
    });
    assert_eq!(statuses.iter().filter(|&&status| status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|&&status| status == 400).count(), 5, "{statuses:?}");
    assert_eq!((world.minted(), world.calls(Route::CreateToken)), (1, 1));
}

#[test]
fn standbys_show_changes_of_the_active_node_within_a_second() {
    let cluster = shared_cluster();
    let standbys = cluster.standbys();
    let world = World::at_mount(&cluster.active_node(), "changes");
    let org = world.configured("shop", Mode::Standard);
    let at = |path: &str| world.at(&path.replace("ORG", &org.id));
    let (config, role) = (at("config?org_id=ORG"), at("role?org_id=ORG&role_name=reader"));
    let field = |name: &'static str, value: Value| move |reply: &Reply| reply.body["data"][name] == value;
    let missing = |reply: &Reply| [400, 404].contains(&reply.status);

    assert_seen(&standbys, "a new config", &config, field("logical_name", "shop".into()));
    world.patch("config", &json!({"org_id": org.id, "logical_name": "market"})).ok();
    assert_seen(&standbys, "a new name", &config, field("logical_name", "market".into()));
    assert_seen(&standbys, "a new name", &at("config?logical_name=market"), field("org_id", org.id.as_str().into()));
    assert_seen(&standbys, "the end of a name", &at("config?logical_name=shop"), missing);

    world.role(&org, "reader", 3600, 36000);
    assert_seen(&standbys, "a new role", &role, field("ttl", "1h0m0s".into()));
    world.role(&org, "reader", 60, 36000);
    assert_seen(&standbys, "a role written again", &role, field("ttl", "1m0s".into()));
    world.patch("role", &json!({"org_id": org.id, "role_name": "reader", "ttl": 120})).ok();
    assert_seen(&standbys, "a patched role", &role, field("ttl", "2m0s".into()));

    let root = Astra::mint(&world, &org.id, &[built_in_id("Organization Administrator")]);
    redact::hide(&root.token);
    world.patch("config", &json!({"org_id": org.id, "astra_token": root.token})).ok();
    let masked = format!("AstraCS:{}...", &root.client_id[..7]);
    assert_seen(&standbys, "a new root token", &config, field("astra_token", masked.into()));
    for (place, node) in standbys.iter().enumerate() {
        let token = Token::of(node.post(&at("org/token"), &order(&org, &format!("rooted-{place}"))).ok());
        assert_eq!(world.creator(&token.client_id), root.client_id);
        let path = at(&format!("org/token?org_id=ORG&client_id={}", token.client_id));
        assert_seen(&standbys, "a token", &path, |reply| reply.body["data"] == token.data);
        world.revoke(&token).ok();
    }

    // In sidecar mode a read mints, so a standby must forward the read.
    let read = at("org/token?org_id=ORG&role_name=reader&logical_name=none");
    assert_seen(&standbys, "standard mode", &read, missing);
    let minted = world.minted();
    for (mode, wanted) in [(Mode::Sidecar, 307), (Mode::Standard, 400), (Mode::Sidecar, 307)] {
        world.patch("config", &json!({"org_id": org.id, "caller_mode": mode.name()})).ok();
        if on_vault("reads of standbys") {
            standbys.iter().for_each(|node| _ = node.without_forwarding().get(&read).fails(307));
        } else {
            assert_seen(&standbys, mode.name(), &read, |reply| reply.status == wanted);
        }
    }
    assert_eq!(world.minted(), minted);

    world.delete(&format!("role?org_id={}&role_name=reader", org.id)).ok();
    assert_seen(&standbys, "the end of a role", &role, missing);
    world.delete(&format!("config?org_id={}", org.id)).ok();
    assert_seen(&standbys, "the end of a config", &config, missing);
    standbys.iter().for_each(|node| assert_only_read(node, "changes", 0));
}

/// Callers while the active node is killed, the same number at each node.
const CALLERS: usize = 6;

/// Sets a flag at the end of a scope, even after a panic. Otherwise the threads in the scope would never end.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Three nodes with a mount of three orgs and a built-in engine. The active node is killed.
struct Failover {
    cluster: Cluster,
    killed: Arc<Server>,
    world: World,
    /// Astra loses some answers for this org.
    stormy: Org,
    /// An answer of Astra hangs while the active node is killed.
    hung: Org,
    /// Astra has no faults for this org.
    calm: Org,
}

impl Failover {
    fn new() -> Self {
        let cluster = Cluster::start();
        let killed = cluster.active_node();
        let world = World::at_mount(&killed, "astra");
        let org = |timeout: &str| {
            let org = world.next_org();
            world.configure(&org, &json!({"request_timeout": timeout}));
            world.role(&org, "reader", 3600, 36000);
            org
        };
        let (stormy, hung, calm) = (org("1s"), org("20s"), org("1s"));
        killed.post("sys/mounts/store", &json!({"type": "kv"})).ok();
        killed.post("store/one", &json!({"colour": "blue"})).ok();
        assert_seen(&cluster.standbys(), "a mount", "store/one", |reply| reply.status == 200);
        world.knobs(|knobs| knobs.latency_ms = Some((50, 150)));
        let lost = |kind| AstraFault::after(kind).route(Route::CreateToken).org(&stormy.id);
        world.fault(lost(Kind::HangBeforeHeaders { for_ms: None }).chance(0.05, 1));
        world.fault(lost(Kind::Reset).chance(0.05, 2));
        Self { cluster, killed, world, stormy, hung, calm }
    }

    /// Kills the active node during mints at all nodes. Returns the tokens of callers, and the times until a built-in
    /// engine and the plugin served again.
    fn kill(&self) -> (Vec<Token>, Duration, Duration) {
        let (stop, answered) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let count = || answered.lock().unwrap().len();
        let (store, astra) = thread::scope(|scope| {
            let _stop = SetAtEnd(&stop);
            for caller in 0..CALLERS {
                let (stop, answered) = (&stop, &answered);
                scope.spawn(move || self.storm(caller, stop, answered));
            }
            wait("the first mints of the storm", SOON, || (count() >= 50).then_some(()));
            let hang = Kind::HangBeforeHeaders { for_ms: None };
            self.world.fault(AstraFault::after(hang).route(Route::CreateToken).org(&self.hung.id));
            let node = self.cluster.others(&self.killed).remove(0);
            scope.spawn(move || node.try_http("POST", "astra/org/token", &order(&self.hung, "hung")).map(drop));
            wait("a token without an answer", SOON, || (self.world.alive(&self.hung).len() == 1).then_some(()));
            // With this latency, nearly all mints wait for Astra. At most one is between the plugin's answer and the
            // server's lease.
            self.world.knobs(|knobs| knobs.latency_ms = Some((400, 600)));
            let begin = Instant::now();
            while self.in_flight() < CALLERS - 1 {
                assert!(begin.elapsed() < Duration::from_secs(15), "too few mints run at the same time");
            }
            let times = self.outage();
            let before = count();
            wait("the storm to go on", SOON, || (count() >= before + 20).then_some(()));
            times
        });
        (answered.into_inner().unwrap(), store, astra)
    }

    /// Mints at one node until `stop` is set.
    fn storm(&self, caller: usize, stop: &AtomicBool, answered: &Mutex<Vec<Token>>) {
        let node = &self.cluster.nodes()[caller % 3];
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let body = order(&self.stormy, &format!("storm-{caller}-{number}"));
            match node.try_http("POST", "astra/org/token", &body) {
                Ok(reply) if reply.status == 200 => answered.lock().unwrap().push(Token::of(reply.ok())),
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Returns how many mints of the storm are in progress in Astra.
    fn in_flight(&self) -> usize {
        let of_storm =
            |call: &&Call| call.route == Some(Route::CreateToken) && call.org.as_ref() == Some(&self.stormy.id);
        self.world.requests().iter().filter(of_storm).filter(|call| call.took_ms.is_none()).count()
    }

    /// Kills the active node. Returns how long the other nodes need until they answer writes to a built-in engine, and
    /// mints.
    fn outage(&self) -> (Duration, Duration) {
        let begin = Instant::now();
        Kill::Node.at(&self.killed);
        self.world.knobs(|knobs| knobs.latency_ms = Some((50, 150)));
        let survivors = self.cluster.others(&self.killed);
        let served = |node: &Server, path: &str, body: &dyn Fn(&str) -> Value| {
            // A new name each time, because a failed mint may have used its name.
            let mut names = (0..).map(|number| format!("probe-{}-{number}", node.pid()));
            wait("a new active node", SOON, || {
                let body = body(&names.next().expect("endless"));
                let reply = node.try_http("POST", path, &body).ok()?;
                (200..300).contains(&reply.status).then(|| begin.elapsed())
            })
        };
        thread::scope(|scope| {
            let served = &served;
            let store: Vec<_> = survivors
                .iter()
                .map(|node| scope.spawn(move || served(node, "store/probe", &|name| json!({"name": name}))))
                .collect();
            let astra: Vec<_> = survivors
                .iter()
                .map(|node| scope.spawn(move || served(node, "astra/org/token", &|name| order(&self.calm, name))))
                .collect();
            let first = |probes: Vec<ScopedJoinHandle<'_, Duration>>| {
                probes.into_iter().map(|probe| probe.join().expect("a probe")).min().expect("two survivors")
            };
            (first(store), first(astra))
        })
    }

    /// Starts the killed node again, and checks that it shows the changes since the kill.
    fn assert_killed_node_reads(&self, active: &Server, answered: &[Token]) {
        let role = json!({"org_id": self.calm.id, "role_name": "reader", "ttl": 120});
        active.patch("astra/role", &role).ok();
        active.post("store/late", &json!({"colour": "red"})).ok();
        let seen_before = self.killed.log().len();
        revive(&self.killed);
        let back = [self.killed.clone()];
        // The node starts with its old data, and catches up at the server's own pace.
        let reader = reader(&self.killed, "store/late");
        wait("the node to catch up", SOON, || (reader.get("store/late").status == 200).then_some(()));
        let role = format!("astra/role?org_id={}&role_name=reader", self.calm.id);
        assert_seen(&back, "a changed role", &role, |reply| reply.body["data"]["ttl"] == "2m0s");
        for token in [answered.first(), answered.last()].into_iter().flatten() {
            assert_seen(&back, "a token", &self.path_of(token), |reply| reply.body["data"] == token.data);
        }
        assert_only_read(&self.killed, "astra", seen_before);
    }

    fn path_of(&self, token: &Token) -> String {
        format!("astra/org/token?org_id={}&client_id={}", self.stormy.id, token.client_id)
    }

    /// Returns the client ids of all tokens that have a lease.
    fn leased(&self, node: &Client) -> BTreeSet<String> {
        let folder = "astra/org/token/";
        let leases = node.keys(&format!("sys/leases/lookup/{folder}"));
        let renew = |id: String| {
            Token::of(node.post("sys/leases/renew", &json!({"lease_id": format!("{folder}{id}")})).ok()).client_id
        };
        leases.into_iter().map(renew).collect()
    }

    /// Describes a node's actions since it became active. If the node is no longer active, its tick did nothing.
    fn describe(&self, node: &Server) -> String {
        let lines = plugin_lines(&node.log(), "astra").join("\n");
        format!("{} was active then, {} is active now\n{lines}", node.address(), self.cluster.active_node().address())
    }

    fn alive(&self) -> BTreeSet<String> {
        [&self.stormy, &self.hung, &self.calm].into_iter().flat_map(|org| self.world.alive(org)).collect()
    }
}

#[test]
fn a_new_active_node_finishes_the_work_of_a_killed_node() {
    let failover = Failover::new();
    let Failover { cluster, killed, world, .. } = &failover;
    let (answered, store, astra) = failover.kill();
    let hung = world.alive(&failover.hung);
    assert_eq!(hung.len(), 1);
    assert!(
        astra <= store + BEHIND,
        "the plugin served {astra:?} after the kill, the server's own engine after {store:?}"
    );
    world.clear_faults();
    world.knobs(|knobs| knobs.latency_ms = None);
    let active = cluster.active_node();
    let standby = cluster.standbys().remove(0);
    assert_ne!(active.address(), killed.address());
    for token in &answered {
        assert!(world.is_alive(&token.client_id), "the token of a caller is gone");
        assert_eq!(active.get(&failover.path_of(token)).data(), token.data);
    }
    let newest = answered.last().expect("tokens");
    assert_seen(std::slice::from_ref(&standby), "a token", &failover.path_of(newest), |reply| reply.status == 200);
    failover.assert_killed_node_reads(&active, &answered);

    let leased = failover.leased(&active);
    assert!(answered.iter().all(|token| leased.contains(&token.client_id)), "the token of a caller has no lease");
    let begin = Instant::now();
    while !world.alive(&failover.hung).is_empty() {
        assert!(
            begin.elapsed() < TICK,
            "the new active node did not delete the token of the hanging mint\n{}",
            failover.describe(&active)
        );
        thread::sleep(Duration::from_millis(50));
    }
    let undone = format!(" client_id={} ", hung[0]);
    wait("the new active node to log the undo", SOON, || {
        let lines = plugin_lines(&active.log(), "astra");
        lines.iter().any(|line| line.contains(": rolled back token: ") && line.contains(&undone)).then_some(())
    });
    // If an answer left the plugin before its lease was stored, the token stays until its lease would have expired.
    // Vault lists this token. At the kill, at most one mint was in this state.
    let left = || -> Vec<String> { failover.alive().difference(&leased).cloned().collect() };
    let begin = Instant::now();
    while !left().is_empty() && begin.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(50));
    }
    let left = left();
    assert!(left.len() <= 1, "{} tokens without a lease are left in Astra, of {} minted", left.len(), world.minted());
    for node in cluster.others(killed) {
        let made = plugin_lines(&node.log(), "astra").into_iter().filter(|line| line.contains(": created token: "));
        let lost: Vec<_> = made.filter(|line| left.iter().any(|id| line.contains(id))).collect();
        assert!(lost.is_empty(), "a running node minted a token without a lease:\n{lost:#?}");
    }
    let known = || active.keys("astra/org/tokens").into_iter().collect::<BTreeSet<_>>();
    wait("the inventory to agree with Astra", SOON, || (known() == failover.alive()).then_some(()));
    // The ticks of the standby left all this to the active node.
    assert_only_read(&standby, "astra", 0);

    // Every node accepts every revocation.
    for (place, token) in answered.iter().enumerate() {
        let body = json!({"lease_id": token.lease_id, "sync": true});
        cluster.nodes()[place % 3].post("sys/leases/revoke", &body).ok();
    }
    active.post("sys/leases/revoke-prefix/astra/org/token", &json!({"sync": true})).ok();
    assert_eq!(failover.alive().into_iter().collect::<Vec<_>>(), left);
    assert_eq!(active.keys("astra/org/tokens"), left);
}

#[test]
fn a_plugin_of_a_killed_server_stops_and_its_leases_survive() {
    let cluster = Cluster::start();
    let killed = cluster.active_node();
    let world = World::at_mount(&killed, "astra");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "before");
    let path = format!("astra/org/token?org_id={}&client_id={}", org.id, token.client_id);
    let survivors = cluster.others(&killed);
    assert_seen(&survivors, "a token", &path, |reply| reply.status == 200);

    Kill::Server.at(&killed);
    let active = cluster.active_node();
    assert_eq!(active.get(&path).data(), token.data);
    let after = Token::of(active.post("astra/org/token", &order(&org, "after")).ok());
    for (node, token) in survivors.iter().zip([&token, &after]) {
        node.post("sys/leases/revoke", &json!({"lease_id": token.lease_id, "sync": true})).ok();
    }
    assert!(world.alive(&org).is_empty());
    assert_eq!(world.minted(), 2);
}
