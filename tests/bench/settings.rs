//! What a run is told by its environment.

use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use crate::plugin;

/// The settings of a run.
pub(crate) struct Settings {
    /// The plugin's binary.
    pub(crate) plugin: PathBuf,
    /// Another plugin's binary, measured beside it.
    pub(crate) peer: Option<PathBuf>,
    /// The load generator.
    pub(crate) oha: PathBuf,
    /// Rounds, of which the median counts.
    pub(crate) rounds: usize,
    /// Length of one measurement.
    pub(crate) seconds: u64,
    /// Numbers of tokens stored, ascending.
    pub(crate) sizes: Vec<usize>,
    /// Requests before the last look at the memory.
    pub(crate) mixed: usize,
    /// Starts of the process.
    pub(crate) starts: usize,
    /// Leases that are revoked in one measurement.
    pub(crate) revocations: usize,
    /// Where the report goes.
    pub(crate) json: PathBuf,
    /// Whether the report goes into the documentation, too.
    pub(crate) write: bool,
}

impl Settings {
    /// Reads the environment, or returns what is wrong with it.
    pub(crate) fn read() -> Result<Self, String> {
        let quick = std::env::var_os("BENCH_QUICK").is_some();
        let pick = |whole, brief| if quick { brief } else { whole };
        let sizes: String = number("BENCH_SIZES", pick("10,1000,10000,100000", "10,10000").to_owned())?;
        let mut sizes: Vec<usize> = sizes
            .split(',')
            .map(|size| size.trim().parse().map_err(|_| format!("BENCH_SIZES: {size:?} is no number")))
            .collect::<Result<_, _>>()?;
        sizes.sort_unstable();
        if sizes.first().is_none_or(|&size| size < 10) {
            return Err("BENCH_SIZES: the smallest size is 10".into());
        }
        Ok(Self {
            plugin: plugin::binary().into(),
            peer: program("BENCH_PEER")?,
            oha: program("OHA")?.ok_or("OHA names no load generator: run \"make bench\"")?,
            rounds: number("BENCH_ROUNDS", pick("3", "1").parse().expect("a number"))?,
            seconds: number("BENCH_SECONDS", pick("3", "1").parse().expect("a number"))?,
            sizes,
            mixed: number("BENCH_MIXED", if quick { 10_000 } else { 100_000 })?,
            starts: number("BENCH_STARTS", if quick { 10 } else { 40 })?,
            revocations: number("BENCH_REVOCATIONS", if quick { 200 } else { 1000 })?,
            json: number("BENCH_JSON", PathBuf::from("target/bench/report.json"))?,
            write: std::env::var_os("BENCH_WRITE").is_some(),
        })
    }
}

/// Fails if a program is not there, and says in which package it is.
pub(crate) fn require(program: &str, package: &str) -> Result<(), String> {
    let found = Command::new(program).arg("--version").output().is_ok();
    if found { Ok(()) } else { Err(format!("this needs {program}: install the package \"{package}\"")) }
}

fn number<T: FromStr>(name: &str, default: T) -> Result<T, String> {
    match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}: {text:?} cannot be used")),
        Err(_) => Ok(default),
    }
}

fn program(name: &str) -> Result<Option<PathBuf>, String> {
    let Some(path) = std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    path.canonicalize().map(Some).map_err(|error| format!("{name}: {}: {error}", path.display()))
}
