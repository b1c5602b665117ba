//! The plugin binary.

use std::process::ExitCode;

use vault_plugin_astra::astra;
use vault_plugin_astra::sdk::{self, Plugin};

fn main() -> ExitCode {
    sdk::serve(Plugin {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        // Set by the Makefile in a checkout; a build from a source archive does not know it.
        commit: option_env!("BUILD_COMMIT"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        log_level_variable: "DATASTAX_ASTRA_VAULT_LOG_LEVEL",
        log_target: env!("CARGO_CRATE_NAME"),
        redact: &["AstraCS:"],
        factory: astra::factory(),
    })
}
