//! How fast and how small the plugin is, on a real server, beside the server's own `kv` engine.
//!
//! All is measured in one run, and what counts are ratios: server, plugin, simulated Astra and load generator share the
//! machine.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::figures::{self, Figures};
use crate::load::{Load, Until};
use crate::proc::Memory;
use crate::report::Report;
use crate::rows::{self, Outcome, Stage};
use crate::scene::{Place, Scene};
use crate::settings::Settings;
use crate::{OURS, say};

const PEER: &str = "peer";

/// Measures everything and prints the report.
pub(crate) fn run() -> Result<(), String> {
    let settings = Settings::read()?;
    let report = measure(&settings);
    let markdown = report.markdown();
    println!("\n{markdown}");
    std::fs::create_dir_all(settings.json.parent().expect("a folder")).expect("make the report's folder");
    std::fs::write(&settings.json, format!("{:#}\n", report.json())).expect("write the report");
    if settings.write {
        publish(&markdown);
    }
    say(&format!("done; every round is in {}", settings.json.display()));
    Ok(())
}

fn measure(settings: &Settings) -> Report {
    let began = Instant::now();
    let peer = settings.peer.as_deref().map(|peer| (PEER, peer));
    let binaries: Vec<_> = std::iter::once((OURS, settings.plugin.as_path())).chain(peer).collect();
    say("starting a server");
    let scene = Scene::new(&binaries);
    let (fewest, most) = (settings.sizes[0], settings.sizes[settings.sizes.len() - 1]);
    let mut figures: Vec<Figures> = Vec::new();
    for plugin in &scene.plugins {
        say(&format!("start, memory and calls of {}", plugin.name));
        let mut found = figures::before(&scene, plugin, settings.starts);
        figures::on_the_wire(&mut found, plugin, (fewest, most));
        figures.push(found);
    }
    let mut places: Vec<Place> = scene.plugins.iter().map(|plugin| Place::new(&scene, plugin.name)).collect();
    let dir = tempfile::tempdir().expect("temporary directory");
    let load = Load { oha: &settings.oha, address: scene.server.address(), token: "root", dir: dir.path() };
    let stage = Stage { scene: &scene, settings, load };
    let mut outcomes: Vec<Outcome> = Vec::new();
    for &size in &settings.sizes {
        places.iter_mut().for_each(|place| place.fill(&scene, size));
        outcomes.extend(stage.measure(&places, size));
    }
    for (place, figures) in places.iter().zip(&mut figures) {
        say(&format!("memory of {} after {} mixed requests", place.plugin, settings.mixed));
        figures.after = after_many(&stage, place, settings.mixed);
    }
    Report {
        settings: described(&scene, settings, began.elapsed()),
        echo_ms: figures::echo_ms(settings.starts),
        figures,
        outcomes,
    }
}

/// Returns the memory of a new process after many requests; nothing if the plugin cannot answer all of them.
fn after_many(stage: &Stage<'_>, place: &Place, requests: usize) -> Memory {
    let mixture = rows::mixture(place);
    let served = |path: &String| stage.scene.server.get(path).status == 200;
    if !mixture.paths.iter().step_by(500).all(served) {
        return Memory::default();
    }
    figures::restart(stage.scene, place.plugin, &place.mount);
    let sample = stage.load.run(&mixture, 16, Until::Requests(requests));
    assert_eq!(sample.failed, 0, "some of the mixed requests failed");
    Memory::of(stage.scene.pid(place.plugin).expect("the plugin runs"))
}

/// Says where and how the figures were found.
fn described(scene: &Scene, settings: &Settings, took: Duration) -> String {
    let health = scene.server.get("sys/health").ok();
    let first = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "Commit {}, server {}, {}, {cores} processors, load average {} at the end; {} rounds of {} s, {:.0} minutes in all.",
        first("git", &["rev-parse", "--short", "HEAD"]),
        health["version"].as_str().unwrap_or("of unknown version"),
        first(settings.oha.to_str().unwrap_or("oha"), &["--version"]),
        load.split(' ').next().unwrap_or("unknown"),
        settings.rounds,
        settings.seconds,
        took.as_secs_f64() / 60.0,
    )
}

/// Puts the report into the documentation.
fn publish(markdown: &str) {
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
    const BEGIN: &str = "<!-- report: written by BENCH_WRITE=1 make bench -->\n";
    const END: &str = "<!-- end of report -->";
    let page = std::fs::read_to_string(PAGE).expect("read the page");
    let (before, rest) = page.split_once(BEGIN).expect("the begin of the report");
    let (_, after) = rest.split_once(END).expect("the end of the report");
    std::fs::write(PAGE, format!("{before}{BEGIN}\n{markdown}\n{END}{after}")).expect("write the page");
}
