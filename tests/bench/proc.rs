//! Reads memory and processor time of a process from Linux.

use std::fs;
use std::time::Duration;

/// Resident memory in KiB, the anonymous part of it, which belongs to no file, and the largest resident memory so far.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) anonymous: u64,
    pub(crate) peak: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap_or(0)
        };
        Self { resident: field("VmRSS"), anonymous: field("RssAnon"), peak: field("VmHWM") }
    }
}

/// Returns the processor time of a process, in steps of 10 ms.
pub(crate) fn processor_time(pid: u32) -> Duration {
    /// The unit of `/proc`. It does not depend on the ticks of the kernel.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before these fields can contain any character.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
    TICK * (ticks(11) + ticks(12))
}
