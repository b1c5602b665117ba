//! Benchmarks of the plugin: `make bench`, `make bench MODE=guard`, `make bench MODE=profile` and `make scale`.
//!
//! ```text
//! speed    requests, start, memory and calls on a real server, compared with its `kv` engine
//!   rows     the table of requests, and the measurement of a row
//!   figures  figures that are measured once
//!   report   tables for users, JSON
//!   compare  tables beside a second plugin
//!   targets  limits of ratios within one run, for contributors
//! guard    instructions of a request
//! profile  functions in which a request spends its time
//! scale    counts and times with many organizations and tokens
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    unused_imports,
    missing_docs,
    unreachable_pub,
    reason = "a measurement fails by panicking, reads the environment of its run, and uses a part of the test support"
)]

use astra_simulator as astra;
use plugin_host as host;
use plugin_host::plugin;

#[path = "../support/bao/mod.rs"]
mod bao;
mod compare;
mod figures;
mod guard;
mod load;
mod proc;
mod profile;
mod report;
mod rows;
mod scale;
mod server;
mod settings;
mod speed;
mod stacks;
mod targets;
mod wire;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Instant;

/// Name of this plugin in the catalog and in the report.
pub(crate) const OURS: &str = "ours";

/// Name of the plugin to compare with.
pub(crate) const PEER: &str = "peer";

fn main() -> ExitCode {
    // Skip the flags that cargo adds.
    let mode = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let done = match mode.as_deref() {
        None => speed::run(),
        Some("guard") => guard::run(),
        Some("profile") => profile::run(),
        Some("scale") => scale::run(),
        Some(mode) => Err(format!("there is no {mode:?}: it is \"guard\", \"profile\", \"scale\", or nothing")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints progress, with the time since the first call.
pub(crate) fn say(text: &str) {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let time = BEGAN.get_or_init(Instant::now).elapsed().as_secs();
    eprintln!("[{:02}:{:02}] {text}", time / 60, time % 60);
}
