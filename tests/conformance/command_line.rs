//! What the binary says to people, who start it without a host's cookie.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::host::Launch;
use crate::host::process::COOKIE;

const ENGINE: &str = env!("CARGO_BIN_EXE_vault-plugin-secrets-datastax-astra");
const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[tokio::test(flavor = "multi_thread")]
async fn version_tells_version_commit_and_protocol() {
    // The tests are built with the variable that the binary is built with.
    let commit = option_env!("BUILD_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let expected = format!("{NAME} v{VERSION}\ncommit: {commit}\nprotocol: plugin API version 5\n");
    for flag in ["-version", "--version", "-v"] {
        assert_eq!(Launch::astra().arg(flag).by_hand().await, expected, "{flag}");
        assert_eq!(Launch::astra().arg("-x").arg(flag).arg("-help").by_hand().await, expected, "{flag}");
    }
    let other = Launch::passbook().arg("-version").by_hand().await;
    assert_eq!(other, "passbook v0.1.0\ncommit: unknown\nprotocol: plugin API version 5\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_has_the_commands_for_this_very_binary() {
    let help = Launch::astra().arg("-help").by_hand().await;
    let program = std::fs::read(ENGINE).unwrap();
    let digest: String = Sha256::digest(program).iter().map(|byte| format!("{byte:02x}")).collect();
    for part in [
        env!("CARGO_PKG_DESCRIPTION"),
        &format!("install -m 0755 {ENGINE} "),
        &format!("-sha256={digest} "),
        &format!("-command={NAME} -version=v{VERSION} secret {NAME}\n"),
        &format!("vault secrets enable {NAME}\n"),
        "-version ",
        "-help ",
        "DATASTAX_ASTRA_VAULT_LOG_LEVEL",
    ] {
        assert!(help.contains(part), "no {part:?} in:\n{help}");
    }
    assert!(help.lines().all(|line| line.len() <= 120 || line.contains(ENGINE) || line.contains(&digest)), "{help}");
    for flag in ["--help", "-h"] {
        assert_eq!(Launch::astra().arg(flag).by_hand().await, help, "{flag}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anything_else_is_told_how_to_go_on() {
    let unknown: [&[&str]; 5] = [&[], &["version"], &["-ca-cert=/x"], &["-versions"], &["---help"]];
    for args in unknown {
        let launch = args.iter().fold(Launch::astra().without(COOKIE.0), |launch, arg| launch.arg(arg));
        let mut plugin = launch.spawn();
        plugin.refused(Duration::from_secs(1)).await;
        let told = plugin.stderr();
        for part in [NAME, VERSION, "is a plugin", "not meant to be run by hand", "-help"] {
            assert!(told.contains(part), "{args:?}: no {part:?} in:\n{told}");
        }
    }
}
