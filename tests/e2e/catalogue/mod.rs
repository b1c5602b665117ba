//! All faults of Astra against each operation of the engine. The tables in `docs/operations.md` show the results.

mod faults;
mod mount;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use serde_json::json;

use self::faults::{Reach, deletion_families, every_fault, mint_families};
use self::mount::{Deletion, FaultMount, Seen, is_late};
use self::table::{AS_ABOVE, Row};
use crate::astra::{Astra, AstraFault, Certificate, DeleteSuccess, Kind, Phase, UnknownId};
use crate::world::{Mode, World};

/// More than the number of mints and deletions, which need their own orgs.
const ORGS: usize = 700;

/// How many requests run at the same time.
const WORKERS: usize = 12;

/// A part of the test that can run in parallel with others.
struct Job<'a> {
    name: String,
    /// Whether the tick must clean up after this job. Such jobs run first; the others run while the test waits for the
    /// tick.
    first: bool,
    work: Box<dyn FnOnce() + Send + 'a>,
}

impl<'a> Job<'a> {
    fn new(name: impl Into<String>, first: bool, work: impl FnOnce() + Send + 'a) -> Self {
        Self { name: name.into(), first, work: Box::new(work) }
    }
}

#[test]
fn every_fault_of_astra_has_the_documented_outcome() {
    let mount = FaultMount::new(World::with(Astra::builder().orgs(ORGS)));
    let late =
        FaultMount::new(World::with(Astra::builder().orgs(3).knobs(|knobs| knobs.list_delay_after_create_ms = 5000)));
    let spent = FaultMount::new(World::with(Astra::builder().orgs(1)));
    let apart = FaultMount::new(World::with(
        Astra::builder().orgs(7).tls(Certificate::Valid).knobs(|knobs| knobs.connection_close = true),
    ));
    let mut mints: Vec<Row> = mint_families().into_iter().map(Row::of).collect();
    mints.extend(unreachable());
    mints.push(Row::mixed("lists a new token only seconds later, and the answer of the mint is lost", AS_ABOVE));
    let mut deletions: Vec<Row> = deletion_families().into_iter().map(Row::of).collect();
    deletions.extend(unreachable());
    deletions.push(Row::new("confirms with another status: 200, 202 or 204"));
    deletions.push(Row::new("no longer has the token: 204, 400 or 404"));
    deletions.push(Row::new("no longer has the token, and answers 500 for this reason"));

    let (
        [.., refused, without_tls, delayed_list],
        [.., deletion_refused, deletion_without_tls, confirmed, unknown, failing],
    ) = (&mints[..], &deletions[..])
    else {
        panic!("a row is missing")
    };
    let mut jobs = case_jobs(&mints, &mount, mint);
    jobs.extend(case_jobs(&deletions, &mount, delete));
    jobs.push(Job::new("a delayed list", true, || slow_list(&late, delayed_list)));
    jobs.push(Job::new("unreachable", false, || {
        unreachable_astra(&apart, [refused, without_tls], [deletion_refused, deletion_without_tls])
    }));
    jobs.push(Job::new("ways of success", false, || ways_of_success(&spent, confirmed, unknown, failing)));
    jobs.push(Job::new("renewals", false, || renewals(&mount)));
    run(jobs);

    for mount in [&mount, &late, &spent, &apart] {
        mount.assert_cleaned_up();
    }
    table::compare(&mints, &deletions);
}

/// The cases in which calls do not reach Astra.
fn unreachable() -> [Row; 2] {
    ["refuses the connection", "does not finish the TLS handshake within `request_timeout`"].map(Row::new)
}

fn mint(mount: &FaultMount, kind: &Kind, phase: Phase, reach: Reach) -> Vec<Seen> {
    vec![mount.mint_under_fault(kind, phase, reach)]
}

fn delete(mount: &FaultMount, kind: &Kind, phase: Phase, reach: Reach) -> Vec<Seen> {
    [Deletion::Delete, Deletion::Revoke].map(|deletion| mount.delete_under_fault(deletion, kind, phase, reach)).into()
}

/// Returns a job for each fault of each family.
fn case_jobs<'a>(
    rows: &'a [Row],
    mount: &'a FaultMount,
    case: fn(&FaultMount, &Kind, Phase, Reach) -> Vec<Seen>,
) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for (row, family) in rows.iter().filter_map(|row| Some((row, row.family.as_ref()?))) {
        for &phase in family.phases {
            jobs.extend(family.kinds.iter().map(|kind| {
                let first = family.reach == Reach::Org || is_late(kind);
                let name = format!("{phase:?} {kind:?}");
                Job::new(format!("{}: {name}", family.what), first, move || {
                    row.add(phase, name, case(mount, kind, phase, family.reach));
                })
            }));
        }
    }
    jobs
}

/// Runs the jobs, some of them at the same time.
fn run(mut jobs: Vec<Job<'_>>) {
    jobs.sort_by_key(|job| !job.first);
    let jobs = Mutex::new(jobs.into_iter());
    let failed: Mutex<Vec<String>> = Mutex::default();
    let next = || jobs.lock().unwrap().next();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(Job { name, work, .. }) = next() {
                    // The other jobs continue, so that one run shows all failures.
                    if catch_unwind(AssertUnwindSafe(work)).is_err() {
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "these cases failed, see above:\n{}", failed.join("\n"));
}

/// If Astra's list is delayed, the undo of a lost answer finds no token at first.
fn slow_list(mount: &FaultMount, row: &Row) {
    for kind in [Kind::Reset, Kind::HangBeforeHeaders { for_ms: None }] {
        row.add(Phase::After, format!("{kind:?}"), mint(mount, &kind, Phase::After, Reach::Call));
    }
}

/// Faults of the whole simulator.
fn unreachable_astra(mount: &FaultMount, mints: [&Row; 2], deletions: [&Row; 2]) {
    let refuse = |cut: bool| mount.world.refuse_connections(cut);
    let slow_tls = |cut: bool| match cut {
        true => drop(mount.world.fault(AstraFault::before(Kind::SlowTls { delay_ms: 4000 }))),
        false => mount.world.clear_faults(),
    };
    let cuts: [&dyn Fn(bool); 2] = [&refuse, &slow_tls];
    for (cut, (mint, deletion)) in cuts.into_iter().zip(mints.into_iter().zip(deletions)) {
        let org = mount.org(Mode::Sidecar);
        cut(true);
        let seen = mount.observe_mint(&org, &[]);
        cut(false);
        mint.add(Phase::Before, "minting", vec![seen]);
        let both = [Deletion::Delete, Deletion::Revoke].map(|way| {
            let org = mount.org(Mode::Standard);
            let token = mount.token(&org);
            cut(true);
            let seen = mount.observe_deletion(way, &org, &token);
            cut(false);
            seen
        });
        deletion.add(Phase::Before, "deleting", both.into());
    }
}

/// Answers to a delete that succeeded or was not necessary.
fn ways_of_success(mount: &FaultMount, confirmed: &Row, unknown: &Row, failing: &Row) {
    let end = |row: &Row, name: String, gone: bool| {
        let both = [Deletion::Delete, Deletion::Revoke].map(|way| {
            let token = mount.token(&mount.deletion_org);
            assert!(!gone || mount.world.delete_token(&token.client_id));
            mount.observe_deletion(way, &mount.deletion_org, &token)
        });
        row.add(Phase::After, name, both.into());
    };
    for success in [DeleteSuccess::NoContent, DeleteSuccess::OkEmpty, DeleteSuccess::OkJson, DeleteSuccess::Accepted] {
        mount.world.knobs(|knobs| knobs.delete_success = success);
        end(confirmed, format!("{success:?}"), false);
    }
    for unknown_id in [
        UnknownId::NotFoundErrors,
        UnknownId::NotFoundText,
        UnknownId::BadRequestString,
        UnknownId::NoContent,
        UnknownId::ServerErrorString,
    ] {
        mount.world.knobs(|knobs| knobs.unknown_id = unknown_id);
        let row = if unknown_id == UnknownId::ServerErrorString { failing } else { unknown };
        end(row, format!("{unknown_id:?}"), true);
    }
}

/// A renewal does not call Astra, so no fault of Astra affects it.
fn renewals(mount: &FaultMount) {
    let org = mount.org(Mode::Standard);
    let token = mount.token(&org);
    let calls = || mount.world.requests().iter().filter(|call| call.org.as_ref() == Some(&org.id)).count();
    let before = calls();
    for kind in every_fault() {
        let fault = mount.world.fault(AstraFault::before(mount.real(&kind)).org(&org.id));
        let renewed = mount.world.server.post("sys/leases/renew", &json!({"lease_id": token.lease_id})).ok();
        assert_eq!(renewed["lease_duration"], 3600);
        mount.world.clear_fault(fault);
    }
    assert_eq!(calls(), before, "a renewal called Astra");
    mount.world.revoke(&token).ok();
}
