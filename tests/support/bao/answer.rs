//! Answers of a server, and their form in the output of a failing test.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::redact;

/// The result of a command of the server's own CLI.
pub(crate) struct Output {
    pub(super) command: String,
    pub(super) log: PathBuf,
    /// Exit code.
    pub(crate) status: i32,
    /// Everything on standard output.
    pub(crate) stdout: String,
    /// Everything on standard error.
    pub(crate) stderr: String,
}

impl Output {
    /// Returns the standard output of a command that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.status == 0, "expected success\n{self}");
        self.stdout
    }

    /// Returns the standard error of a command that must fail.
    #[track_caller]
    pub(crate) fn fails(self) -> String {
        assert!(self.status != 0, "expected a failure\n{self}");
        self.stderr
    }

    /// Returns the JSON that a successful command printed.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        assert!(self.status == 0, "expected success\n{self}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON: {error}\n{self}"))
    }

    /// Returns the two columns that a successful command printed for an object.
    #[track_caller]
    pub(crate) fn table(self) -> Vec<(String, String)> {
        self.ok()
            .lines()
            .filter(|line| !line.starts_with("Key ") && !line.starts_with("--- "))
            .filter_map(|line| line.split_once(' '))
            .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
            .collect()
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!(
            "command: {}\nexit status: {}\nstdout:\n{}\nstderr:\n{}\n{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr,
            tail(&self.log)
        );
        f.write_str(&redact::clean(&text))
    }
}

/// A response of the HTTP API.
pub(crate) struct Reply {
    pub(super) request: String,
    pub(super) log: PathBuf,
    /// HTTP status.
    pub(crate) status: u16,
    /// Body. Null if there is none.
    pub(crate) body: Value,
}

impl Reply {
    /// Returns the body of a request that must succeed.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "expected success\n{self}");
        self.body
    }

    /// Returns the `data` of a request that must succeed.
    #[track_caller]
    pub(crate) fn data(self) -> Value {
        self.ok()["data"].take()
    }

    /// Returns the error text of a request that must fail with `status`.
    #[track_caller]
    pub(crate) fn fails(self, status: u16) -> String {
        assert!(self.status == status, "expected status {status}\n{self}");
        self.errors()
    }

    /// Returns the error text. Empty if there is none.
    pub(crate) fn errors(&self) -> String {
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Returns the warnings, joined by newlines.
    pub(crate) fn warnings(&self) -> String {
        let warnings = self.body["warnings"].as_array().map(Vec::as_slice).unwrap_or_default();
        warnings.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text =
            format!("request: {}\nstatus: {}\nbody: {:#}\n{}", self.request, self.status, self.body, tail(&self.log));
        f.write_str(&redact::clean(&text))
    }
}

/// Returns the last lines of a server's log.
fn tail(log: &PathBuf) -> String {
    const LINES: usize = 40;
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    format!("server log, last {} of {} lines:\n{}", last.len(), lines.len(), last.join("\n"))
}
