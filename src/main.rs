//! The plugin binary.

use std::process::ExitCode;

use vault_plugin_astra::{PLUGIN, factory};

fn main() -> ExitCode {
    // Set by packaging/build.sh in a checkout. A build from a source archive does not know the commit.
    vault_plugin_sdk::serve(PLUGIN.commit(option_env!("BUILD_COMMIT")), factory())
}
