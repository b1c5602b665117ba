//! Output for a person who starts the binary by hand.
//!
//! Architecture invariant: runs only without the host's cookie. A host may pass any argument, including these flags.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sha2::{Digest, Sha256};

use super::{handshake, memory};
use crate::plugin::{Command, Plugin};

/// Answers a flag with one dash or two, or runs the command of the plugin that the flag names. For other arguments, prints
/// an explanation and returns failure.
///
/// A host for another kind of plugin also starts the binary without our cookie. So this function must be fast and must
/// not write to stdout unless a flag asks for it (`vault/sdk` `database/dbplugin`).
pub(super) fn answer(plugin: &Plugin, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.collect();
    let flags = arguments.iter().map(|argument| Flag::parse(argument.to_str()?, plugin.commands));
    let first = flags.enumerate().find_map(|(at, flag)| Some((at, flag?)));
    // Ignores write errors: there is nobody to report them to.
    let _ = match first.map(|(at, flag)| (arguments.remove(at), flag).1) {
        Some(Flag::Version) => io::stdout().write_all(version(plugin).as_bytes()),
        Some(Flag::Help) => {
            let binary = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(plugin.name));
            let sha256 = sha256(&binary).ok();
            io::stdout().write_all(help(plugin, &binary, sha256.as_deref()).as_bytes())
        }
        Some(Flag::Command(command)) => {
            memory::protect(false);
            return (command.run)(plugin, arguments);
        }
        None => {
            let _ = io::stderr().write_all(explanation(plugin).as_bytes());
            return ExitCode::FAILURE;
        }
    };
    ExitCode::SUCCESS
}

enum Flag {
    Version,
    Help,
    Command(Command),
}

impl Flag {
    fn parse(argument: &str, commands: &[Command]) -> Option<Self> {
        match argument {
            "-version" | "--version" | "-v" => Some(Self::Version),
            "-help" | "--help" | "-h" => Some(Self::Help),
            _ => {
                let name = argument.strip_prefix('-')?;
                let name = name.strip_prefix('-').unwrap_or(name);
                commands.iter().find(|command| command.flag == name).copied().map(Self::Command)
            }
        }
    }
}

fn version(plugin: &Plugin) -> String {
    let Plugin { name, version, .. } = plugin;
    let commit = plugin.commit.filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    format!("{name} v{version}\ncommit: {commit}\nprotocol: plugin API version {}\n", handshake::VERSION)
}

fn explanation(plugin: &Plugin) -> String {
    let Plugin { name, version, .. } = plugin;
    format!(
        "{name} v{version} is a plugin of Vault and OpenBao.
It is not meant to be run by hand: the server starts it. To see how to register it with one, run it with -help.
"
    )
}

/// Returns the usage. The commands register this binary. Without its digest, they compute the digest.
fn help(plugin: &Plugin, binary: &Path, sha256: Option<&str>) -> String {
    let Plugin { name, version, description, .. } = plugin;
    let first = plugin.log_level_variable.map(|name| format!("{name}, then from ")).unwrap_or_default();
    let path = quoted(&binary.to_string_lossy());
    let file = quoted(&binary.file_name().unwrap_or(binary.as_os_str()).to_string_lossy());
    let command = |command: &Command| format!("    -{:<8} {}\n", command.flag, command.purpose);
    let commands: String = plugin.commands.iter().map(command).collect();
    let sha256 = sha256.map_or_else(|| format!("\"$(sha256sum {path} | cut -d' ' -f1)\""), str::to_owned);
    format!(
        "{name} v{version}
{description}.

This is a plugin: Vault or OpenBao starts it. \"bao\" works like \"vault\" below.

1. Put it into the directory that \"plugin_directory\" names in the server's configuration, on every node:

    install -m 0755 {path} \"$PLUGIN_DIRECTORY/\"

2. Register it. The server runs it only as long as its SHA-256 is this one:

    vault plugin register -sha256={sha256} \\
        -command={file} -version=v{version} secret {name}

3. Mount it, with -path=... for another path than its name:

    vault secrets enable {name}

To upgrade from a version that is registered already, do 1 and 2, then:

    vault secrets tune -plugin-version=v{version} {name}/
    vault plugin reload -plugin={name}

Flags:

    -version  shows the version, the commit it was built from and the version of the plugin protocol
    -help     shows this
{commands}
Arguments that the server passes (\"-args\" at registration) are accepted and ignored. The log level is read from
{first}the server's own variable: trace, debug, info, warn or error.
"
    )
}

/// Returns the command that registers this file, in one line.
pub(crate) fn register_command(plugin: &Plugin, binary: &Path, sha256: &str) -> String {
    let Plugin { name, version, .. } = plugin;
    let file = quoted(&binary.file_name().unwrap_or(binary.as_os_str()).to_string_lossy());
    format!("vault plugin register -sha256={sha256} -command={file} -version=v{version} secret {name}")
}

/// Quotes a text for a shell.
fn quoted(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+=:@%,".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Returns the SHA-256 of a file, in hexadecimal digits.
pub(crate) fn sha256(file: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file)?, &mut hash)?;
    let mut text = String::new();
    for byte in hash.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell_are_quoted_if_they_have_to_be() {
        assert_eq!(quoted("/opt/vault/plugins/cards_v3.0.0"), "/opt/vault/plugins/cards_v3.0.0");
        assert_eq!(quoted("my plugin"), "'my plugin'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn flags_have_one_dash_or_two_and_nothing_more() {
        for argument in ["version", "---version", "-versions", "-help=x", "help", "", "-"] {
            assert!(Flag::parse(argument, &[]).is_none(), "{argument}");
        }
    }

    #[test]
    fn a_file_is_hashed() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(Path::new("/dev/null")).unwrap(), empty);
        assert!(sha256(Path::new("/dev/null/nothing")).is_err());
    }
}
