//! Targets for contributors. Each target limits a ratio of two figures of the same run, so it does not depend on the
//! machine.

use std::fmt::Write as _;
use std::path::Path;

use crate::figures::Figures;
use crate::report::{Report, p50, p99, plugin_cpu, rate, shown};
use crate::rows::{BY_CLIENT_ID, BY_NAME, LIST, LONG_LIST, MANY, PAGE, ROLE_READ, SIDECAR_MINT, SLOW_MINT};

/// A target: the limit of a measured ratio.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) measured: f64,
    pub(crate) limit: f64,
    pub(crate) at_most: bool,
}

fn at_least(name: &str, measured: f64, limit: f64) -> Target {
    Target { name: name.into(), measured, limit, at_most: false }
}

fn at_most(name: &str, measured: f64, limit: f64) -> Target {
    Target { name: name.into(), measured, limit, at_most: true }
}

/// Returns whether a binary is written in Go.
pub(crate) fn is_go(binary: &Path) -> bool {
    /// The linker of Go begins its description of a build like this (`debug/buildinfo`).
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    let bytes = std::fs::read(binary).unwrap_or_default();
    bytes.windows(MAGIC.len()).any(|window| window == MAGIC)
}

impl Report {
    /// Returns the comparison with a second plugin, if there is one, and the targets.
    pub(crate) fn for_contributors(&self) -> String {
        let mut text = self.comparison();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str("| target | limit | measured | |\n| --- | --: | --: | --- |\n");
        for Target { name, measured, limit, at_most } in self.all_targets() {
            let sign = if at_most { "≤" } else { "≥" };
            let verdict = match measured {
                value if !value.is_finite() => "not measured",
                value if (value <= limit) == at_most || value == limit => "met",
                _ => "NOT MET",
            };
            writeln!(text, "| {name} | {sign} {limit} | {} | {verdict} |", shown(measured, 2))
                .expect("write into a text");
        }
        text
    }

    pub(crate) fn all_targets(&self) -> Vec<Target> {
        let mut targets = self.targets_of_process();
        let (few, many) = self.stored();
        if few < many {
            targets.extend(self.targets_of_growth());
        }
        targets.extend(self.targets_of_load());
        if self.peer_is_go {
            targets.extend(self.goals());
        }
        targets
    }

    /// The start and the memory.
    fn targets_of_process(&self) -> Vec<Target> {
        let figure = |of: fn(&Figures) -> f64| self.ours_figures().map_or(f64::NAN, of);
        vec![
            at_most("start to handshake × `echo`", figure(|of| of.handshake_ms) / self.echo_ms, 5.0),
            at_most("memory with 10 mounts × idle", figure(|of| of.mounts.mib() / of.idle.mib()), 1.3),
        ]
    }

    /// How much slower requests get with the number of tokens.
    fn targets_of_growth(&self) -> Vec<Target> {
        /// A page has this many tokens, if there are so many.
        const WHOLE_PAGE: usize = 100;
        let (few, many) = self.stored();
        let page = |stored| if stored < WHOLE_PAGE { f64::NAN } else { self.value(PAGE, stored, 1, p50) };
        let rates = |row| self.value(row, many, MANY, rate) / self.value(row, few, MANY, rate);
        let at = |text: &str| format!("{text}, {many} tokens × {few} tokens");
        let initialize = self.ours_figures().and_then(|of| of.initialize_ms).map_or(f64::NAN, |(few, many)| many / few);
        vec![
            at_least(&at("requests/s of role read"), rates(ROLE_READ), 0.85),
            at_least(&at("requests/s of token by name"), rates(BY_NAME), 0.85),
            at_least(&at("requests/s of token by client id"), rates(BY_CLIENT_ID), 0.85),
            at_most(&at("p50 of a page of 100 with details"), page(many) / page(few), 3.0),
            at_most(
                "p50 of 10,000 with details × 1,000 with details",
                self.value(LONG_LIST, many, 1, p50) / self.value(LIST, many, 1, p50),
                15.0,
            ),
            at_most(&at("initialize"), initialize, 1.2),
        ]
    }

    /// How callers share the plugin while Astra answers slowly.
    fn targets_of_load(&self) -> Vec<Target> {
        let (few, _) = self.stored();
        let one = |of| self.value(SLOW_MINT, few, 1, of);
        vec![
            at_least(
                "mints with Astra at 200 ms: rate of 64 callers × 64 times the rate of 1",
                self.value(SLOW_MINT, few, 64, rate) / (64.0 * one(rate)),
                0.9,
            ),
            at_most("their p99 × p50 of 1", self.value(SLOW_MINT, few, 64, p99) / one(p50), 1.3),
        ]
    }

    /// The goals against the Go plugin 2.0.0.
    fn goals(&self) -> Vec<Target> {
        let (few, _) = self.stored();
        let ratio = |row, connections, of| self.of_peer(row, few, connections, of);
        let figure = |of: fn(&Figures) -> f64| self.both().map_or(f64::NAN, |(ours, peer)| of(ours) / of(peer));
        let is_vault = crate::bao::Product::of_host() == crate::bao::Product::Vault;
        vec![
            at_least("role read, requests/s × Go", ratio(ROLE_READ, MANY, rate), 2.5),
            at_most("its plugin CPU × Go", ratio(ROLE_READ, MANY, plugin_cpu), 0.13),
            at_least("token by name, requests/s × Go", ratio(BY_NAME, MANY, rate), 2.4),
            at_most("its plugin CPU × Go", ratio(BY_NAME, MANY, plugin_cpu), 0.18),
            at_least("sidecar mint, requests/s × Go", ratio(SIDECAR_MINT, MANY, rate), 1.2),
            at_most("p50 of one caller's mint × Go", ratio(SIDECAR_MINT, 1, p50), 0.8),
            at_most("p50 of 1,000 with details × Go", ratio(LIST, 1, p50), if is_vault { 0.1 } else { 0.03 }),
            at_most("memory after the mixture × Go", figure(|of| of.after.mib()), 0.4),
            at_most("enable × Go", figure(|of| of.enable_ms), 0.4),
        ]
    }
}
