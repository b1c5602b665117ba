//! Checks that nothing is lost when a process is killed, or its storage fails, at any step of its work.
//!
//! Every step of the engine is a call: to storage, for a fact of the host, or to Astra. Each test first does the work
//! without a fault and counts its calls. Then it repeats the work for each call and stops the process there: once
//! before the call takes effect, and once after the effect but before the answer. Then the next process takes over and
//! gets the host's tick. Afterwards Astra, the stored entries and the host's leases must agree. A call without effect
//! is stopped only before.

mod orderly;
mod plan;
mod world;

use std::collections::HashMap;

use serde_json::json;

use self::plan::{Calls, Left, Mode, Place, Point, Work};
use self::world::{KillWorld, Node, until};
use crate::host::gate::{Phase, When};

/// The state before the work.
#[derive(Clone)]
enum Before {
    Nothing,
    /// A token with its lease.
    Token,
    /// Other work, which was killed at this point.
    Killed(Work, Point),
    /// A token with its lease, a token that only Astra has, and a token that Astra does not have.
    Differing,
    /// A static role with two tokens.
    Static,
    /// A token with its lease, and a root token that the next tick rotates.
    RotationDue,
    /// A token with its lease, a root token that the engine made, and another one that an operator made.
    MadeRoot,
    /// A token whose answer was lost after the last step of its mint, so long ago that its lease would have expired.
    Expired,
}

/// A fault that makes the process undo its work.
#[derive(Clone, Copy)]
enum Trouble {
    None,
    /// The next call to the host that starts with this text fails.
    Host(&'static str),
    /// Astra mints a token, but its answer is lost.
    Astra,
    /// The client hangs up during a call to the host that starts with this text.
    HangUp(&'static str, Phase),
}

/// A piece of work, and the circumstances of the work.
struct WorkCase {
    mode: Mode,
    before: Before,
    work: Work,
    trouble: Trouble,
}

/// The last step of a mint. From here on, the host is responsible for the token.
const HANDED_OVER: Point = Point { place: Place::Host(When::Call("delete wal/")), phase: Phase::After };

impl WorkCase {
    fn new(mode: Mode, before: Before, work: Work) -> Self {
        Self { mode, before, work, trouble: Trouble::None }
    }

    fn with(self, trouble: Trouble) -> Self {
        Self { trouble, ..self }
    }

    /// Returns a process that is ready for the work.
    async fn prepare(&self, world: &mut KillWorld) -> Node {
        world.reset();
        match &self.before {
            Before::Nothing => {}
            Before::Token => start_and_mint(world).await,
            Before::Killed(work, point) => {
                match work {
                    Work::Mint => {}
                    Work::RotateStatic => start_static_role(world).await,
                    _ => start_and_mint(world).await,
                }
                start_and_kill(world, *work, point).await;
            }
            Before::Differing => {
                for _ in 0..3 {
                    start_and_mint(world).await;
                }
                world.lose_tokens();
            }
            Before::Static => start_static_role(world).await,
            Before::RotationDue => {
                start_and_mint(world).await;
                world.plan_rotation();
            }
            Before::MadeRoot => {
                start_and_mint(world).await;
                let node = world.start().await;
                world.ask_ok(&node, Work::Rotate).await;
                world.stop(node).await;
                world.make_root();
            }
            Before::Expired => {
                start_and_kill(world, Work::Mint, &HANDED_OVER).await;
                world.expire_records();
            }
        }
        let node = world.start().await;
        match self.trouble {
            Trouble::None => {}
            Trouble::Host(call) => world.gate.trouble(When::Call(call), Phase::Before),
            Trouble::Astra => world.astra.knobs(|knobs| knobs.create_omit = vec!["token".into(), "secret".into()]),
            Trouble::HangUp(call, phase) => world.hang_up = Some((When::Call(call), phase)),
        }
        node
    }

    /// Does the work without a fault, and returns its points.
    async fn find_points(&self, world: &mut KillWorld) -> Vec<Point> {
        let node = self.prepare(world).await;
        let Calls { host, astra, failed } = world.count(&node, self.work).await;
        assert_eq!(failed, !matches!(self.trouble, Trouble::None), "wrong outcome of {:?} without a kill", self.work);
        world.stop(node).await;
        let node = world.start().await;
        world.ask_ok(&node, Work::Rollback).await;
        assert_eq!(world.check_nothing_lost(node).await, NOTHING, "{:?} without a kill left something", self.work);

        let is_minted = astra.iter().any(|call| call.starts_with("POST "));
        assert!(is_minted || !matches!(self.before, Before::RotationDue), "the tick did not rotate the root token");
        let mut points = Vec::new();
        let mut first = true;
        let mut counts: HashMap<String, usize> = HashMap::new();
        for call in &host {
            let kind = kind_of(call);
            let number = counts.entry(kind.clone()).or_default();
            *number += 1;
            let troubled = matches!(self.trouble, Trouble::Host(start) if call.starts_with(start));
            let changes = (call.starts_with("put ") || call.starts_with("delete ")) && !(troubled && first);
            for phase in [Phase::Before, Phase::After].into_iter().take(1 + usize::from(changes)) {
                points.push(Point { place: Place::Host(When::Nth(*number, kind.clone())), phase });
            }
            first &= !troubled;
        }
        for (number, _) in (1..).zip(&astra) {
            points.extend([Phase::Before, Phase::After].map(|phase| Point { place: Place::Astra(number), phase }));
        }
        assert!(!points.is_empty(), "{:?} makes no call", self.work);
        points
    }

    /// Kills a process at every point. Returns the calls after which something was left, with the rest.
    async fn kill_everywhere(&self) -> Vec<(String, Left)> {
        let mut world = KillWorld::new(self.mode, json!({})).await;
        let points = self.find_points(&mut world).await;
        let mut left = Vec::new();
        for point in &points {
            let mut at = At(format!("{:?} is killed at {point}", self.work));
            let node = self.prepare(&mut world).await;
            let call = world.kill_at(&node, self.work, point).await;
            at.0 = format!("{}: {call}", at.0);
            world.wait_for_kill(node).await;

            let node = world.start().await;
            world.ask_ok(&node, Work::Rollback).await;
            if matches!(self.work, Work::Renew | Work::Tidy) {
                world.ask_ok(&node, self.work).await;
            }
            add_finding(&mut left, point, &call, world.check_nothing_lost(node).await);
        }
        left
    }

    /// Makes the call to the host fail at every point. Returns the calls after which something was left, with the rest.
    async fn fail_everywhere(&self) -> Vec<(String, Left)> {
        let mut world = KillWorld::new(self.mode, json!({})).await;
        let mut points = self.find_points(&mut world).await;
        points.retain(|point| matches!(point.place, Place::Host(_)));
        let mut left = Vec::new();
        for point in &points {
            let mut at = At(format!("{:?} fails at {point}", self.work));
            let node = self.prepare(&mut world).await;
            let (call, node) = world.fail_at(node, self.work, point).await;
            at.0 = format!("{}: {call}", at.0);
            world.settle(&node, matches!(self.trouble, Trouble::HangUp(..))).await;
            add_finding(&mut left, point, &call, world.check_nothing_lost(node).await);
        }
        left
    }
}

/// Returns a call up to the first id.
fn kind_of(call: &str) -> String {
    call.split_once('/').map_or(call.to_owned(), |(start, _)| format!("{start}/"))
}

/// Adds a finding.
fn add_finding(left: &mut Vec<(String, Left)>, point: &Point, call: &str, found: Left) {
    if found != NOTHING {
        left.push((format!("{} {}", point.phase, kind_of(call)), found));
    }
}

async fn start_and_mint(world: &mut KillWorld) {
    let node = world.start().await;
    world.ask_ok(&node, Work::Mint).await;
    world.stop(node).await;
}

async fn start_static_role(world: &mut KillWorld) {
    let node = world.start().await;
    world.ask_ok(&node, Work::NewStatic).await;
    world.ask_ok(&node, Work::RotateStatic).await;
    world.stop(node).await;
}

async fn start_and_kill(world: &mut KillWorld, work: Work, point: &Point) {
    let node = world.start().await;
    world.kill_at(&node, work, point).await;
    world.wait_for_kill(node).await;
}

/// Prints the place if a test fails.
struct At(String);

impl Drop for At {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

const NOTHING: Left = Left { unleased: 0, unknown: 0 };
const UNLEASED: Left = Left { unleased: 1, ..NOTHING };
const UNKNOWN: Left = Left { unknown: 1, ..NOTHING };

fn astra(number: u64, phase: Phase) -> Point {
    Point { place: Place::Astra(number), phase }
}

const fn host(call: &'static str, phase: Phase) -> Point {
    Point { place: Place::Host(When::Call(call)), phase }
}

fn nothing() -> Vec<(String, Left)> {
    Vec::new()
}

/// The gap between the last step of a mint and the host's lease, which no engine can close. The sweep deletes a token
/// in this gap once its lease would have expired.
fn at_the_handover() -> Vec<(String, Left)> {
    vec![("after delete wal/".to_owned(), UNLEASED)]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mint_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::Nothing, Work::Mint).kill_everywhere().await, at_the_handover());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mint_by_a_read_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Sidecar, Before::Nothing, Work::Mint).kill_everywhere().await, at_the_handover());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_mint_killed_at_any_step_loses_nothing() {
    for trouble in [Trouble::Host("put client/"), Trouble::Host("delete wal/"), Trouble::Astra] {
        let case = WorkCase::new(Mode::Standard, Before::Nothing, Work::Mint).with(trouble);
        assert_eq!(case.kill_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_mint_with_a_second_fault_loses_nothing() {
    for trouble in [Trouble::Host("put client/"), Trouble::Host("delete wal/"), Trouble::Astra] {
        let case = WorkCase::new(Mode::Sidecar, Before::Nothing, Work::Mint).with(trouble);
        assert_eq!(case.fail_everywhere().await, nothing());
    }
}

/// If the client hangs up, it gets no token, and the host creates no lease. If the mint is already complete, the engine
/// writes a new WAL entry to undo it. Until then, the gap at the handover is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_mint_killed_at_any_step_loses_nothing() {
    let mint =
        |call, phase| WorkCase::new(Mode::Standard, Before::Nothing, Work::Mint).with(Trouble::HangUp(call, phase));
    assert_eq!(mint("put client/", Phase::Before).kill_everywhere().await, nothing());
    let mut expected = at_the_handover();
    expected.push(("before put wal/".to_owned(), UNLEASED));
    assert_eq!(mint("delete wal/", Phase::After).kill_everywhere().await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_mint_with_a_fault_at_any_step_loses_nothing() {
    for (call, phase) in [("put client/", Phase::Before), ("delete wal/", Phase::After)] {
        let case = WorkCase::new(Mode::Sidecar, Before::Nothing, Work::Mint).with(Trouble::HangUp(call, phase));
        assert_eq!(case.fail_everywhere().await, nothing());
    }
}

/// Until the last step, the old token has its name and its lease. After that step, its lease ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_killed_at_any_step_loses_nothing() {
    let case = || WorkCase::new(Mode::Standard, Before::Token, Work::Replace);
    assert_eq!(case().kill_everywhere().await, at_the_handover());
    assert_eq!(case().fail_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_replacement_killed_at_any_step_loses_nothing() {
    for cut in
        [host("put client/", Phase::Before), host("put client/", Phase::After), host("delete wal/", Phase::Before)]
    {
        let case = WorkCase::new(Mode::Standard, Before::Killed(Work::Replace, cut), Work::Rollback);
        assert_eq!(case.kill_everywhere().await, nothing());
    }
}

/// Without a description, the engine cannot find a token whose answer was lost.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_description_only_some_kills_lose_a_token() {
    let left = WorkCase::new(Mode::Undescribed, Before::Nothing, Work::Mint).kill_everywhere().await;
    let lost = |call: &str| (call.to_owned(), UNKNOWN);
    let mut expected = vec![lost("before get client/"), lost("before put wal/")];
    expected.extend(at_the_handover());
    expected.push(lost("after POST /"));
    assert_eq!(left, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_killed_at_any_step_loses_nothing() {
    for work in [Work::Delete, Work::DeleteByPath] {
        assert_eq!(WorkCase::new(Mode::Standard, Before::Token, work).kill_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::Token, Work::Revoke).kill_everywhere().await, nothing());
    assert_eq!(WorkCase::new(Mode::Sidecar, Before::Token, Work::Revoke).kill_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::Token, Work::Renew).kill_everywhere().await, nothing());
}

/// There is also a token with a lease. The remaining root token must be able to revoke it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::Token, Work::Rotate).kill_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_with_a_fault_at_any_step_loses_nothing() {
    for mode in [Mode::Standard, Mode::Undescribed] {
        assert_eq!(WorkCase::new(mode, Before::Token, Work::Rotate).fail_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_rotation_killed_at_any_step_loses_nothing() {
    // The new root token was: minted but its answer lost; minted but not stored; stored.
    for cut in [astra(2, Phase::After), host("put config/", Phase::Before), host("put config/", Phase::After)] {
        let case = WorkCase::new(Mode::Standard, Before::Killed(Work::Rotate, cut), Work::Rollback);
        assert_eq!(case.kill_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduled_rotation_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::RotationDue, Work::Tick).kill_everywhere().await, nothing());
}

/// The engine made the root token, so nobody else knows that the write replaces it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_of_another_root_token_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::MadeRoot, Work::WriteRoot).kill_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_static_role_killed_at_any_step_loses_nothing() {
    let case = || WorkCase::new(Mode::Standard, Before::Nothing, Work::NewStatic);
    assert_eq!(case().kill_everywhere().await, nothing());
    assert_eq!(case().fail_everywhere().await, nothing());
}

/// The static role always has a token that works.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_a_static_role_killed_at_any_step_loses_nothing() {
    let case = || WorkCase::new(Mode::Standard, Before::Static, Work::RotateStatic);
    assert_eq!(case().kill_everywhere().await, nothing());
    assert_eq!(case().fail_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_rotation_of_a_static_role_killed_at_any_step_loses_nothing() {
    let role = host("put static-role/", Phase::Before);
    for cut in [astra(1, Phase::After), host("put client/", Phase::Before), role, host("delete wal/", Phase::Before)] {
        let case = WorkCase::new(Mode::Standard, Before::Killed(Work::RotateStatic, cut), Work::Rollback);
        assert_eq!(case.kill_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_a_static_role_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::Static, Work::DeleteStatic).kill_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_undo_of_a_mint_killed_at_any_step_loses_nothing() {
    for cut in [astra(1, Phase::After), host("put client/", Phase::Before), host("delete wal/", Phase::Before)] {
        let case = WorkCase::new(Mode::Standard, Before::Killed(Work::Mint, cut), Work::Rollback);
        assert_eq!(case.kill_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_killed_while_it_deletes_a_token_loses_nothing() {
    for work in [Work::Revoke, Work::Delete] {
        for phase in [Phase::Before, Phase::After] {
            let case = WorkCase::new(Mode::Standard, Before::Killed(work, astra(1, phase)), Work::Rollback);
            // If the token was not deleted, both the token and its lease still exist.
            assert_eq!(case.kill_everywhere().await, nothing());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Standard, Before::Expired, Work::Tick).kill_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tidy_killed_at_any_step_loses_nothing() {
    assert_eq!(WorkCase::new(Mode::Sidecar, Before::Differing, Work::Tidy).kill_everywhere().await, nothing());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mint_with_a_fault_at_any_step_loses_nothing() {
    for mode in [Mode::Standard, Mode::Sidecar, Mode::Undescribed] {
        assert_eq!(WorkCase::new(mode, Before::Nothing, Work::Mint).fail_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_renewal_or_revocation_with_a_fault_loses_nothing() {
    for work in [Work::Delete, Work::Renew, Work::Revoke] {
        assert_eq!(WorkCase::new(Mode::Standard, Before::Token, work).fail_everywhere().await, nothing());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_with_a_fault_at_any_step_loses_nothing() {
    let cuts = [(Work::Mint, host("delete wal/", Phase::Before)), (Work::Mint, astra(1, Phase::After))];
    for (work, cut) in cuts.into_iter().chain([(Work::Revoke, astra(1, Phase::After))]) {
        let case = WorkCase::new(Mode::Standard, Before::Killed(work, cut), Work::Rollback);
        assert_eq!(case.fail_everywhere().await, nothing());
    }
}

/// A caller can hang up while the answer travels. The host then drops the answer and creates no lease.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_host_drops_leaves_no_token() {
    for mode in [Mode::Standard, Mode::Sidecar, Mode::Undescribed] {
        let mut world = KillWorld::new(mode, json!({})).await;
        let node = world.start().await;
        world.ask_ok(&node, Work::Mint).await;
        world.leases.clear();
        assert_eq!(world.alive().len(), 1);
        node.host.resets.cancel_answered();
        // The frame that cancels the stream leaves before this call.
        node.mount.kind().await;
        until("the token is deleted", || world.alive().is_empty() && world.inventory().is_empty()).await;
        until("the log is empty", || !world.has_unfinished()).await;

        // The host keeps the next answer.
        world.ask_ok(&node, Work::Mint).await;
        node.mount.kind().await;
        world.ask_ok(&node, Work::Revoke).await;
        assert!(world.alive().is_empty());
        world.stop(node).await;
    }
}
