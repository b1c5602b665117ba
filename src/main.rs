//! The plugin binary.

use std::process::ExitCode;
use std::sync::Arc;

use vault_plugin_astra::sdk::{self, Plugin, framework, logical};

fn main() -> ExitCode {
    sdk::serve(Plugin {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        log_level_variable: "DATASTAX_ASTRA_VAULT_LOG_LEVEL",
        redact: &["AstraCS:"],
        factory: factory(),
    })
}

fn factory() -> logical::Factory {
    let backend = Arc::new(framework::Backend::<()>::new("Issues application tokens of DataStax Astra DB."));
    Arc::new(move |mount| Ok(backend.clone().mount(Arc::new(()), mount)))
}
