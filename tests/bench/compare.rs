//! The results of this plugin beside those of a second plugin, which the same run has measured in the same rounds.

use std::fmt::Write as _;

use crate::figures::Figures;
use crate::load::Sample;
use crate::report::{Report, p50, plugin_cpu, rate, shown};
use crate::rows::Outcome;
use crate::{OURS, PEER};

impl Report {
    /// Returns the comparison as Markdown; an empty text without a second plugin.
    pub(crate) fn comparison(&self) -> String {
        let mut text = String::new();
        if self.figures.iter().any(|figures| figures.plugin == PEER) {
            self.compare_rows(&mut text);
            text.push('\n');
            self.compare_figures(&mut text);
        }
        text
    }

    fn compare_rows(&self, text: &mut String) {
        text.push_str("| request | tokens stored | connections |");
        for unit in ["requests/s", "p50 ms", "plugin CPU µs"] {
            write!(text, " {unit}: ours | peer | ratio |").expect("write into a text");
        }
        text.push_str("\n| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |\n");
        for (ours, peer) in self.outcomes.iter().filter_map(|ours| Some((ours, self.beside(ours)?))) {
            text.push_str(&ours.begin());
            for (of, digits) in COMPARED {
                let [left, right] = [ours, peer].map(|outcome| outcome.median(*of));
                write!(text, " {} | {} | {} |", shown(left, *digits), shown(right, *digits), shown(left / right, 2))
                    .expect("write into a text");
            }
            for (plugin, outcome) in [(OURS, ours), (PEER, peer)] {
                if let Some(note) = &outcome.note {
                    write!(text, " {plugin}: {note} |").expect("write into a text");
                } else if outcome.failed() > 0 {
                    write!(text, " {plugin}: {} FAILED |", outcome.failed()).expect("write into a text");
                }
            }
            text.push('\n');
        }
    }

    fn compare_figures(&self, text: &mut String) {
        text.push_str("| figure | ours | peer | ratio |\n| --- | --: | --: | --: |\n");
        let Some((ours, peer)) = self.both() else { return };
        for figure in self.all_figures() {
            let (ratio, left, right) =
                ((figure.value)(ours) / (figure.value)(peer), (figure.shown)(ours), (figure.shown)(peer));
            writeln!(text, "| {} | {left} | {right} | {} |", figure.name, shown(ratio, 2)).expect("write into a text");
        }
    }

    /// Returns the figures of both plugins.
    pub(crate) fn both(&self) -> Option<(&Figures, &Figures)> {
        let of = |plugin| self.figures.iter().find(|figures| figures.plugin == plugin);
        Some((of(OURS)?, of(PEER)?))
    }

    /// Returns the same row of the second plugin.
    fn beside(&self, ours: &Outcome) -> Option<&Outcome> {
        let same = |peer: &&Outcome| {
            (peer.row, peer.stored, peer.connections) == (ours.row, ours.stored, ours.connections)
                && peer.plugin == Some(PEER)
        };
        (ours.plugin == Some(OURS)).then(|| self.outcomes.iter().find(same))?
    }

    /// Returns a median of this plugin as a multiple of that of the second plugin; NaN if one is missing.
    pub(crate) fn of_peer(&self, row: &str, stored: usize, connections: usize, of: Figure) -> f64 {
        let ours = self.find(row, stored, connections);
        ours.and_then(|ours| Some(ours.median(of) / self.beside(ours)?.median(of))).unwrap_or(f64::NAN)
    }
}

/// A figure of a sample.
type Figure = fn(&Sample) -> f64;

/// The compared medians, and their digits.
const COMPARED: &[(Figure, usize)] = &[(rate, 0), (p50, 2), (plugin_cpu, 0)];
