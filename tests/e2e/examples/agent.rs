//! An agent on a virtual machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{block, run, search_path, text};
use crate::bao::{Agent, Server, host_binary, redact, wait};
use crate::world::{Mode, World};

const SOON: Duration = Duration::from_secs(90);

/// A stand-in for systemctl, which writes down its arguments.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/../systemctl.log\"\n";

/// A program that the agent starts. It writes down the client id of its token, and ends in order on SIGTERM.
const SHOP_READER: &str = r#"#!/bin/sh
log="$(dirname "$0")/../shop-reader.log"
case $ASTRA_TOKEN in AstraCS:$ASTRA_CLIENT_ID:*) echo "started $ASTRA_CLIENT_ID" >>"$log" ;; esac
trap 'echo "stopped $ASTRA_CLIENT_ID" >>"$log"; exit 0' TERM
while :; do
    sleep 1 &
    wait
done
"#;

/// Returns a directory with the files of the example. They name this mount and this directory instead of the machine's.
fn machine(world: &World) -> PathBuf {
    let dir = tempfile::Builder::new().prefix("e2e-machine-").tempdir().expect("temporary directory").keep();
    let place = dir.display().to_string();
    for name in ["agent.hcl", "supervisor.hcl", "reader.ctmpl", "writer.ctmpl", "policy.hcl"] {
        let text = world
            .here(&text(&format!("agent/{name}")))
            .replace("https://vault.example.com:8200", world.server.address())
            .replace("/etc/astra-agent", &place)
            .replace("/run/astra-agent", &format!("{place}/run"))
            .replace("/usr/local/bin", &format!("{place}/bin"));
        fs::write(dir.join(name), text).expect("write a file");
    }
    for name in ["bin", "run"] {
        fs::create_dir(dir.join(name)).expect("create a directory");
    }
    for (name, text) in [("systemctl", SYSTEMCTL), ("shop-reader", SHOP_READER)] {
        let program = dir.join("bin").join(name);
        fs::write(&program, text).expect("write a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it executable");
    }
    dir
}

/// Returns a command of the CLI without the environment of the caller: the configuration contains address and login.
fn cli(dir: &Path) -> Command {
    let mut command = Command::new(host_binary());
    command.env_clear().env("HOME", dir).env("PATH", search_path(&dir.join("bin")));
    command
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

    let agent = Agent::with_config(cli(&dir), dir.clone());
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

#[test]
fn a_supervised_program_starts_again_with_the_next_token() {
    // The commands of the document enable an AppRole, once on a server.
    let world = World::at_mount(&Arc::new(Server::dev()), "astra");
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 8, 14);
    let dir = machine(&world);
    run(&world.server, &block("agent/README.md", "login"), &dir);
    redact::hide(fs::read_to_string(dir.join("secret_id")).expect("the secret id").trim());
    fs::rename(dir.join("supervisor.hcl"), dir.join("agent.hcl")).expect("choose a configuration");

    let agent = Agent::with_config(cli(&dir), dir.clone());
    let log = agent.file("shop-reader.log", SOON, |log| log.matches("started ").count() >= 2);
    let ids: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("started ")).collect();
    assert_ne!(ids[0], ids[1], "{log}");
    assert!(log.contains(&format!("stopped {}\nstarted {}", ids[0], ids[1])), "{log}");
    // Two templates of one path share a token.
    assert!(world.minted() < 2 * ids.len() as u64, "{} tokens for {log}", world.minted());
}

/// A template of a token, with one of the fields of the answer.
fn template(world: &World, role: &str, field: &str) -> String {
    let body = format!("{{{{ .Data.{field} }}}}");
    format!("{{{{ with secret \"{}\" }}}}{body}{{{{ end }}}}", world.at(&format!("creds/retail/{role}")))
}

#[test]
fn a_failing_template_makes_only_the_others_of_its_agent_mint_again() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    for role in ["good", "bad", "alone", "bad-alone"] {
        world.role(&org, role, 3600, 36000);
        world.patch("role", &json!({"org_id": org.id, "role_name": role, "max_tokens": 3})).ok();
    }
    let live = |role: &str| world.keys(&format!("orgs/retail/tokens?role={role}")).len();
    // No answer has a field `secret`, so the template fails after the mint.
    let failing = |role| template(&world, role, "secret | parseInt");

    let both = Agent::start(&world.server, &[&template(&world, "good", "clientId"), &failing("bad")]);
    wait("three tokens of the good template", SOON, || (live("good") == 3 && live("bad") == 3).then_some(()));
    assert!(both.runs());

    let alone = Agent::start(&world.server, &[&template(&world, "alone", "clientId")]);
    let other = Agent::start(&world.server, &[&failing("bad-alone")]);
    wait("three tokens of the failing template", SOON, || (live("bad-alone") == 3).then_some(()));
    let id = alone.rendered(0, SOON, |text| !text.trim().is_empty());
    assert!(other.runs() && world.is_alive(id.trim()));
    assert_eq!(live("alone"), 1);
    // The limit of the role holds.
    assert_eq!((live("good"), live("bad")), (3, 3));
}
