//! The settings of a run, from environment variables.

use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

use crate::plugin;

/// The settings of a run.
pub(crate) struct Settings {
    /// The plugin's binary.
    pub(crate) plugin: PathBuf,
    /// The binary of another plugin to compare with.
    pub(crate) peer: Option<PathBuf>,
    /// The load generator.
    pub(crate) oha: PathBuf,
    /// Number of rounds. The result is their median.
    pub(crate) rounds: usize,
    /// Duration of one measurement.
    pub(crate) seconds: u64,
    /// The numbers of stored tokens to measure with, in ascending order.
    pub(crate) sizes: Vec<usize>,
    /// Number of mixed requests before the last measurement of the memory.
    pub(crate) mixed: usize,
    /// How often the start of the process is measured.
    pub(crate) starts: usize,
    /// Number of leases that one measurement revokes.
    pub(crate) revocations: usize,
    /// The file for the report.
    pub(crate) json: PathBuf,
    /// Whether to write the report into the documentation, too.
    pub(crate) write: bool,
}

impl Settings {
    /// Reads the environment. Returns an error that names an invalid variable.
    pub(crate) fn read() -> Result<Self, String> {
        let quick = std::env::var_os("BENCH_QUICK").is_some();
        let pick = |whole, brief| if quick { brief } else { whole };
        let sizes: String = parsed("BENCH_SIZES", pick("1000,100000", "1000").to_owned())?;
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
            rounds: parsed("BENCH_ROUNDS", pick("3", "1").parse().expect("a number"))?,
            seconds: parsed("BENCH_SECONDS", pick("3", "1").parse().expect("a number"))?,
            sizes,
            mixed: parsed("BENCH_MIXED", if quick { 10_000 } else { 100_000 })?,
            starts: parsed("BENCH_STARTS", if quick { 10 } else { 40 })?,
            revocations: parsed("BENCH_REVOCATIONS", if quick { 200 } else { 1000 })?,
            json: parsed("BENCH_JSON", PathBuf::from("target/bench/report.json"))?,
            write: std::env::var_os("BENCH_WRITE").is_some(),
        })
    }
}

/// Fails if a program is not installed. The error names its package.
pub(crate) fn require(program: &str, package: &str) -> Result<(), String> {
    let found = Command::new(program).arg("--version").output().is_ok();
    if found { Ok(()) } else { Err(format!("this needs {program}: install the package \"{package}\"")) }
}

fn parsed<T: FromStr>(name: &str, default: T) -> Result<T, String> {
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
