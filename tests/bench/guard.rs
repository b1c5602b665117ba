//! Counts the instructions that the plugin runs for a request, and compares them with the figures that are kept.
//!
//! Times depend on the machine and on what else it does; a count hardly does. The release binary runs under callgrind,
//! with a host of our own, so what is counted is all that a request costs in the plugin: TLS, HTTP/2, gRPC, the handler, its
//! storage calls and its calls of Astra. Each kind of request runs a number of times and, in another process, twice that
//! number; the difference holds no start, no end and no first time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::host::Launch;
use crate::plugin;
use crate::say;
use crate::settings::require;
use crate::wire::{Bed, Op};

/// What is counted.
const OPS: &[Op] = &[Op::ResolvePath, Op::RoleRead, Op::TokenByName, Op::TokenByClientId, Op::Mint, Op::Renew];

/// How far a count may be above what is kept: twice what two runs of one binary were seen to differ by. How much of a
/// stream one wake-up finds is a matter of chance.
const TOLERANCE: f64 = 0.06;

/// Requests of the shorter run.
const REQUESTS: u64 = 200;

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/instructions.txt");

/// Counts, and fails if a count is too high.
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

/// Returns the instructions of a whole run with so many requests.
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
        let mut bed = Bed::new(launch).await;
        for _ in 0..requests {
            bed.run(op).await;
        }
        bed.stop().await;
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
# Instructions of the plugin for one request, as \"make bench-guard\" counts them (x86_64 Linux, release build).
# \"BENCH_GUARD_WRITE=1 make bench-guard\" writes this file.
";

/// Prints the counts beside those that are kept; false if one is too high or unknown.
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
