//! Runtime for secrets engines that Vault and OpenBao run as external plugins (plugin API version 5).
//!
//! An engine declares its paths with [`framework`], works with the plain types of [`logical`], starts with [`work`] what
//! must not be cut short, and hands a [`logical::Factory`] to [`serve`], which does the rest: handshake, mutual TLS,
//! broker, multiplexing, logs, shutdown.
//!
//! Architecture invariant: nothing in here names the engine that is built on it.

pub mod framework;
pub mod logical;
pub(crate) mod pb;
mod process;
#[cfg(test)]
pub(crate) mod testing;
mod wire;
pub mod work;

use std::process::ExitCode;

pub use self::process::proxy_variables;
#[cfg(any(test, fuzzing))]
pub(crate) use self::wire::{fuzz_wire_data, fuzz_wire_request};

/// A plugin: what its binary says about itself, and the engine.
pub struct Plugin {
    /// Name of the binary and of the plugin in the host's catalog.
    pub name: &'static str,
    /// Semantic version without a leading `v`. The host is told the one with it.
    pub version: &'static str,
    /// Commit that the binary was built from, if the build knew it.
    pub commit: Option<&'static str>,
    /// What the engine does, in a few words without a full stop.
    pub description: &'static str,
    /// Environment variable with the log level; the host's own `BAO_LOG_LEVEL` or `VAULT_LOG_LEVEL` comes after it.
    pub log_level_variable: &'static str,
    /// Crate that the engine is written in, `env!("CARGO_CRATE_NAME")`: below info, only its events and those of this
    /// runtime are logged, because dependencies show headers there.
    pub log_target: &'static str,
    /// What tokens begin with. In log lines, whatever follows such a prefix is blacked out.
    pub redact: &'static [&'static str],
    /// Makes the backend of each mount.
    pub factory: logical::Factory,
}

/// Runs the plugin until its host has no more use for it, and returns the status for the process to end with.
///
/// Started by hand it explains itself instead.
pub fn serve(plugin: Plugin) -> ExitCode {
    let (version, factory) = (plugin.version, plugin.factory.clone());
    process::run(&plugin, move |broker| wire::routes(broker, version, factory))
}
