//! Runs the load generator oha. It needs little processor time, which it shares with the server and the plugin.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The requests of one measurement. The load generator picks one of `paths` and one of `bodies` at random each time.
pub(crate) struct Requests {
    pub(crate) method: &'static str,
    /// Paths after `/v1/`.
    pub(crate) paths: Vec<String>,
    pub(crate) bodies: Vec<String>,
}

impl Requests {
    pub(crate) fn get(paths: impl IntoIterator<Item = String>) -> Self {
        Self { method: "GET", paths: paths.into_iter().collect(), bodies: Vec::new() }
    }
}

/// When a measurement ends. The load generator waits for unfinished requests.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Seconds(u64),
    Count(usize),
}

/// The result of one measurement.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    /// Number of requests without an answer, or with a status other than 2xx.
    pub(crate) failed: u64,
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Processor time of the plugin for one request, in microseconds.
    pub(crate) plugin_us: f64,
    /// Processor time of the server for one request, in microseconds.
    pub(crate) server_us: f64,
    /// Processor time of the load generator for one request, in microseconds.
    pub(crate) load_us: f64,
    /// Processor time of the simulated Astra for one request, in microseconds.
    pub(crate) astra_us: f64,
}

/// The load generator and the server that it sends requests to.
pub(crate) struct Load<'a> {
    pub(crate) oha: &'a Path,
    pub(crate) address: &'a str,
    pub(crate) token: &'a str,
    pub(crate) dir: &'a Path,
}

impl Load<'_> {
    pub(crate) fn run(&self, requests: &Requests, connections: usize, until: Until) -> Sample {
        let mut command = Command::new(self.oha);
        command.args(["--no-tui", "--no-color", "--output-format", "json", "--wait-ongoing-requests-after-deadline"]);
        command.args(["--disable-compression", "--redirect", "0"]);
        command.args(["-m", requests.method, "-c", &connections.to_string()]);
        // One thread can send several times more requests than the server can answer.
        command.args(["--worker-threads", "1"]);
        command.args(["-H", &format!("X-Vault-Token: {}", self.token), "-H", "X-Vault-Request: true"]);
        match until {
            Until::Seconds(seconds) => command.args(["-z", &format!("{seconds}s")]),
            Until::Count(count) => command.args(["-n", &count.to_string()]),
        };
        if !requests.bodies.is_empty() {
            let bodies = self.dir.join("bodies");
            fs::write(&bodies, requests.bodies.join("\n")).expect("write the bodies");
            command.arg("-Z").arg(bodies).args(["-T", "application/json"]);
        }
        let urls = self.dir.join("urls");
        let lines = requests.paths.iter().fold(String::new(), |mut lines, path| {
            writeln!(lines, "{}/v1/{path}", self.address).expect("write into a text");
            lines
        });
        fs::write(&urls, lines).expect("write the URLs");
        let output = command.arg("--urls-from-file").arg(urls).output().expect("run the load generator");
        let text = String::from_utf8_lossy(&output.stdout);
        let report = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        parse(&report)
    }
}

fn parse(report: &Value) -> Sample {
    let sum = |of: &Value, matches: fn(&str) -> bool| -> u64 {
        let members = of.as_object().into_iter().flatten();
        members.filter(|(name, _)| matches(name)).filter_map(|(_, count)| count.as_u64()).sum()
    };
    let statuses = &report["statusCodeDistribution"];
    let answered = sum(statuses, |_| true);
    let good = sum(statuses, |status| status.starts_with('2'));
    let unanswered = sum(&report["errorDistribution"], |_| true);
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let total = number(&report["summary"]["total"]);
    Sample {
        requests: answered + unanswered,
        failed: answered + unanswered - good,
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        rate: good as f64 / total,
        p50_ms: number(&report["latencyPercentiles"]["p50"]) * 1000.0,
        p99_ms: number(&report["latencyPercentiles"]["p99"]) * 1000.0,
        ..Sample::default()
    }
}
