//! A mount of the Go plugin 2.0.0 with names as people entered them, on a real server. This version takes the mount
//! over, and leaves entries that 2.0.0 can read.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::astra::{Astra, Seed};
use crate::bao::{Reply, Server, redact, wait};
use crate::go_plugin::{self, GoToken, labels, odd_labels, odd_names, parsed};
use crate::takeover::{raw, stored_lease, template};
use crate::world::{Org, Token, World};

/// Astra's id of the organization.
const REAL: &str = "6a4c2d1e-5c0f-4b8e-9a57-00000000000f";

const ROOT: &str = "AstraCS:ONqZCOAAAAAAAAAAAAAAAAe:608ba9999999999999190219";

const SOON: Duration = Duration::from_secs(30);

/// A mount with entries of the Go plugin.
struct NamedGoMount {
    world: World,
    org: Org,
    uuid: String,
    template: Value,
    is_sidecar: bool,
}

impl NamedGoMount {
    fn new(server: &Arc<Server>, mount: &str, template: &Value, is_sidecar: bool) -> Self {
        server.enable(mount);
        let seed = Seed::new().id(REAL).root_token(ROOT);
        let world = World::with_astra(server, mount, Astra::builder().org(seed));
        let uuid = text(&server.get(&format!("sys/mounts/{mount}")).data()["uuid"]);
        Self { org: world.next_org(), world, uuid, template: template.clone(), is_sidecar }
    }

    /// Restarts the server on the current storage. A mount of the Go plugin has no inventory.
    fn take_over(&self) {
        let marker = raw(&self.uuid, "client-index");
        wait("the inventory of the empty mount", SOON, || (self.world.server.get(&marker).status == 200).then_some(()));
        self.world.server.delete(&marker).ok();
        self.world.server.restart();
        wait("the inventory", SOON, || (self.world.server.get(&marker).status == 200).then_some(()));
    }

    fn put(&self, key: &str, value: &str) {
        self.world.server.post(&raw(&self.uuid, &encoded(key)), &json!({"value": value})).ok();
    }

    /// Returns the stored entry of a key.
    fn stored(&self, key: &str) -> Value {
        parsed(&text(&self.world.server.get(&raw(&self.uuid, &encoded(key))).data()["value"]))
    }

    /// Stores a config and a role.
    fn org(&self, org_id: &str) {
        let config = go_plugin::config(org_id, ROOT, self.world.url(), "", self.is_sidecar);
        self.put(&format!("config/{org_id}"), &config);
        self.role(org_id, "reader");
    }

    fn role(&self, org_id: &str, name: &str) {
        self.put(&format!("role/{org_id}:{name}"), &go_plugin::role(org_id, name));
    }

    /// Stores a live token and its lease.
    fn token(&self, org_id: &str, role_name: &str, logical_name: &str, client_id: &str) -> Token {
        let token = self.named(org_id, role_name, logical_name, client_id);
        self.put(&format!("token/{}", token.id()), &token.entry());
        self.lease(&token, &parsed(&token.lease()))
    }

    fn named(&self, org_id: &str, role_name: &str, logical_name: &str, client_id: &str) -> GoToken {
        let token = GoToken {
            org_id: org_id.to_owned(),
            astra_org_id: REAL.to_owned(),
            role_name: role_name.to_owned(),
            logical_name: logical_name.to_owned(),
            client_id: client_id.to_owned(),
            is_sidecar: self.is_sidecar,
        };
        redact::hide(token.token());
        token
    }

    /// Writes the server's own entry of a lease, and creates the token in Astra.
    fn lease(&self, token: &GoToken, lease: &Value) -> Token {
        self.world.adopt(&self.org.id, &token.token());
        let lease_id = self.world.at(&format!("org/token/{}", token.client_id.replace('.', "dot")));
        let held = Token { client_id: token.client_id.clone(), lease_id, data: Value::Null };
        let now = Timestamp::now();
        let mut entry = self.template.clone();
        entry["lease_id"] = held.lease_id.as_str().into();
        entry["path"] = self.world.at("org/token").into();
        entry["data"] = lease["data"].clone();
        entry["secret"]["internal_data"] = lease["internal_data"].clone();
        entry["issue_time"] = (now - SignedDuration::from_mins(1)).to_string().into();
        entry["expire_time"] = (now + SignedDuration::from_mins(59)).to_string().into();
        self.world
            .server
            .post(&format!("sys/raw/sys/expire/id/{}", held.lease_id), &json!({"value": entry.to_string()}))
            .ok();
        held
    }

    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Reply {
        self.world.get(&with(path, parameters))
    }

    fn mint(&self, org_id: &str, role_name: &str, logical_name: &str) -> Reply {
        let body = json!({"org_id": org_id, "role_name": role_name, "logical_name": logical_name});
        self.world.post("org/token", &body)
    }

    fn listed(&self, org_id: &str) -> Vec<String> {
        let reply = self.world.list(&with("org/tokens", &[("org_id", org_id)]));
        if reply.status == 404 {
            return Vec::new();
        }
        reply.data()["keys"].as_array().expect("keys").iter().map(text).collect()
    }

    fn assert_revokes(&self, token: &Token) {
        self.world.revoke(token).ok();
        assert!(!self.world.is_alive(&token.client_id) && !self.world.lease_exists(token), "{}", token.client_id);
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// Encodes a path or key for a URL.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'/' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn with(path: &str, parameters: &[(&str, &str)]) -> String {
    let pairs = parameters.iter().map(|(name, value)| format!("{name}={}", encoded(value).replace('/', "%2F")));
    format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// Names that the server's own API accepts in a key: none has an empty segment.
fn names() -> Vec<(String, String)> {
    let fits = |name: &str| !name.contains("//") && !name.ends_with('/') && name.trim_end() == name;
    odd_names().into_iter().filter(|(_, stored)| fits(stored)).collect()
}

/// Checks that 2.0.0 can read an entry: all members exist, with the types of its structs.
fn assert_loads_in_go(entry: &Value, texts: &[&str], numbers: &[&str]) {
    assert!(texts.iter().all(|name| entry[name].is_string()), "a text is missing");
    assert!(numbers.iter().all(|name| entry[name].is_i64()), "a number is missing");
}

#[test]
fn a_go_mount_with_unusual_names_can_be_upgraded_and_downgraded() {
    let server = Arc::new(Server::raft());
    let template = template(&server);
    let mount = NamedGoMount::new(&server, "names", &template, false);
    let orgs: Vec<String> = labels(REAL).into_iter().chain(odd_labels()).collect();
    let mut held = Vec::new();
    for (n, org_id) in orgs.iter().enumerate() {
        mount.org(org_id);
        held.push(mount.token(org_id, "reader", "first", &format!("GoOrg{n}")));
    }
    let mut named = Vec::new();
    for (n, (_, name)) in names().iter().enumerate() {
        mount.role("prod", name);
        named.push(mount.token("prod", name, name, &format!("GoName{n}")));
    }
    mount.take_over();

    let mut listed = mount.world.keys("configs");
    listed.sort();
    let mut expected = orgs.clone();
    expected.sort();
    assert_eq!(listed, expected);
    for (org_id, old) in orgs.iter().zip(&held) {
        assert!(mount.listed(org_id).contains(&old.client_id), "{org_id:?}");
        let first = mount.ask("org/token", &[("org_id", org_id), ("client_id", &old.client_id)]).data();
        assert_eq!(first["logicalName"], "first");
        assert_eq!(mount.world.renew(old, 0).ok()["lease_duration"], 3600);
        let minted = Token::of(mount.mint(org_id, "reader", "second").ok());
        assert_eq!(mount.ask("config", &[("org_id", org_id)]).data()["astra_org_id"], REAL);

        // The entries that 2.0.0 finds after a downgrade.
        let config = mount.stored(&format!("config/{org_id}"));
        assert_loads_in_go(&config, &["astra_token", "url", "org_id", "logical_name"], &["caller_mode"]);
        assert_eq!(config["org_id"], org_id.as_str());
        let id = mount.named(org_id, "reader", "second", &minted.client_id).id();
        let token = mount.stored(&format!("token/{id}"));
        let texts = ["clientId", "secret", "orgId", "roleName", "token", "generatedOn", "logicalName"];
        assert_loads_in_go(&token, &texts, &[]);
        let lease = stored_lease(&server, &minted)["secret"]["internal_data"].clone();
        assert_loads_in_go(&lease, &["orgId", "clientId", "roleName", "tokenId", "secret_type"], &[]);
        assert_eq!((&lease["orgId"], &lease["tokenId"]), (&json!(org_id), &json!(id)));
        mount.assert_revokes(old);
        mount.assert_revokes(&minted);
    }
    for ((given, stored), old) in names().iter().zip(&named) {
        let role = [("org_id", "prod"), ("role_name", given.as_str())];
        assert_eq!(mount.ask("role", &role).data()["role_name"], stored.as_str());
        let found = mount.ask("org/token", &[role[0], role[1], ("logical_name", given)]).data();
        assert_eq!(found["clientId"], old.client_id.as_str());
        mount.mint("prod", given, given).fails(400);
        assert_eq!(mount.world.renew(old, 0).ok()["lease_duration"], 3600);
        mount.assert_revokes(old);
        let minted = Token::of(mount.mint("prod", given, "next").ok());
        let role_entry = mount.stored(&format!("role/prod:{stored}"));
        assert_loads_in_go(&role_entry, &["role_name", "role_id", "org_id"], &["ttl", "max_ttl"]);
        mount.assert_revokes(&minted);
        mount.world.delete(&with("role", &role)).ok();
    }
    assert!(mount.world.alive(&mount.org).is_empty() && mount.world.keys("org/tokens").is_empty());
    assert_eq!(mount.world.keys("roles"), ["reader"]);
    server.delete("sys/mounts/names").ok();
}

#[test]
fn a_go_mount_with_incomplete_leases_can_be_disabled() {
    let server = Arc::new(Server::raft());
    let template = template(&server);
    for is_sidecar in [false, true] {
        let name = if is_sidecar { "sidecar" } else { "standard" };
        let mount = NamedGoMount::new(&server, name, &template, is_sidecar);
        mount.org("prod");
        let store = |client_id: &str| {
            let token = mount.named("prod", "reader", client_id, client_id);
            mount.put(&format!("token/{}", token.id()), &token.entry());
            (parsed(&token.lease()), token)
        };
        let whole = mount.token("prod", "reader", "GoWhole", "GoWhole");
        let (mut lease, token) = store("GoEmpty");
        lease["internal_data"] = json!({});
        let empty = mount.lease(&token, &lease);
        let (mut lease, token) = store("GoNull");
        lease["internal_data"] = Value::Null;
        let null = mount.lease(&token, &lease);
        let (mut lease, token) = store("GoOrgless");
        lease["internal_data"].as_object_mut().expect("an object").remove("orgId");
        lease["data"] = Value::Null;
        let orgless = mount.lease(&token, &lease);
        let (_, token) = store("GoLost");
        let lost = mount.lease(&token, &json!({"data": null, "internal_data": null}));
        let token = mount.named("prod", "reader", "odd", "..");
        let odd = mount.lease(&token, &parsed(&token.lease()));
        mount.take_over();

        assert!(mount.listed("prod").contains(&"GoWhole".to_owned()));
        for token in [&whole, &empty, &null, &orgless] {
            assert_eq!(mount.world.renew(token, 0).ok()["lease_duration"], 3600, "{}", token.client_id);
            mount.assert_revokes(token);
        }
        assert_eq!(mount.world.renew(&lost, 0).ok()["renewable"], false);
        // The engine cannot find the tokens of these leases, or Astra cannot be reached. The mount can still be
        // deleted.
        server.delete(&format!("sys/mounts/{name}")).ok();
        assert!(mount.world.is_alive("GoLost"), "a lease without a client id deleted a token");
        assert!(!mount.world.lease_exists(&lost) && !mount.world.lease_exists(&odd));
        let log = server.log();
        assert!(log.contains("revoked a lease that did not identify a token"));
    }
}
