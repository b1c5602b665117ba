//! What the binary says to somebody who starts it by hand.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::sdk::Plugin;

/// Answers the flags in Go's spelling and with two dashes; anything else gets the explanation and a failure.
pub(super) fn answer(plugin: &Plugin, mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let flag = arguments.next().and_then(|flag| flag.into_string().ok()).unwrap_or_default();
    // Errors of writing are ignored: there is nobody else to tell.
    match flag.trim_start_matches('-') {
        "version" if flag.starts_with('-') => {
            let _ = writeln!(io::stdout(), "{} v{}", plugin.name, plugin.version);
            ExitCode::SUCCESS
        }
        "help" | "h" if flag.starts_with('-') => {
            let _ = io::stdout().write_all(explanation(plugin).as_bytes());
            ExitCode::SUCCESS
        }
        _ => {
            let _ = io::stderr().write_all(explanation(plugin).as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn explanation(plugin: &Plugin) -> String {
    let Plugin { name, version, description, .. } = plugin;
    let binary = std::env::current_exe().ok();
    let binary = binary.as_deref().unwrap_or(Path::new(name));
    let file = binary.file_name().unwrap_or(binary.as_os_str()).display();
    let path = binary.display();
    let log_level = plugin.log_level_variable;
    format!(
        "{name} v{version}: {description}

This is a plugin. It is not meant to be run by hand; Vault or OpenBao starts it. With the binary in the
server's plugin directory (\"bao\" works like \"vault\"):

    vault plugin register -sha256=\"$(sha256sum '{path}' | cut -d' ' -f1)\" \\
        -command='{file}' -version=v{version} secret {name}
    vault secrets enable {name}

Flags: -version, -help. The log level is read from {log_level}: trace, debug, info, warn, error.
"
    )
}
