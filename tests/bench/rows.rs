//! The table of measured requests, and the measurement of a row.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::astra::Route;
use crate::bao::wait;
use crate::load::{Load, Requests, Sample, Until};
use crate::proc::Times;
use crate::server::{BASELINE, BenchServer, ROLES, TestMount, client_id, logical_name, role};
use crate::settings::Settings;

/// A row of the table: one kind of work.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) sizes: Sizes,
    pub(crate) connections: &'static [usize],
    /// The delay of Astra's answers.
    pub(crate) astra_ms: u64,
    pub(crate) work: Work,
}

/// The numbers of stored tokens with which a row is measured.
#[derive(Clone, Copy)]
pub(crate) enum Sizes {
    Every,
    /// The smallest and the largest number.
    Ends,
    Fewest,
    /// Every number that is at least this large.
    From(usize),
}

pub(crate) enum Work {
    /// Reads of the server's `kv` engine, the baseline of all comparisons.
    Baseline,
    /// Requests for a fixed time.
    Timed(fn(&TestMount) -> Requests),
    /// A fixed number of slow requests on each connection.
    Counted(usize, fn(&TestMount) -> Requests),
    /// Requests for a fixed time that mint tokens with leases.
    Mints(fn(&TestMount) -> Requests),
    /// Renewals of leases.
    Renewals,
    /// Revocations of many leases with one request. The server revokes them one after another, or with all its workers.
    Revocations { one_by_one: bool },
}

/// One caller, and enough callers to keep two processors busy.
const ONE_AND_MANY: &[usize] = &[1, MANY];

pub(crate) const MANY: usize = 8;

/// The load generator is not used, because the server does all the work.
const NONE: &[usize] = &[0];

pub(crate) const KV: &str = "kv v1 read";
pub(crate) const ROLE_READ: &str = "role read";
pub(crate) const BY_NAME: &str = "token by name";
pub(crate) const BY_CLIENT_ID: &str = "token by client id";
pub(crate) const PAGE: &str = "list, page of 100 with details";
pub(crate) const LIST: &str = "list, 1,000 with details";
pub(crate) const LONG_LIST: &str = "list, 10,000 with details";
pub(crate) const SIDECAR_MINT: &str = "sidecar mint";
pub(crate) const CREDS_MINT: &str = "creds mint";
pub(crate) const SLOW_MINT: &str = "creds mint, Astra at 200 ms";

pub(crate) const ROWS: &[Row] = &[
    row(KV, Sizes::Every, ONE_AND_MANY, Work::Baseline),
    row(ROLE_READ, Sizes::Every, ONE_AND_MANY, Work::Timed(role_read)),
    row(BY_NAME, Sizes::Every, ONE_AND_MANY, Work::Timed(by_name)),
    row(BY_CLIENT_ID, Sizes::Every, ONE_AND_MANY, Work::Timed(by_client_id)),
    row(PAGE, Sizes::Every, ONE_AND_MANY, Work::Timed(page)),
    row(LIST, Sizes::From(1000), ONE_AND_MANY, Work::Timed(list)),
    row(LONG_LIST, Sizes::From(10_000), ONE_AND_MANY, Work::Counted(1, long_list)),
    row(CREDS_MINT, Sizes::Ends, ONE_AND_MANY, Work::Mints(creds)),
    row(SIDECAR_MINT, Sizes::Ends, ONE_AND_MANY, Work::Mints(sidecar)),
    slow(SLOW_MINT, Work::Mints(creds)),
    slow("sidecar mint, Astra at 200 ms", Work::Mints(sidecar)),
    row("renew", Sizes::Ends, ONE_AND_MANY, Work::Renewals),
    row("revoke, one lease after another", Sizes::Ends, NONE, Work::Revocations { one_by_one: true }),
    row("revoke, by the server's workers", Sizes::Ends, NONE, Work::Revocations { one_by_one: false }),
];

const fn row(name: &'static str, sizes: Sizes, connections: &'static [usize], work: Work) -> Row {
    Row { name, sizes, connections, astra_ms: 0, work }
}

const fn slow(name: &'static str, work: Work) -> Row {
    Row { name, sizes: Sizes::Fewest, connections: &[1, 16, 64], astra_ms: 200, work }
}

/// The largest number of paths from which the load generator picks.
const PATHS: usize = 1000;

fn baseline() -> Requests {
    Requests::get((0..ROLES).map(|number| format!("{BASELINE}/{}", role(number))))
}

pub(crate) fn role_read(mount: &TestMount) -> Requests {
    let TestMount { path, standard: org, .. } = mount;
    Requests::get((0..ROLES).map(|number| format!("{path}/role?org_id={}&role_name={}", org.id, role(number))))
}

fn by_name(mount: &TestMount) -> Requests {
    let TestMount { path, standard: org, .. } = mount;
    Requests::get(picks(mount).map(|number| {
        let (role, name) = (role(number % ROLES), logical_name(number));
        format!("{path}/org/token?org_id={}&role_name={role}&logical_name={name}", org.id)
    }))
}

fn by_client_id(mount: &TestMount) -> Requests {
    let TestMount { path, standard: org, .. } = mount;
    Requests::get(
        picks(mount).map(|number| format!("{path}/org/token?org_id={}&client_id={}", org.id, client_id(number))),
    )
}

fn page(mount: &TestMount) -> Requests {
    let TestMount { path, standard: org, .. } = mount;
    let starts = picks(mount).map(|number| client_id(number.min(mount.stored.saturating_sub(101))));
    Requests::get(starts.map(|after| format!("{path}/org/tokens?list=true&org_id={}&limit=100&after={after}", org.id)))
}

fn list(mount: &TestMount) -> Requests {
    list_of(mount, 1000)
}

fn long_list(mount: &TestMount) -> Requests {
    list_of(mount, 10_000)
}

fn list_of(mount: &TestMount, limit: usize) -> Requests {
    let TestMount { path, standard: org, .. } = mount;
    Requests::get([format!("{path}/org/tokens?list=true&org_id={}&limit={limit}", org.id)])
}

pub(crate) fn creds(mount: &TestMount) -> Requests {
    Requests::get([format!("{}/creds/shop/{}", mount.path, role(0))])
}

fn sidecar(mount: &TestMount) -> Requests {
    let TestMount { path, sidecar: org, .. } = mount;
    Requests::get([format!("{path}/org/token?org_id={}&role_name={}&logical_name=bench", org.id, role(0))])
}

/// Returns reads of all kinds, to measure the memory after them.
pub(crate) fn mixture(mount: &TestMount) -> Requests {
    let reads = [role_read, by_name, by_client_id].map(|requests| requests(mount).paths);
    let pages = page(mount).paths.into_iter().step_by(10);
    Requests::get(reads.into_iter().flatten().chain(pages))
}

/// Returns up to [`PATHS`] numbers of stored tokens, evenly spread.
fn picks(mount: &TestMount) -> impl Iterator<Item = usize> + use<> {
    let stored = mount.stored;
    let count = stored.min(PATHS);
    (0..count).map(move |at| at * stored / count)
}

/// The results of one row for one plugin at one size with one number of connections.
pub(crate) struct Outcome {
    pub(crate) row: &'static str,
    /// `None` for the server's `kv` engine.
    pub(crate) plugin: Option<&'static str>,
    pub(crate) stored: usize,
    pub(crate) connections: usize,
    /// The delay of Astra's answers.
    pub(crate) astra_ms: u64,
    pub(crate) samples: Vec<Sample>,
    /// Why there are no samples.
    pub(crate) note: Option<String>,
}

/// The tools for the measurement of a row.
pub(crate) struct Runner<'a> {
    pub(crate) bench: &'a BenchServer,
    pub(crate) settings: &'a Settings,
    pub(crate) load: Load<'a>,
}

impl Runner<'_> {
    /// Measures all rows of a size in alternating rounds.
    pub(crate) fn measure(&self, mounts: &[TestMount], size: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut runs: Vec<(&Row, Option<&TestMount>, usize)> = Vec::new();
        for row in ROWS.iter().filter(|row| self.is_due(row.sizes, size)) {
            let is_baseline = matches!(row.work, Work::Baseline);
            let mounts: Vec<Option<&TestMount>> =
                if is_baseline { vec![None] } else { mounts.iter().map(Some).collect() };
            let tried: Vec<_> =
                mounts.into_iter().map(|mount| (mount, mount.and_then(|mount| self.try_out(row, mount)))).collect();
            for &connections in row.connections {
                // One plugin right after the other, so that both meet the same load of the machine.
                for (mount, note) in &tried {
                    if note.is_none() {
                        runs.push((row, *mount, outcomes.len()));
                    }
                    let (plugin, note) = (mount.map(|mount| mount.plugin), note.clone());
                    let (row, astra_ms, samples) = (row.name, row.astra_ms, Vec::new());
                    outcomes.push(Outcome { row, plugin, stored: size, connections, astra_ms, samples, note });
                }
            }
        }
        for round in 1..=self.settings.rounds {
            for &(row, mount, at) in &runs {
                let connections = outcomes[at].connections;
                let sample = self.sample(row, mount, connections);
                crate::say(&format!(
                    "round {round}/{}, {size} tokens, {} {}, {connections} connections: {:.0}/s",
                    self.settings.rounds,
                    mount.map_or("", |mount| mount.plugin),
                    row.name,
                    sample.rate,
                ));
                outcomes[at].samples.push(sample);
            }
        }
        outcomes
    }

    fn is_due(&self, sizes: Sizes, size: usize) -> bool {
        let (fewest, most) = (self.settings.sizes.first(), self.settings.sizes.last());
        match sizes {
            Sizes::Every => true,
            Sizes::Ends => fewest == Some(&size) || most == Some(&size),
            Sizes::Fewest => fewest == Some(&size),
            Sizes::From(least) => size >= least,
        }
    }

    /// Makes one request. If the row cannot be measured, returns the reason.
    fn try_out(&self, row: &Row, mount: &TestMount) -> Option<String> {
        /// With slower requests than this, a run would take hours.
        const PATIENCE: Duration = Duration::from_secs(4);
        let requests = match row.work {
            Work::Baseline => return None,
            Work::Timed(requests) | Work::Counted(_, requests) | Work::Mints(requests) => requests,
            Work::Renewals | Work::Revocations { .. } => sidecar,
        };
        let path = requests(mount).paths.pop().expect("a path");
        let began = Instant::now();
        let reply = self.bench.server.get(&path);
        let took = began.elapsed();
        match reply.status {
            200 if took > PATIENCE => Some(format!("too slow: one took {:.1} s", took.as_secs_f64())),
            200 => None,
            status => Some(format!("not served: status {status}")),
        }
    }

    fn sample(&self, row: &Row, mount: Option<&TestMount>, connections: usize) -> Sample {
        let Some(mount) = mount else { return self.watched(None, || self.run_timed(&baseline(), connections, 1)) };
        let plugin = Some(mount.plugin);
        self.bench.delay_astra(row.astra_ms);
        let sample = match row.work {
            Work::Baseline => unreachable!("the baseline has no mount"),
            Work::Timed(requests) => self.watched(plugin, || self.run_timed(&requests(mount), connections, 1)),
            Work::Counted(each, requests) => {
                self.watched(plugin, || self.load.run(&requests(mount), connections, Until::Count(each * connections)))
            }
            // Slow requests need more time for a useful number of requests.
            Work::Mints(requests) => {
                let times = if row.astra_ms > 0 { 2 } else { 1 };
                self.watched(plugin, || self.run_timed(&requests(mount), connections, times))
            }
            Work::Renewals => {
                let requests = self.renewals(mount);
                self.watched(plugin, || self.run_timed(&requests, connections, 1))
            }
            Work::Revocations { one_by_one } => {
                let minting = self.load.run(&sidecar(mount), 16, Until::Count(self.settings.revocations));
                assert_eq!(minting.failed, 0, "tokens to revoke could not be minted");
                self.watched(plugin, || self.revoke_all(mount, "org/token", self.settings.revocations, one_by_one))
            }
        };
        self.bench.delay_astra(0);
        if !matches!(row.work, Work::Timed(_) | Work::Counted(..)) {
            for prefix in ["org/token", "creds"] {
                self.revoke_all(mount, prefix, 0, false);
            }
        }
        sample
    }

    fn run_timed(&self, requests: &Requests, connections: usize, times: u64) -> Sample {
        self.load.run(requests, connections, Until::Seconds(self.settings.seconds * times))
    }

    /// Runs the work, and adds its processor time to the sample.
    fn watched(&self, plugin: Option<&str>, work: impl FnOnce() -> Sample) -> Sample {
        let plugin = plugin.and_then(|plugin| self.bench.pid(plugin));
        let server = self.bench.server.pid();
        let before = Times::of(plugin, server);
        let sample = work();
        let used = Times::of(plugin, server).since(before);
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let each = |time: Duration| time.as_secs_f64() * 1e6 / sample.requests.max(1) as f64;
        Sample {
            plugin_us: each(used.plugin),
            server_us: each(used.server),
            load_us: each(used.load),
            astra_us: each(used.astra),
            ..sample
        }
    }

    /// Mints tokens, and returns requests that renew their leases.
    fn renewals(&self, mount: &TestMount) -> Requests {
        let path = sidecar(mount).paths.remove(0);
        let lease = |_| json!({"lease_id": self.bench.server.get(&path).ok()["lease_id"]}).to_string();
        Requests { method: "PUT", paths: vec!["sys/leases/renew".into()], bodies: (0..100).map(lease).collect() }
    }

    /// Revokes all leases under a path. Measures the time until Astra has got `leases` deletions.
    fn revoke_all(&self, mount: &TestMount, prefix: &str, leases: usize, one_by_one: bool) -> Sample {
        const LONGEST: Duration = Duration::from_secs(600);
        let server = &self.bench.server;
        let requests = leases as u64;
        let (before, began) = (self.deletions(), Instant::now());
        let path = format!("sys/leases/revoke-prefix/{}/{prefix}", mount.path);
        server.http("PUT", &path, &json!({"sync": one_by_one})).ok();
        wait("tokens to be deleted", LONGEST, || (self.deletions() >= before + requests).then_some(()));
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = requests as f64 / began.elapsed().as_secs_f64();
        wait("all leases to end", LONGEST, || {
            let path = format!("sys/leases/lookup/{}/{prefix}", mount.path);
            (server.list(&path).status == 404).then_some(())
        });
        let each = if one_by_one { 1000.0 / rate } else { f64::NAN };
        Sample { requests, rate, p50_ms: each, p99_ms: f64::NAN, ..Sample::default() }
    }

    fn deletions(&self) -> u64 {
        self.bench.astra.calls(Route::DeleteToken)
    }
}
