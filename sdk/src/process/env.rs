//! The environment with which the host starts the plugin.
//!
//! Architecture invariant: only this module reads the process environment. The environment may hold tokens and keys of
//! the host. So this module reads only the variables named here, and logs none.

use std::path::PathBuf;

/// The host's settings at start.
#[derive(Default)]
pub(super) struct Environment {
    /// Whether the magic cookie is correct. The cookie shows that a host for this kind of plugin started the process.
    pub(super) cookie: bool,
    /// Plugin API versions that the host accepts. Empty if the host names none.
    pub(super) versions: Vec<u32>,
    /// The host's one-time certificate (PEM).
    pub(super) client_cert: Option<String>,
    /// Directory for the socket, if the host runs the plugin in a container.
    pub(super) socket_dir: Option<PathBuf>,
    /// Directory for temporary files, if the environment names a directory.
    pub(super) temporary_dir: Option<PathBuf>,
    /// Group that may use the socket: a name or a number.
    pub(super) socket_group: Option<String>,
    /// Whether one socket carries all connections.
    pub(super) mux: Mux,
    /// Whether to keep memory out of swap.
    pub(super) lock_memory: bool,
    /// Log level, as written.
    pub(super) log_level: Option<String>,
}

/// The host's setting for one shared socket (`PLUGIN_MULTIPLEX_GRPC`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Mux {
    /// Not set. The host may be old, and would read an answer to this setting as part of the certificate.
    #[default]
    Unasked,
    /// Each connection has its own socket.
    Off,
    /// One socket carries all connections.
    On,
}

impl Environment {
    /// Reads the environment. `log_level_variable` is the engine's own variable and takes precedence over the host's.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub(super) fn read(log_level_variable: Option<&str>) -> Self {
        Self::from_lookup(log_level_variable, |name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
        })
    }

    fn from_lookup(log_level_variable: Option<&str>, lookup: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        // OpenBao sets both names and its SDK prefers its own, even if empty (`sdk/helper/pluginutil/env.go`).
        let host = |name: &str| {
            let value = lookup(&format!("BAO_{name}")).or_else(|| lookup(&format!("VAULT_{name}")));
            value.filter(|value| !value.is_empty())
        };
        let versions = set("PLUGIN_PROTOCOL_VERSIONS").unwrap_or_default();
        Self {
            cookie: lookup(COOKIE).is_some_and(|value| value == COOKIE_VALUE),
            versions: versions.split(',').filter_map(|version| version.trim().parse().ok()).collect(),
            client_cert: set("PLUGIN_CLIENT_CERT"),
            socket_dir: set("PLUGIN_UNIX_SOCKET_DIR").map(PathBuf::from),
            // Go reads an empty `TMPDIR` as not set (`os.TempDir`).
            temporary_dir: set("TMPDIR").map(PathBuf::from),
            socket_group: set("PLUGIN_UNIX_SOCKET_GROUP"),
            mux: match set("PLUGIN_MULTIPLEX_GRPC") {
                None => Mux::Unasked,
                Some(value) if is_true(&value) => Mux::On,
                Some(_) => Mux::Off,
            },
            lock_memory: host("PLUGIN_MLOCK_ENABLED").is_some_and(|value| is_true(&value)),
            log_level: log_level_variable.and_then(set).or_else(|| host("LOG_LEVEL")),
        }
    }
}

/// Returns the proxy variables that are set, with unchanged values. The values may hold passwords.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn proxy_variables() -> Vec<(&'static str, String)> {
    let read = |name| Some((name, std::env::var_os(name)?.to_string_lossy().into_owned()));
    PROXY_VARIABLES.into_iter().filter_map(read).collect()
}

/// Returns a variable that a person set for a [`Command`](crate::Command); `None` if it is not set or empty. An engine reads
/// no other variables: the host's may hold its tokens and keys.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

/// Accepts the spellings of Go's `strconv.ParseBool`.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Includes `REQUEST_METHOD`: if it is set, Go assumes that a client of a web server may have set `HTTP_PROXY`.
const PROXY_VARIABLES: [&str; 9] = [
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "REQUEST_METHOD",
];

const COOKIE: &str = "VAULT_BACKEND_PLUGIN";
const COOKIE_VALUE: &str = "6669da05-b1c8-4f49-97d9-c8e5bed98e20";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Environment {
        Environment::from_lookup(Some("ENGINE_LOG_LEVEL"), |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn cookie_must_be_the_one_of_secrets_engines() {
        assert!(read(&[(COOKIE, COOKIE_VALUE)]).cookie);
        assert!(!read(&[(COOKIE, "other")]).cookie);
        assert!(!read(&[("VAULT_DATABASE_PLUGIN", COOKIE_VALUE)]).cookie);
        assert!(!read(&[]).cookie);
    }

    #[test]
    fn versions_are_a_list_in_any_order() {
        assert_eq!(read(&[("PLUGIN_PROTOCOL_VERSIONS", "6, 5,x,")]).versions, [6, 5]);
        assert!(read(&[("PLUGIN_PROTOCOL_VERSIONS", "")]).versions.is_empty());
    }

    #[test]
    fn present_bao_variable_beats_vault_even_if_empty() {
        let both = [("BAO_LOG_LEVEL", ""), ("VAULT_LOG_LEVEL", "debug")];
        assert_eq!(read(&both).log_level, None);
        assert_eq!(read(&both[1..]).log_level.as_deref(), Some("debug"));
        assert!(read(&[("VAULT_PLUGIN_MLOCK_ENABLED", "true")]).lock_memory);
        assert!(!read(&[("BAO_PLUGIN_MLOCK_ENABLED", "false"), ("VAULT_PLUGIN_MLOCK_ENABLED", "true")]).lock_memory);
    }

    #[test]
    fn log_level_of_the_engine_beats_that_of_the_host() {
        let level = read(&[("BAO_LOG_LEVEL", "warn"), ("ENGINE_LOG_LEVEL", "trace")]).log_level;
        assert_eq!(level.as_deref(), Some("trace"));
    }

    #[test]
    fn an_empty_temporary_directory_is_none() {
        assert_eq!(read(&[("TMPDIR", "")]).temporary_dir, None);
        assert_eq!(read(&[("TMPDIR", "/run/vault")]).temporary_dir, Some(PathBuf::from("/run/vault")));
    }

    #[test]
    fn socket_sharing_is_answered_whenever_it_is_mentioned() {
        let mux = |value| read(&[("PLUGIN_MULTIPLEX_GRPC", value)]).mux;
        assert_eq!(mux("true"), Mux::On);
        assert_eq!(mux("false"), Mux::Off);
        assert_eq!(mux(""), Mux::Unasked);
    }
}
