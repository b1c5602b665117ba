//! Checks the targets of the two Makefiles: each target has a line of help, and each text that names a target names an
//! existing target.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex_lite::Regex;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

/// Returns the targets of a Makefile, each with its help.
fn targets(makefile: &str) -> Vec<(String, String)> {
    let rule = Regex::new(r"(?m)^([a-z-]+):(?:[^=#\n]*##)?(.*)$").unwrap();
    rule.captures_iter(&read(makefile)).map(|found| (found[1].to_owned(), found[2].trim().to_owned())).collect()
}

#[test]
fn every_target_has_one_line_of_help() {
    for (makefile, most) in [("Makefile", 15), ("packaging/Makefile", 10)] {
        let targets = targets(makefile);
        assert!((5..=most).contains(&targets.len()), "{makefile} has {} targets", targets.len());
        for (target, help) in targets {
            assert!(help.starts_with(|first: char| first.is_uppercase()), "{makefile}: {target} has no help");
        }
    }
}

#[test]
fn commands_of_make_name_targets_that_exist() {
    let known = |makefile| -> BTreeSet<String> { targets(makefile).into_iter().map(|(target, _)| target).collect() };
    let (front, packaging) = (known("Makefile"), known("packaging/Makefile"));
    // A command is in backquotes, or alone on its line.
    let before = r"(?:`|\$\(|^\$ |^ *|run: )";
    let after = r"(?:`|\)| [A-Z]+=| +#|$)";
    let command = format!("(?m){before}make(?: -s)?(?:( [a-z-]+)| -C [a-z/]*packaging((?: [a-z]+)+)){after}");
    let command = Regex::new(&command).unwrap();
    let (mut found, mut wrong) = (0, Vec::new());
    for path in texts() {
        let text = fs::read_to_string(&path).unwrap();
        for command in command.captures_iter(&text) {
            let (known, targets) = match command.get(1) {
                Some(target) => (&front, target.as_str()),
                None => (&packaging, &command[2]),
            };
            for target in targets.split_whitespace() {
                found += 1;
                if !known.contains(target) {
                    wrong.push(format!("{}: {}", path.display(), command[0].trim()));
                }
            }
        }
    }
    assert!(found > 40, "only {found} commands were found");
    assert!(wrong.is_empty(), "these targets do not exist:\n{}", wrong.join("\n"));
}

/// Returns documents, workflows, scripts and code, without this file.
fn texts() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    super::documents::files(root(), &mut paths);
    let kinds = ["md", "yml", "sh", "rs", "toml"];
    let text = |path: &PathBuf| path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known));
    paths.retain(|path| (text(path) || path.ends_with(".ci/run")) && !path.ends_with("repository/targets.rs"));
    paths
}
