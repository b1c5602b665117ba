//! The plugin binary.

use std::process::ExitCode;

use vault_plugin_astra::{PLUGIN, astra, sdk};

fn main() -> ExitCode {
    // Set by packaging/build.sh in a checkout. A build from a source archive does not know the commit.
    sdk::serve(PLUGIN.commit(option_env!("BUILD_COMMIT")), astra::factory())
}
