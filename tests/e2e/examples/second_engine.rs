//! Builds the engine template against the package of the SDK, and runs it on a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::example;
use crate::bao::{Server, sha256};
use crate::docs::Shell;

const NAME: &str = "second-engine";

/// Returns the folder of this test in the target folder. The folder is kept, because the first build takes minutes.
fn work() -> PathBuf {
    let tests = std::env::current_exe().expect("the path of this program");
    let target = tests.ancestors().nth(3).expect("the target folder");
    target.join(NAME)
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns a cargo command that downloads nothing and builds in the folder of this test.
fn cargo(folder: &Path, subcommand: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(folder).args([subcommand, "--offline", "--quiet", "--target-dir"]).arg(work().join("target"));
    command
}

/// Packages the SDK and returns the folder of the unpacked package. If the package has not changed since the last run,
/// the folder stays unchanged, so that cargo does not rebuild.
fn unpacked_sdk() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(cargo(repository, "package").args(["--package", "vault-plugin-sdk", "--no-verify", "--allow-dirty"]));
    let package = work().join("target/package");
    let found = fs::read_dir(&package).expect("the folder of the packages").flatten().map(|entry| entry.path());
    let crates: Vec<PathBuf> = found.filter(|path| path.extension().is_some_and(|kind| kind == "crate")).collect();
    let [packed] = crates.as_slice() else { panic!("expected one package, found {crates:?}") };

    let (folder, mark) = (work().join("sdk"), work().join("sdk.sha256"));
    let digest = sha256(packed);
    if fs::read_to_string(&mark).is_ok_and(|kept| kept == digest) {
        return folder;
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("create a folder");
    // All files in a package have the same old time. With the current time, cargo notices changes.
    let mut tar = Command::new("tar");
    run(tar.arg("-xmzf").arg(packed).arg("-C").arg(&folder).arg("--strip-components=1"));
    fs::write(mark, digest).expect("write the digest");
    folder
}

/// Tests and builds a copy of the template as a user does, and returns the binary.
fn build() -> PathBuf {
    let (folder, sdk) = (work().join("template"), unpacked_sdk());
    fs::create_dir_all(folder.join("src")).expect("create a folder");
    let sources = fs::read_dir(example(NAME).join("src")).expect("the sources").flatten();
    for file in sources.map(|entry| entry.path()).chain([example(NAME).join("Cargo.toml")]) {
        let name = file.strip_prefix(example(NAME)).expect("a file of the template");
        copy_if_changed(&file, &folder.join(name));
    }
    // Uses the versions of this repository, because they are already downloaded.
    let versions = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    fs::copy(versions, folder.join("Cargo.lock")).expect("copy the versions");
    let patch = format!("patch.crates-io.vault-plugin-sdk.path={:?}", sdk.display().to_string());
    for subcommand in ["test", "build"] {
        run(cargo(&folder, subcommand).args(["--config", &patch]));
    }
    work().join("target/debug").join(NAME)
}

/// Copies a file. An unchanged copy keeps its time, so that cargo does not rebuild.
fn copy_if_changed(from: &Path, to: &Path) {
    let text = fs::read(from).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    if !fs::read(to).is_ok_and(|kept| kept == text) {
        fs::write(to, text).unwrap_or_else(|error| panic!("{}: {error}", to.display()));
    }
}

#[test]
fn the_engine_template_builds_with_the_packaged_sdk_and_works() {
    const PAGE: &str = "docs/examples/second-engine/README.md";
    let binary = build();
    let server = Server::dev();
    fs::copy(binary, server.plugin_dir().join(NAME)).expect("copy the engine");
    let mut shell = Shell::new(&server, "astra", "");
    shell.set("PLUGIN_DIR", server.plugin_dir().display().to_string());
    shell.run_block(PAGE, "second engine, register");
    shell.run_block(PAGE, "second engine, use");

    assert_eq!(server.get("keys/roles/reader").data(), json!({"scope": "read", "ttl": "1h0m0s"}));
    assert_eq!(server.keys("keys/roles"), ["reader"]);
    let issued = server.get("keys/keys/reader").ok();
    assert_eq!(issued["lease_duration"], 3600);
    assert_eq!(issued["data"]["scope"], "read");
    let lease = json!({"lease_id": issued["lease_id"]});
    assert_eq!(server.post("sys/leases/renew", &lease).ok()["renewable"], true);
    server.post("sys/leases/revoke", &json!({"lease_id": issued["lease_id"], "sync": true})).ok();
    assert!(server.post("sys/leases/lookup", &lease).fails(400).contains("invalid lease"));
    assert!(server.get("keys/keys/none").fails(400).contains("write roles/none first"));
}
