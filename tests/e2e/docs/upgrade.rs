//! `docs/upgrade.md`: upgrades from the Go plugin 2.0.0 and goes back. Another plugin stands in for the Go plugin, and does
//! not touch the storage.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::Shell;
use crate::bao::{PLUGIN, Server, redact, sha256, wait};
use crate::go_plugin::{Fixtures, ROLE, STANDARD, parsed};
use crate::plugin::example;
use crate::takeover::{GoMount, raw, stored_lease, template};
use crate::world::Token;

const PAGE: &str = "docs/upgrade.md";

/// The version in the document, and the version that the stand-in reports.
const VERSIONS: (&str, &str) = ("v2.0.0", "v0.1.0");

/// Registers and enables the stand-in.
fn mount_old(server: &Server) {
    let command = format!("{PLUGIN}_2.0.0");
    let file = server.plugin_dir().join(&command);
    std::fs::copy(example("passbook"), &file).expect("copy the plugin that stands in");
    let entry = json!({"sha256": sha256(&file), "command": command, "version": VERSIONS.1});
    server.post(&format!("sys/plugins/catalog/secret/{PLUGIN}"), &entry).ok();
    server.post("sys/mounts/astra", &json!({"type": PLUGIN, "config": {"plugin_version": VERSIONS.1}})).ok();
}

fn shell(old: &GoMount, new: &std::path::Path) -> Shell {
    let (world, server) = (&old.world, &old.world.server);
    let mut shell = Shell::new(server, "astra", world.url());
    shell.stands_for(VERSIONS.0, VERSIONS.1);
    shell.set("NEW_BINARY", new.display().to_string());
    shell.set("PLUGIN_DIR", server.plugin_dir().display().to_string());
    shell.set("ORG_ID", &old.org.id);
    shell.set("LEASE_ID", &old.plain.lease_id);
    shell
}

#[test]
fn a_mount_of_the_go_plugin_can_be_upgraded_and_downgraded() {
    let server = Arc::new(Server::raft());
    let template = template(&server);
    mount_old(&server);
    let old = GoMount::new(&server, "astra", &STANDARD, &template);
    server.restart();
    let new = server.plugin_dir().with_file_name("downloaded");
    crate::bao::install(&new);
    let mut shell = shell(&old, &new);

    shell.run_sample(PAGE, "upgrade, before");
    assert!(old.world.list("configs").fails(404).contains("unsupported path"), "the old plugin does not run");
    shell.run_block(PAGE, "upgrade, install");
    shell.run_block(PAGE, "upgrade, register");
    shell.run_sample(PAGE, "upgrade, run by hand");
    assert_eq!(old.world.list("configs").status, 404, "the old plugin does not run");
    shell.run_block(PAGE, "upgrade, reload");
    old.wait_for_inventory();
    shell.run_sample(PAGE, "upgrade, check");
    shell.run_block(PAGE, "upgrade, mint");
    let order = json!({"org_id": old.org.id, "role_name": "r_w_user", "logical_name": "kept"});
    let kept = Token::of(old.world.post("org/token", &order).ok());
    assert_written_for_the_go_plugin(&old, &kept);

    shell.run_block(PAGE, "upgrade, back");
    assert!(old.world.list("configs").fails(404).contains("unsupported path"), "the old plugin does not run");
    shell.set("SHA256", sha256(&new));
    shell.run_block(PAGE, "upgrade, reload");
    for token in [&old.plain, &kept] {
        old.assert_revokes(token);
    }
    back_up_and_restore(&old, &mut shell);
}

/// Follows `docs/operations.md`: a restore takes Vault back to an older state, but not Astra, and every lease can still be
/// revoked.
fn back_up_and_restore(old: &GoMount, shell: &mut Shell) {
    let (world, server) = (&old.world, &old.world.server);
    let mint = |name: &str| {
        let order = json!({"org_id": old.org.id, "role_name": "r_w_user", "logical_name": name});
        Token::of(world.post("org/token", &order).ok())
    };
    let ended = mint("ended");
    shell.run_sample("docs/operations.md", "backup");
    world.revoke(&ended).ok();
    let unknown = mint("unknown");
    shell.run_sample("docs/operations.md", "restore");
    let listed = wait("the older state to be back", Duration::from_secs(60), || {
        let reply = server.try_http("LIST", &world.at("org/tokens"), &Value::Null).ok()?;
        let keys = reply.body["data"]["keys"].to_string();
        keys.contains(&ended.client_id).then_some(keys)
    });
    assert!(!listed.contains(&unknown.client_id), "{listed}");
    assert!(world.is_alive(&unknown.client_id) && !world.is_alive(&ended.client_id));
    let described = world.token(&unknown.client_id).expect("a token");
    assert!(described.description.is_some_and(|text| text.starts_with("vault ")) && described.token_expiry.is_some());
    old.assert_revokes(&ended);
}

/// Checks that each stored entry has the members that 2.0.0 reads, with the same types.
fn assert_written_for_the_go_plugin(old: &GoMount, token: &Token) {
    let Fixtures { config, tokens: [(go_token, go_lease), ..], .. } = &STANDARD;
    let (world, org) = (&old.world, &old.org.id);
    // The new version writes each entry again.
    world.post("config", &json!({"org_id": org, "request_timeout": "20s"})).ok();
    world.post("role", &json!({"org_id": org, "role_name": "r_w_user", "max_tokens": 9})).ok();
    let stored = |key: &str| parsed(world.server.get(&raw(&old.uuid, key)).data()["value"].as_str().expect("a value"));
    assert_has(&stored(&format!("config/{org}")), &parsed(config));
    assert_has(&stored(&format!("role/{org}:r_w_user")), &parsed(ROLE));
    let lease = stored_lease(&world.server, token);
    let internal = &lease["secret"]["internal_data"];
    assert_has(&stored(&format!("token/{}", internal["tokenId"].as_str().expect("text"))), &parsed(go_token));
    assert_has(internal, &parsed(go_lease)["internal_data"]);
    assert_has(&lease["data"], &parsed(go_lease)["data"]);
}

#[track_caller]
fn assert_has(entry: &Value, of_go: &Value) {
    for (name, value) in of_go.as_object().expect("an object") {
        let (ours, theirs) = (std::mem::discriminant(&entry[name]), std::mem::discriminant(value));
        assert!(ours == theirs, "{name} does not have the type of 2.0.0: {}", redact::clean(&entry.to_string()));
    }
}
