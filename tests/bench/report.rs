//! The results of a run as Markdown for users, and as JSON with every round.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figures::Figures;
use crate::load::Sample;
use crate::proc::Memory;
use crate::rows::{KV, Outcome};
use crate::targets::Target;

/// All results of a run.
pub(crate) struct Report {
    pub(crate) settings: String,
    /// Whether the plugin to compare with is written in Go. If it is not, the goals do not apply.
    pub(crate) peer_is_go: bool,
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
    /// Returns the first cells of a line: request, tokens, connections.
    pub(crate) fn begin(&self) -> String {
        let connections = if self.connections == 0 { NOTHING.into() } else { self.connections.to_string() };
        format!("| {} | {} | {connections} |", self.row, self.stored)
    }

    pub(crate) fn median(&self, of: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }

    pub(crate) fn failed(&self) -> u64 {
        self.samples.iter().map(|sample| sample.failed).sum()
    }
}

impl Report {
    /// Returns the results of a row for this plugin, or for the server's `kv` engine.
    pub(crate) fn find(&self, row: &str, stored: usize, connections: usize) -> Option<&Outcome> {
        self.ours().find(|outcome| outcome.row == row && outcome.stored == stored && outcome.connections == connections)
    }

    pub(crate) fn value(&self, row: &str, stored: usize, connections: usize, of: fn(&Sample) -> f64) -> f64 {
        self.find(row, stored, connections).map_or(f64::NAN, |outcome| outcome.median(of))
    }

    /// Returns the rate of a row as a multiple of the rate of `kv` in the same rounds.
    fn of_kv(&self, outcome: &Outcome) -> f64 {
        if outcome.astra_ms > 0 || outcome.connections == 0 {
            return f64::NAN;
        }
        outcome.median(rate) / self.value(KV, outcome.stored, outcome.connections, rate)
    }

    pub(crate) fn stored(&self) -> (usize, usize) {
        let sizes = || self.outcomes.iter().map(|outcome| outcome.stored);
        (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0))
    }

    /// Returns the results of this plugin as Markdown.
    pub(crate) fn results(&self) -> String {
        let mut text = format!("{}\n\n", self.settings);
        self.rows(&mut text);
        text.push('\n');
        self.shares(&mut text);
        text.push('\n');
        self.processes(&mut text);
        text.push('\n');
        self.calls(&mut text);
        text
    }

    /// Returns the outcomes of this plugin, and of the server's `kv` engine.
    fn ours(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes.iter().filter(|outcome| outcome.plugin != Some(crate::PEER))
    }

    fn rows(&self, text: &mut String) {
        text.push_str(
            "| request | tokens stored | connections | requests/s | × `kv` | p50 ms | p99 ms |\n\
             | --- | --: | --: | --: | --: | --: | --: |\n",
        );
        for outcome in self.ours() {
            let begin = outcome.begin();
            let line = match &outcome.note {
                Some(note) => format!("{begin} {note} | | | |"),
                None => format!(
                    "{begin} {} | {} | {} | {} |{}",
                    shown(outcome.median(rate), 0),
                    shown(self.of_kv(outcome), 2),
                    shown(outcome.median(p50), 2),
                    shown(outcome.median(p99), 2),
                    if outcome.failed() > 0 { format!(" {} FAILED |", outcome.failed()) } else { String::new() },
                ),
            };
            text.push_str(&line);
            text.push('\n');
        }
    }

    /// Shows which process takes the processor time of a request.
    fn shares(&self, text: &mut String) {
        text.push_str(
            "| processor time of a request | tokens stored | connections | in all, µs | plugin | server | load generator \
             | Astra |\n| --- | --: | --: | --: | --: | --: | --: | --: |\n",
        );
        for outcome in self.ours().filter(|outcome| outcome.note.is_none()) {
            let of: [fn(&Sample) -> f64; 4] =
                [plugin_cpu, |sample| sample.server_us, |sample| sample.load_us, |sample| sample.astra_us];
            let times = of.map(|of| outcome.median(of));
            let all: f64 = times.iter().sum();
            write!(text, "{} {} |", outcome.begin(), shown(all, 0)).expect("write into a text");
            times.iter().for_each(|time| text.push_str(&format!(" {} % |", shown(100.0 * time / all, 0))));
            text.push('\n');
        }
    }

    fn processes(&self, text: &mut String) {
        text.push_str("| figure | |\n| --- | --: |\n");
        let Some(ours) = self.ours_figures() else { return };
        for figure in self.all_figures() {
            writeln!(text, "| {} | {} |", figure.name, (figure.shown)(ours)).expect("write into a text");
        }
    }

    pub(crate) fn ours_figures(&self) -> Option<&Figures> {
        self.figures.iter().find(|figures| figures.plugin == crate::OURS)
    }

    /// Returns the figures that are measured once.
    pub(crate) fn all_figures(&self) -> Vec<Figure> {
        let (fewest, most) = self.stored();
        let echo = shown(self.echo_ms, 2);
        let figure = |name: &str, value, shown| Figure { name: name.to_owned(), value, shown };
        vec![
            figure(
                &format!("start to handshake, ms (`echo`: {echo})"),
                |of| of.handshake_ms,
                |of| shown(of.handshake_ms, 2),
            ),
            figure("enable, ms", |of| of.enable_ms, |of| shown(of.enable_ms, 1)),
            figure(
                &format!("initialize with {fewest} tokens, ms"),
                |of| of.initialize_ms.map_or(f64::NAN, |(few, _)| few),
                |of| optional(of.initialize_ms.map(|(few, _)| few), 2),
            ),
            figure(
                &format!("initialize with {most} tokens, ms"),
                |of| of.initialize_ms.map_or(f64::NAN, |(_, many)| many),
                |of| optional(of.initialize_ms.map(|(_, many)| many), 2),
            ),
            figure("memory idle, MiB (anonymous)", |of| of.idle.mib(), |of| of.idle.shown()),
            figure("memory with 10 mounts, MiB (anonymous)", |of| of.mounts.mib(), |of| of.mounts.shown()),
            figure("memory after the mixture, MiB (anonymous)", |of| of.after.mib(), |of| of.after.shown()),
            figure("its peak, MiB", |of| of.after.peak_mib(), |of| shown(of.after.peak_mib(), 1)),
            figure("binary, MiB", Figures::binary_mib, |of| shown(of.binary_mib(), 1)),
        ]
    }

    fn calls(&self, text: &mut String) {
        text.push_str(
            "| one request | plugin | storage calls | which | facts | Astra |\n| --- | --- | --: | --- | --: | --: |\n",
        );
        for figures in self.figures.iter().filter(|figures| figures.plugin == crate::OURS) {
            for calls in &figures.calls {
                let which = calls.storage.join(", ");
                let (op, plugin, storage) = (calls.op, figures.plugin, calls.storage.len());
                writeln!(text, "| {op} | {plugin} | {storage} | {which} | {} | {} |", calls.facts, calls.astra)
                    .expect("write into a text");
            }
        }
    }

    /// Returns the report as JSON, with the results of every round.
    pub(crate) fn json(&self) -> Value {
        let memory = |memory: Memory| json!({"resident_kib": memory.resident, "anonymous_kib": memory.anonymous, "peak_kib": memory.peak});
        let rows = self.outcomes.iter().map(|outcome| {
            let each = |of: fn(&Sample) -> f64| outcome.samples.iter().map(of).collect::<Vec<f64>>();
            json!({
                "row": outcome.row, "plugin": outcome.plugin, "stored": outcome.stored,
                "connections": outcome.connections, "note": outcome.note, "failed": outcome.failed(),
                "median": {"rate": outcome.median(rate), "of_kv": self.of_kv(outcome), "p50_ms": outcome.median(p50),
                    "p99_ms": outcome.median(p99), "plugin_cpu_us": outcome.median(plugin_cpu)},
                "rounds": {"rate": each(rate), "p50_ms": each(p50), "p99_ms": each(p99),
                    "plugin_cpu_us": each(plugin_cpu), "server_cpu_us": each(|sample| sample.server_us),
                    "load_cpu_us": each(|sample| sample.load_us), "astra_cpu_us": each(|sample| sample.astra_us)},
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
            .map(|Target { name, measured, limit, at_most }| {
                json!({"target": name, "limit": limit, "at_most": at_most, "measured": measured})
            });
        json!({
            "settings": self.settings, "echo_ms": self.echo_ms, "plugins": plugins.collect::<Vec<_>>(),
            "rows": rows.collect::<Vec<_>>(), "targets": targets.collect::<Vec<_>>(),
        })
    }
}

/// A figure that is measured once for each plugin.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) value: fn(&Figures) -> f64,
    pub(crate) shown: fn(&Figures) -> String,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn binary_mib(&self) -> f64 {
        self.binary_bytes as f64 / 1024.0 / MIB
    }
}

impl Memory {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    pub(crate) fn mib(self) -> f64 {
        self.resident as f64 / MIB
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn peak_mib(self) -> f64 {
        self.peak as f64 / MIB
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn shown(self) -> String {
        format!("{:.1} ({:.1})", self.mib(), self.anonymous as f64 / MIB)
    }
}

/// KiB in one MiB.
const MIB: f64 = 1024.0;

pub(crate) fn rate(sample: &Sample) -> f64 {
    sample.rate
}

pub(crate) fn p50(sample: &Sample) -> f64 {
    sample.p50_ms
}

pub(crate) fn p99(sample: &Sample) -> f64 {
    sample.p99_ms
}

pub(crate) fn plugin_cpu(sample: &Sample) -> f64 {
    sample.plugin_us
}

fn optional(value: Option<f64>, digits: usize) -> String {
    shown(value.unwrap_or(f64::NAN), digits)
}

pub(crate) fn shown(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { NOTHING.into() }
}

/// Shown if there is no value.
const NOTHING: &str = "–";
