//! The commands of the README do what it says.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::astra::Astra;
use crate::bao::{PLUGIN, Server, host_binary, redact, sha256};
use crate::world::{ROLE_ID, World};

#[test]
fn six_commands_make_a_token() {
    let readme = include_str!("../../README.md");
    let block = readme.split_once("<!-- tested: six commands -->\n```sh\n").expect("the commands").1;
    let lines: Vec<&str> = block.split_once("```").expect("their end").0.lines().collect();
    assert_eq!(lines.len(), 6);

    let server = Arc::new(Server::dev());
    let world = World::with_astra(&server, "astra", Astra::builder().orgs(1));
    let org = world.next_org();
    let digest = sha256(&server.plugin_dir().join(PLUGIN));
    let mut lease = String::new();
    for line in lines {
        let variables =
            [("$SHA256", &digest), ("$ORG_ID", &org.id), ("$ROOT_TOKEN", &org.root_token), ("$LEASE_ID", &lease)];
        let words = line.replace("$ROLE_ID", ROLE_ID).replace('"', "");
        let words = variables.iter().fold(words, |text, (name, value)| text.replace(name, value));
        let mut words: Vec<&str> = words.split_whitespace().skip(1).collect();
        let url = format!("url={}", world.url());
        if words.contains(&"astra/config") {
            // The one thing that differs from what a reader types: where Astra is.
            words.push(&url);
        }
        let output = server.cli(&words);
        if words.contains(&"astra/org/token") {
            let table = output.table();
            let value = |name: &str| table.iter().find(|(key, _)| key == name).expect("a row of it").1.clone();
            redact::hide(value("token"));
            assert_eq!(world.alive(&org), [value("clientId")]);
            lease = value("lease_id");
        } else {
            output.ok();
        }
    }
    assert_eq!(world.minted(), 1);
    world.wait_for(std::time::Duration::from_secs(30), |astra| astra.live(&org.id).is_empty());
}

/// `make demo` and `make dev` are this script with a release build of the plugin.
#[test]
fn the_demo_runs_to_its_end_and_leaves_nothing() {
    let plugin = Path::new(env!("CARGO_BIN_EXE_vault-plugin-secrets-datastax-astra"));
    let simulator = plugin.with_file_name("examples").join("astra-simulator");
    assert!(simulator.is_file(), "no {}: \"cargo test\" builds it with the other examples", simulator.display());
    let [temporary, logs] = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let output = Command::new("sh")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/demo.sh"))
        .env("PLUGIN", plugin)
        .env("SIMULATOR", simulator)
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

    // What is said goes to somebody who has never seen this: no colours but on a terminal, no noise, one line for each command.
    let noise = String::from_utf8_lossy(&output.stderr);
    assert!(noise.is_empty() && !told.contains('\u{1b}'), "{noise}");
    for word in ["WARN", "error", "Error", "panic"] {
        assert!(!told.contains(word), "{word} in:\n{told}");
    }
    let lines: Vec<&str> = told.lines().collect();
    for (before, command) in lines.iter().zip(&lines[1..]).filter(|(_, line)| line.starts_with("$ ")) {
        assert!(before.starts_with("# "), "nothing is said of {command}");
    }
    let log = logs.path().join("server.log");
    assert!(log.is_file() && told.contains(&log.display().to_string()), "where the log is");
    assert!(told.trim_end().lines().last().is_some_and(|line| line.contains("make dev")), "{told}");
}
