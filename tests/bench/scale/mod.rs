//! `make scale`: counts and times with 10,000 organizations and 200,000 stored tokens.
//!
//! ```text
//! world    the stored entries of many orgs and tokens
//! wire     on the fake host: storage calls, the sweep, memory of https orgs and of a large list
//! server   on a real server: the sweep, an outage, pages, memory
//! stop     on a real server: seal, step-down and stop while Astra hangs
//! ```
//!
//! `make scale` runs `wire` and `server`; `MODE` names one part. `SCALE_QUICK=1` runs with a tenth of orgs and tokens.
//!
//! The fake host keeps its storage in memory and sends ticks one after another, so calls and ticks can be counted.
//! Everything that depends on the server's pauses and paging runs on the real server.

mod server;
mod stop;
mod wire;
mod world;

use std::fmt::Write as _;

/// The number of orgs and tokens of a small mount.
const FEW: (usize, usize) = (10, 200);

/// The number of orgs and tokens of a large mount. With `SCALE_QUICK`, it is a tenth.
fn many() -> (usize, usize) {
    (scaled(10_000), scaled(200_000))
}

/// Returns a size, or a tenth of it for a quick run.
fn scaled(size: usize) -> usize {
    if std::env::var_os("SCALE_QUICK").is_some() { size / 10 } else { size }
}

/// A measured figure.
pub(crate) struct Row {
    measured: String,
    result: String,
    target: String,
    /// Whether the target is met; `None` if there is no target.
    met: Option<bool>,
}

impl Row {
    /// Returns a figure without a target.
    fn new(measured: impl Into<String>, result: impl Into<String>) -> Self {
        let row = Self { measured: measured.into(), result: result.into(), target: String::new(), met: None };
        crate::say(&format!("{}: {}", row.measured, row.result));
        row
    }

    /// Returns a number that must not exceed `most`.
    fn at_most(measured: impl Into<String>, number: f64, most: f64, unit: &str) -> Self {
        let mut row = Self::new(measured, shown(number, unit));
        (row.target, row.met) = (format!("≤ {}", shown(most, unit)), Some(number <= most));
        row
    }
}

/// A table of figures that come from one host.
pub(crate) struct Table {
    title: String,
    rows: Vec<Row>,
}

/// Measures everything and prints the tables. A missed target is no error, because times depend on the machine.
pub(crate) fn run() -> Result<(), String> {
    let mode = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).nth(1);
    let tables = match mode.as_deref() {
        None => {
            let mut tables = wire::measure();
            tables.push(server::measure());
            tables
        }
        Some("wire") => wire::measure(),
        Some("server") => vec![server::measure()],
        Some("stop") => vec![stop::measure()],
        Some(mode) => {
            return Err(format!("there is no {mode:?}: it is \"wire\", \"server\", \"stop\", or nothing"));
        }
    };
    let (mut text, mut missed) = (String::new(), 0);
    for Table { title, rows } in &tables {
        writeln!(text, "\n{title}\n\n| measured | result | target | |\n| --- | --: | --: | --- |")
            .expect("write into a text");
        for Row { measured, result, target, met } in rows {
            let verdict = met.map_or("", |met| if met { "met" } else { "NOT MET" });
            missed += usize::from(*met == Some(false));
            writeln!(text, "| {measured} | {result} | {target} | {verdict} |").expect("write into a text");
        }
    }
    println!("{text}");
    crate::say(&format!("done; {missed} targets are missed"));
    Ok(())
}

/// Shows a number with at most one digit after the point.
fn shown(number: f64, unit: &str) -> String {
    let text = format!("{number:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if unit.is_empty() { text.to_owned() } else { format!("{text} {unit}") }
}

/// Returns a number of KiB as MiB.
#[expect(clippy::cast_precision_loss, reason = "a size for people")]
fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Returns a count for a row.
#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn number(count: usize) -> f64 {
    count as f64
}
