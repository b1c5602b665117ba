//! `NOTICE`: the licences of what is linked into the binary. Releases ship it beside the binary.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What the list is made for. Releases for aarch64 link the same crates, which another test sees to.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

const HEAD: &str = "\
The binary vault-plugin-secrets-datastax-astra is licensed under the Apache License 2.0 (LICENSE.txt). It contains the
software of others that is listed below, each with the licence that its package names, followed by the texts. Where
a package leaves the choice and has the Apache License 2.0 among it, that one is chosen.

Beside these it contains Rust's standard library (MIT OR Apache-2.0, The Rust Project Developers) and, where it is
linked statically, the GNU C Library (LGPL-2.1-or-later). To link it with another version of that library, build it from
its source, which is public.
";

/// Packages that leave the text of their licence out, and the one of the same project and version that has it.
const WITHOUT_TEXT: [(&str, &str); 1] = [("tonic-prost", "tonic")];

/// A crate that is linked into the binary.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    licence: String,
    /// Names and contents of the files with licences and notices.
    texts: BTreeMap<String, String>,
}

/// The committed file is what the dependencies say. `NOTICE_WRITE=1` (`make notice`) writes it instead.
#[test]
#[allow(clippy::disallowed_methods, reason = "a switch of the test, not of the plugin")]
fn notice_is_current() {
    let fresh = notice(&linked(PLATFORM));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("NOTICE");
    if std::env::var_os("NOTICE_WRITE").is_some() {
        fs::write(&file, &fresh).unwrap();
    } else {
        assert!(fs::read_to_string(&file).unwrap() == fresh, "NOTICE is not current; run `make notice`");
    }
}

#[test]
fn every_platform_of_a_release_links_the_same_crates() {
    let names = |platform| -> Vec<String> {
        linked(platform).iter().map(|package| format!("{} {}", package.name, package.version)).collect()
    };
    assert_eq!(names("aarch64-unknown-linux-gnu"), names(PLATFORM));
}

fn notice(crates: &BTreeSet<Crate>) -> String {
    assert!(crates.len() > 50, "only {} crates", crates.len());
    let mut out = HEAD.to_owned();
    // The same text is shown once, for all that have it.
    let mut users: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut first: Vec<&str> = Vec::new();
    writeln!(out).unwrap();
    for Crate { name, version, licence, texts } in crates {
        writeln!(out, "{name} {version}: {licence}").unwrap();
        for text in texts.values() {
            if !users.contains_key(text.as_str()) {
                first.push(text);
            }
            users.entry(text).or_default().push(format!("{name} {version}"));
        }
    }
    for text in first {
        let rule = "-".repeat(100);
        writeln!(out, "\n{rule}\n{}\n{rule}\n\n{text}", users[text].join(", ")).unwrap();
    }
    out
}

/// Returns the crates that are linked on a platform: no build scripts, no procedural macros, no tests.
fn linked(platform: &str) -> BTreeSet<Crate> {
    let edges = "--edges=normal,no-proc-macro";
    let tree = cargo(&["tree", "--locked", edges, "--target", platform, "--prefix=none", "--format={p}"]);
    let metadata = cargo(&["metadata", "--locked", "--format-version=1", "--filter-platform", platform]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages: HashMap<String, &Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (format!("{} v{}", text(&package["name"]), text(&package["version"])), package))
        .collect();
    // The first line is this package; lines of crates that were shown before end in a mark.
    let lines = tree.lines().skip(1).map(|line| line.strip_suffix(" (*)").unwrap_or(line));
    lines.map(|line| read(packages[line], &packages)).collect()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn read(package: &Value, packages: &HashMap<String, &Value>) -> Crate {
    let (name, version, licence) = (text(&package["name"]), text(&package["version"]), text(&package["license"]));
    let mut texts = texts(package);
    if let Some((_, other)) = WITHOUT_TEXT.iter().find(|(without, _)| *without == name) {
        assert!(texts.is_empty(), "{name} has a text of its own now");
        texts = self::texts(packages[&format!("{other} v{version}")]);
    }
    let apache = |file: &str| file.to_uppercase().contains("APACHE");
    let is_choice = !licence.contains("AND") && licence.contains("Apache-2.0");
    if is_choice && texts.keys().any(|file| apache(file)) {
        texts.retain(|file, _| apache(file) || !file.to_uppercase().starts_with("LICEN"));
    }
    // The text of the Apache License 2.0 is there for others.
    assert!(!texts.is_empty() || is_choice, "{name} {version} ({licence}) comes without the text of its licence");
    Crate { name, version, licence, texts }
}

/// Returns the files with licences and notices of a package.
fn texts(package: &Value) -> BTreeMap<String, String> {
    let manifest = text(&package["manifest_path"]);
    let mut texts = BTreeMap::new();
    for entry in fs::read_dir(Path::new(&manifest).parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let prefixes = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
        if path.is_file() && prefixes.iter().any(|prefix| file.to_uppercase().starts_with(prefix)) {
            let text = fs::read_to_string(&path).unwrap();
            // Line ends and blanks differ where nothing else does.
            let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
            texts.insert(file, lines.join("\n").trim_matches('\n').to_owned());
        }
    }
    texts
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
