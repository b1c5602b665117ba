//! The description of a plugin: its name, version and licence, and settings of its log and its runtime.
//!
//! Architecture invariant: all values come from the engine's crate. The SDK never fills in its own name or version.

use std::ffi::OsString;
use std::process::ExitCode;

/// The description of a plugin. Declare it as a constant:
///
/// ```
/// use vault_plugin_sdk::Plugin;
///
/// const PLUGIN: Plugin = Plugin::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
///     .description("Lends cards for a while")
///     .license("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
///     .log_target(env!("CARGO_CRATE_NAME"));
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Plugin {
    /// Name of the binary and of the plugin in the host's catalog.
    pub name: &'static str,
    /// Semantic version without a leading `v`. The SDK adds the `v` for the host.
    pub version: &'static str,
    /// Commit from which the binary was built, if the build knows the commit.
    pub commit: Option<&'static str>,
    /// Purpose of the engine, in a few words without a full stop.
    pub description: &'static str,
    /// Licence of the engine, shown in its OpenAPI document.
    pub license: Option<License>,
    /// Environment variable with the log level. It takes precedence over the host's `BAO_LOG_LEVEL` or
    /// `VAULT_LOG_LEVEL`.
    pub log_level_variable: Option<&'static str>,
    /// Crate of the engine. Below `info`, the log shows only events of this crate and of the SDK, because dependencies
    /// log headers at those levels.
    pub log_target: Option<&'static str>,
    /// Prefixes of tokens. The log replaces the text after such a prefix.
    pub redact: &'static [&'static str],
    /// Threads that run handlers.
    pub worker_threads: usize,
    /// Limits of each mount.
    pub limits: Limits,
    /// Commands for people.
    pub commands: &'static [Command],
}

/// A command for a person who starts the binary by hand, as `<binary> -<flag>`.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Command {
    /// Name of the flag, without a dash.
    pub flag: &'static str,
    /// Purpose, for the usage of the binary: a few words without a full stop.
    pub purpose: &'static str,
    /// Runs the command with the other arguments, and returns the exit status of the process.
    pub run: fn(&Plugin, Vec<OsString>) -> ExitCode,
}

impl Command {
    /// Returns a command. `run` gets the arguments other than the flag.
    pub const fn new(flag: &'static str, purpose: &'static str, run: fn(&Plugin, Vec<OsString>) -> ExitCode) -> Self {
        Self { flag, purpose, run }
    }
}

/// Limits for the requests of clients to one mount. The host's own requests, such as revocations, have none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// How many requests a mount handles at a time. Further requests get status 503.
    pub requests: usize,
    /// Largest body or query of a request, in bytes of JSON. A larger one gets status 413. The host itself has a limit of
    /// 32 MiB.
    pub body: usize,
}

impl Limits {
    /// No limits.
    pub const NONE: Self = Self { requests: usize::MAX, body: usize::MAX };
}

/// A licence, as OpenAPI documents name it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct License {
    /// SPDX expression, such as `Apache-2.0`.
    pub name: &'static str,
    /// Address of the text.
    pub url: &'static str,
}

impl Plugin {
    /// Describes a plugin by its name in the catalog and by its version without a leading `v`.
    ///
    /// # Panics
    /// If the version is not a semantic version: the host would refuse to register the plugin. For a constant, the
    /// compiler reports this.
    pub const fn new(name: &'static str, version: &'static str) -> Self {
        assert!(
            is_semver(version.as_bytes()),
            "the version of a plugin is a semantic version without a `v`, such as 1.2.3"
        );
        Self {
            name,
            version,
            commit: None,
            description: "",
            license: None,
            log_level_variable: None,
            log_target: None,
            redact: &[],
            worker_threads: 1,
            limits: Limits::NONE,
            commands: &[],
        }
    }

    /// Sets the commit from which the binary was built.
    #[must_use]
    pub const fn commit(mut self, commit: Option<&'static str>) -> Self {
        self.commit = commit;
        self
    }

    /// Sets the purpose of the engine, in a few words without a full stop.
    #[must_use]
    pub const fn description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Sets the licence: its SPDX expression and the address of its text.
    #[must_use]
    pub const fn license(mut self, name: &'static str, url: &'static str) -> Self {
        self.license = Some(License { name, url });
        self
    }

    /// Sets the environment variable with the log level.
    #[must_use]
    pub const fn log_level_variable(mut self, name: &'static str) -> Self {
        self.log_level_variable = Some(name);
        self
    }

    /// Sets the crate whose events the log shows at every level: `env!("CARGO_CRATE_NAME")` in that crate.
    #[must_use]
    pub const fn log_target(mut self, name: &'static str) -> Self {
        self.log_target = Some(name);
        self
    }

    /// Sets the number of threads that run handlers, at least 1. One is best for engines that mostly wait: more threads wake
    /// each other for every request, which costs a fifth of the processor time. Blocking work runs in
    /// `tokio::task::spawn_blocking`.
    #[must_use]
    pub const fn worker_threads(mut self, threads: usize) -> Self {
        assert!(threads > 0, "a plugin needs a worker thread");
        self.worker_threads = threads;
        self
    }

    /// Sets how many requests of clients each mount handles at a time. Further requests get status 503.
    #[must_use]
    pub const fn max_requests(mut self, requests: usize) -> Self {
        self.limits.requests = requests;
        self
    }

    /// Sets the largest body or query of a request, in bytes of JSON. A larger one gets status 413.
    #[must_use]
    pub const fn max_body(mut self, bytes: usize) -> Self {
        self.limits.body = bytes;
        self
    }

    /// Sets the commands for people who start the binary by hand.
    #[must_use]
    pub const fn commands(mut self, commands: &'static [Command]) -> Self {
        self.commands = commands;
        self
    }

    /// Sets the prefixes of tokens. The log replaces the text after such a prefix.
    #[must_use]
    pub const fn redact(mut self, prefixes: &'static [&'static str]) -> Self {
        self.redact = prefixes;
        self
    }
}

/// Whether a text is a semantic version: three numbers without leading zeros, then prerelease and build metadata.
const fn is_semver(text: &[u8]) -> bool {
    let (mut at, mut numbers) = (0, 0);
    while numbers < 3 {
        let start = at;
        while at < text.len() && text[at].is_ascii_digit() {
            at += 1;
        }
        if at == start || (text[start] == b'0' && at > start + 1) {
            return false;
        }
        numbers += 1;
        if numbers < 3 {
            if at == text.len() || text[at] != b'.' {
                return false;
            }
            at += 1;
        }
    }
    if at < text.len() && text[at] == b'-' {
        at = identifiers(text, at + 1);
    }
    if at < text.len() && text[at] == b'+' {
        at = identifiers(text, at + 1);
    }
    at == text.len()
}

/// Returns the end of the identifiers, which are separated by dots. If one is empty, returns an end after the text.
const fn identifiers(text: &[u8], mut at: usize) -> usize {
    let mut is_empty = true;
    while at < text.len() && text[at] != b'+' {
        if text[at].is_ascii_alphanumeric() || text[at] == b'-' {
            is_empty = false;
        } else if text[at] == b'.' && !is_empty {
            is_empty = true;
        } else {
            return usize::MAX;
        }
        at += 1;
    }
    if is_empty { usize::MAX } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_semantic_versions_are_versions() {
        for version in ["0.0.0", "1.20.3", "1.2.3-rc.1", "1.2.3+abc.7", "1.2.3-a-b+c", "1.2.3--"] {
            assert!(is_semver(version.as_bytes()), "{version}");
        }
        for version in
            ["", "v1.2.3", "1.2", "1.2.3.4", "1.02.3", "1.2.3-", "1.2.3+", "1.2.3-a..b", "1.2.3+a+b", "1.2.x"]
        {
            assert!(!is_semver(version.as_bytes()), "{version}");
        }
    }

    #[test]
    #[should_panic(expected = "such as 1.2.3")]
    fn a_version_with_a_letter_in_front_stops_the_start() {
        let _ = Plugin::new("x", "v1.2.3");
    }
}
