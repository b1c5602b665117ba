//! The binary's output for people, who start it without a host's cookie.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::host::Launch;
use crate::host::process::COOKIE;
use crate::plugin;

const NAME: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[tokio::test(flavor = "multi_thread")]
async fn version_prints_version_commit_and_protocol() {
    let expected = Launch::astra().arg("-version").by_hand().await;
    let [name, commit, protocol] = expected.lines().collect::<Vec<_>>()[..] else { panic!("{expected}") };
    assert_eq!((name, protocol), (format!("{NAME} v{VERSION}").as_str(), "protocol: plugin API version 5"));
    let commit = commit.strip_prefix("commit: ").unwrap();
    // A binary that was built from uncommitted files has the suffix `-dirty`.
    assert_eq!(
        commit.trim_end_matches("-dirty"),
        checked_out(),
        "PLUGIN was built from another commit: run `make bin`"
    );
    for flag in ["-version", "--version", "-v"] {
        assert_eq!(Launch::astra().arg(flag).by_hand().await, expected, "{flag}");
        assert_eq!(Launch::astra().arg("-x").arg(flag).arg("-help").by_hand().await, expected, "{flag}");
    }
    let other = Launch::passbook().arg("-version").by_hand().await;
    assert_eq!(other, "passbook v0.1.0\ncommit: unknown\nprotocol: plugin API version 5\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_prints_the_commands_for_this_binary() {
    let engine = plugin::binary().to_str().unwrap();
    let help = Launch::astra().arg("-help").by_hand().await;
    let program = std::fs::read(engine).unwrap();
    let digest: String = Sha256::digest(program).iter().map(|byte| format!("{byte:02x}")).collect();
    for part in [
        env!("CARGO_PKG_DESCRIPTION"),
        &format!("install -m 0755 {engine} "),
        &format!("-sha256={digest} "),
        &format!("-command={NAME} -version=v{VERSION} secret {NAME}\n"),
        &format!("vault secrets enable {NAME}\n"),
        "-version ",
        "-help ",
        "DATASTAX_ASTRA_VAULT_LOG_LEVEL",
    ] {
        assert!(help.contains(part), "no {part:?} in:\n{help}");
    }
    assert!(help.lines().all(|line| line.len() <= 120 || line.contains(engine) || line.contains(&digest)), "{help}");
    for flag in ["--help", "-h"] {
        assert_eq!(Launch::astra().arg(flag).by_hand().await, help, "{flag}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_binary_under_test_is_a_release_build() {
    let read =
        output("readelf", &["--wide", "--segments", "--dynamic", "--sections", plugin::binary().to_str().unwrap()]);
    let read = read.expect("readelf, which comes with the linker");
    assert!(
        !read.contains(".symtab") && !read.contains(".debug_"),
        "the binary has symbols, so it is not a release build"
    );
    // As in packaging/build.sh: without a static C library, the binary is linked dynamically.
    let library = output("cc", &["-print-file-name=libc.a"]).expect("a C compiler");
    if cfg!(target_env = "gnu") && Path::new(&library).is_absolute() {
        assert!(!read.contains("INTERP") && !read.contains("(NEEDED)"), "the binary is linked dynamically:\n{read}");
    }
}

/// Returns the commit of the checkout. A source archive has none.
fn checked_out() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let commit = || output("git", &["-C", folder, "rev-parse", "HEAD"]);
    Path::new(folder).join(".git").exists().then(commit).flatten().unwrap_or_else(|| "unknown".into())
}

/// Returns the output of a program, if the program exists and succeeds.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_arguments_print_advice() {
    let unknown: [&[&str]; 5] = [&[], &["version"], &["-ca-cert=/x"], &["-versions"], &["---help"]];
    for args in unknown {
        let launch = args.iter().fold(Launch::astra().without(COOKIE.0), |launch, arg| launch.arg(arg));
        let mut plugin = launch.spawn();
        plugin.assert_start_fails(Duration::from_secs(1)).await;
        let told = plugin.stderr();
        for part in [NAME, VERSION, "is a plugin", "not meant to be run by hand", "-help"] {
            assert!(told.contains(part), "{args:?}: no {part:?} in:\n{told}");
        }
    }
}
