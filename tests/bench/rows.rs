//! The table of what is measured, and how a row of it is measured.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::astra::Route;
use crate::bao::wait;
use crate::load::{Load, Sample, Shot, Until};
use crate::proc::processor_time;
use crate::scene::{FLOOR, Place, ROLES, Scene, client_id, logical_name, role};
use crate::settings::Settings;

/// A row: one kind of work.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) sizes: Sizes,
    pub(crate) connections: &'static [usize],
    /// How long Astra takes for an answer.
    pub(crate) astra_ms: u64,
    pub(crate) work: Work,
}

/// With how many tokens stored a row is measured.
#[derive(Clone, Copy)]
pub(crate) enum Sizes {
    Every,
    /// The fewest and the most.
    Ends,
    Fewest,
    /// At least so many.
    From(usize),
}

pub(crate) enum Work {
    /// The server's own engine, with which all is compared.
    Floor,
    /// Requests for some time.
    Requests(fn(&Place) -> Shot),
    /// So many requests on each connection, of a kind that takes long.
    Batch(usize, fn(&Place) -> Shot),
    /// The same, of a kind that leaves leases.
    Mints(fn(&Place) -> Shot),
    /// Renewals of leases, minted before.
    Renewals,
    /// The end of leases, minted before, by one request for all of them: one after another, or by as many workers as the
    /// server has.
    Revocations { one_by_one: bool },
}

const ONE_AND_MANY: &[usize] = &[1, 16];

/// The server does it all by itself.
const NONE: &[usize] = &[0];

pub(crate) const KV: &str = "kv v1 read";
pub(crate) const ROLE_READ: &str = "role read";
pub(crate) const BY_NAME: &str = "token by name";
pub(crate) const BY_CLIENT_ID: &str = "token by client id";
pub(crate) const PAGE: &str = "list, page of 100 with details";
pub(crate) const LONG_LIST: &str = "list, 10,000 with details";
pub(crate) const SLOW_MINT: &str = "creds mint, Astra at 200 ms";

pub(crate) const ROWS: &[Row] = &[
    row(KV, Sizes::Every, ONE_AND_MANY, Work::Floor),
    row(ROLE_READ, Sizes::Every, ONE_AND_MANY, Work::Requests(role_read)),
    row(BY_NAME, Sizes::Every, ONE_AND_MANY, Work::Requests(by_name)),
    row(BY_CLIENT_ID, Sizes::Every, ONE_AND_MANY, Work::Requests(by_client_id)),
    row(PAGE, Sizes::Every, ONE_AND_MANY, Work::Requests(page)),
    row(LONG_LIST, Sizes::From(10_000), ONE_AND_MANY, Work::Batch(1, long_list)),
    row("creds mint", Sizes::Ends, ONE_AND_MANY, Work::Mints(creds)),
    row("sidecar mint", Sizes::Ends, ONE_AND_MANY, Work::Mints(sidecar)),
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

/// Paths among which the load generator picks.
const PATHS: usize = 1000;

fn floor() -> Shot {
    Shot::get((0..ROLES).map(|number| format!("{FLOOR}/{}", role(number))))
}

pub(crate) fn role_read(place: &Place) -> Shot {
    let Place { mount, standard: org, .. } = place;
    Shot::get((0..ROLES).map(|number| format!("{mount}/role?org_id={}&role_name={}", org.id, role(number))))
}

fn by_name(place: &Place) -> Shot {
    let Place { mount, standard: org, .. } = place;
    Shot::get(picks(place).map(|number| {
        let (role, name) = (role(number % ROLES), logical_name(number));
        format!("{mount}/org/token?org_id={}&role_name={role}&logical_name={name}", org.id)
    }))
}

fn by_client_id(place: &Place) -> Shot {
    let Place { mount, standard: org, .. } = place;
    Shot::get(picks(place).map(|number| format!("{mount}/org/token?org_id={}&client_id={}", org.id, client_id(number))))
}

fn page(place: &Place) -> Shot {
    let Place { mount, standard: org, .. } = place;
    let places = picks(place).map(|number| client_id(number.min(place.stored.saturating_sub(101))));
    Shot::get(places.map(|after| format!("{mount}/org/tokens?list=true&org_id={}&limit=100&after={after}", org.id)))
}

fn long_list(place: &Place) -> Shot {
    let Place { mount, standard: org, .. } = place;
    Shot::get([format!("{mount}/org/tokens?list=true&org_id={}&limit=10000", org.id)])
}

pub(crate) fn creds(place: &Place) -> Shot {
    Shot::get([format!("{}/creds/shop/{}", place.mount, role(0))])
}

fn sidecar(place: &Place) -> Shot {
    let Place { mount, sidecar: org, .. } = place;
    Shot::get([format!("{mount}/org/token?org_id={}&role_name={}&logical_name=bench", org.id, role(0))])
}

/// Reads of all kinds, for the memory that they leave.
pub(crate) fn mixture(place: &Place) -> Shot {
    let reads = [role_read, by_name, by_client_id].map(|shot| shot(place).paths);
    let pages = page(place).paths.into_iter().step_by(10);
    Shot::get(reads.into_iter().flatten().chain(pages))
}

/// Returns the numbers of stored tokens, evenly spread.
fn picks(place: &Place) -> impl Iterator<Item = usize> + use<> {
    let stored = place.stored;
    let count = stored.min(PATHS);
    (0..count).map(move |at| at * stored / count)
}

/// The results of one row for one plugin at one size with one number of connections.
pub(crate) struct Outcome {
    pub(crate) row: &'static str,
    /// None for the server's own engine.
    pub(crate) plugin: Option<&'static str>,
    pub(crate) stored: usize,
    pub(crate) connections: usize,
    /// Whether it says something to compare its rate with that of the server's own engine.
    pub(crate) compared: bool,
    pub(crate) samples: Vec<Sample>,
    /// Why there are none.
    pub(crate) note: Option<String>,
}

/// What a row is measured with.
pub(crate) struct Stage<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) settings: &'a Settings,
    pub(crate) load: Load<'a>,
}

impl Stage<'_> {
    /// Measures all rows of a size in alternating rounds.
    pub(crate) fn measure(&self, places: &[Place], size: usize) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut runs: Vec<(&Row, Option<&Place>, usize)> = Vec::new();
        for row in ROWS.iter().filter(|row| self.is_due(row.sizes, size)) {
            let of_floor = matches!(row.work, Work::Floor);
            let places: Vec<Option<&Place>> = if of_floor { vec![None] } else { places.iter().map(Some).collect() };
            for place in places {
                let note = place.and_then(|place| self.try_out(row, place));
                for &connections in row.connections {
                    if note.is_none() {
                        runs.push((row, place, outcomes.len()));
                    }
                    let plugin = place.map(|place| place.plugin);
                    let (compared, samples, note) = (row.astra_ms == 0, Vec::new(), note.clone());
                    let row = row.name;
                    outcomes.push(Outcome { row, plugin, stored: size, connections, compared, samples, note });
                }
            }
        }
        for round in 1..=self.settings.rounds {
            for &(row, place, at) in &runs {
                let connections = outcomes[at].connections;
                let sample = self.sample(row, place, connections);
                crate::say(&format!(
                    "round {round}/{}, {size} tokens, {} {}, {connections} connections: {:.0}/s",
                    self.settings.rounds,
                    place.map_or("", |place| place.plugin),
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

    /// Makes one request; says why there is no use in more.
    fn try_out(&self, row: &Row, place: &Place) -> Option<String> {
        /// What takes longer than this would take hours in all.
        const PATIENCE: Duration = Duration::from_secs(4);
        let shot = match row.work {
            Work::Floor => return None,
            Work::Requests(shot) | Work::Batch(_, shot) | Work::Mints(shot) => shot,
            Work::Renewals | Work::Revocations { .. } => sidecar,
        };
        let path = shot(place).paths.pop().expect("a path");
        let began = Instant::now();
        let reply = self.scene.server.get(&path);
        let took = began.elapsed();
        match reply.status {
            200 if took > PATIENCE => Some(format!("too slow: one took {:.1} s", took.as_secs_f64())),
            200 => None,
            status => Some(format!("not served: status {status}")),
        }
    }

    fn sample(&self, row: &Row, place: Option<&Place>, connections: usize) -> Sample {
        let Some(place) = place else { return self.watched(None, || self.requests(&floor(), connections, 1)) };
        let plugin = Some(place.plugin);
        self.scene.delay_astra(row.astra_ms);
        let sample = match row.work {
            Work::Floor => unreachable!("it has no place"),
            Work::Requests(shot) => self.watched(plugin, || self.requests(&shot(place), connections, 1)),
            Work::Batch(each, shot) => {
                self.watched(plugin, || self.load.run(&shot(place), connections, Until::Requests(each * connections)))
            }
            // Where a request takes long, more time is needed for as many of them.
            Work::Mints(shot) => {
                let times = if row.astra_ms > 0 { 2 } else { 1 };
                self.watched(plugin, || self.requests(&shot(place), connections, times))
            }
            Work::Renewals => {
                let shot = self.renewals(place);
                self.watched(plugin, || self.requests(&shot, connections, 1))
            }
            Work::Revocations { one_by_one } => {
                let minting = self.load.run(&sidecar(place), 16, Until::Requests(self.settings.revocations));
                assert_eq!(minting.failed, 0, "tokens to revoke could not be minted");
                self.watched(plugin, || self.revoke_all(place, "org/token", self.settings.revocations, one_by_one))
            }
        };
        self.scene.delay_astra(0);
        if !matches!(row.work, Work::Requests(_) | Work::Batch(..)) {
            for prefix in ["org/token", "creds"] {
                self.revoke_all(place, prefix, 0, false);
            }
        }
        sample
    }

    fn requests(&self, shot: &Shot, connections: usize, times: u64) -> Sample {
        self.load.run(shot, connections, Until::Seconds(self.settings.seconds * times))
    }

    /// Adds the processor time that the work took.
    fn watched(&self, plugin: Option<&str>, work: impl FnOnce() -> Sample) -> Sample {
        let plugin = plugin.and_then(|plugin| self.scene.pid(plugin));
        let server = self.scene.server.pid();
        let times = || (plugin.map(processor_time).unwrap_or_default(), processor_time(server));
        let before = times();
        let mut sample = work();
        let after = times();
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let each = |used: Duration| used.as_secs_f64() * 1e6 / sample.requests.max(1) as f64;
        (sample.plugin_us, sample.server_us) = (each(after.0 - before.0), each(after.1 - before.1));
        sample
    }

    /// Mints some tokens and returns requests that renew their leases.
    fn renewals(&self, place: &Place) -> Shot {
        let path = sidecar(place).paths.remove(0);
        let lease = |_| json!({"lease_id": self.scene.server.get(&path).ok()["lease_id"]}).to_string();
        Shot { method: "PUT", paths: vec!["sys/leases/renew".into()], bodies: (0..100).map(lease).collect() }
    }

    /// Ends all leases under a path. The time is that of so many of them, seen by Astra.
    fn revoke_all(&self, place: &Place, prefix: &str, leases: usize, one_by_one: bool) -> Sample {
        const LONGEST: Duration = Duration::from_secs(600);
        let server = &self.scene.server;
        let requests = leases as u64;
        let (before, began) = (self.deletions(), Instant::now());
        let path = format!("sys/leases/revoke-prefix/{}/{prefix}", place.mount);
        server.http("PUT", &path, &json!({"sync": one_by_one})).ok();
        wait("tokens to be deleted", LONGEST, || (self.deletions() >= before + requests).then_some(()));
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = requests as f64 / began.elapsed().as_secs_f64();
        wait("all leases to end", LONGEST, || {
            let path = format!("sys/leases/lookup/{}/{prefix}", place.mount);
            (server.list(&path).status == 404).then_some(())
        });
        let each = if one_by_one { 1000.0 / rate } else { f64::NAN };
        Sample { requests, rate, p50_ms: each, p99_ms: f64::NAN, ..Sample::default() }
    }

    fn deletions(&self) -> u64 {
        self.scene.astra.calls(Route::DeleteToken)
    }
}
