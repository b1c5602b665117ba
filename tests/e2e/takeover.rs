//! Mounts of the Go plugin 2.0.0 on a real server. The tests write its entries and leases with `sys/raw`.

use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::astra::{Astra, Route, Seed};
use crate::bao::{Client, PLUGIN, Reply, Server, VERSION, sha256, wait};
use crate::go_plugin::{Fixtures, ROLE, SIDECAR, STANDARD, URL, parsed};
use crate::world::{Mode, Org, Token, World};

const SOON: Duration = Duration::from_secs(30);

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// A mount with entries of the Go plugin.
pub(crate) struct GoMount {
    pub(crate) world: World,
    pub(crate) org: Org,
    pub(crate) uuid: String,
    /// A token without metadata, whose lease was never renewed.
    pub(crate) plain: Token,
    /// A token with metadata. A renewal has removed the data of its lease.
    pairs: Token,
    /// A token whose lease expires while the server is down.
    brief: Token,
    /// The lease of a token that was never minted.
    junk: Token,
}

impl GoMount {
    /// Writes the entries of a mount. They take effect after a restart of the server.
    pub(crate) fn new(server: &Arc<Server>, mount: &str, fixtures: &Fixtures, template: &Value) -> Self {
        let config = parsed(fixtures.config);
        let seed = Seed::new().id(text(&config["org_id"])).root_token(text(&config["astra_token"]));
        let world = World::with_astra(server, mount, Astra::builder().org(seed));
        let org = world.next_org();
        let uuid = text(&server.get(&format!("sys/mounts/{mount}")).data()["uuid"]);
        let (_, token_id) = names_of(fixtures.junk);
        let [plain, pairs, brief] = fixtures.tokens.map(names_of);
        let lease = |(client_id, _): &(String, String), name: &str| Token {
            client_id: client_id.clone(),
            lease_id: format!("{mount}/org/token/{name}"),
            data: Value::Null,
        };
        let old = Self {
            plain: lease(&plain, "plain"),
            pairs: lease(&pairs, "pairs"),
            brief: lease(&brief, "brief"),
            junk: lease(&(String::new(), token_id.clone()), "junk"),
            world,
            org,
            uuid,
        };

        let config = fixtures.config.replace(URL, old.world.url());
        old.put(&format!("config/{}", old.org.id), &config);
        old.put(&format!("role/{}:r_w_user", old.org.id), ROLE);
        for ((_, token_id), (token, _)) in [plain, pairs, brief].into_iter().zip(fixtures.tokens) {
            old.world.adopt(&old.org.id, &text(&parsed(token)["token"]));
            old.put(&format!("token/{token_id}"), token);
        }
        // The server's API refuses a key that ends in a slash. So the tests in the crate cover the bare "token/".
        if !token_id.is_empty() {
            old.put(&format!("token/{token_id}"), fixtures.junk.0);
        }
        let seconds = |seconds| SignedDuration::from_secs(seconds);
        for (token, (_, lease), ends_in) in [
            (&old.plain, fixtures.tokens[0], MINUTE * 59),
            (&old.pairs, fixtures.tokens[1], MINUTE * 59),
            (&old.brief, fixtures.tokens[2], seconds(1)),
            (&old.junk, fixtures.junk, MINUTE * 59),
        ] {
            old.put_lease(token, &parsed(lease), template, ends_in);
        }
        // A mount of the Go plugin has no inventory.
        server.delete(&raw(&old.uuid, "client-index")).ok();
        old
    }

    fn put(&self, key: &str, value: &str) {
        put(&self.world.server, &self.uuid, key, value);
    }

    /// Writes the server's own entry of a lease that was issued a minute ago.
    fn put_lease(&self, token: &Token, lease: &Value, template: &Value, ends_in: SignedDuration) {
        let now = Timestamp::now();
        let mut entry = template.clone();
        entry["lease_id"] = token.lease_id.as_str().into();
        entry["path"] = self.world.at("org/token").into();
        entry["data"] = lease["data"].clone();
        entry["secret"]["internal_data"] = lease["internal_data"].clone();
        entry["issue_time"] = (now - MINUTE).to_string().into();
        entry["expire_time"] = (now + ends_in).to_string().into();
        if lease["data"].is_null() {
            entry["last_renewal_time"] = now.to_string().into();
        }
        self.world.server.post(&lease_key(token), &json!({"value": entry.to_string()})).ok();
    }

    fn keys(&self, folder: &str) -> Vec<String> {
        self.world.server.keys(&raw(&self.uuid, folder))
    }

    pub(crate) fn wait_for_inventory(&self) {
        wait("the inventory", SOON, || self.world.server.get(&raw(&self.uuid, "client-index")).data_if_there());
    }

    fn by_name(&self, logical_name: &str) -> Reply {
        self.world.get(&format!("org/token?org_id={}&role_name=r_w_user&logical_name={logical_name}", self.org.id))
    }

    /// Checks that the lease of `junk` is revoked without a call to Astra.
    fn assert_junk_revokes_in_silence(&self) {
        let calls = self.world.requests().len();
        self.world.revoke(&self.junk).ok();
        assert!(!self.world.lease_exists(&self.junk));
        assert_eq!(self.world.requests().len(), calls);
    }

    /// Checks that a renewal restores the data that the Go plugin's renewal removed.
    fn assert_renewal_restores_data(&self, metadata: &Value) {
        let server = &self.world.server;
        assert!(stored_lease(server, &self.pairs)["data"].is_null());
        let renewed = self.world.renew(&self.pairs, 0).ok();
        assert_eq!(renewed["lease_duration"], 3600);
        let lease = stored_lease(server, &self.pairs);
        for data in [&renewed["data"], &lease["data"]] {
            assert_eq!((&data["clientId"], &data["metadata"]), (&json!(self.pairs.client_id), metadata));
            assert!(data["token"].as_str().is_some_and(|token| token.contains(&self.pairs.client_id)), "no token");
        }
        let internal = parsed(STANDARD.tokens[1].1)["internal_data"].clone();
        let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(members(&lease["secret"]["internal_data"]), members(&internal));
    }

    /// Checks that a revoked token is gone everywhere.
    pub(crate) fn assert_revokes(&self, token: &Token) {
        self.world.revoke(token).ok();
        assert!(!self.world.is_alive(&token.client_id) && !self.world.lease_exists(token));
        assert!(!self.keys(&format!("client/{}", self.org.id)).contains(&token.client_id));
    }
}

impl Reply {
    fn data_if_there(self) -> Option<Value> {
        (self.status == 200).then(|| self.data())
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// Returns client id and key of a lease's token.
fn names_of((_, lease): (&str, &str)) -> (String, String) {
    let internal = parsed(lease)["internal_data"].take();
    (text(&internal["clientId"]), text(&internal["tokenId"]))
}

/// Returns the `sys/raw` path of an entry of a mount.
pub(crate) fn raw(uuid: &str, key: &str) -> String {
    format!("sys/raw/logical/{uuid}/{key}")
}

fn put(client: &Client, uuid: &str, key: &str, value: &str) {
    client.post(&raw(uuid, key), &json!({"value": value})).ok();
}

fn lease_key(token: &Token) -> String {
    format!("sys/raw/sys/expire/id/{}", token.lease_id)
}

/// Returns the server's entry of a lease.
pub(crate) fn stored_lease(server: &Server, token: &Token) -> Value {
    parsed(&text(&server.get(&lease_key(token)).data()["value"]))
}

/// Returns a lease in the form in which this server stores it.
pub(crate) fn template(server: &Arc<Server>) -> Value {
    let world = World::at_mount(server, "template");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "r_w_user", 3600, 36000);
    stored_lease(server, &world.mint(&org, "r_w_user", "cart"))
}

/// Mounts of both caller modes, on a server that was restarted after the writes.
fn taken_over() -> &'static (GoMount, GoMount) {
    static MOUNTS: OnceLock<(GoMount, GoMount)> = OnceLock::new();
    MOUNTS.get_or_init(|| {
        let server = Arc::new(Server::raft());
        let template = template(&server);
        server.enable("standard");
        server.enable("sidecar");
        let standard = GoMount::new(&server, "standard", &STANDARD, &template);
        let sidecar = GoMount::new(&server, "sidecar", &SIDECAR, &template);
        server.restart();
        (standard, sidecar)
    })
}

#[test]
fn a_standard_mount_of_the_go_plugin_keeps_working() {
    let (old, _) = taken_over();
    let GoMount { world, org, plain, pairs, brief, .. } = old;
    let config = world.get("config?logical_name=retailOrg").data();
    assert_eq!((&config["org_id"], &config["caller_mode"]), (&json!(org.id), &json!("standard")));
    let role = world.get(&format!("role?org_id={}&role_name=r_w_user", org.id)).data();
    assert_eq!((&role["ttl"], &role["max_ttl"]), (&json!("1h0m0s"), &json!("10h0m0s")));
    assert_eq!((world.keys("configs"), world.keys("roles")), (vec![org.id.clone()], vec!["r_w_user".into()]));

    // Names are found at once. Client ids are found only when the inventory is complete.
    assert_eq!(old.by_name("org1").data()["clientId"], plain.client_id.as_str());
    let metadata = json!({"owner": "R&D <retail@example.com>", "team": "a"});
    assert_eq!(old.by_name("org2").data()["metadata"], metadata);
    old.wait_for_inventory();
    assert_eq!(world.fetch(org, pairs).data()["metadata"], metadata);
    wait("the brief token to be gone in Astra", SOON, || (!world.is_alive(&brief.client_id)).then_some(()));
    wait("the brief lease to be gone", SOON, || (!world.lease_exists(brief)).then_some(()));
    let listed = world.list("org/tokens").data();
    let live = BTreeSet::from([plain.client_id.as_str(), pairs.client_id.as_str()]);
    assert_eq!(listed["keys"], json!(live));
    assert_eq!(listed["key_info"][&pairs.client_id]["metadata"], metadata);

    let mint = |name: &str| {
        let body = json!({"org_id": org.id, "role_name": "r_w_user", "logical_name": name});
        world.post("org/token", &body)
    };
    assert!(mint("Org1").fails(400).contains(&plain.client_id));
    assert_eq!(world.calls(Route::CreateToken), 0);
    world.delete(&format!("config?org_id={}", org.id)).fails(400);

    assert_eq!(world.renew(plain, 0).ok()["lease_duration"], 3600);
    old.assert_renewal_restores_data(&metadata);
    assert_eq!(world.renew(pairs, 7200).ok()["lease_duration"], 7200);

    // `junk` does not block its name. Revoking its lease does not affect the new token with this name.
    old.by_name("org4").fails(400);
    let minted = Token::of(mint("org4").ok());
    old.assert_junk_revokes_in_silence();
    assert_eq!(old.by_name("org4").data()["clientId"], minted.client_id.as_str());
    world.revoke(&minted).ok();

    for token in [plain, pairs] {
        old.assert_revokes(token);
    }
    assert!(old.keys("token").is_empty() && old.keys(&format!("client/{}", org.id)).is_empty());
    let again = Token::of(mint("org1").ok());
    assert_eq!(world.alive(org), [again.client_id.as_str()]);
}

#[test]
fn a_sidecar_mount_of_the_go_plugin_keeps_working() {
    let (_, old) = taken_over();
    let GoMount { world, org, plain, pairs, brief, .. } = old;
    assert_eq!(world.get(&format!("config?org_id={}", org.id)).data()["caller_mode"], "sidecar");
    old.wait_for_inventory();
    wait("the brief token to be gone in Astra", SOON, || (!world.is_alive(&brief.client_id)).then_some(()));
    wait("the brief lease to be gone", SOON, || (!world.lease_exists(brief)).then_some(()));
    let live = BTreeSet::from([plain.client_id.clone(), pairs.client_id.clone()]);
    assert_eq!(world.keys("org/tokens"), Vec::from_iter(live));

    // Logical names need not be unique here. A read mints and never fetches.
    let minted = Token::of(old.by_name("cart").ok());
    world.fetch(org, plain).fails(400);
    old.assert_renewal_restores_data(&json!({"owner": "R&D <retail@example.com>", "team": "a", "deletion_time": ""}));
    old.assert_junk_revokes_in_silence();

    // After a delete by client id, the revocation has nothing to do.
    world.delete(&format!("org/token?org_id={}&client_id={}", org.id, plain.client_id)).ok();
    assert!(!world.is_alive(&plain.client_id));
    world.revoke(plain).ok();
    old.assert_revokes(pairs);
    assert_eq!(world.alive(org), [minted.client_id.as_str()]);
    assert_eq!(old.keys("token"), [minted.client_id.as_str()]);
}

#[test]
fn a_killed_plugin_completes_the_inventory_after_its_restart() {
    const TOKENS: usize = 3000;
    let server = Arc::new(Server::dev());
    let world = World::at_mount(&server, "astra");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "r_w_user", 3600, 36000);
    let uuid = text(&server.get("sys/mounts/astra").data()["uuid"]);
    let ids: Vec<String> = (0..TOKENS).map(|n| format!("old{n:04}")).collect();
    std::thread::scope(|threads| {
        for part in ids.chunks(TOKENS / 4) {
            threads.spawn(|| part.iter().for_each(|id| put(&server, &uuid, &format!("token/{id}"), &entry(&org, id))));
        }
    });
    server.delete(&raw(&uuid, "client-index")).ok();

    let records = || server.keys(&raw(&uuid, &format!("client/{}", org.id))).len();
    // The first request starts the plugin. It fails if the server has not yet noticed the kill.
    let start_again = || {
        let path = format!("org/token?org_id={}&role_name=r_w_user&logical_name=named", org.id);
        let found = wait("the plugin to be back", SOON, || world.get(&path).data_if_there());
        assert_eq!(found["clientId"], "named");
    };
    let missing = Token { client_id: "unknown".into(), lease_id: String::new(), data: Value::Null };
    put_named(&server, &uuid, &org);
    for share in [TOKENS / 20, TOKENS / 8] {
        server.kill_plugins();
        // The plugin answers long before the inventory is complete.
        start_again();
        // Vault drops the warnings of an empty list.
        wait("the first records", SOON, || (records() > 0).then_some(()));
        let (fetched, listed) = (world.fetch(&org, &missing), world.list("org/tokens"));
        // If the inventory is not complete now, it was not complete then.
        if server.get(&raw(&uuid, "client-index")).data_if_there().is_none() {
            assert!(fetched.fails(503).contains("still being built"));
            assert!(listed.warnings().contains("still being built"));
        }
        let known = wait("a part of the inventory", SOON, || Some(records()).filter(|known| *known >= share));
        assert!(known < TOKENS, "the inventory was complete before the kill");
    }
    server.kill_plugins();
    start_again();
    wait("the inventory", SOON * 2, || server.get(&raw(&uuid, "client-index")).data_if_there());
    assert_eq!(records(), TOKENS + 1);
    assert!(world.fetch(&org, &missing).fails(400).contains("no live token"));
    assert_eq!(world.keys(&format!("org/tokens?after={}&limit=2", ids[1])), ids[2..4]);
}

/// Returns the entry of a token with this id.
fn entry(org: &Org, id: &str) -> String {
    let token = json!({"clientId": id, "secret": "", "orgId": org.id, "roleName": "r_w_user", "roles": [],
        "token": format!("AstraCS:{id}:0"), "generatedOn": "2022-09-21T17:48:15Z", "logicalName": id, "metadata": null});
    token.to_string()
}

/// Stores a token with the name "named".
fn put_named(server: &Server, uuid: &str, org: &Org) {
    use sha2::{Digest as _, Sha256};

    let digest = Sha256::digest(format!("{}:r_w_user:named", org.id));
    let id: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    put(server, uuid, &format!("token/{id}"), &entry(org, "named"));
}

/// Registers a plugin that reports an older version, and returns this version. It is the same binary with another
/// version text, because the tests have no Go plugin.
fn register_older(server: &Server) -> String {
    let current = VERSION.trim_start_matches('v');
    let older = current.replacen(|major: char| major.is_ascii_digit(), "2", 1);
    let built = fs::read(server.plugin_dir().join(PLUGIN)).unwrap();
    let mut changed = built.clone();
    for at in (0..=built.len() - current.len()).filter(|&at| built[at..].starts_with(current.as_bytes())) {
        changed[at..at + current.len()].copy_from_slice(older.as_bytes());
    }
    let file = format!("{PLUGIN}_{older}");
    let path = server.plugin_dir().join(&file);
    fs::write(&path, changed).unwrap();
    fs::set_permissions(&path, fs::metadata(server.plugin_dir().join(PLUGIN)).unwrap().permissions()).unwrap();
    let (sum, version) = (format!("-sha256={}", sha256(&path)), format!("-version=v{older}"));
    server.cli(&["plugin", "register", &sum, &format!("-command={file}"), &version, "secret", PLUGIN]).ok();
    format!("v{older}")
}

#[test]
fn leases_survive_a_change_of_the_plugin_version() {
    let server = Arc::new(Server::dev());
    let older = register_older(&server);
    server.cli(&["secrets", "enable", "-path=astra", &format!("-plugin-version={older}"), PLUGIN]).ok();
    let world = World::with_astra(&server, "astra", Astra::builder());
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    world.role(&org, "brief", 2, 4);
    let running = || text(&server.get("sys/mounts/astra").data()["running_plugin_version"]);
    assert_eq!(running(), older);

    let mut kept = vec![world.mint(&org, "reader", "first")];
    for version in [VERSION, &older, VERSION] {
        let brief = world.mint(&org, "brief", "ends-meanwhile");
        server.cli(&["secrets", "tune", &format!("-plugin-version={version}"), "astra"]).ok();
        server.reload("astra");
        assert_eq!(running(), version);
        for token in &kept {
            assert!(
                world.fetch(&org, token).data()["token"] == token.data["token"],
                "the fetch returned another token"
            );
            assert_eq!(world.renew(token, 0).ok()["lease_duration"], 3600);
        }
        wait("the brief token to be gone in Astra", SOON, || (!world.is_alive(&brief.client_id)).then_some(()));
        kept.push(world.mint(&org, "reader", &format!("after-{}", kept.len())));
    }
    assert_eq!(world.keys("org/tokens").len(), kept.len());
    for token in &kept {
        world.revoke(token).ok();
    }
    assert!(world.alive(&org).is_empty() && world.keys("org/tokens").is_empty());
}
