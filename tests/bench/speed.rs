//! Measures speed and size of the plugin on a real server, and compares them with the server's `kv` engine.
//!
//! Server, plugin, simulated Astra and load generator share the machine. So one run measures everything, and the
//! targets are ratios.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::bao::Product;
use crate::figures;
use crate::load::{Load, Until};
use crate::proc::Memory;
use crate::report::Report;
use crate::rows::{self, Outcome, Runner};
use crate::server::{BenchServer, TestMount};
use crate::settings::Settings;
use crate::{OURS, PEER, say, targets};

/// Measures everything and prints the report.
pub(crate) fn run() -> Result<(), String> {
    let settings = Settings::read()?;
    let report = measure(&settings);
    println!("\n{}\n{}", report.results(), report.for_contributors());
    std::fs::create_dir_all(settings.json.parent().expect("a folder")).expect("make the report's folder");
    std::fs::write(&settings.json, format!("{:#}\n", report.json())).expect("write the report");
    if settings.write {
        publish(&report);
    }
    say(&format!("done; every round is in {}", settings.json.display()));
    Ok(())
}

fn measure(settings: &Settings) -> Report {
    let began = Instant::now();
    let peer = settings.peer.as_deref().map(|peer| (PEER, peer));
    let binaries: Vec<_> = std::iter::once((OURS, settings.plugin.as_path())).chain(peer).collect();
    say("starting a server");
    let bench = BenchServer::new(&binaries);
    let (fewest, most) = (settings.sizes[0], settings.sizes[settings.sizes.len() - 1]);
    say("start, memory and calls");
    let mut figures = figures::before(&bench, settings.starts);
    for (figures, plugin) in figures.iter_mut().zip(&bench.plugins) {
        figures::on_the_wire(figures, plugin, (fewest, most));
    }
    let mut mounts: Vec<TestMount> = bench.plugins.iter().map(|plugin| TestMount::new(&bench, plugin.name)).collect();
    let dir = tempfile::tempdir().expect("temporary directory");
    let load = Load { oha: &settings.oha, address: bench.server.address(), token: "root", dir: dir.path() };
    let runner = Runner { bench: &bench, settings, load };
    let mut outcomes: Vec<Outcome> = Vec::new();
    for &size in &settings.sizes {
        mounts.iter_mut().for_each(|mount| mount.fill(&bench, size));
        outcomes.extend(runner.measure(&mounts, size));
    }
    for (mount, figures) in mounts.iter().zip(&mut figures) {
        say(&format!("memory of {} after {} mixed requests", mount.plugin, settings.mixed));
        figures.after = after_many(&runner, mount, settings.mixed);
    }
    Report {
        settings: described(&bench, settings, began.elapsed()),
        peer_is_go: settings.peer.as_deref().is_some_and(targets::is_go),
        echo_ms: figures::echo_ms(settings.starts),
        figures,
        outcomes,
    }
}

/// Returns the memory of a new process after many requests. Returns zeros if the plugin cannot answer all of them.
fn after_many(runner: &Runner<'_>, mount: &TestMount, count: usize) -> Memory {
    let mixture = rows::mixture(mount);
    let served = |path: &String| runner.bench.server.get(path).status == 200;
    if !mixture.paths.iter().step_by(500).all(served) {
        return Memory::default();
    }
    figures::restart(runner.bench, mount.plugin, &mount.path);
    let sample = runner.load.run(&mixture, 16, Until::Count(count));
    assert_eq!(sample.failed, 0, "some of the mixed requests failed");
    Memory::of(runner.bench.pid(mount.plugin).expect("the plugin runs"))
}

/// Describes the machine, the versions and the settings of the run.
fn described(bench: &BenchServer, settings: &Settings, took: Duration) -> String {
    let health = bench.server.get("sys/health").ok();
    let first = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "Commit {}, {:?} {}, {}, {cores} processors, load average {} at the end; {} rounds of {} s, {:.0} minutes in all.",
        first("git", &["rev-parse", "--short", "HEAD"]),
        Product::of_host(),
        health["version"].as_str().unwrap_or("of unknown version"),
        first(settings.oha.to_str().unwrap_or("oha"), &["--version"]),
        load.split(' ').next().unwrap_or("unknown"),
        settings.rounds,
        settings.seconds,
        took.as_secs_f64() / 60.0,
    )
}

/// Writes the report into the documentation: the results for users, and the targets for contributors.
fn publish(report: &Report) {
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    let page = std::fs::read_to_string(PAGE).expect("read the page");
    let page = replace(&page, "results", &report.results());
    let page = replace(&page, "targets", &report.for_contributors());
    std::fs::write(PAGE, page).expect("write the page");
}

/// Replaces one part of the page, which belongs to this server.
fn replace(page: &str, part: &str, text: &str) -> String {
    let server = Product::of_host();
    let begin = format!("<!-- {part} on {server:?}: written by BENCH_WRITE=1 make bench -->\n");
    let end = format!("<!-- end of {part} on {server:?} -->");
    let (before, rest) = page.split_once(&begin).expect("the begin of the part");
    let (_, after) = rest.split_once(&end).expect("the end of the part");
    format!("{before}{begin}\n{text}\n{end}{after}")
}
