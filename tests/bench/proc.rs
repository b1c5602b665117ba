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

/// Processor times of a measured system, each in steps of 10 ms.
#[derive(Clone, Copy, Default)]
pub(crate) struct Times {
    pub(crate) plugin: Duration,
    pub(crate) server: Duration,
    /// The load generator. It counts when it has ended.
    pub(crate) load: Duration,
    /// The simulated Astra, which is a part of this process.
    pub(crate) astra: Duration,
}

impl Times {
    pub(crate) fn of(plugin: Option<u32>, server: u32) -> Self {
        let (astra, load) = processor_times("self");
        let plugin = plugin.map(processor_time).unwrap_or_default();
        Self { plugin, server: processor_time(server), load, astra }
    }

    /// Returns the times since an earlier moment.
    pub(crate) fn since(self, before: Self) -> Self {
        let less = Duration::saturating_sub;
        Self {
            plugin: less(self.plugin, before.plugin),
            server: less(self.server, before.server),
            load: less(self.load, before.load),
            astra: less(self.astra, before.astra),
        }
    }
}

/// Returns the processor time of a process, in steps of 10 ms.
pub(crate) fn processor_time(pid: u32) -> Duration {
    processor_times(&pid.to_string()).0
}

/// Returns the processor time of a process, and the time of its ended children.
fn processor_times(pid: &str) -> (Duration, Duration) {
    /// The unit of `/proc`. It does not depend on the ticks of the kernel.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before these fields can contain any character.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok()).unwrap_or(0);
    (TICK * (ticks(11) + ticks(12)), TICK * (ticks(13) + ticks(14)))
}
