//! The figures of a real server: the sweep, an outage of Astra, pages, and the memory of the plugin.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::world::{self, Entry, OVERDUE, ROLE, Tokens, org_name};
use super::{Row, Table, many, mib, number, scaled};
use crate::astra::{Astra, AstraFault, Kind, Route};
use crate::bao::{Options, Server, wait};
use crate::proc::{Memory, processor_time};
use crate::say;

/// Number of connections that write entries or mint tokens.
const CALLERS: usize = 8;

/// Number of leases that are revoked in the outage, and of their orgs.
const LEASES: (usize, usize) = (5_000, 10);

/// Duration of the outage.
const OUTAGE: Duration = Duration::from_secs(90);

/// The pause between two looks at the server in the outage.
const LOOK: Duration = Duration::from_secs(2);

/// The longest time until everything is clean after the outage.
const LONGEST: Duration = Duration::from_secs(420);

/// The mounts with few and with many records whose pages are compared: number of orgs, and of records. Only orgs with
/// records count.
const PAGED: [(&str, usize, usize); 3] =
    [("few-few", 10, 1_000), ("few-many", 10, 100_000), ("many-few", 10_000, 1_000)];

/// The mount with all orgs and all tokens.
const LARGE: &str = "large";

/// A server, and a simulated Astra with 10,000 orgs.
struct World {
    server: Server,
    astra: Astra,
}

/// Measures all figures.
pub(super) fn measure() -> Table {
    say("starting a server and a simulated Astra");
    let (orgs, count) = many();
    let server = Server::dev_with(&Options { log_level: "error", ..Options::default() });
    let world = World { server, astra: Astra::builder().orgs(orgs).spawn() };
    let version = world.server.get("sys/health").ok()["version"].as_str().unwrap_or("unknown").to_owned();
    let tokens = Tokens { orgs: world.astra.orgs(), count, overdue: OVERDUE, prefix: "Large" };
    let mut rows = vec![world.fill(tokens)];
    rows.extend(world.sweep(tokens));
    rows.extend(world.outage().rows());
    world.rest();
    rows.extend(world.pages());
    let memory = world.memory();
    let loaded = format!("memory of the plugin with all of this loaded: {} mounts", PAGED.len() + 1);
    rows.push(Row::new(loaded, format!("{:.1} MiB", mib(memory.resident))));
    rows.push(Row::new("its peak", format!("{:.1} MiB", mib(memory.peak))));
    Table { title: format!("A real server ({version}) with {orgs} orgs and {count} tokens"), rows }
}

impl World {
    /// Stores the entries of all mounts, and restarts the plugin on them.
    fn fill(&self, tokens: Tokens<'_>) -> Row {
        let began = Instant::now();
        self.store(LARGE, 1, |_| vec![world::inventory()]);
        self.store(LARGE, tokens.orgs.len(), |number| {
            world::org_entries(&self.astra, &tokens.orgs[number], number).into()
        });
        let in_use = |number| !tokens.is_overdue(number);
        self.store(LARGE, tokens.count, |number| {
            Vec::from(tokens.entries(number)).into_iter().filter(|_| in_use(number)).collect()
        });
        say(&format!("filled the large mount in {:.0?}", began.elapsed()));
        for (mount, orgs, count) in PAGED {
            let count = scaled(count);
            let paged = Tokens { orgs: &self.astra.orgs()[..orgs.min(count)], count, overdue: 0, prefix: "Paged" };
            self.store(mount, 1, |_| vec![world::inventory()]);
            // A page does not read tokens.
            self.store(mount, count, |number| paged.entries(number)[1..].to_vec());
        }
        // Last, because the server already sends ticks.
        tokens.adopt_overdue(&self.astra);
        let overdue = tokens.overdue();
        self.store(LARGE, overdue.len(), |at| tokens.entries(overdue[at]).into());
        // A new process has an empty cache, and begins its first pass.
        let mounts: Vec<String> =
            PAGED.iter().map(|paged| format!("{}/", paged.0)).chain([format!("{LARGE}/")]).collect();
        self.server.post("sys/plugins/reload/backend", &json!({"mounts": mounts})).ok();
        wait("the plugin to run again", Duration::from_secs(60), || (!self.server.plugins().is_empty()).then_some(()));
        Row::new("time to store all entries", format!("{:.0} s", began.elapsed().as_secs_f64()))
    }

    /// Writes entries into the storage of a mount. Enables the mount first.
    fn store(&self, mount: &str, count: usize, entries: impl Fn(usize) -> Vec<Entry> + Sync) {
        if self.server.get(&format!("sys/mounts/{mount}")).status != 200 {
            self.server.enable(mount);
        }
        let raw = format!("sys/raw/logical/{}", self.uuid(mount));
        let entries = &entries;
        thread::scope(|threads| {
            for first in 0..CALLERS {
                let mut writer = Writer::new(&self.server);
                let raw = &raw;
                threads.spawn(move || {
                    for (key, value) in (first..count).step_by(CALLERS).flat_map(entries) {
                        writer.post(&format!("{raw}/{key}"), &json!({"value": value}));
                    }
                    writer.finish();
                });
            }
        });
    }

    fn uuid(&self, mount: &str) -> String {
        let data = self.server.get(&format!("sys/mounts/{mount}")).data();
        data["uuid"].as_str().expect("the id of a mount").to_owned()
    }

    /// Calls `work` with the numbers from 0 to `count`, in several threads.
    fn at_once(&self, count: usize, work: impl Fn(usize) + Sync) {
        let work = &work;
        thread::scope(|threads| {
            for first in 0..CALLERS {
                threads.spawn(move || (first..count).step_by(CALLERS).for_each(work));
            }
        });
    }

    /// Waits until the sweep has deleted all overdue tokens. The server sends a tick each minute.
    fn sweep(&self, tokens: Tokens<'_>) -> [Row; 2] {
        let (began, deletions) = (Instant::now(), self.astra.calls(Route::DeleteToken));
        let limit = Duration::from_secs(600);
        wait("the overdue tokens to be deleted", limit, || (tokens.overdue_left(&self.astra) == 0).then_some(()));
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        let deletions = (self.astra.calls(Route::DeleteToken) - deletions) as f64;
        [
            Row::new(
                format!(
                    "time until {OVERDUE} overdue among {} records are gone, with a tick each minute",
                    tokens.count
                ),
                format!("{minutes:.1} min"),
            ),
            Row::at_most("DELETE calls of Astra for them", deletions, number(OVERDUE), ""),
        ]
    }

    /// Waits until the plugin is idle.
    fn rest(&self) {
        say("waiting until the plugin is idle");
        let pid = self.server.plugins()[0];
        wait("the plugin to be idle", Duration::from_secs(180), || {
            let before = processor_time(pid);
            thread::sleep(Duration::from_secs(2));
            (processor_time(pid) - before < Duration::from_millis(20)).then_some(())
        });
    }

    /// Measures an outage in which many leases are to be revoked, and the time after it.
    fn outage(&self) -> Outage {
        let (leases, orgs) = LEASES;
        say(&format!("minting {leases} tokens"));
        self.at_once(leases, |number| {
            self.server.get(&format!("{LARGE}/creds/{}/{ROLE}", org_name(number % orgs))).ok();
        });
        let memory = self.memory();
        say("the outage begins");
        // For an answer with a status, the simulator copies all its data, so it would be too slow.
        let fault = self.astra.fault(AstraFault::before(Kind::Reset));
        let (began, start) = (Instant::now(), Calls::of(&self.astra));
        self.server.http("PUT", &format!("sys/leases/revoke-prefix/{LARGE}/creds"), &json!({"sync": false})).ok();
        let wal = format!("sys/raw/logical/{}/wal", self.uuid(LARGE));
        let mut entries = 0;
        let mut look = || {
            thread::sleep(LOOK);
            let now = self.server.keys(&wal).len();
            entries = entries.max(now);
            now
        };
        while began.elapsed() < OUTAGE {
            look();
        }
        let attempts = self.server.log().matches("failed to revoke lease").count();
        self.astra.clear_fault(fault);
        let (healed, middle) = (Instant::now(), Calls::of(&self.astra));
        say(&format!("the outage ends after {attempts} attempts; {} log entries", look()));
        let path = format!("sys/leases/lookup/{LARGE}/creds");
        let mut revoked = None;
        wait("leases and log entries to be gone", LONGEST, || {
            let left = look();
            if revoked.is_none() && self.server.list(&path).status == 404 {
                revoked = Some(healed.elapsed());
                say(&format!("all leases are revoked; {left} log entries"));
            }
            (left == 0 && revoked.is_some()).then_some(())
        });
        let (revoked, clean) = (revoked.unwrap_or_default(), healed.elapsed());
        let (during, after) = (middle - start, Calls::of(&self.astra) - middle);
        Outage { attempts, entries, during, after, revoked, clean, memory: (memory, self.memory()) }
    }

    /// Compares pages of 100 tokens of all orgs, with few and with many records.
    fn pages(&self) -> Vec<Row> {
        let of = |count: usize, orgs: usize| format!("{count} records of {orgs} orgs");
        let [few_few, few_many, many_few] = PAGED.map(|(mount, orgs, count)| {
            let count = scaled(count);
            (of(count, orgs.min(count)), self.page(mount, "Paged", count))
        });
        let (orgs, count) = many();
        let many_many = (of(count, orgs), self.page(LARGE, "Large", count));
        let row = |(few, few_ms): (String, f64), (many, many_ms): (String, f64)| {
            let measured =
                format!("page of 100 over all orgs: {many} ({many_ms:.1} ms) against {few} ({few_ms:.1} ms)");
            Row::at_most(measured, many_ms / few_ms, 3.0, "times")
        };
        vec![row(few_few, few_many), row(many_few, many_many)]
    }

    /// Returns the median time of a page, in milliseconds.
    fn page(&self, mount: &str, prefix: &str, count: usize) -> f64 {
        const PAGES: usize = 21;
        let times = (0..=PAGES).map(|page| {
            let after = format!("{prefix}{:012}", page * count / (PAGES + 2));
            let began = Instant::now();
            let path = format!("{mount}/org/tokens?list=true&limit=100&after={after}");
            let keys = self.server.get(&path).data()["keys"].take();
            assert!(keys.as_array().is_some_and(|keys| !keys.is_empty()), "a page of {mount} is empty");
            began.elapsed().as_secs_f64() * 1000.0
        });
        // The first page lists the orgs.
        let times: Vec<f64> = times.skip(1).collect();
        crate::report::median(times.into_iter())
    }

    fn memory(&self) -> Memory {
        Memory::of(self.server.plugins()[0])
    }
}

/// The figures of an outage.
struct Outage {
    /// How often the server tried to revoke a lease during the outage.
    attempts: usize,
    /// The largest number of WAL entries.
    entries: usize,
    during: Calls,
    after: Calls,
    /// The time from the end of the outage until all leases are revoked.
    revoked: Duration,
    /// The time from the end of the outage until the write-ahead log is empty, too.
    clean: Duration,
    /// The memory of the plugin before and after.
    memory: (Memory, Memory),
}

impl Outage {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    fn rows(&self) -> Vec<Row> {
        let Self { attempts, entries, during, after, revoked, clean, memory: (before, now) } = self;
        let (leases, orgs) = LEASES;
        let attempts = number(*attempts);
        let ticks = (clean.as_secs_f64() / 60.0).ceil();
        let at_most = |measured: &str, count: u64, most: f64| Row::at_most(measured, count as f64, most, "");
        let memory = format!("{:.1}, {:.1}; {:.1} MiB", mib(before.resident), mib(now.resident), mib(now.peak));
        vec![
            Row::new(
                format!("revocations of {leases} leases that failed in an outage of {}", seconds(OUTAGE)),
                attempts.to_string(),
            ),
            at_most(
                "DELETE calls during the outage; without a pause: 4 for each attempt",
                during.delete,
                0.4 * attempts,
            ),
            at_most("lists during the outage; without sharing: 1 for each attempt", during.list, 0.1 * attempts),
            Row::new("other calls of Astra during the outage", during.other.to_string()),
            Row::at_most("WAL entries at the peak", number(*entries), number(leases), ""),
            Row::new(format!("DELETE calls after the outage, for {leases} tokens"), after.delete.to_string()),
            at_most("lists after the outage, 2 for each org and tick", after.list, 2.0 * number(orgs) * ticks),
            Row::new("other calls of Astra after the outage", after.other.to_string()),
            Row::new("time after the outage until all leases are revoked", seconds(*revoked)),
            Row::new("time after the outage until no WAL entry is left", seconds(*clean)),
            Row::new("memory before, after; peak so far", memory),
        ]
    }
}

/// Sends many writes over one connection, without waiting for each answer. Storing half a million entries one by one
/// would take most of the time of the run.
struct Writer {
    stream: BufReader<TcpStream>,
    head: String,
    requests: String,
    waiting: usize,
}

impl Writer {
    /// The number of requests that are sent at once.
    const BATCH: usize = 32;

    fn new(server: &Server) -> Self {
        let host = server.address().trim_start_matches("http://");
        let stream = BufReader::new(TcpStream::connect(host).expect("connect to the server"));
        let head = format!("HTTP/1.1\r\nHost: {host}\r\nX-Vault-Request: true\r\nX-Vault-Token: {}", server.token());
        Self { stream, head, requests: String::new(), waiting: 0 }
    }

    fn post(&mut self, path: &str, body: &Value) {
        let body = body.to_string();
        let (head, length) = (&self.head, body.len());
        write!(self.requests, "POST /v1/{path} {head}\r\nContent-Length: {length}\r\n\r\n{body}")
            .expect("write into a text");
        self.waiting += 1;
        if self.waiting == Self::BATCH {
            self.finish();
        }
    }

    /// Sends the requests and reads their answers, which have no bodies.
    fn finish(&mut self) {
        self.stream.get_mut().write_all(self.requests.as_bytes()).expect("send requests");
        self.requests.clear();
        for _ in 0..std::mem::take(&mut self.waiting) {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("read an answer");
            assert!(line.starts_with("HTTP/1.1 204"), "an entry was not stored: {line}");
            while line != "\r\n" {
                line.clear();
                self.stream.read_line(&mut line).expect("read an answer");
            }
        }
    }
}

/// Calls of Astra, by route.
#[derive(Clone, Copy)]
struct Calls {
    delete: u64,
    list: u64,
    other: u64,
}

impl Calls {
    fn of(astra: &Astra) -> Self {
        let (delete, list) = (astra.calls(Route::DeleteToken), astra.calls(Route::ListTokens));
        let counters = astra.counters();
        let all: u64 =
            counters["routes"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        Self { delete, list, other: all - delete - list }
    }
}

impl std::ops::Sub for Calls {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        let (delete, list) = (self.delete - earlier.delete, self.list - earlier.list);
        Self { delete, list, other: self.other - earlier.other }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.0} s", time.as_secs_f64())
}
