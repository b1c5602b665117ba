//! A storm leaves no memory or descriptors behind in the plugin's process.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::setup::Storm;
use super::{DRAIN, run_callers, weather};
use crate::bao::{Server, wait};

const LENGTH: Duration = Duration::from_secs(12);

/// How long it may take until freed memory and closed connections are visible.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_storm_leaks_no_memory_and_no_descriptors() {
    let mut rng = fastrand::Rng::with_seed(2);
    let storm = Storm::new(Server::dev(), &mut rng);
    let (ledger, plugins) = (Ledger::default(), storm.server.plugins());
    let &[plugin] = plugins.as_slice() else { panic!("expected one process for all mounts, found {plugins:?}") };
    storm.disconnect();
    let mut open = descriptors(plugin);
    assert!(!open.is_empty(), "the test sees no descriptors of the plugin");

    // The first storms fill memory that stays filled: caches, pools, the allocator's arenas.
    let mut run_storm = || {
        weather::set_faults(&storm, &mut rng);
        run_callers(&storm, &ledger, &mut rng, LENGTH, false);
        storm.world.clear_faults();
        storm.disconnect();
        // A tick looks again for tokens of unclear mints, and so opens a connection at any time,
        // also while descriptors are counted: a smaller count is the better one to compare with.
        let deadline = Instant::now() + SOON;
        open = loop {
            let left = descriptors(plugin);
            if is_part(&left, &open) {
                break left;
            }
            assert!(Instant::now() < deadline, "connections or files are still open: {left:?} instead of {open:?}");
            storm.drop_connections();
            thread::sleep(Duration::from_millis(30));
        };
        ledger.handed()
    };
    run_storm();
    let first = run_storm();
    let before = memory(plugin);
    let all = run_storm();
    assert!(first > 60 && all > first + 60, "the storms were too calm: {first} tokens in the first two, {all} in all");

    let mut after = before;
    let limit = before + before / 5;
    let fits = || {
        after = memory(plugin);
        (after <= limit).then_some(())
    };
    wait(&format!("the plugin to take no more than {limit} KiB, after {before} KiB"), SOON, fits);
    super::show(&format!("{all} tokens; {before} KiB before the storm, {after} KiB after it"));
    assert_eq!(storm.server.plugins(), plugins, "the plugin was restarted");
}

impl Storm {
    /// Ends all leases and all connections to Astra.
    fn disconnect(&self) {
        self.revoke_all(DRAIN);
        self.drop_connections();
    }

    fn drop_connections(&self) {
        for refuse in [true, false] {
            self.world.refuse_connections(refuse);
        }
    }
}

/// Returns the resident memory of a process in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of the plugin");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("resident memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number of KiB")
}

/// Returns the kinds of a process's open descriptors, sorted, without their numbers.
fn descriptors(pid: u32) -> Vec<String> {
    let kind = |path: &Path| {
        let target = fs::read_link(path).ok()?.to_string_lossy().into_owned();
        Some(target.trim_end_matches(|c: char| c.is_ascii_digit() || "[]:".contains(c)).to_owned())
    };
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors of the plugin");
    let mut kinds: Vec<String> = folder.filter_map(|entry| kind(&entry.ok()?.path())).collect();
    kinds.sort();
    kinds
}

/// Tells if `all` has each descriptor of `some`, as often as it stands there.
fn is_part(some: &[String], all: &[String]) -> bool {
    let count = |kinds: &[String], kind| kinds.iter().filter(|other| *other == kind).count();
    some.iter().all(|kind| count(some, kind) <= count(all, kind))
}
