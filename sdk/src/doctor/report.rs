//! The checks as a table for people, and as JSON for programs.

use serde_json::json;

use super::{Check, Verdict};
use crate::plugin::Plugin;

/// The results of all checks.
pub struct Report {
    plugin: Plugin,
    checks: Vec<Check>,
}

impl Report {
    /// Returns a report with these checks.
    pub fn new(plugin: &Plugin, checks: Vec<Check>) -> Self {
        Self { plugin: *plugin, checks }
    }

    /// Returns the worst verdict.
    pub fn verdict(&self) -> Verdict {
        self.checks.iter().map(Check::verdict).max().unwrap_or(Verdict::Ok)
    }

    /// Returns a table in Markdown, which can be read in a terminal and pasted into an issue. Ends with a line that counts the
    /// verdicts.
    pub fn table(&self) -> String {
        let Plugin { name, version, .. } = self.plugin;
        let head = format!("{name} v{version}\n\n");
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        let row = |result: &str, name: &str, found: &str| format!("| {result:<7} | {name:<width$} | {found} |\n");
        let rule = format!("| {:-<7} | {:-<width$} | --- |\n", "", "");
        let rows = self.checks.iter().map(|check| {
            let advice = if check.advice.is_empty() { String::new() } else { format!(". To do: {}", check.advice) };
            row(check.verdict.word(), check.name, &cell(&format!("{}{advice}", check.found)))
        });
        let count = |verdict| self.checks.iter().filter(|check| check.verdict == verdict).count();
        let counts = [Verdict::Ok, Verdict::Warning, Verdict::Failed, Verdict::Skipped]
            .map(|verdict| format!("{} {}", count(verdict), verdict.word()));
        head + &row("result", "check", "what was found")
            + &rule
            + &rows.collect::<String>()
            + &format!("\n{}\n", counts.join(", "))
    }

    /// Returns the report as JSON: `plugin`, `version`, `commit`, `platform`, the worst verdict as `result`, and for each of
    /// `checks` its `check`, `result`, `found` and `advice`.
    pub fn json(&self) -> String {
        let checks = self.checks.iter().map(|check| {
            json!({"check": check.name, "result": check.verdict.word(), "found": check.found, "advice": check.advice})
        });
        let report = json!({
            "plugin": self.plugin.name,
            "version": self.plugin.version,
            "commit": self.plugin.commit.unwrap_or_default(),
            "platform": platform(),
            "result": self.verdict().word(),
            "checks": checks.collect::<Vec<_>>(),
        });
        format!("{report:#}\n")
    }
}

/// Returns the operating system and the processor that the binary was built for, such as `linux x86_64`.
pub(super) fn platform() -> String {
    format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)
}

/// Makes a text safe for a cell of a table: replaces line ends, and escapes `|`.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(checks: Vec<Check>) -> Report {
        Report::new(&Plugin::new("cards", "1.2.3"), checks)
    }

    #[test]
    fn a_report_is_a_table_and_json() {
        let report = report(vec![
            Check::ok("file", "/opt/cards"),
            Check::warning("clock", "20 s behind", "set the clock"),
            Check::skipped("token", "none was given"),
        ]);
        let expected = "cards v1.2.3

| result  | check | what was found |
| ------- | ----- | --- |
| ok      | file  | /opt/cards |
| warning | clock | 20 s behind. To do: set the clock |
| skipped | token | none was given |

1 ok, 1 warning, 0 failed, 1 skipped
";
        assert_eq!(report.table(), expected);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!((&json["result"], &json["checks"][1]["advice"]), (&json!("warning"), &json!("set the clock")));
    }

    #[test]
    fn a_text_cannot_break_the_table() {
        let table = report(vec![Check::failed("file", "a|b\nc\u{1b}[0m", "d|e")]).table();
        assert!(table.contains("| a\\|b c [0m. To do: d\\|e |\n"), "{table}");
    }

    #[test]
    fn the_worst_verdict_counts() {
        let (ok, warning) = (Check::ok("a", ""), Check::warning("b", "", ""));
        assert_eq!(report(vec![]).verdict(), Verdict::Ok);
        assert_eq!(report(vec![ok.clone(), Check::skipped("c", "")]).verdict(), Verdict::Skipped);
        assert_eq!(report(vec![warning.clone(), ok]).verdict(), Verdict::Warning);
        assert_eq!(report(vec![Check::failed("d", "", ""), warning]).verdict(), Verdict::Failed);
    }
}
