//! Runs the commands of the README and of the quick start.

use std::process::Command;
use std::sync::Arc;

use crate::astra::{Astra, Seed};
use crate::bao::{PLUGIN, Server, host_binary, redact, sha256};
use crate::docs::{Shell, block, follow_the_guide};
use crate::plugin::{binary, simulator};
use crate::world::{ROLE_ID, World};

const QUICK_START: &str = "docs/quick-start.md";

/// Runs the README, then the quick start, then the guide of the Go plugin, on one server.
#[test]
fn the_commands_of_the_readme_and_the_quick_start_work() {
    let server = Arc::new(Server::dev());
    let digest = sha256(&server.plugin_dir().join(PLUGIN));
    six_commands(&server, digest);
    server.delete("sys/mounts/astra").ok();
    quick_start(&server);
    follow_the_guide(&server);
}

fn six_commands(server: &Arc<Server>, digest: String) {
    let world = World::with_astra(server, "astra", Astra::builder().orgs(1));
    let org = world.next_org();
    let mut shell = Shell::new(server, "astra", world.url());
    for (name, value) in
        [("SHA256", digest.as_str()), ("ORG_ID", &org.id), ("ROOT_TOKEN", &org.root_token), ("ROLE_ID", ROLE_ID)]
    {
        shell.set(name, value);
    }
    let commands = block("README.md", "six commands");
    assert_eq!(commands.lines().count(), 6);
    for line in commands.lines() {
        let ran = shell.run(line);
        if line.contains("astra/org/token") {
            redact::hide(ran.row("token"));
            assert_eq!(world.alive(&org), [ran.row("clientId")]);
            shell.set("LEASE_ID", ran.row("lease_id"));
        }
        assert!(ran.code == 0, "{line}\n{}", redact::clean(&ran.stderr));
    }
    assert_eq!(world.minted(), 1);
    // Without -sync, the server revokes in the background.
    world.wait_for_no_lease();
    assert!(world.alive(&org).is_empty());
}

fn quick_start(server: &Arc<Server>) {
    let root = format!("AstraCS:ABcDeFgHiJkLmNoPqRsTuVwX:{}", "0c".repeat(32));
    let world = World::with_astra(server, "astra", Astra::builder().org(Seed::new().root_token(&root)));
    let org = world.next_org();
    let mut shell = Shell::new(server, "astra", world.url());
    shell.set("PLUGIN_DIR", server.plugin_dir().display().to_string());
    shell.set("ORG_ID", &org.id);
    shell.set("ROOT_TOKEN", &org.root_token);
    shell.run_block(QUICK_START, "quick start, register");
    shell.run_sample(QUICK_START, "quick start, config");
    shell.run_sample(QUICK_START, "quick start, rotate");
    shell.run_sample(QUICK_START, "quick start, roles");
    let minted = &shell.run_sample(QUICK_START, "quick start, mint")[0];
    redact::hide(minted.row("token"));
    assert!(world.is_alive(&minted.row("clientId")));
    shell.set("LEASE_ID", minted.row("lease_id"));
    let lease = shell.run_sample(QUICK_START, "quick start, lease");
    assert!(lease[0].stdout.contains(&minted.row("clientId")));
    assert!(!world.is_alive(&minted.row("clientId")));
    let allowed = shell.run_block(QUICK_START, "quick start, policy");
    redact::hide(allowed.row("token"));
    assert!(world.is_alive(&allowed.row("clientId")));
    shell.run_sample(QUICK_START, "quick start, disable");
    // As the document says, only the new root token is left.
    assert!(!world.is_alive(&allowed.row("clientId")) && !world.is_alive(&org.client_id));
    assert_eq!(world.live(&org.id).len(), 1);
}

/// `make demo` and `make dev` run this script with a release build of the plugin.
#[test]
fn the_demo_succeeds_and_leaves_no_files() {
    let [temporary, logs] = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let output = Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/demo.sh"))
        .env("PLUGIN", binary())
        .env("SIMULATOR", simulator())
        .env("HOST_BIN", host_binary())
        .env("TMPDIR", temporary.path())
        .env("DEMO_LOGS", logs.path())
        .output()
        .expect("run the demo");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{told}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert_eq!(told.matches(" is alive").count(), 1);
    assert_eq!(told.matches(" is gone").count(), 2);
    assert_eq!(temporary.path().read_dir().expect("temporary directory").count(), 0, "files are left");

    // A newcomer reads this output. So there are no colours except on a terminal, no noise, and one line for each
    // command.
    let noise = String::from_utf8_lossy(&output.stderr);
    assert!(noise.is_empty() && !told.contains('\u{1b}'), "{noise}");
    for word in ["WARN", "error", "Error", "panic"] {
        assert!(!told.contains(word), "{word} in:\n{told}");
    }
    let lines: Vec<&str> = told.lines().collect();
    for (before, command) in lines.iter().zip(&lines[1..]).filter(|(_, line)| line.starts_with("$ ")) {
        assert!(before.starts_with("# "), "no comment explains {command}");
    }
    let log = logs.path().join("server.log");
    assert!(log.is_file() && told.contains(&log.display().to_string()), "the output does not name the log");
    assert!(told.trim_end().lines().last().is_some_and(|line| line.contains("make dev")), "{told}");
}
