//! One mount with its storage, its Astra and its host's leases. They outlive the processes that serve the mount.

use std::collections::BTreeSet;
use std::future::pending;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::plan::{Calls, Left, Mode, Place, Point, Work};
use crate::astra::{Astra, AstraFault, Kind, Knobs, Minted, Phase as AstraPhase, built_in_id};
use crate::host::gate::{Act, Phase, When};
use crate::host::mount::{request, tick};
use crate::host::pb::pb;
use crate::host::process::{PATIENCE, Plugin};
use crate::host::{Gate, Host, Launch, Lease, Mount, Reply, Setup, Storage, System};

const ROLE: &str = "reader";
const STATIC: &str = "ci";
const ROLE_ID: &str = "946cfbde-24cc-4953-9355-d57bfd61bf39";

pub struct KillWorld {
    pub astra: Arc<Astra>,
    pub gate: Gate,
    pub storage: Storage,
    mode: Mode,
    /// The leases that the host's lease manager keeps.
    pub leases: Vec<Lease>,
    /// A root token that an operator made and that no config holds yet.
    spare_root: Option<Minted>,
    /// The call during which the next client hangs up.
    pub hang_up: Option<(When, Phase)>,
    /// Storage before the first mint.
    configured: Storage,
    uuid: String,
}

/// A process that serves the mount.
pub struct Node {
    pub host: Host,
    pub mount: Mount,
}

impl KillWorld {
    /// Returns a mount with a config and a role. `config` has additional fields of the config.
    pub async fn new(mode: Mode, config: Value) -> Self {
        let gate = Gate::default();
        let configured = Storage::default();
        let mut world = Self {
            astra: Arc::new(Astra::spawn()),
            storage: configured.copy(&gate),
            gate,
            mode,
            leases: Vec::new(),
            spare_root: None,
            hang_up: None,
            configured,
            uuid: uuid::Uuid::new_v4().to_string(),
        };
        let org = world.astra.org().clone();
        let mut wanted = json!({
            "org_id": org.id, "astra_token": org.root_token, "url": world.astra.url(),
            "caller_mode": if mode == Mode::Sidecar { "sidecar" } else { "standard" },
            "description": mode != Mode::Undescribed,
        });
        wanted.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let role = json!({"org_id": org.id, "role_name": ROLE, "role_id": ROLE_ID, "ttl": "1h", "max_ttl": "2h"});
        let node = world.start().await;
        for (path, data) in [("config", wanted), ("role", role)] {
            let reply = node.mount.write(path, data).await;
            assert!(reply.http() < 300, "{path}: {}", reply.error());
        }
        world.stop(node).await;
        world.configured = world.storage.copy(&Gate::default());
        world
    }

    /// Starts over with storage from before the first mint.
    pub fn reset(&mut self) {
        assert_eq!(self.alive(), BTreeSet::new(), "a token is live in Astra before the work");
        assert!(self.leases.is_empty(), "a lease exists before the work");
        // A previous run may have rotated the root token.
        let config = self.config();
        self.storage = self.configured.copy(&self.gate);
        self.storage.insert(&self.config_key(), config.to_string().as_bytes());
    }

    /// Starts a process and mounts, as a server does after its start or a failover.
    pub async fn start(&self) -> Node {
        self.gate.open();
        let host = Host::start(Launch::astra().secret(&self.astra.org().root_token)).await;
        let system = System::behind(&self.gate);
        let setup = Setup { storage: self.storage.clone(), system, uuid: self.uuid.clone(), ..Setup::default() };
        let mount = host.mount_with(setup).await.expect("Setup");
        mount.initialize().await;
        // Waits for background work. Otherwise its calls would be counted with the calls of the test.
        let looked = || self.gate.calls().iter().any(|call| call.ends_with(" client-index"));
        until("the inventory is complete", || looked() && self.storage.value("client-index").is_some()).await;
        self.gate.open();
        Node { host, mount }
    }

    /// Stops a process in an orderly way.
    pub async fn stop(&self, node: Node) {
        let Node { host, mount } = node;
        // The instance may be gone already.
        let _ = mount.cleanup().await;
        self.check_secrets(&host.plugin);
        host.stop().await;
    }

    /// Waits for the end of a process that was killed.
    pub async fn wait_for_kill(&self, node: Node) {
        let Node { host, mount } = node;
        drop(mount);
        let mut plugin = host.hang_up();
        let status = plugin.exit(PATIENCE).await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "ended with {status}");
        plugin.check_cut_output();
        self.check_secrets(&plugin);
        self.heal_astra();
        self.gate.open();
    }

    /// Removes all faults of Astra and resets its behaviour.
    fn heal_astra(&self) {
        self.astra.clear_faults();
        self.astra.knobs(|knobs| *knobs = Knobs::default());
    }

    /// Asks for work. The lease manager only learns of a returned reply.
    pub async fn ask(&mut self, node: &Node, work: Work) -> Result<Reply, Status> {
        let hang_up = self.hang_up.take();
        let reply = match hang_up {
            None => node.mount.send(self.request(work)).await?,
            Some((when, phase)) => {
                self.gate.hold(when, phase);
                let given_up = node.host.resets.count();
                tokio::select! {
                    reply = node.mount.send(self.request(work)) => reply?,
                    () = self.gate.held() => {
                        return Err(self.finish_hang_up(node, given_up).await);
                    }
                }
            }
        };
        self.keep_lease(work, &reply);
        Ok(reply)
    }

    /// Waits until the process has seen the hang-up, then releases the call. Another call can kill the process meanwhile.
    async fn finish_hang_up(&self, node: &Node, given_up: u64) -> Status {
        let seen = async {
            node.host.resets.exceed(given_up).await;
            for _ in 0..3 {
                node.mount.answers().await;
            }
        };
        let killed = async {
            while node.mount.answers().await {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = seen => {}
            () = killed => {}
        }
        self.gate.release();
        Status::cancelled("the client has hung up")
    }

    /// Passes a reply to the lease manager.
    pub fn keep_lease(&mut self, work: Work, reply: &Reply) {
        match work {
            Work::Mint | Work::Replace if reply.http() == 200 => self.leases.push(Lease::new("org/token", reply)),
            Work::Revoke if reply.err.is_none() => drop(self.leases.pop()),
            _ => {}
        }
    }

    /// Asks for work, and checks that it succeeded.
    pub async fn ask_ok(&mut self, node: &Node, work: Work) {
        let reply = self.ask(node, work).await.unwrap_or_else(|status| panic!("{work:?}: {status}"));
        assert!(reply.err.is_none() && reply.error().is_empty(), "{work:?}: {}", reply.error());
    }

    /// Asks for work and returns its calls, including calls after the answer.
    pub async fn count(&mut self, node: &Node, work: Work) -> Calls {
        let before = self.astra.requests().len();
        let reply = self.ask(node, work).await;
        // Cleanup waits for running work.
        node.mount.cleanup().await.expect("Cleanup");
        self.heal_astra();
        let astra = self.astra.requests().split_off(before);
        Calls {
            host: self.gate.calls(),
            astra: astra.iter().map(|call| format!("{} {}", call.method, call.path)).collect(),
            failed: !reply.is_ok_and(|reply| reply.error().is_empty()),
        }
    }

    /// Asks for work, and kills the process at a point. Returns the call at this point.
    pub async fn kill_at(&mut self, node: &Node, work: Work, point: &Point) -> String {
        let (astra, before) = (self.astra.clone(), self.astra.requests().len());
        let process = node.host.plugin.pid();
        let fault = match &point.place {
            Place::Host(when) => {
                self.gate.stop(when.clone(), point.phase, Act::Kill(process));
                None
            }
            Place::Astra(number) => Some((astra.fault(hang(point.phase, None).nth(*number).once()), *number)),
        };
        let killed = async {
            let Some((fault, number)) = fault else { return pending().await };
            astra.until(PATIENCE, |astra| astra.fired(fault) > 0).await;
            kill_process(process, Signal::KILL).unwrap();
            let call = &astra.requests()[before + usize::try_from(number).unwrap() - 1];
            format!("{} {}", call.method, call.path)
        };
        let asked = async {
            let _ = self.ask(node, work).await;
            // If the process is still alive, its work continues after the answer, or never reaches the point.
            let _ = node.mount.cleanup().await;
        };
        let hit = {
            tokio::pin!(asked, killed);
            tokio::select! {
                () = &mut asked => None,
                call = &mut killed => {
                    asked.await;
                    Some(call)
                }
            }
        };
        hit.or_else(|| self.gate.hit()).unwrap_or_else(|| panic!("{work:?} never reaches {point}"))
    }

    /// Asks for work and makes the call at a point fail. Returns this call.
    pub async fn fail_at(&mut self, node: Node, work: Work, point: &Point) -> (String, Node) {
        let Place::Host(when) = &point.place else { panic!("only calls to the host can fail") };
        self.gate.stop(when.clone(), point.phase, Act::Fail);
        let _ = self.ask(&node, work).await;
        if work == Work::Renew && self.gate.hit().is_none() {
            // The end of the mount writes that the token was used.
            let _ = node.mount.cleanup().await;
        }
        // The work may continue after its answer.
        until("the work reaches the point", || self.gate.hit().is_some()).await;
        let hit = self.gate.hit().unwrap_or_default();
        self.gate.open();
        if work == Work::Renew {
            self.stop(node).await;
            return (hit, self.start().await);
        }
        (hit, node)
    }

    /// Repeats the tick until nothing is left to undo. The process may still work on an undo. With `until_none_alive`,
    /// this also waits until no token is alive, because an undo may not have written its WAL entry yet.
    pub async fn settle(&mut self, node: &Node, until_none_alive: bool) {
        self.heal_astra();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let _ = self.ask(node, Work::Rollback).await.expect("the tick got no answer");
            let alive = self.alive();
            let busy = self.has_unfinished() || alive != self.inventory() || (until_none_alive && !alive.is_empty());
            if !busy || Instant::now() > deadline {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Checks that nothing is lost. Then revokes all leases, and checks that the state is the same as at the start.
    /// Stops the process.
    pub async fn check_nothing_lost(&mut self, mut node: Node) -> Left {
        assert!(!self.has_unfinished(), "WAL entries are left");
        // The operator deletes a root token that the config did not get.
        let refused = self.spare_root.take().filter(|root| root.client_id != self.root());
        assert!(refused.is_none_or(|root| self.astra.delete_token(&root.client_id)));
        assert_eq!(
            self.roots(),
            BTreeSet::from([self.root()]),
            "live root tokens (left) and the root token of the config (right)"
        );
        let (alive, known) = (self.alive(), self.inventory());
        assert_eq!(known, self.listed(&node).await, "the inventory (left) and the list that users see (right)");
        assert_eq!(known, self.stored(), "the inventory (left) and the stored tokens (right)");
        let deleted: Vec<_> = known.difference(&alive).collect();
        assert!(deleted.is_empty(), "in the inventory, but not live in Astra: {deleted:?}");
        let unknown: Vec<_> = alive.difference(&known).collect();
        if self.mode != Mode::Undescribed {
            assert!(unknown.is_empty(), "live in Astra, but not in the inventory: {unknown:?}");
        }
        // Only a person can find these tokens.
        assert!(unknown.iter().all(|client_id| self.astra.delete_token(client_id)));

        while !self.leases.is_empty() {
            self.ask_ok(&node, Work::Revoke).await;
        }
        self.check_static_role(&node).await;
        let left = Left { unleased: self.alive().len(), unknown: unknown.len() };
        if left.unleased > 0 {
            // A running process rarely checks a record before its expiry. A new process checks at once.
            self.stop(node).await;
            self.expire_records();
            node = self.start().await;
            self.ask_ok(&node, Work::Tick).await;
        }
        self.check_empty();

        self.ask_ok(&node, Work::Mint).await;
        self.ask_ok(&node, Work::Revoke).await;
        self.check_empty();
        self.stop(node).await;
        left
    }

    /// Checks that the static role has a token that works, and that Astra has no other token except replaced ones. Then
    /// deletes the static role.
    async fn check_static_role(&mut self, node: &Node) {
        let Some(key) = self.keys("static-role/").next() else { return };
        let role: Value = serde_json::from_slice(&self.storage.value(&key).unwrap()).unwrap();
        assert!(role.get("is_deleted").is_none(), "the deletion of the static role was not finished");
        let former = role["former"].as_array().into_iter().flatten();
        let tokens = former.chain([&role["current"]]).map(|token| token["client_id"].as_str().unwrap().to_owned());
        assert_eq!(
            tokens.collect::<BTreeSet<_>>(),
            self.alive(),
            "the tokens of the static role (left) and of Astra (right)"
        );
        let read = node.mount.read(&format!("static-creds/{}/{STATIC}", self.astra.org().id)).await;
        assert_eq!(read.data()["clientId"], role["current"]["client_id"], "the token that a read returns");
        self.ask_ok(node, Work::DeleteStatic).await;
    }

    /// Makes the next tick rotate the root token.
    pub fn plan_rotation(&self) {
        let mut config = self.config();
        config["root"]["rotation_period"] = 3_600_000_000_000_u64.into();
        for time in ["rotated_at", "counted_from"] {
            config["root"][time] = "2020-01-01T00:00:00Z".into();
        }
        self.storage.insert(&self.config_key(), config.to_string().as_bytes());
    }

    /// Makes a root token, as an operator does in Astra's portal.
    pub fn make_root(&mut self) {
        let roles = [built_in_id("Organization Administrator")];
        self.spare_root = Some(self.astra.mint(&self.astra.org().id, &roles));
    }

    /// Makes all records look expired, so that no lease of them can exist.
    pub fn expire_records(&self) {
        for key in self.keys("client/").collect::<Vec<_>>() {
            let mut record: Value = serde_json::from_slice(&self.storage.value(&key).unwrap()).unwrap();
            assert!(record["expires_at"].as_str().is_some_and(|time| !time.is_empty()), "{key} has no expiry");
            record["expires_at"] = "2020-01-01T00:00:00Z".into();
            self.storage.insert(&key, record.to_string().as_bytes());
        }
    }

    /// Removes the first token from storage, and the second one from Astra.
    pub fn lose_tokens(&self) {
        let known: Vec<String> = self.inventory().into_iter().collect();
        for key in [format!("token/{}", known[0]), format!("client/{}/{}", self.astra.org().id, known[0])] {
            assert!(self.storage.value(&key).is_some(), "{key} is not stored");
            self.storage.remove(&key);
        }
        assert!(self.astra.delete_token(&known[1]));
    }

    fn check_empty(&self) {
        assert_eq!(self.alive(), BTreeSet::new(), "a token is live in Astra at the end");
        for prefix in ["token/", "client/"] {
            assert_eq!(self.keys(prefix).collect::<Vec<_>>(), Vec::<String>::new(), "an entry is stored at the end");
        }
        assert!(!self.has_unfinished(), "a WAL entry is left at the end");
    }

    fn check_secrets(&self, plugin: &Plugin) {
        let printed = plugin.stderr();
        for (number, secret) in self.astra.secrets().iter().enumerate() {
            assert!(!printed.contains(secret), "secret {number} of Astra is on stderr");
        }
    }

    /// The client ids of the live tokens in Astra, without root tokens.
    pub fn alive(&self) -> BTreeSet<String> {
        let roots = self.roots();
        let live = self.astra.live(&self.astra.org().id).into_iter().map(|token| token.client_id);
        live.filter(|client_id| !roots.contains(client_id)).collect()
    }

    /// The client ids of the live root tokens in Astra.
    fn roots(&self) -> BTreeSet<String> {
        let tokens = self.astra.tokens(&self.astra.org().id).into_iter();
        let role = built_in_id("Organization Administrator");
        tokens.filter(|token| token.live && token.roles == [role]).map(|token| token.client_id).collect()
    }

    /// The client id of the root token in the config.
    fn root(&self) -> String {
        let config = self.config();
        config["astra_token"].as_str().and_then(|token| token.split(':').nth(1)).expect("a root token").to_owned()
    }

    fn config(&self) -> Value {
        serde_json::from_slice(&self.storage.value(&self.config_key()).expect("a config")).unwrap()
    }

    fn config_key(&self) -> String {
        format!("config/{}", self.astra.org().id)
    }

    /// The client ids of the inventory.
    pub fn inventory(&self) -> BTreeSet<String> {
        let org = format!("client/{}/", self.astra.org().id);
        self.keys("client/").map(|key| key.strip_prefix(&org).expect("a record of this org").to_owned()).collect()
    }

    /// The client ids of the stored tokens.
    fn stored(&self) -> BTreeSet<String> {
        let token = |key: String| serde_json::from_slice::<Value>(&self.storage.value(&key).unwrap()).unwrap();
        self.keys("token/").map(|key| token(key)["clientId"].as_str().unwrap().to_owned()).collect()
    }

    /// The client ids in the list that users see.
    async fn listed(&self, node: &Node) -> BTreeSet<String> {
        let reply = node.mount.list("org/tokens").await;
        if reply.http() == 404 {
            return BTreeSet::new();
        }
        let data = reply.data();
        data["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    /// Whether the log has an entry whose token the plugin has not looked for. Other entries stay for a while, because a
    /// request can take effect late, and so do the deletions of tokens that Astra has.
    pub fn has_unfinished(&self) -> bool {
        let alive = self.alive();
        let of_live = |entry: &Value| {
            entry["type"] == "token-delete" && entry["data"]["client_id"].as_str().is_some_and(|id| alive.contains(id))
        };
        let entries = self.keys("wal/").filter_map(|key| self.storage.value(&key));
        entries
            .map(|entry| serde_json::from_slice::<Value>(&entry).unwrap())
            .any(|entry| entry["data"].get("looked").is_none() && !of_live(&entry))
    }

    fn keys(&self, prefix: &str) -> impl Iterator<Item = String> {
        self.storage.keys().into_iter().filter(move |key| key.starts_with(prefix))
    }

    /// Returns the host's request for a piece of work.
    pub fn request(&self, work: Work) -> pb::Request {
        let org_id = &self.astra.org().id;
        let mint = json!({"org_id": org_id, "role_name": ROLE, "logical_name": "app", "metadata": {"team": "a"}});
        let lease = || self.leases.last().expect("a lease");
        let static_role = format!("orgs/{org_id}/static-roles/{STATIC}");
        match work {
            Work::Mint if self.mode == Mode::Sidecar => request("read", "org/token", &mint),
            Work::Mint => request("update", "org/token", &mint),
            Work::Replace => {
                let mut replacement = mint;
                replacement["replace"] = json!(true);
                replacement["overlap"] = json!("1h");
                request("update", "org/token", &replacement)
            }
            Work::Delete => {
                let client_id = self.inventory().pop_first().expect("a token");
                request("delete", "org/token", &json!({"org_id": org_id, "client_id": client_id}))
            }
            Work::DeleteByPath => {
                let client_id = self.inventory().pop_first().expect("a token");
                request("delete", &format!("orgs/{org_id}/tokens/{client_id}"), &json!({}))
            }
            Work::Renew => lease().request("renew", Duration::from_secs(1800)),
            Work::Revoke => lease().request("revoke", Duration::ZERO),
            Work::Rotate => request("update", "config/rotate-root", &json!({"org_id": org_id})),
            Work::WriteRoot => {
                let root = self.spare_root.as_ref().expect("a root token");
                request("update", "config", &json!({"org_id": org_id, "astra_token": root.token}))
            }
            Work::NewStatic => request("create", &static_role, &json!({"role": ROLE, "rotation_period": "24h"})),
            Work::RotateStatic => request("update", &static_role, &json!({"rotate": true})),
            Work::DeleteStatic => request("delete", &static_role, &json!({})),
            Work::Tidy => {
                request("update", &format!("orgs/{org_id}/tidy"), &json!({"dry_run": false, "safety_buffer": 0}))
            }
            Work::Rollback => tick(&json!({"immediate": true})),
            Work::Tick => tick(&json!({})),
        }
    }
}

/// A call to Astra that hangs, forever or for a time: before it reaches Astra, or before its answer returns.
pub fn hang(phase: Phase, for_ms: Option<u64>) -> AstraFault {
    let kind = Kind::HangBeforeHeaders { for_ms };
    let phase = if phase == Phase::Before { AstraPhase::Before } else { AstraPhase::After };
    AstraFault { phase, ..AstraFault::before(kind) }
}

/// Waits for a condition.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "timed out after {PATIENCE:?} waiting until {what}");
        sleep(Duration::from_millis(2)).await;
    }
}
