//! The figures of the fake host: storage calls, the sweep, memory of https orgs and of a large list.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::world::{self, OVERDUE, ROLE, Tokens, org_name};
use super::{FEW, Row, Table, many, mib, number};
use crate::astra::{Astra, Certificate, Org};
use crate::host::{Host, Launch, Lease, Mount, Reply, Setup, Storage, mount};
use crate::proc::Memory;
use crate::say;

/// Longer than the host waits for a tick.
const TICK: Duration = Duration::from_secs(120);

/// Measures all figures.
pub(super) fn measure() -> Vec<Table> {
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        say("starting a simulated Astra");
        let astra = Astra::builder().orgs(many().0).spawn();
        let [calls, sweeps] = sizes(&astra).await;
        vec![calls, sweeps, memory().await]
    })
}

/// A mount of a new process.
struct World {
    host: Host,
    mount: Mount,
}

impl World {
    async fn start(storage: Storage) -> Self {
        let host = Host::start(Launch::astra()).await;
        let mount = host.mount_with(Setup { storage, ..Setup::default() }).await.expect("set up a mount");
        mount.initialize().await;
        Self { host, mount }
    }

    /// Starts a mount with these tokens, and with a config and a role for each org.
    async fn with(astra: &Astra, tokens: Tokens<'_>) -> Self {
        let storage = Storage::default();
        let insert = |(key, value): (String, String)| storage.insert(&key, value.as_bytes());
        insert(world::inventory());
        for (number, org) in tokens.orgs.iter().enumerate() {
            world::org_entries(astra, org, number).into_iter().for_each(insert);
        }
        (0..tokens.count).flat_map(|number| tokens.entries(number)).for_each(insert);
        tokens.adopt_overdue(astra);
        Self::start(storage).await
    }

    async fn mint(&self, org: usize) -> Lease {
        let path = format!("creds/{}/{ROLE}", org_name(org));
        Lease::new(&path, done(&self.mount.read(&path).await))
    }

    async fn rename(&self, org: &Org, name: &str) {
        done(&self.mount.write("config", json!({"org_id": org.id, "logical_name": name})).await);
    }

    async fn tick(&self) -> Duration {
        let began = Instant::now();
        let tick = mount::tick(&json!({"immediate": false}));
        done(&self.mount.send_within(tick, TICK).await.expect("a tick"));
        began.elapsed()
    }

    /// Returns the storage calls since the last question, as a sum and by method.
    fn calls(&self) -> (usize, String) {
        let calls = self.mount.storage.take_calls();
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &calls {
            *kinds.entry(call.split(' ').next().unwrap_or_default()).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        (calls.len(), kinds.join(", "))
    }

    /// Counts the storage calls of requests.
    async fn requests(&self, tokens: Tokens<'_>) -> Vec<Row> {
        // The first requests fill the caches.
        self.mint(0).await;
        self.rename(&tokens.orgs[1], "renamed").await;
        self.calls();
        let of = described(tokens);
        self.rename(&tokens.orgs[1], "renamed-again").await;
        let mut rows = vec![self.counted(format!("config write after another config write, {of}"), 6)];
        let mut lease = self.mint(0).await;
        rows.push(self.counted(format!("`creds` mint right after a config write, {of}"), 8));
        self.mint(0).await;
        rows.push(self.counted(format!("`creds` mint, {of}"), 8));
        done(&self.mount.renew(&mut lease, Duration::ZERO).await);
        rows.push(self.counted(format!("renew, {of}"), 1));
        done(&self.mount.revoke(&lease).await);
        rows.push(self.counted(format!("revoke, {of}"), 2));
        rows
    }

    /// Returns a row with the storage calls since the last question.
    fn counted(&self, what: String, most: usize) -> Row {
        let (calls, kinds) = self.calls();
        let mut row = Row::at_most(what, number(calls), number(most), "");
        row.result = format!("{calls} ({kinds})");
        row
    }

    /// Measures how long the sweep needs to find the overdue tokens.
    async fn sweep(&self, astra: &Astra, tokens: Tokens<'_>, most: usize) -> Vec<Row> {
        self.calls();
        let (before, mut ticks, mut time, mut longest) = (requests(astra), 0, Duration::ZERO, Duration::ZERO);
        while tokens.overdue_left(astra) > 0 {
            assert!(ticks < 100, "the sweep does not find the overdue tokens");
            let took = self.tick().await;
            (ticks, time, longest) = (ticks + 1, time + took, longest.max(took));
        }
        let of = format!("{OVERDUE} overdue among {}", described(tokens));
        let times = format!("{:.1} s, {:.1} s", time.as_secs_f64(), longest.as_secs_f64());
        vec![
            Row::at_most(format!("ticks until {of} are gone"), number(ticks), number(most), ""),
            Row::new("time of these ticks, of the longest tick", times),
            Row::new("storage calls of these ticks", self.calls().1),
            Row::at_most("calls of Astra in these ticks", requests(astra) - before, number(OVERDUE), ""),
        ]
    }

    /// Sends ticks until one checks no records, and returns the storage calls of this tick.
    async fn resting_tick(&self, tokens: Tokens<'_>) -> Row {
        const MOST: usize = 3;
        for _ in 0..20 {
            self.calls();
            self.tick().await;
            if self.mount.storage.calls() <= MOST {
                break;
            }
        }
        self.counted(format!("tick after all records were checked, {}", described(tokens)), MOST)
    }

    fn memory(&self) -> Memory {
        Memory::of(self.host.plugin.pid().as_raw_pid().unsigned_abs())
    }
}

/// Measures mounts of several sizes: first the storage calls of requests, then the sweep.
async fn sizes(astra: &Astra) -> [Table; 2] {
    let (mut calls, mut sweeps) = (Vec::new(), Vec::new());
    let size = |(orgs, count), overdue, prefix| Tokens { orgs: &astra.orgs()[..orgs], count, overdue, prefix };
    let few = size(FEW, 0, "Few");
    say(&described(few));
    let world = World::with(astra, few).await;
    calls.extend(world.requests(few).await);
    calls.push(world.resting_tick(few).await);
    world.host.stop().await;
    for (orgs, prefix) in [(10, "Dense"), (many().0, "Wide")] {
        let tokens = size((orgs, 20_000), OVERDUE, prefix);
        say(&described(tokens));
        let world = World::with(astra, tokens).await;
        sweeps.extend(world.sweep(astra, tokens, 3).await);
        world.host.stop().await;
    }
    let many = size(many(), OVERDUE, "Many");
    say(&described(many));
    let world = World::with(astra, many).await;
    calls.extend(world.requests(many).await);
    // A tick checks records for 30 s, so ten times as many records may need ten times as many ticks.
    sweeps.extend(world.sweep(astra, many, 30).await);
    calls.push(world.resting_tick(many).await);
    world.host.stop().await;
    [
        Table { title: "Storage calls (fake host)".into(), rows: calls },
        Table { title: "Sweep (fake host, one tick after another)".into(), rows: sweeps },
    ]
}

fn described(tokens: Tokens<'_>) -> String {
    format!("{} tokens of {} orgs", tokens.count, tokens.orgs.len())
}

async fn memory() -> Table {
    const HTTPS: usize = 200;
    say("memory");
    let astra = Astra::builder().orgs(HTTPS + 1).tls(Certificate::Valid).spawn();
    let orgs = astra.orgs();
    let world = World::with(&astra, Tokens { orgs, count: 1, overdue: 0, prefix: "Https" }).await;
    world.mint(0).await;
    let before = world.memory();
    for org in 1..=HTTPS {
        world.mint(org).await;
    }
    let added = mib(world.memory().resident.saturating_sub(before.resident));
    world.host.stop().await;
    let https = Row::at_most(format!("memory of {HTTPS} `https` orgs, each used once"), added, 20.0, "MiB");

    let storage = Storage::default();
    let org = &orgs[0];
    let records = (0..1000).map(|number| world::large_record(org, number, 64 << 10));
    let entries = world::org_entries(&astra, org, 0).into_iter().chain([world::inventory()]).chain(records);
    entries.for_each(|(key, value)| storage.insert(&key, value.as_bytes()));
    let world = World::start(storage).await;
    done(&world.mount.call("read", "role", &json!({"org_id": org.id, "role_name": ROLE})).await);
    let before = world.memory();
    done(&world.mount.call("list", "org/tokens/", &json!({"org_id": org.id})).await);
    let added = mib(world.memory().peak.saturating_sub(before.resident));
    world.host.stop().await;
    let list = Row::at_most("peak memory of a list of 1,000 records with 64 KiB of metadata each", added, 48.0, "MiB");
    Table { title: "Memory of the plugin (fake host)".into(), rows: vec![https, list] }
}

/// Returns the number of all requests to Astra.
fn requests(astra: &Astra) -> f64 {
    let counters = astra.counters();
    counters["routes"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_f64()).sum()
}

fn done(reply: &Reply) -> &Reply {
    assert!((200..300).contains(&reply.http()), "status {}: {}", reply.http(), reply.error());
    reply
}
