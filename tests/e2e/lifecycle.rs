//! Tokens across restarts, crashes and upgrades of the plugin and the server.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::bao::{PLUGIN, Server, alive, wait};
use crate::servers::on_vault;
use crate::world::{Mode, Org, Token, World};

const SOON: Duration = Duration::from_secs(30);

fn server() -> Arc<Server> {
    Arc::new(Server::dev())
}

/// Checks that an older token can still be renewed, read and revoked, and that new tokens can be minted.
#[track_caller]
fn assert_works(world: &World, org: &Org, token: &Token, name: &str) {
    assert_eq!(world.fetch(org, token).data()["token"], token.data["token"]);
    assert_eq!(world.renew(token, 0).ok()["lease_duration"], 3600);
    let new = world.mint(org, "reader", name);
    world.revoke(&new).ok();
    assert_eq!(world.alive(org), [token.client_id.as_str()]);
}

fn with_token(server: &Arc<Server>, mount: &str) -> (World, Org, Token) {
    let world = World::at_mount(server, mount);
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    (world, org, token)
}

#[test]
fn leases_survive_a_reload_of_the_plugin() {
    let server = server();
    let (world, org, token) = with_token(&server, "astra");
    let before = server.plugins();
    server.cli(&["plugin", "reload", "-plugin", PLUGIN]).ok();
    assert_works(&world, &org, &token, "reloaded");
    assert!(before.iter().all(|pid| !server.plugins().contains(pid)), "the plugin was not restarted");

    // This form of the command names the mount.
    let by_mount = server.cli(&["plugin", "reload", "-mounts", "astra/"]);
    if on_vault("reload by mount") {
        assert!(by_mount.fails().contains("sys/plugins/reload/unknown"));
    } else {
        by_mount.ok();
    }
    let before = server.plugins();
    server.reload("astra");
    assert_works(&world, &org, &token, "reloaded-again");
    assert!(before.iter().all(|pid| !server.plugins().contains(pid)), "the plugin was not restarted");
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());
}

#[test]
fn the_next_request_restarts_a_killed_plugin() {
    let server = server();
    let (one, one_org, one_token) = with_token(&server, "one");
    let (two, two_org, two_token) = with_token(&server, "two");
    assert_eq!(server.plugins().len(), 1, "one process serves all mounts");

    server.kill_plugins();
    assert_works(&one, &one_org, &one_token, "back");
    assert_works(&two, &two_org, &two_token, "back");

    // The first call after a crash can also be a revocation.
    server.kill_plugins();
    two.revoke(&two_token).ok();
    assert!(two.alive(&two_org).is_empty());
    assert_works(&one, &one_org, &one_token, "again");
}

#[test]
fn leases_survive_a_seal_and_a_restart() {
    let server = Arc::new(Server::raft());
    let (world, org, token) = with_token(&server, "astra");
    world.role(&org, "brief", 3, 6);

    let before = server.plugins();
    server.seal();
    wait("the plugin to be gone", SOON, || before.iter().all(|&pid| !alive(pid)).then_some(()));
    server.unseal();
    assert_works(&world, &org, &token, "unsealed");

    // If a lease expires while the server is down, the server revokes it after its start.
    let brief = world.mint(&org, "brief", "ends-while-away");
    server.restart();
    wait("the brief token to be gone in Astra", SOON, || (!world.is_alive(&brief.client_id)).then_some(()));
    assert_works(&world, &org, &token, "restarted");
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());
    assert!(world.keys("org/tokens").is_empty());
}

#[test]
fn mounts_in_one_process_are_isolated() {
    let (one, two) = (World::new(), World::new());
    let org = one.configured("shop", Mode::Standard);
    one.role(&org, "reader", 3600, 36000);
    let token = one.mint(&org, "reader", "cart");

    for list in ["configs", "roles", "org/tokens"] {
        assert_eq!(one.keys(list).len(), 1, "{list}");
        assert!(two.keys(list).is_empty(), "{list}");
    }
    two.configure(&org_of(&two), &json!({"logical_name": "shop"}));
    assert!([400, 404].contains(&two.fetch(&org, &token).status));
    two.post("org/token", &json!({"org_id": org.id, "role_name": "reader", "logical_name": "cart"})).fails(400);
    assert_eq!(one.minted() + two.minted(), 1);

    one.server.delete(&format!("sys/mounts/{}", two.mount)).ok();
    assert_eq!(one.fetch(&org, &token).data()["clientId"], token.client_id.as_str());
}

fn org_of(world: &World) -> Org {
    world.next_org()
}

#[test]
fn a_mount_in_a_namespace_works() {
    let world = World::new();
    let namespace = world.server.post("sys/namespaces/team", &json!({}));
    if on_vault("namespaces") {
        namespace.fails(404);
        return;
    }
    namespace.ok();
    let team = world.server.in_namespace("team");
    team.post("sys/mounts/astra", &json!({"type": PLUGIN})).ok();
    let org = world.next_org();
    team.post("astra/config", &json!({"org_id": org.id, "astra_token": org.root_token, "url": world.url()})).ok();
    let role = json!({"org_id": org.id, "role_name": "reader", "role_id": crate::world::ROLE_ID, "ttl": 60});
    team.post("astra/role", &role).ok();
    let body = json!({"org_id": org.id, "role_name": "reader", "logical_name": "cart"});
    let token = Token::of(team.post("astra/org/token", &body).ok());
    assert_eq!(team.keys("astra/org/tokens"), [token.client_id.as_str()]);
    assert_eq!(world.alive(&org), [token.client_id.as_str()]);
    // A mount of the same server outside the namespace does not see this data.
    assert!(world.keys("configs").is_empty());

    team.post("sys/leases/renew", &json!({"lease_id": token.lease_id})).ok();
    team.post("sys/leases/revoke", &json!({"lease_id": token.lease_id, "sync": true})).ok();
    assert!(world.alive(&org).is_empty());
    team.delete("sys/mounts/astra").ok();
}

#[test]
fn the_plugin_stops_with_its_server() {
    let server = server();
    let (_world, _org, _token) = with_token(&server, "astra");
    let plugins = server.plugins();
    assert!(!plugins.is_empty());
    server.kill();
    wait("the plugin to stop", Duration::from_secs(5), || plugins.iter().all(|&pid| !alive(pid)).then_some(()));
}
