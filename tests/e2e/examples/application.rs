//! Programs that use a token.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use super::{example, find, link, python, python_packages, search_path, skip, text};
use crate::bao::{redact, wait};
use crate::plugin;
use crate::world::{Mode, World};

const SOON: Duration = Duration::from_secs(90);

/// One job a second. That is longer than the max TTL in the test, so that the program needs a second token.
const JOBS: u32 = 19;

/// A running program of the example. Its output goes to files.
struct Worker {
    name: &'static str,
    child: Child,
    dir: TempDir,
}

impl Worker {
    /// Starts all programs. Skips a program, and prints the reason, if this machine lacks its requirements.
    fn all(world: &World, path: &str, jobs: u32) -> Vec<Self> {
        let mut programs = vec![("worker.rs", Command::new(plugin::example("worker"))), ("worker.py", python())];
        programs[1].1.arg(example("application/worker.py"));
        if find("curl").is_some() {
            let mut shell = Command::new("sh");
            shell.arg(example("application/worker.sh")).env("PATH", search_path(jq()));
            programs.push(("worker.sh", shell));
        } else {
            skip("docs/examples/application/worker.sh", "curl");
        }
        let token = caller(world);
        let start = |(name, command)| Self::start(world, path, jobs, &token, name, command);
        programs.into_iter().map(start).collect()
    }

    fn start(world: &World, path: &str, jobs: u32, token: &str, name: &'static str, mut command: Command) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = |name: &str| fs::File::create(dir.path().join(name)).expect("create a file");
        let child = command
            .env("VAULT_ADDR", world.server.address())
            .env("VAULT_TOKEN", token)
            .env("ASTRA_CREDS", world.at(path))
            .env("ASTRA_URL", world.url())
            .env("JOBS", jobs.to_string())
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, child, dir }
    }

    fn output(&self, name: &str) -> String {
        let mut text = String::new();
        let mut file = fs::File::open(self.dir.path().join(name)).expect("open the output");
        file.read_to_string(&mut text).expect("read the output");
        redact::clean(&text)
    }

    fn told(&self) -> String {
        format!("{}:\n{}\n{}", self.name, self.output("out"), self.output("err"))
    }

    /// Waits for a successful end, and returns the client ids of the program's tokens.
    #[track_caller]
    fn end(&mut self) -> Vec<String> {
        let status = wait(self.name, SOON, || self.child.try_wait().expect("wait for a program"));
        // On a busy machine a renewal may come too late. The program then prints a complaint and gets a new token.
        let complaint = self.output("err").contains(" was not revoked");
        assert!(status.success() && !complaint, "{status}\n{}", self.told());
        let out = self.output("out");
        let ids: Vec<String> = out.lines().filter_map(|line| line.strip_prefix("got token ")).map(first).collect();
        for id in &ids {
            assert!(out.contains(&format!("revoked token {id}")), "{id} was not revoked\n{}", self.told());
        }
        ids
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn first(text: &str) -> String {
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Creates a Vault token with only the example's policy.
fn caller(world: &World) -> String {
    let name = format!("worker-{}", world.mount);
    let policy = world.here(&text("application/policy.hcl"));
    world.server.post(&format!("sys/policies/acl/{name}"), &json!({"policy": policy})).ok();
    let fields = json!({"policies": [name], "no_default_policy": true});
    let made = world.server.post("auth/token/create", &fields).ok();
    let token = made["auth"]["client_token"].as_str().expect("a token").to_owned();
    redact::hide(&token);
    token
}

/// Returns a directory with `jq`. If the machine has no `jq`, it contains a program that does the same.
fn jq() -> &'static Path {
    static BIN: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BIN.get_or_init(|| {
        let bin = python_packages().join("bin");
        if find("jq").is_none() {
            link(&bin.join("jaq"), &bin.join("jq"));
        }
        bin
    })
}

#[test]
fn programs_renew_replace_and_revoke_their_tokens() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 15, 20);
    for mut worker in Worker::all(&world, "creds/retail/reader", JOBS) {
        let ids = worker.end();
        let out = worker.output("out");
        assert!(ids.len() >= 2, "one token for all jobs\n{}", worker.told());
        assert!(out.contains(&format!("renewed token {}", ids[0])), "no renewal\n{}", worker.told());
        assert_eq!(out.matches(" done with token ").count(), JOBS as usize, "{}", worker.told());
        for id in ids {
            assert!(!world.is_alive(&id), "{id} of {} is alive", worker.name);
        }
    }
    assert!(world.alive(&org).is_empty());
}

#[test]
fn programs_revoke_their_tokens_on_sigterm() {
    let world = World::new();
    let org = world.configured("retail", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    let mut workers = Worker::all(&world, "creds/retail/reader", 10_000);
    for worker in &workers {
        wait(worker.name, SOON, || worker.output("out").contains("job 1 done").then_some(()));
    }
    assert_eq!(world.alive(&org).len(), workers.len());
    for worker in &mut workers {
        let pid = i32::try_from(worker.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::TERM).expect("send a signal");
        assert_eq!(worker.end().len(), 1);
    }
    // Nothing expired: the TTL was an hour. So the programs revoked their tokens.
    assert!(world.alive(&org).is_empty());
}

#[test]
fn programs_fail_without_permission_to_mint() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "writer", 3600, 36000);
    for mut worker in Worker::all(&world, "creds/retail/writer", 1) {
        let status = wait(worker.name, SOON, || worker.child.try_wait().expect("wait for a program"));
        assert!(!status.success() && !worker.output("err").is_empty(), "{}", worker.told());
    }
    assert_eq!(world.minted(), 0);
}
