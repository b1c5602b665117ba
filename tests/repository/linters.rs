//! Runs linters on files other than Rust. The linters are downloaded in fixed versions, so that the results are the
//! same everywhere.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn shell_scripts_have_no_flaws() {
    let mut scripts = files("", ".sh");
    for folder in
        ["docs", "packaging", "tests/bench", "tests/conformance", "tests/fuzz", "tests/roots", "tests/support"]
    {
        scripts.extend(files(folder, ".sh"));
    }
    assert!(scripts.len() > 5, "only {scripts:?}");
    for script in &scripts {
        let text = fs::read_to_string(Path::new(ROOT).join(script)).unwrap();
        let known = ["#!/bin/sh\n", "# shellcheck shell=sh\n"];
        assert!(known.iter().any(|first| text.starts_with(first)), "{} is no script for sh", script.display());
    }
    scripts.push(".ci/run".into());
    // SC2162 is off: "run read ..." in the demo is Vault's command `read`, not the shell's.
    finds_nothing("shellcheck", &["--external-sources", "--exclude=SC2162"], &scripts);
}

#[test]
fn workflows_have_no_flaws() {
    assert!(files(".github/workflows", ".yml").len() > 1);
    // Offline: zizmor would look up known flaws of actions in the network.
    finds_nothing("zizmor", &["--offline", "--no-progress", "--persona=pedantic"], &[".github".into()]);
}

#[test]
fn images_have_no_flaws() {
    let files = files("packaging", ".Dockerfile");
    assert!(files.len() > 1, "only {files:?}");
    finds_nothing("hadolint", &[], &files);
}

/// Returns the files of a folder whose names end in `end`.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(ROOT).join(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(end)).map(|name| Path::new(folder).join(name)).collect()
}

#[track_caller]
fn finds_nothing(linter: &str, args: &[&str], files: &[PathBuf]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let output = Command::new("sh").arg("tests/support/linters.sh").current_dir(ROOT).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    });
    let fetched = FOLDER.join(linter);
    let program = if fetched.exists() { fetched } else { linter.into() };
    let output = match Command::new(program).args(args).args(files).current_dir(ROOT).output() {
        // Some linters have no package for some platforms.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("skipped: there is no {linter} for this platform, and none in PATH");
            return;
        }
        output => output.unwrap(),
    };
    let told = [output.stdout, output.stderr].map(|stream| String::from_utf8_lossy(&stream).into_owned());
    assert!(output.status.success(), "{linter}: {}\n{}", output.status, told.concat());
}
