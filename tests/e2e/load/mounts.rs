//! Many mounts of the plugin in one process.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::{show, size};
use crate::astra::Astra;
use crate::bao::Server;
use crate::world::{Mode, World};

/// The most memory that a mount may add, in KiB. Measured: 93.
const EACH: u64 = 256;

/// Number of concurrent callers. The server enables mounts one after another.
const CALLERS: usize = 4;

/// Returns the resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read the status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the resident memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Calls `act` for each number.
fn for_each(count: usize, act: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let act = &act;
            scope.spawn(move || (caller..count).step_by(CALLERS).for_each(act));
        }
    });
}

#[test]
fn one_process_serves_hundreds_of_mounts() {
    let count = size(150, 1000);
    let server = Arc::new(Server::dev());
    server.enable("first");
    let [pid] = server.plugins()[..] else { panic!("not one process") };
    let world = World::with_astra(&server, "first", Astra::builder().orgs(1));
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    let before = resident(pid);

    let begun = Instant::now();
    for_each(count, |number| server.enable(&format!("many-{number}")));
    let took = begun.elapsed();
    assert_eq!(server.plugins(), [pid], "the mounts do not share the process");
    let added = resident(pid).saturating_sub(before);
    show(&format!("{count} mounts: {added} KiB more than {before} KiB, enabled in {took:?}"));
    assert!(added <= EACH * count as u64, "{count} mounts added {added} KiB");
    // Each mount has its own storage, so no mount shows the role of the first one.
    for_each(count, |number| assert!(server.keys(&format!("many-{number}/roles")).is_empty(), "mount {number}"));
    world.fetch(&org, &token).ok();

    for_each(count, |number| {
        server.delete(&format!("sys/mounts/many-{number}")).ok();
    });
    assert_eq!(server.plugins(), [pid], "the first mount lost its process");
    world.fetch(&org, &token).ok();
    world.revoke(&token).ok();
    assert!(!world.is_alive(&token.client_id));
}
