//! Revocations while Astra fails: they spare Astra, none is lost, and a healthy org's revocations never wait.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use vault_plugin_sdk::logical::{Answer, Operation, Secret};
use wiremock::ResponseTemplate;

use super::{ORG, ROLE_ID, World, eventually, failed, lease, lease_request, ok, some, status};

/// As many requests of one org run at the same time.
const CONCURRENT: usize = 64;

/// Longer than any time limit.
const NEVER: Duration = Duration::from_secs(3600);

impl World {
    /// A mount with this number of tokens of one org, and their leases.
    async fn with_leases(count: usize) -> (Self, Vec<Secret>) {
        let world = Self::with_role("sidecar").await;
        let mut leases = Vec::new();
        for _ in 0..count {
            leases.push(lease(&some(world.read("org/token", json!({"org_id": ORG, "role_name": "r_w_user"})).await)));
        }
        (world, leases)
    }

    fn break_down(&self, answer: &ResponseTemplate) {
        for method in ["GET", "DELETE"] {
            self.astra.answer_all(method, answer.clone());
        }
    }

    async fn revoke_all(&self, leases: &[Secret]) -> Vec<Answer> {
        join_all(leases.iter().map(|secret| self.revoke(secret))).await
    }

    /// Starts a revocation, as the host does.
    fn revoking(&self, secret: &Secret) -> JoinHandle<Answer> {
        let (backend, request) = (self.backend.clone(), lease_request(Operation::Revoke, secret, json!(null)));
        tokio::spawn(async move { backend.handle(request).await })
    }

    /// Fails a revocation, so that the next ones wait for a probe.
    async fn begin_outage(&self, secret: &Secret) {
        self.break_down(&ResponseTemplate::new(503));
        assert_eq!(status(self.revoke(secret).await).0, 503);
        self.astra.heal();
    }

    /// Asserts that these revocations call Astra side by side.
    async fn assert_concurrent(&self, leases: &[Secret]) {
        let before = self.astra.count("DELETE");
        self.astra.answer_all("DELETE", ResponseTemplate::new(204).set_delay(NEVER));
        let revoking: Vec<_> = leases.iter().map(|secret| self.revoking(secret)).collect();
        eventually(|| self.astra.count("DELETE") == before + leases.len().min(CONCURRENT)).await;
        assert!(revoking.iter().all(|task| !task.is_finished()));
    }

    fn assert_empty(&self) {
        let stored = ["token/", "client/", "wal/"].map(|prefix| self.keys(prefix).len());
        assert_eq!((self.astra.live(), stored), (0, [0; 3]));
    }
}

/// Lets the revocation of each lease fail as often as the host tries. Returns the numbers of DELETEs and GETs.
async fn six_attempts(world: &World, leases: &[Secret]) -> (usize, usize) {
    let counts = || (world.astra.count("DELETE"), world.astra.count("GET"));
    let before = counts();
    for _ in 0..6 {
        for answer in world.revoke_all(leases).await {
            failed(answer);
        }
    }
    let after = counts();
    let (deletes, gets) = (after.0 - before.0, after.1 - before.1);
    println!("six attempts for {} leases: {deletes} DELETEs and {gets} GETs", leases.len());
    (deletes, gets)
}

#[tokio::test]
async fn revocations_in_an_outage_make_few_calls_and_succeed_after_it() {
    let run = async |code| {
        let (world, leases) = World::with_leases(200).await;
        world.break_down(&ResponseTemplate::new(code));
        let (deletes, gets) = six_attempts(&world, &leases).await;
        assert!(deletes <= 480 && gets <= 120, "{code}: {deletes} DELETEs and {gets} GETs");
        assert_eq!(world.astra.live(), 200);
        world.astra.heal();
        for answer in world.revoke_all(&leases).await {
            ok(answer);
        }
        world.until_undone().await;
        world.assert_empty();
    };
    join_all([503, 500, 429].map(run)).await;
}

#[tokio::test]
async fn revocations_make_few_calls_while_astra_hangs() {
    let (world, leases) = World::with_leases(200).await;
    world.break_down(&ResponseTemplate::new(204).set_delay(NEVER));
    // Astra uses another clock, so the next event is a time limit.
    tokio::time::pause();
    let (deletes, gets) = six_attempts(&world, &leases).await;
    tokio::time::resume();
    assert!(deletes <= 480 && gets <= 120, "{deletes} DELETEs and {gets} GETs");
    world.astra.heal();
    for answer in world.revoke_all(&leases).await {
        ok(answer);
    }
    world.until_undone().await;
    world.assert_empty();
}

#[tokio::test]
async fn revocations_of_a_healthy_org_run_at_the_same_time() {
    let (world, leases) = World::with_leases(200).await;
    world.assert_concurrent(&leases).await;
}

#[tokio::test]
async fn revocations_run_at_the_same_time_again_after_an_outage() {
    let (world, leases) = World::with_leases(200).await;
    world.begin_outage(&leases[0]).await;
    ok(world.revoke(&leases[0]).await);
    world.assert_concurrent(&leases[1..]).await;
}

#[tokio::test]
async fn a_probe_that_hangs_holds_up_the_others_no_longer_than_the_time_limit_of_a_call() {
    let (world, leases) = World::with_leases(100).await;
    world.begin_outage(&leases[0]).await;
    let before = world.astra.count("DELETE");
    world.break_down(&ResponseTemplate::new(204).set_delay(NEVER));
    let probe = world.revoking(&leases[0]);
    eventually(|| world.astra.count("DELETE") == before + 1).await;
    tokio::time::pause();
    let start = Instant::now();
    for answer in world.revoke_all(&leases[1..]).await {
        failed(answer);
    }
    let (limit, pause) = (Duration::from_secs(30), Duration::from_secs(2));
    assert!(start.elapsed() <= limit + pause, "{:?}", start.elapsed());
    failed(probe.await.unwrap());
    assert_eq!(world.astra.count("DELETE"), before + 1);
}

/// The host cancels a revocation after 90 seconds.
#[tokio::test]
async fn a_revocation_that_waits_ends_in_time_with_a_long_time_limit_of_calls() {
    let (world, leases) = World::with_leases(2).await;
    world.begin_outage(&leases[0]).await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "10m"})).await);
    let before = world.astra.count("DELETE");
    world.break_down(&ResponseTemplate::new(204).set_delay(NEVER));
    let probe = world.revoking(&leases[0]);
    eventually(|| world.astra.count("DELETE") == before + 1).await;
    tokio::time::pause();
    let start = Instant::now();
    failed(world.revoke(&leases[1]).await);
    assert!(start.elapsed() <= Duration::from_secs(46) && !probe.is_finished(), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_token_that_astra_refuses_to_delete_makes_no_other_revocation_wait() {
    for code in [400, 403] {
        let (world, leases) = World::with_leases(100).await;
        world.astra.answer_all("DELETE", ResponseTemplate::new(code).set_body_json(json!("no")));
        failed(world.revoke(&leases[0]).await);
        world.astra.heal();
        world.assert_concurrent(&leases[1..]).await;
    }
}

#[tokio::test]
async fn a_refusal_ends_the_outage() {
    let (world, leases) = World::with_leases(100).await;
    world.begin_outage(&leases[0]).await;
    world.astra.answer("DELETE", ResponseTemplate::new(403));
    assert_eq!(status(world.revoke(&leases[0]).await).0, 403);
    world.assert_concurrent(&leases[1..]).await;
}

#[tokio::test]
async fn a_probe_goes_on_without_its_caller_and_decides_for_those_that_wait() {
    let (world, leases) = World::with_leases(2).await;
    world.begin_outage(&leases[0]).await;
    let before = world.astra.count("DELETE");
    world.break_down(&ResponseTemplate::new(204).set_delay(NEVER));
    let probe = world.revoking(&leases[0]);
    eventually(|| world.astra.count("DELETE") == before + 1).await;
    probe.abort();
    tokio::time::pause();
    failed(world.revoke(&leases[1]).await);
    tokio::time::resume();
    assert_eq!(world.astra.count("DELETE"), before + 1);
    world.astra.heal();
    for secret in &leases {
        ok(world.revoke(secret).await);
    }
    world.until_undone().await;
    world.assert_empty();
}

#[tokio::test]
async fn a_revocation_that_waits_writes_nothing_and_ends_with_its_caller() {
    let (world, leases) = World::with_leases(2).await;
    world.begin_outage(&leases[0]).await;
    let before = world.astra.count("DELETE");
    world.break_down(&ResponseTemplate::new(204).set_delay(NEVER));
    let _probe = world.revoking(&leases[0]);
    eventually(|| world.astra.count("DELETE") == before + 1).await;
    let writes = world.storage.writes();
    let waiting = world.revoking(&leases[1]);
    tokio::task::yield_now().await;
    waiting.abort();
    tokio::time::pause();
    // The lock of the token is free: this revocation waits for the probe only.
    failed(world.revoke(&leases[1]).await);
    assert_eq!((world.astra.count("DELETE"), world.storage.writes()), (before + 1, writes));
}

#[tokio::test]
async fn the_outage_of_one_org_makes_no_revocation_of_another_org_wait() {
    let (world, leases) = World::with_leases(1).await;
    let other = json!({"org_id": "other", "astra_token": super::ROOT, "url": world.astra.url(), "logical_name": "other",
        "verify_connection": false});
    ok(world.write("config", other).await);
    ok(world.write("role", json!({"org_id": "other", "role_name": "reader", "role_id": ROLE_ID})).await);
    let of_other = lease(&some(world.read("creds/other/reader", json!(null)).await));
    world.begin_outage(&leases[0]).await;
    let before = world.astra.count("DELETE");
    world.astra.answer("DELETE", ResponseTemplate::new(204).set_delay(NEVER));
    let probe = world.revoking(&leases[0]);
    eventually(|| world.astra.count("DELETE") == before + 1).await;
    ok(world.revoke(&of_other).await);
    assert!(!probe.is_finished());
}

/// Lets the next deletions fail, and revokes all leases at once.
async fn revoke_beside_failures(world: &World, leases: &[Secret], failures: usize) {
    for _ in 0..failures {
        world.astra.answer("DELETE", ResponseTemplate::new(503));
    }
    for answer in world.revoke_all(leases).await {
        ok(answer);
    }
    world.until_undone().await;
    world.assert_empty();
}

/// All of them call Astra when the outage begins. Astra works again before the first of them gives up.
#[tokio::test]
async fn a_short_failure_costs_no_revocation_its_attempt() {
    let (world, leases) = World::with_leases(200).await;
    revoke_beside_failures(&world, &leases, 200).await;
}

/// The last revocation failed, and so do the next two requests.
#[tokio::test]
async fn single_failures_cost_no_revocation_its_attempt() {
    let (world, leases) = World::with_leases(200).await;
    world.begin_outage(&leases[0]).await;
    revoke_beside_failures(&world, &leases, 2).await;
}

/// Astra can answer 400 for an unknown token. Then only the list shows that the token is gone.
#[tokio::test]
async fn a_token_is_confirmed_as_gone_while_another_call_is_repeated() {
    let (world, leases) = World::with_leases(2).await;
    let before = world.astra.count("DELETE");
    world.astra.answer("DELETE", ResponseTemplate::new(503));
    world.astra.answer("DELETE", ResponseTemplate::new(204).set_delay(NEVER));
    let repeating = world.revoking(&leases[0]);
    eventually(|| world.astra.count("DELETE") == before + 2).await;
    world.astra.state().live.clear();
    world.astra.answer_all("DELETE", ResponseTemplate::new(400).set_body_json(json!("token not found")));
    ok(world.revoke(&leases[1]).await);
    assert!(!repeating.is_finished());
}

#[tokio::test]
async fn a_list_that_fails_after_the_answer_for_an_unknown_token_is_repeated() {
    for code in [400, 500] {
        let (world, leases) = World::with_leases(1).await;
        world.begin_outage(&leases[0]).await;
        world.astra.state().live.clear();
        world.astra.answer_all("DELETE", ResponseTemplate::new(code).set_body_json(json!("token not found")));
        let before = world.astra.count("DELETE");
        world.astra.answer("GET", ResponseTemplate::new(503));
        ok(world.revoke(&leases[0]).await);
        assert_eq!(world.astra.count("DELETE"), before + 1);
    }
}
