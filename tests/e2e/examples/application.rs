//! Programs that use a token.

use std::fs;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use super::programs::{Program, StandIn};
use super::text;
use crate::bao::{redact, wait};
use crate::world::{Mode, World};

const SOON: Duration = Duration::from_secs(180);

/// The programs renew after 27 s, and find after 49 s at the latest that they need a second token. In both cases, more than 10 s of
/// the lease are left, so that a program may be late on a busy machine.
const TTL: u32 = 40;
const MAX_TTL: u32 = 60;

/// One job a second, and some jobs with the second token.
const JOBS: u32 = 54;

/// A running program of the example. Its output goes to files.
struct Worker {
    name: &'static str,
    child: Child,
    dir: TempDir,
    stand_in: Option<StandIn>,
}

impl Worker {
    /// Starts all programs that this machine can run.
    fn all(world: &World, path: &str, jobs: u32, ttl: u32) -> Vec<Self> {
        let programs = Program::all(world);
        let token = caller(world);
        programs.into_iter().map(|program| Self::start(world, path, jobs, ttl, &token, program)).collect()
    }

    fn start(world: &World, path: &str, jobs: u32, ttl: u32, token: &str, program: Program) -> Self {
        let Program { name, mut command, stand_in } = program;
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = |name: &str| fs::File::create(dir.path().join(name)).expect("create a file");
        let child = command
            .env("VAULT_ADDR", world.server.address())
            .env("VAULT_TOKEN", token)
            .env("ASTRA_CREDS", world.at(path))
            .env("ASTRA_URL", world.url())
            .env("JOBS", jobs.to_string())
            .env("ROLE_TTL", ttl.to_string())
            .stdin(Stdio::null())
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, child, dir, stand_in }
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
        // Java reports the signal, although its program ended in order.
        let ended = status.success() || (self.name.starts_with("java/") && status.code() == Some(143));
        assert!(ended && !complaint, "{status}\n{}", self.told());
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

#[test]
fn programs_renew_replace_and_revoke_their_tokens() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", TTL, MAX_TTL);
    for mut worker in Worker::all(&world, "creds/retail/reader", JOBS, TTL) {
        let ids = worker.end();
        let out = worker.output("out");
        assert!(ids.len() >= 2, "one token for all jobs\n{}", worker.told());
        assert!(out.contains(&format!("renewed token {}", ids[0])), "no renewal\n{}", worker.told());
        assert_eq!(out.matches(" done with token ").count(), JOBS as usize, "{}", worker.told());
        for id in &ids {
            assert!(!world.is_alive(id), "{id} of {} is alive", worker.name);
        }
        if let Some(stand_in) = &worker.stand_in {
            let told = stand_in.output();
            assert!(!told.contains("refused"), "a request had a token that was not live\n{told}\n{}", worker.told());
            for id in &ids {
                assert!(told.contains(&format!("answered {id}")), "no request with {id}\n{told}");
            }
        }
    }
    assert!(world.alive(&org).is_empty());
}

#[test]
fn programs_revoke_their_tokens_on_sigterm() {
    let world = World::new();
    let org = world.configured("retail", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    let mut workers = Worker::all(&world, "creds/retail/reader", 10_000, 3600);
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
    for mut worker in Worker::all(&world, "creds/retail/writer", 1, 3600) {
        let status = wait(worker.name, SOON, || worker.child.try_wait().expect("wait for a program"));
        assert!(!status.success() && !worker.output("err").is_empty(), "{}", worker.told());
    }
    assert_eq!(world.minted(), 0);
}
