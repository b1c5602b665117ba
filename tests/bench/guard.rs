//! Counts the instructions of the plugin for a request, and compares the counts with the stored figures.
//!
//! Times depend on the machine and its load, but counts hardly do. The release binary runs under callgrind, with the
//! fake host. The count contains the whole cost of a request in the plugin: TLS, HTTP/2, gRPC, the handler, its storage
//! calls and its calls to Astra. Each kind of request runs N times in one process, and 2 N times in another process.
//! The difference excludes the cost of start, stop and first use.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::host::Launch;
use crate::plugin;
use crate::say;
use crate::settings::require;
use crate::wire::{Fixture, Op};

/// The counted kinds of requests.
const OPS: &[Op] = &[Op::ResolvePath, Op::RoleRead, Op::TokenByName, Op::TokenByClientId, Op::Mint, Op::Renew];

/// How far a count may exceed the stored figure: twice the observed difference between two runs of one binary. Counts
/// differ because each wake-up reads a random part of a stream.
const TOLERANCE: f64 = 0.06;

/// Number of requests in the shorter run.
const REQUESTS: u64 = 200;

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/instructions.txt");

/// Counts the instructions. Fails if a count is too high.
pub(crate) fn run() -> Result<(), String> {
    require("valgrind", "valgrind")?;
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let counts: Vec<(&str, u64)> = OPS
        .iter()
        .map(|&op| {
            say(&format!("counting {}", op.name()));
            let (once, twice) = (count(&runtime, op, REQUESTS), count(&runtime, op, 2 * REQUESTS));
            (op.name(), twice.saturating_sub(once) / REQUESTS)
        })
        .collect();
    if std::env::var_os("BENCH_GUARD_WRITE").is_some() {
        std::fs::write(KEPT, text(&counts)).expect("write the figures");
    }
    if compare(&counts) { Ok(()) } else { Err("a request takes too many instructions".into()) }
}

/// Returns the instructions of a whole run with this number of requests.
fn count(runtime: &tokio::runtime::Runtime, op: Op, requests: u64) -> u64 {
    let dir = tempfile::tempdir().expect("temporary directory");
    let out = dir.path().join("callgrind.out");
    let launch = Launch::of("valgrind".into())
        .env("PATH", &std::env::var("PATH").expect("a search path"))
        .arg("--tool=callgrind")
        .arg(&format!("--callgrind-out-file={}", out.display()))
        .arg(&format!("--log-file={}", dir.path().join("log").display()))
        .arg(plugin::binary().to_str().expect("a path of text"));
    runtime.block_on(async {
        let mut fixture = Fixture::new(launch).await;
        for _ in 0..requests {
            fixture.run(op).await;
        }
        fixture.stop().await;
    });
    let written = std::fs::read_to_string(&out).expect("read what callgrind has counted");
    let total = written.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.and_then(|total| total.trim().parse().ok()).expect("a total")
}

fn text(counts: &[(&str, u64)]) -> String {
    let mut text = String::from(HEADER);
    for (name, count) in counts {
        writeln!(text, "{name}: {count}").expect("write into a text");
    }
    text
}

const HEADER: &str = "\
# Instructions of the plugin for one request, as \"make bench MODE=guard\" counts them (x86_64 Linux, release build).
# \"BENCH_GUARD_WRITE=1 make bench MODE=guard\" writes this file.
";

/// Prints the counts and the stored figures. Returns false if a count is too high or has no stored figure.
fn compare(counts: &[(&str, u64)]) -> bool {
    let kept = std::fs::read_to_string(KEPT).unwrap_or_default();
    let kept: BTreeMap<&str, u64> = kept
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect();
    let mut good = true;
    println!("{:<20} {:>12} {:>12}  change", "instructions", "now", "kept");
    for (name, now) in counts {
        let Some(&kept) = kept.get(name) else {
            println!("{name:<20} {now:>12} {:>12}  not kept", "-");
            good = false;
            continue;
        };
        #[expect(clippy::cast_precision_loss, reason = "a ratio")]
        let change = *now as f64 / kept as f64 - 1.0;
        let verdict = match change {
            more if more > TOLERANCE => "TOO MANY",
            less if less < -TOLERANCE => "fewer: write the figures anew",
            _ => "",
        };
        good &= change <= TOLERANCE;
        println!("{name:<20} {now:>12} {kept:>12}  {:+.1} % {verdict}", change * 100.0);
    }
    println!("up to {:.0} % more is allowed", TOLERANCE * 100.0);
    good
}
