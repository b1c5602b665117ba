//! The results of a run as Markdown and as JSON: medians, ratios and targets.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figures::Figures;
use crate::load::Sample;
use crate::proc::Memory;
use crate::rows::{BY_CLIENT_ID, BY_NAME, KV, LONG_LIST, Outcome, PAGE, ROLE_READ, SLOW_MINT};

/// All results of a run.
pub(crate) struct Report {
    pub(crate) settings: String,
    pub(crate) echo_ms: f64,
    pub(crate) figures: Vec<Figures>,
    pub(crate) outcomes: Vec<Outcome>,
}

/// Returns the median of the finite values; NaN if there are none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count if count % 2 == 0 => f64::midpoint(values[count / 2 - 1], values[count / 2]),
        count => values[count / 2],
    }
}

impl Outcome {
    fn median(&self, of: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }

    fn failed(&self) -> u64 {
        self.samples.iter().map(|sample| sample.failed).sum()
    }
}

impl Report {
    /// Returns the results of a row for this plugin, or for the server's `kv` engine.
    fn find(&self, row: &str, stored: usize, connections: usize) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| {
            let is_ours = outcome.plugin.is_none_or(|plugin| plugin == crate::OURS);
            is_ours && outcome.row == row && outcome.stored == stored && outcome.connections == connections
        })
    }

    fn value(&self, row: &str, stored: usize, connections: usize, of: fn(&Sample) -> f64) -> f64 {
        self.find(row, stored, connections).map_or(f64::NAN, |outcome| outcome.median(of))
    }

    /// Returns the rate of a row as a multiple of the rate of `kv` in the same rounds.
    fn of_kv(&self, outcome: &Outcome) -> f64 {
        if !outcome.compared {
            return f64::NAN;
        }
        outcome.median(rate) / self.value(KV, outcome.stored, outcome.connections, rate)
    }

    fn stored(&self) -> (usize, usize) {
        let sizes = || self.outcomes.iter().map(|outcome| outcome.stored);
        (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0))
    }

    /// Returns the report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.settings);
        self.rows(&mut text);
        text.push('\n');
        self.processes(&mut text);
        text.push('\n');
        self.calls(&mut text);
        text.push('\n');
        self.targets(&mut text);
        text
    }

    fn rows(&self, text: &mut String) {
        text.push_str(
            "| request | plugin | tokens stored | connections | requests/s | × `kv` | p50 ms | p99 ms | plugin CPU µs | \
             server CPU µs |\n| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for outcome in &self.outcomes {
            let Outcome { row, stored, connections, .. } = outcome;
            let plugin = outcome.plugin.unwrap_or("");
            let connections = if *connections == 0 { NOTHING.into() } else { connections.to_string() };
            let begin = format!("| {row} | {plugin} | {stored} | {connections} |");
            let line = match &outcome.note {
                Some(note) => format!("{begin} {note} | | | | | |"),
                None => format!(
                    "{begin} {} | {} | {} | {} | {} | {} |{}",
                    shown(outcome.median(rate), 0),
                    shown(self.of_kv(outcome), 2),
                    shown(outcome.median(p50), 2),
                    shown(outcome.median(p99), 2),
                    if outcome.plugin.is_some() { shown(outcome.median(plugin_cpu), 0) } else { String::new() },
                    shown(outcome.median(|sample| sample.server_us), 0),
                    if outcome.failed() > 0 { format!(" {} FAILED |", outcome.failed()) } else { String::new() },
                ),
            };
            text.push_str(&line);
            text.push('\n');
        }
    }

    fn processes(&self, text: &mut String) {
        text.push_str("| figure |");
        self.figures.iter().for_each(|figures| text.push_str(&format!(" {} |", figures.plugin)));
        text.push_str("\n| --- |");
        self.figures.iter().for_each(|_| text.push_str(" --: |"));
        let (fewest, most) = self.stored();
        let lines: [(String, Shown); 8] = [
            (format!("start to handshake, ms (`echo`: {})", shown(self.echo_ms, 2)), |of| shown(of.handshake_ms, 2)),
            ("enable, ms".into(), |of| shown(of.enable_ms, 1)),
            (format!("initialize with {fewest} tokens, ms"), |of| optional(of.initialize_ms.map(|(few, _)| few), 2)),
            (format!("initialize with {most} tokens, ms"), |of| optional(of.initialize_ms.map(|(_, many)| many), 2)),
            ("memory idle, MiB (anonymous)".into(), |of| of.idle.shown()),
            ("memory with 10 mounts, MiB (anonymous)".into(), |of| of.mounts.shown()),
            ("memory after the mixture, MiB (anonymous)".into(), |of| of.after.shown()),
            #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
            ("binary, MiB".into(), |of| shown(of.binary_bytes as f64 / 1024.0 / MIB, 1)),
        ];
        for (name, value) in lines {
            write!(text, "\n| {name} |").expect("write into a text");
            self.figures.iter().for_each(|figures| text.push_str(&format!(" {} |", value(figures))));
        }
        text.push('\n');
    }

    fn calls(&self, text: &mut String) {
        text.push_str(
            "| one request | plugin | storage calls | which | facts | Astra |\n| --- | --- | --: | --- | --: | --: |\n",
        );
        for figures in &self.figures {
            for calls in &figures.calls {
                let which = calls.storage.join(", ");
                let (op, plugin, storage) = (calls.op, figures.plugin, calls.storage.len());
                writeln!(text, "| {op} | {plugin} | {storage} | {which} | {} | {} |", calls.facts, calls.astra)
                    .expect("write into a text");
            }
        }
    }

    fn targets(&self, text: &mut String) {
        text.push_str("| target | limit | measured | |\n| --- | --: | --: | --- |\n");
        for Target { name, measured, limit, at_most } in self.all_targets() {
            let sign = if at_most { "≤" } else { "≥" };
            let verdict = match measured {
                value if !value.is_finite() => "not measured",
                value if (value <= limit) == at_most || value == limit => "met",
                _ => "NOT MET",
            };
            writeln!(text, "| {name} | {sign} {limit} | {} | {verdict} |", shown(measured, 3))
                .expect("write into a text");
        }
    }

    fn all_targets(&self) -> Vec<Target> {
        /// Figures of the Go plugin: processor time of a role read in µs, the rate of `kv` on the same machine, and the
        /// time to enable a mount in ms.
        const GO: (f64, f64, f64) = (450.0, 3227.0, 71.0);
        let (few, many) = self.stored();
        let ratio = |row, stored| self.value(row, stored, 16, rate) / self.value(KV, stored, 16, rate);
        let latency = |row| self.value(row, few, 1, p50) / self.value(KV, few, 1, p50);
        let (at_few, at_many) = (ratio(BY_CLIENT_ID, few), ratio(BY_CLIENT_ID, many));
        let go_cpu = GO.0 * GO.1 / self.value(KV, few, 16, rate);
        let ours = self.figures.iter().find(|figures| figures.plugin == crate::OURS);
        let figure = |of: fn(&Figures) -> f64| ours.map_or(f64::NAN, of);
        let at_least = |name: &str, measured, limit| Target { name: name.into(), measured, limit, at_most: false };
        let at_most = |name: &str, measured, limit| Target { name: name.into(), measured, limit, at_most: true };
        vec![
            at_least("role read, × `kv`, 16 connections", ratio(ROLE_READ, few), 0.58),
            at_least("token by name, × `kv`", ratio(BY_NAME, few), 0.47),
            at_least(&format!("token by client id, × `kv`, {few} tokens"), at_few, 0.38),
            at_least(&format!("token by client id, × `kv`, {many} tokens"), at_many, 0.38),
            at_most("token by client id, difference of the two", (at_few / at_many - 1.0).abs(), 0.15),
            at_most("role read, p50 × `kv`, 1 connection", latency(ROLE_READ), 2.8),
            at_most("token by name, p50 × `kv`, 1 connection", latency(BY_NAME), 4.0),
            at_most("plugin CPU of a role read, × Go plugin", self.value(ROLE_READ, few, 16, plugin_cpu) / go_cpu, 0.3),
            at_least(
                "mints with Astra at 200 ms, 64 callers, × 320/s",
                self.value(SLOW_MINT, few, 64, rate) / 320.0,
                0.95,
            ),
            at_most("their p99, × 200 ms", self.value(SLOW_MINT, few, 64, p99) / 200.0, 1.2),
            at_most(&format!("page of 100 with details, {many} tokens, ms"), self.value(PAGE, many, 1, p50), 15.0),
            at_most("10,000 with details, ms", self.value(LONG_LIST, many, 1, p50), 1500.0),
            at_most("start to handshake, ms", figure(|of| of.handshake_ms), 2.5),
            at_most("enable, × Go plugin", figure(|of| of.enable_ms) / GO.2, 0.5),
            at_most("memory idle, MiB", figure(|of| of.idle.mib()), 7.0),
            at_most("memory with 10 mounts, MiB", figure(|of| of.mounts.mib()), 8.0),
            at_most("memory after the mixture, MiB", figure(|of| of.after.mib()), 16.0),
            at_most(
                &format!("initialize, {many} tokens × {few} tokens"),
                figure(|of| of.initialize_ms.map_or(f64::NAN, |(few, many)| many / few)),
                1.2,
            ),
            #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
            at_most("binary, MiB", figure(|of| of.binary_bytes as f64 / 1024.0 / MIB), 9.0),
        ]
    }

    /// Returns the report as JSON, with the results of every round.
    pub(crate) fn json(&self) -> Value {
        let memory = |memory: Memory| json!({"resident_kib": memory.resident, "anonymous_kib": memory.anonymous});
        let rows = self.outcomes.iter().map(|outcome| {
            let each = |of: fn(&Sample) -> f64| outcome.samples.iter().map(of).collect::<Vec<f64>>();
            json!({
                "row": outcome.row, "plugin": outcome.plugin, "stored": outcome.stored,
                "connections": outcome.connections, "note": outcome.note, "failed": outcome.failed(),
                "median": {"rate": outcome.median(rate), "of_kv": self.of_kv(outcome), "p50_ms": outcome.median(p50),
                    "p99_ms": outcome.median(p99), "plugin_cpu_us": outcome.median(plugin_cpu)},
                "rounds": {"rate": each(rate), "p50_ms": each(p50), "p99_ms": each(p99),
                    "plugin_cpu_us": each(plugin_cpu), "server_cpu_us": each(|sample| sample.server_us)},
            })
        });
        let plugins = self.figures.iter().map(|figures| {
            let calls = figures.calls.iter().map(|calls| {
                json!({"request": calls.op, "storage": calls.storage, "facts": calls.facts, "astra": calls.astra})
            });
            json!({
                "plugin": figures.plugin, "binary_bytes": figures.binary_bytes, "handshake_ms": figures.handshake_ms,
                "enable_ms": figures.enable_ms, "initialize_ms": figures.initialize_ms,
                "memory": {"idle": memory(figures.idle), "ten_mounts": memory(figures.mounts),
                    "after": memory(figures.after)},
                "calls": calls.collect::<Vec<_>>(),
            })
        });
        let targets = self
            .all_targets()
            .into_iter()
            .map(|Target { name, measured, limit, at_most }| json!({"bar": name, "limit": limit, "at_most": at_most, "measured": measured}));
        json!({
            "settings": self.settings, "echo_ms": self.echo_ms, "plugins": plugins.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(), "bars": targets.collect::<Vec<_>>(),
        })
    }
}

/// Formats a figure of a plugin.
type Shown = fn(&Figures) -> String;

/// A target: the limit of a measured value.
struct Target {
    name: String,
    measured: f64,
    limit: f64,
    at_most: bool,
}

impl Memory {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn mib(self) -> f64 {
        self.resident as f64 / MIB
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn shown(self) -> String {
        format!("{:.1} ({:.1})", self.mib(), self.anonymous as f64 / MIB)
    }
}

/// KiB in one MiB.
const MIB: f64 = 1024.0;

fn rate(sample: &Sample) -> f64 {
    sample.rate
}

fn p50(sample: &Sample) -> f64 {
    sample.p50_ms
}

fn p99(sample: &Sample) -> f64 {
    sample.p99_ms
}

fn plugin_cpu(sample: &Sample) -> f64 {
    sample.plugin_us
}

fn optional(value: Option<f64>, digits: usize) -> String {
    shown(value.unwrap_or(f64::NAN), digits)
}

fn shown(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { NOTHING.into() }
}

/// Shown if there is no value.
const NOTHING: &str = "–";
