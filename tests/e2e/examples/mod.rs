//! Tests of `docs/examples`: programs and agents are run, the other files are validated.

mod agent;
mod application;
mod helm;
mod kubernetes;
mod monitoring;
mod programs;
mod recording;
mod second_engine;
mod systemd;
mod terraform;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::bao::{Client, host_binary, redact};
use crate::world::World;

/// Reads a file of Terraform, or the configuration of a server.
const HCL: &str = "import hcl2, json, sys; print(json.dumps(hcl2.load(open(sys.argv[1], encoding='utf-8'))))";

/// Returns the path of an example.
fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples").join(name)
}

/// Returns the text of an example.
#[track_caller]
fn text(name: &str) -> String {
    fs::read_to_string(example(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Returns the directory of the Python packages that the tests need.
fn python_packages() -> &'static Path {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/python-packages.sh");
        let output = Command::new("sh").arg(script).output().expect("run sh");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
    })
}

/// Returns a command of Python with these packages.
fn python() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", python_packages()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Passes a text to a Python program on standard input. Returns the JSON that the program prints.
#[track_caller]
fn parsed(program: &str, text: &str) -> Value {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("text");
    fs::write(&file, text).expect("write a file");
    let output = python().args(["-c", program]).arg(&file).output().expect("run python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Finds a program in the search path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").expect("a search path");
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Prints the check that was skipped. The machine lacks a program that the project cannot download.
fn skip(what: &str, program: &str) {
    use std::io::Write as _;
    // Writes to stderr directly: the test runner would hide a macro's output, and a skipped check must be visible.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {what}: no {program} on this machine");
}

/// Returns the block of shell commands that follows a mark in a document.
#[track_caller]
fn block(document: &str, name: &str) -> String {
    let text = text(document);
    let block = text.split_once(&format!("<!-- tested: {name} -->\n```sh\n")).expect("the commands").1;
    block.split_once("```").expect("the end of the commands").0.to_owned()
}

/// Runs commands of a document in a directory, as a caller of the server. `vault` is in the search path.
#[track_caller]
fn run(client: &Client, commands: &str, dir: &Path) {
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).expect("create a directory");
    link(&host_binary(), &bin.join("vault"));
    let output = Command::new("sh")
        .args(["-euc", commands])
        .env_clear()
        .envs(client.command().get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("PATH", search_path(&bin))
        .current_dir(dir)
        .output()
        .expect("run sh");
    let told = |bytes: &[u8]| redact::clean(&String::from_utf8_lossy(bytes));
    assert!(output.status.success(), "{}\n{}", told(&output.stdout), told(&output.stderr));
}

fn link(target: &Path, place: &Path) {
    if !place.exists() {
        std::os::unix::fs::symlink(target, place).expect("link a program");
    }
}

/// Returns the search path with this directory first.
fn search_path(first: &Path) -> String {
    format!("{}:{}", first.display(), std::env::var("PATH").expect("a search path"))
}

impl World {
    /// Replaces `astra`, the mount in the examples, with this mount.
    fn here(&self, text: &str) -> String {
        text.replace("astra/creds/", &format!("{}/creds/", self.mount))
    }
}

#[test]
fn every_example_is_listed() {
    let list = text("README.md");
    for entry in entries(&example("")) {
        assert!(list.contains(&format!("]({entry}")), "docs/examples/README.md does not name {entry}");
        assert_lists_its_files(&example(&entry));
    }
}

/// Checks that the README of a directory, if there is one, names all files and directories there.
#[track_caller]
fn assert_lists_its_files(dir: &Path) {
    let Ok(readme) = fs::read_to_string(dir.join("README.md")) else { return };
    for name in entries(dir) {
        let told = readme.contains(&format!("]({name}")) || name.ends_with(".tf");
        assert!(told, "{}/README.md does not name {name}", dir.display());
        assert_lists_its_files(&dir.join(name));
    }
}

/// Returns the names in a directory without its README, sorted. A file has none.
fn entries(dir: &Path) -> Vec<String> {
    let Ok(found) = fs::read_dir(dir) else { return Vec::new() };
    let names = found.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name != "README.md").collect();
    names.sort();
    names
}
