//! What Vault and OpenBao do with leases and plugins outside of the engine, as the documents state it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::astra::{AstraFault, BodyForm, Kind, Route};
use crate::bao::{Client, PLUGIN, Server, VERSION, redact, sha256, wait};
use crate::docs::Shell;
use crate::servers::on_vault;
use crate::world::{Mode, Org, ROLE_ID, Token, World};

const SOON: Duration = Duration::from_secs(30);

/// Adds an org with a role, and returns the path that mints its tokens.
fn ready(world: &World, ttl: u32) -> (Org, String) {
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", ttl, 36000);
    (org, world.at("creds/shop/reader"))
}

/// Enables the plugin in a namespace, and mints a token there. Returns its org.
fn mint_in_namespace(world: &World, team: &Client, ttl: u32) -> Org {
    let org = world.next_org();
    team.post("sys/mounts/astra", &json!({"type": PLUGIN})).ok();
    let config = json!({"org_id": org.id, "astra_token": org.root_token, "url": world.url(), "logical_name": "shop"});
    team.post("astra/config", &config).ok();
    let role = json!({"org_id": org.id, "role_name": "reader", "role_id": ROLE_ID, "ttl": ttl, "max_ttl": 36000});
    team.post("astra/role", &role).ok();
    let token = Token::of(team.get("astra/creds/shop/reader").ok());
    assert_eq!(world.alive(&org), [token.client_id.as_str()]);
    org
}

/// Returns the number of leases that the server does not try to revoke any more.
fn irrevocable(server: &Server) -> Value {
    server.get("sys/leases?type=irrevocable").data()["lease_count"].clone()
}

fn wait_for_no_token(world: &World, org: &Org) {
    wait("the token to be gone in Astra", SOON, || world.alive(org).is_empty().then_some(()));
}

#[test]
fn moving_a_mount_deletes_its_tokens_and_keeps_its_configs() {
    let world = World::new();
    let (org, creds) = ready(&world, 3600);
    world.server.get(&creds).ok();
    let moved = format!("{}-moved", world.mount);
    world.server.cli(&["secrets", "move", &format!("{}/", world.mount), &format!("{moved}/")]).ok();
    assert!(world.alive(&org).is_empty());
    assert_eq!(world.server.keys(&format!("{moved}/configs")), [org.id.as_str()]);
    Token::of(world.server.get(&format!("{moved}/creds/shop/reader")).ok());
}

#[test]
fn deleting_a_namespace_revokes_no_lease() {
    let world = World::new();
    for (name, disabled_first) in [("deleted-at-once", false), ("deleted-later", true)] {
        let path = format!("sys/namespaces/{name}");
        let namespace = world.server.post(&path, &json!({}));
        if on_vault("namespaces") {
            namespace.fails(404);
            return;
        }
        namespace.ok();
        let team = world.server.in_namespace(name);
        let org = mint_in_namespace(&world, &team, 3600);
        if disabled_first {
            team.delete("sys/mounts/astra").ok();
        }
        world.server.delete(&path).ok();
        let unmounted = format!("successfully unmounted: namespace={name}/ path=astra/");
        wait("the end of the mount", SOON, || world.server.log().contains(&unmounted).then_some(()));
        wait("the end of the namespace", SOON, || (world.server.get(&path).status == 404).then_some(()));
        assert_eq!(world.alive(&org).is_empty(), disabled_first, "{name}");
    }
}

#[test]
fn leases_of_a_sealed_namespace_are_revoked_when_it_is_unsealed() {
    const TTL: u32 = 6;
    let world = World::new();
    if on_vault("namespaces") {
        return;
    }
    let create = ["namespace", "create", "-format=json", "-key-shares=1", "-key-threshold=1", "sealed"];
    let created = world.server.cli(&create).json();
    let key = created["key_shares"][0].as_str().expect("an unseal key").to_owned();
    redact::hide(&key);
    let unseal = || world.server.cli(&["namespace", "unseal", "sealed", &key]).ok();
    unseal();
    let org = mint_in_namespace(&world, &world.server.in_namespace("sealed"), TTL);
    let expiry = Instant::now() + Duration::from_secs(u64::from(TTL) + 2);
    world.server.cli(&["namespace", "seal", "sealed"]).ok();
    wait("the lease to expire", SOON, || (Instant::now() > expiry).then_some(()));
    assert_eq!(world.alive(&org).len(), 1);
    unseal();
    wait_for_no_token(&world, &org);
}

#[test]
fn a_wrapped_answer_that_nobody_opens_leaves_its_token() {
    let world = World::new();
    let (org, creds) = ready(&world, 3600);
    let answer = world.server.cli(&["read", "-format=json", "-wrap-ttl=1s", &creds]).json();
    let wrapping = json!({"token": answer["wrap_info"]["token"]});
    wait("the wrapping token to expire", SOON, || {
        (world.server.post("sys/wrapping/lookup", &wrapping).status == 400).then_some(())
    });
    assert_eq!(world.alive(&org).len(), 1);
    let prefix = format!("sys/leases/lookup/{creds}/");
    let lease = json!({"lease_id": format!("{creds}/{}", world.server.keys(&prefix)[0])});
    let ttl = world.server.post("sys/leases/lookup", &lease).data()["ttl"].as_i64().expect("a TTL");
    assert!((3500..=3600).contains(&ttl), "{ttl}");
}

#[test]
fn a_small_increment_shortens_a_lease() {
    let world = World::new();
    let (_org, creds) = ready(&world, 3600);
    let token = Token::of(world.server.get(&creds).ok());
    let ttl = || world.server.post("sys/leases/lookup", &json!({"lease_id": token.lease_id})).data()["ttl"].as_i64();
    assert!(ttl() > Some(3500));
    assert_eq!(world.renew(&token, 60).ok()["lease_duration"], 60);
    assert!(ttl() <= Some(60));
    assert_eq!(world.renew(&token, 0).ok()["lease_duration"], 3600);
}

#[test]
fn an_expired_login_deletes_its_tokens() {
    let world = World::new();
    let (org, creds) = ready(&world, 3600);
    let login = world.server.post("auth/token/create", &json!({"policies": ["root"], "ttl": "3s"})).ok();
    let caller = world.server.with_token(login["auth"]["client_token"].as_str().expect("a Vault token"));
    let answer = caller.get(&creds).ok();
    // The answer does not say that the token is deleted earlier than after an hour.
    assert_eq!((&answer["lease_duration"], &answer["warnings"]), (&json!(3600), &Value::Null));
    wait_for_no_token(&world, &org);
}

#[test]
fn a_lease_id_is_enough_to_renew_the_lease_and_to_get_its_token() {
    let world = World::new();
    let (_org, creds) = ready(&world, 3600);
    let token = Token::of(world.server.get(&creds).ok());
    let login = world.server.post("auth/token/create", &json!({"policies": ["default"]})).ok();
    let stranger = world.server.with_token(login["auth"]["client_token"].as_str().expect("a Vault token"));
    let lease = json!({"lease_id": token.lease_id});
    stranger.post("sys/leases/lookup", &lease).ok();
    let renewed = stranger.post("sys/leases/renew", &lease).data();
    assert!(renewed["token"] == token.data["token"], "the renewal does not return the token");
    stranger.post("sys/leases/revoke", &lease).fails(403);
}

#[test]
fn a_client_that_repeats_a_failed_mint_keeps_one_token() {
    let world = World::new();
    let (org, creds) = ready(&world, 3600);
    world.fault(AstraFault::after(Kind::status(500, BodyForm::Errors)).route(Route::CreateToken).times(2));
    let mut command = world.server.command();
    for name in ["VAULT_MAX_RETRIES", "BAO_MAX_RETRIES"] {
        command.env(name, "2");
    }
    let output = command.args(["read", "-field=clientId", &creds]).output().expect("run the CLI");
    assert!(output.status.success(), "{}", redact::clean(&String::from_utf8_lossy(&output.stderr)));
    assert_eq!(world.minted(), 3);
    let kept = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    wait("the engine to undo the failed mints", SOON, || (world.alive(&org) == [kept.as_str()]).then_some(()));
}

#[test]
fn commas_do_not_separate_pairs_of_metadata() {
    let world = World::new();
    let (_org, creds) = ready(&world, 3600);
    let metadata = |pairs: &[&str]| {
        let args = [&["read", "-format=json", creds.as_str()], pairs].concat();
        world.server.cli(&args).json()["data"]["metadata"].take()
    };
    assert_eq!(metadata(&["metadata=A=a,B=b"]), json!({"A": "a,B=b", "deletion_time": ""}));
    assert_eq!(metadata(&["metadata=A=a", "metadata=B=b"]), json!({"A": "a", "B": "b", "deletion_time": ""}));
}

#[test]
fn the_server_warns_when_one_of_two_mounts_is_disabled() {
    let server = Server::dev();
    server.enable("one");
    server.enable("two");
    server.delete("sys/mounts/two").ok();
    wait("the warning", SOON, || server.log().contains("core: plugin connection not found for client").then_some(()));
    assert_eq!(server.list("one/configs").status, 404);
    server.delete("sys/mounts/one").ok();
}

#[test]
fn a_binary_that_cannot_start_can_be_registered() {
    let server = Arc::new(Server::dev());
    let world = World::at_mount(&server, "astra");
    let (_org, creds) = ready(&world, 3600);
    let token = Token::of(server.get(&creds).ok());
    let file = server.plugin_dir().join("garbage");
    fs::write(&file, b"\x7fELF of another world").expect("write a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set its mode");
    for digest in ["0".repeat(64), sha256(&file)] {
        let digest = format!("-sha256={digest}");
        server.cli(&["plugin", "register", &digest, "-command=garbage", "-version=v3.9.9", "secret", PLUGIN]).ok();
    }
    wait("the cause in the log", SOON, || server.log().contains("exec format error").then_some(()));

    server.cli(&["secrets", "tune", "-plugin-version=v3.9.9", "astra/"]).ok();
    let reload = ["write", "sys/plugins/reload/backend", "mounts=astra/"];
    assert!(server.cli(&reload).fails().contains("exec format error"));
    if on_vault("failed reload") {
        assert_eq!(world.keys("configs").len(), 1);
    } else {
        assert!(world.list("configs").fails(404).contains("backend is nil"));
        server.post("sys/leases/revoke", &json!({"lease_id": token.lease_id, "sync": false})).ok();
        wait("the lease to be irrevocable", SOON, || (irrevocable(&server) == 1).then_some(()));
    }
    server.cli(&["secrets", "tune", &format!("-plugin-version={VERSION}"), "astra/"]).ok();
    server.cli(&reload).ok();
    Token::of(server.get(&creds).ok());
    world.revoke(&token).ok();
}

#[test]
fn leases_that_expire_while_the_plugin_cannot_start_can_be_revoked() {
    let server = Arc::new(Server::raft());
    let world = World::at_mount(&server, "astra");
    let (org, creds) = ready(&world, 3600);
    let token = Token::of(server.get(&creds).ok());
    let (file, aside) = (server.plugin_dir().join(PLUGIN), server.plugin_dir().with_file_name("aside"));
    fs::rename(&file, &aside).expect("put the plugin aside");
    server.restart();
    let mut shell = Shell::new(&server, "astra", world.url());
    shell.set("ORG_ID", &org.id);
    shell.run_sample("docs/troubleshooting.md", "no handler");
    assert!(server.log().contains("failed to create mount entry: path=astra/"), "{}", server.log_tail());

    // The revocation of an expired lease takes the same way.
    server.post("sys/leases/revoke", &json!({"lease_id": token.lease_id, "sync": false})).ok();
    wait("the lease to be irrevocable", SOON, || (irrevocable(&server) == 1).then_some(()));

    fs::rename(&aside, &file).expect("put the plugin back");
    server.reload("astra");
    assert_eq!(world.keys("configs"), [org.id.as_str()]);
    let role = json!({"org_id": org.id, "role_name": "writer", "role_id": ROLE_ID});
    if on_vault("reload of a mount without a plugin") {
        assert!(world.post("role", &role).fails(500).contains("cannot write to storage during setup"));
    } else {
        world.post("role", &role).ok();
    }
    server.restart();
    world.post("role", &role).ok();
    assert!(world.is_alive(&token.client_id) && irrevocable(&server) == 1, "the server revoked the lease");
    shell.run_block("docs/operations.md", "irrevocable leases are revoked");
    assert!(!world.is_alive(&token.client_id) && irrevocable(&server) == 0);
}
