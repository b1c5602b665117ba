//! An agent on a virtual machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{block, run, search_path, text};
use crate::bao::{Agent, host_binary, redact, wait};
use crate::world::{Mode, World};

const SOON: Duration = Duration::from_secs(90);

/// A stand-in for systemctl, which writes down its arguments.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/../systemctl.log\"\n";

/// Returns a directory with the files of the example. They name this mount and this directory instead of the machine's.
fn machine(world: &World) -> PathBuf {
    let dir = tempfile::Builder::new().prefix("e2e-machine-").tempdir().expect("temporary directory").keep();
    let place = dir.display().to_string();
    for name in ["agent.hcl", "reader.ctmpl", "writer.ctmpl", "policy.hcl"] {
        let text = world
            .here(&text(&format!("agent/{name}")))
            .replace("https://vault.example.com:8200", world.server.address())
            .replace("/etc/astra-agent", &place)
            .replace("/run/astra-agent", &format!("{place}/run"));
        fs::write(dir.join(name), text).expect("write a file");
    }
    for name in ["bin", "run"] {
        fs::create_dir(dir.join(name)).expect("create a directory");
    }
    let systemctl = dir.join("bin/systemctl");
    fs::write(&systemctl, SYSTEMCTL).expect("write a program");
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).expect("make it executable");
    dir
}

fn client_id(rendered: &str) -> String {
    let line = rendered.lines().find_map(|line| line.strip_prefix("ASTRA_CLIENT_ID="));
    line.expect("a client id").to_owned()
}

#[test]
fn tokens_of_two_roles_are_rendered_renewed_and_replaced() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 8, 14);
    world.role(&org, "writer", 3600, 36000);
    let dir = machine(&world);
    run(&world.server, &block("agent/README.md", "login"), &dir);
    redact::hide(fs::read_to_string(dir.join("secret_id")).expect("the secret id").trim());

    let mut command = Command::new(host_binary());
    // No environment of the caller: the configuration contains address and login.
    command.env_clear().env("HOME", &dir).env("PATH", search_path(&dir.join("bin")));
    let agent = Agent::with_config(command, dir.clone());
    let whole = |text: &str| text.contains("\nASTRA_TOKEN=AstraCS:");
    let first = client_id(&agent.file("run/reader.env", SOON, whole));
    let writer = client_id(&agent.file("run/writer.env", SOON, whole));
    assert!(first != writer && world.is_alive(&first) && world.is_alive(&writer));

    wait("a renewal", SOON, || {
        let log = world.server.log();
        log.lines().any(|line| line.contains("renewed token") && line.contains(&first)).then_some(())
    });
    let other = |text: &str| whole(text) && client_id(text) != first;
    let second = client_id(&agent.file("run/reader.env", SOON, other));
    assert!(world.is_alive(&second), "the agent rendered a deleted token");
    agent.file("systemctl.log", SOON, |log| log.matches("try-reload-or-restart shop-reader.service\n").count() >= 2);

    // The token of the other role is unchanged, and its service was reloaded once.
    assert_eq!(client_id(&agent.file("run/writer.env", SOON, whole)), writer);
    let log = fs::read_to_string(dir.join("systemctl.log")).expect("the calls of systemctl");
    assert_eq!(log.matches("try-reload-or-restart shop-writer.service\n").count(), 1, "{log}");
    let mode = fs::metadata(dir.join("run/reader.env")).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let label = world.list("org/tokens").data()["key_info"][&writer].clone();
    assert_eq!((&label["logical_name"], &label["metadata"]["host"]), (&"shop".into(), &"web1".into()), "{label}");

    // If the login ends, its tokens end, too.
    assert!(agent.runs());
    drop(agent);
    world.server.delete("sys/auth/approle").ok();
    world.wait_for(SOON, |astra| astra.live(&org.id).is_empty());
}
