//! Requests that wait for Astra must not slow down other requests.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{show, size};
use crate::astra::{Astra, Route};
use crate::bao::{Server, wait};
use crate::world::{Mode, World};

/// How long Astra takes for an answer: long enough for all reads of a test.
const DELAY_MS: u64 = 12_000;

/// The organizations, and the mints of each. The engine makes at most 64 calls at a time for an organization.
const ORGS: usize = 8;
const EACH: usize = 50;

/// How many times longer a fast request may take while slow requests wait. Measured: up to 3.5 times. If fast requests
/// waited for slow requests, they would take a thousand times longer.
const MOST: u32 = 30;

/// Reads paths in turn. Returns for each path the time that 99 of 100 reads do not exceed.
fn p99<const PATHS: usize>(server: &Server, paths: [&str; PATHS], reads: usize) -> [Duration; PATHS] {
    let mut times = paths.map(|_| Vec::new());
    for _ in 0..reads {
        for (path, times) in paths.iter().zip(&mut times) {
            let begun = Instant::now();
            server.get(path).ok();
            times.push(begun.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[reads * 99 / 100]
    })
}

#[test]
fn reads_stay_fast_while_400_mints_wait_for_astra() {
    const MINTS: usize = ORGS * EACH;
    let server = Arc::new(Server::dev());
    server.enable("astra");
    let world = World::with_astra(&server, "astra", Astra::builder().orgs(ORGS));
    for number in 0..ORGS {
        let org = world.configured(&format!("shop-{number}"), Mode::Standard);
        world.role(&org, "reader", 3600, 36000);
    }
    let org = &world.orgs()[0];
    // The server answers a read of its own engine without the plugin. Such reads show how busy the machine is.
    server.post("sys/mounts/store", &json!({"type": "kv"})).ok();
    server.post("store/one", &json!({"colour": "blue"})).ok();
    let role = format!("astra/role?org_id={}&role_name=reader", org.id);
    let (paths, reads) = ([role.as_str(), "store/one"], size(500, 2000));
    // The first reads open connections and fill caches.
    p99(&server, paths, 100);
    let [alone, _] = p99(&server, paths, reads);

    world.knobs(|knobs| knobs.latency_ms = Some((DELAY_MS, DELAY_MS)));
    thread::scope(|scope| {
        let world = &world;
        let mint = |number: usize| {
            let org_id = &world.orgs()[number % ORGS].id;
            let body = json!({"org_id": org_id, "role_name": "reader", "logical_name": format!("slow-{number}")});
            scope.spawn(move || world.post("org/token", &body))
        };
        let mints: Vec<_> = (0..MINTS).map(mint).collect();
        wait("Astra to have all mints", Duration::from_secs(60), || {
            (world.calls(Route::CreateToken) >= MINTS as u64).then_some(())
        });
        let [beside, own] = p99(&server, paths, reads);
        let waiting = mints.iter().filter(|mint| !mint.is_finished()).count();
        assert!(waiting > MINTS / 2, "only {waiting} mints were waiting until the last read: make Astra slower");
        let figures = format!(
            "99 of 100 role reads took at most {alone:?} alone, and {beside:?} beside {waiting} slow mints; reads of the \
             server's own engine took {own:?} beside them"
        );
        show(&figures);
        assert!(beside <= alone.max(own) * MOST, "{figures}");
        for mint in mints {
            mint.join().expect("the caller").ok();
        }
    });
}
