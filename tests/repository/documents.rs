//! Checks every document: links are valid, commands are tested or listed as untested, words are spelled right, and the
//! text contains no confidential data.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex_lite::Regex;

/// The document with the list of the commands that no test runs.
const INDEX: &str = "docs/README.md";

/// A document: its path in the repository, and its text.
struct Document {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Collects the files of a folder and its subfolders, without build results and downloads.
pub(super) fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let skipped = [".git", ".cache", "target", "node_modules"].iter().any(|name| path.ends_with(name));
        match path.is_dir() {
            _ if skipped => {}
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

fn documents() -> Vec<Document> {
    let mut paths = Vec::new();
    files(root(), &mut paths);
    let mut documents: Vec<Document> = paths
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| Document {
            text: fs::read_to_string(&path).unwrap(),
            path: path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(),
        })
        .collect();
    documents.sort_by(|one, other| one.path.cmp(&other.path));
    assert!(documents.len() >= 3, "the documents were not found");
    documents
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap()
}

impl Document {
    /// Returns the lines with their numbers, and whether each is in a code block.
    fn lines(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let mut inside = false;
        self.text.lines().enumerate().map(move |(number, line)| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            (number + 1, line, inside || fence)
        })
    }

    /// Returns the anchors that GitHub gives the headings.
    fn anchors(&self) -> BTreeSet<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let headings = self.lines().filter(|(.., code)| !code).filter_map(|(_, line, _)| line.strip_prefix('#'));
        headings
            .map(|heading| {
                let text = pattern(r"\[([^\]]*)\]\([^)]*\)")
                    .replace_all(heading.trim_start_matches('#').trim(), "$1")
                    .to_lowercase();
                let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
                let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
                let before = seen.entry(slug.clone()).or_default();
                *before += 1;
                if *before == 1 { slug } else { format!("{slug}-{}", *before - 1) }
            })
            .collect()
    }

    /// Returns the targets of links and pictures, with their line numbers.
    fn links(&self) -> Vec<(usize, String)> {
        let (code, link) = (pattern("`[^`]*`"), pattern(r"\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)"));
        let mut found = Vec::new();
        for (number, line, _) in self.lines().filter(|(.., code)| !code) {
            let line = code.replace_all(line, "`");
            found.extend(
                link.captures_iter(&line)
                    .map(|part| (number, part.get(1).or(part.get(2)).unwrap().as_str().to_owned())),
            );
        }
        found
    }

    /// Returns the blocks of commands: line number, the comment before the block, and the block's first command.
    fn commands(&self) -> Vec<(usize, &str, &str)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let shells = ["```sh", "```console", "```bash", "```shell"];
        let mut written = false;
        let mut found = Vec::new();
        for (at, line) in lines.iter().enumerate() {
            if line.starts_with("<!-- ") {
                // Samples that a test writes are between two comments.
                written = line.starts_with("<!-- seen: ");
            }
            if shells.contains(&line.trim()) && !written {
                let before = if at > 0 { lines[at - 1].trim() } else { "" };
                found.push((at + 1, before, lines.get(at + 1).copied().unwrap_or_default()));
            }
        }
        found
    }
}

#[test]
fn links_lead_somewhere() {
    let documents = documents();
    let anchors: BTreeMap<&str, BTreeSet<String>> =
        documents.iter().map(|document| (document.path.as_str(), document.anchors())).collect();
    let mut broken = Vec::new();
    for document in &documents {
        for (number, target) in document.links() {
            let place = format!("{}:{number}: {target}", document.path);
            if pattern("^(https?|mailto):").is_match(&target) {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() { document.path.clone() } else { resolved(&document.path, file) };
            if path.starts_with("..") || !root().join(&path).exists() {
                broken.push(format!("{place}: there is no such file"));
            } else if !anchor.is_empty() && !anchors.get(path.as_str()).is_some_and(|known| known.contains(anchor)) {
                broken.push(format!("{place}: {path} has no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// Returns the path in the repository that a document's link points to.
fn resolved(document: &str, link: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Checks that the README and the index of the documents link each page.
#[test]
fn every_page_is_linked() {
    let documents = documents();
    let links = |path: &str| -> BTreeSet<String> {
        let document = documents.iter().find(|document| document.path == path).unwrap_or_else(|| panic!("no {path}"));
        document.links().iter().map(|(_, target)| resolved(path, target.split('#').next().unwrap())).collect()
    };
    let pages = documents.iter().map(|document| &document.path).filter(|path| path.starts_with("docs/"));
    for page in pages.filter(|path| path.matches('/').count() == 1 && *path != INDEX) {
        for index in ["README.md", INDEX] {
            assert!(links(index).contains(page), "{index} has no link to {page}");
        }
    }
    assert!(links("README.md").contains(INDEX), "README.md has no link to {INDEX}");
}

#[test]
fn commands_are_run_or_said_not_to_be() {
    let mut sources = Vec::new();
    files(&root().join("tests"), &mut sources);
    let sources: String = sources
        .iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("documents.rs"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut faults = Vec::new();
    let mut listed = String::from("| document | command | why no test runs it |\n| --- | --- | --- |\n");
    for document in documents() {
        for (number, comment, command) in document.commands() {
            let place = format!("{}:{number}", document.path);
            let comment =
                comment.strip_prefix("<!-- ").and_then(|comment| comment.strip_suffix(" -->")).unwrap_or_default();
            if let Some(name) = comment.strip_prefix("tested: ") {
                if !sources.contains(&format!("{name:?}")) {
                    faults.push(format!("{place}: no test names {name:?}"));
                }
            } else if let Some(reason) = comment.strip_prefix("not tested: ") {
                let command = command.trim_start_matches("$ ").replace('|', "\\|");
                listed.push_str(&format!("| {} | `{command}` | {reason} |\n", document.path));
            } else {
                faults.push(format!(
                    "{place}: put \"<!-- tested: name -->\" on the line above, and let a test run it by that name, or \
                     \"<!-- not tested: reason -->\""
                ));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    compare(&listed);
}

/// Compares the list in the index with the commands, or writes the list if DOCS_WRITE is set.
#[allow(clippy::disallowed_methods, reason = "a switch of the test, not of the plugin")]
fn compare(listed: &str) {
    const START: &str = "<!-- commands that no test runs: DOCS_WRITE=1 cargo test --test repository -->\n";
    const END: &str = "<!-- end -->";
    let text = fs::read_to_string(root().join(INDEX)).unwrap();
    let (head, rest) = text.split_once(START).unwrap_or_else(|| panic!("{INDEX} has no {START}"));
    let (committed, tail) = rest.split_once(END).expect("the end of the list");
    if std::env::var_os("DOCS_WRITE").is_some() {
        fs::write(root().join(INDEX), format!("{head}{START}{listed}{END}{tail}")).unwrap();
        return;
    }
    assert!(
        committed == listed,
        "{INDEX} should list these commands, which no test runs:\n{listed}\n\
         DOCS_WRITE=1 cargo test --test repository writes it anew"
    );
}

#[test]
fn samples_show_the_whole_output() {
    let mut patterns = Vec::new();
    for document in documents() {
        let mut inside = false;
        for (number, line) in document.text.lines().enumerate() {
            inside = if line.starts_with("```") { line == "```console" } else { inside };
            if inside && line.contains('…') {
                patterns.push(format!("{}:{}: {line}", document.path, number + 1));
            }
        }
    }
    assert!(patterns.is_empty(), "samples without \"…\", as `make docs` writes them:\n{}", patterns.join("\n"));
}

#[test]
fn nothing_private_is_told() {
    let forbidden = [
        ("what looks like an Astra token", r"AstraCS:[A-Za-z0-9]{3,}:[0-9a-f]{8,}"),
        ("what looks like a token of a server", r"\b(hvs|hvb|hvr|s)\.[A-Za-z0-9_-]{20,}"),
        ("a private key", "BEGIN [A-Z ]*PRIVATE KEY"),
        ("a path of somebody's machine", r"(^|[^A-Za-z0-9_./$}~-])/(home|root|work|Users)/"),
        ("the host of a package registry", r"crates\.io|pypi\.org|npmjs|registry\.|static\.rust-lang\.org"),
    ];
    let mut found = Vec::new();
    let mut paths = Vec::new();
    files(&root().join("docs"), &mut paths);
    let of_docs = paths.iter().filter_map(|path| {
        Some((path.strip_prefix(root()).unwrap().display().to_string(), fs::read_to_string(path).ok()?))
    });
    let of_root = documents().into_iter().map(|document| (document.path, document.text));
    let texts: BTreeMap<String, String> = of_docs.chain(of_root).collect();
    for (path, text) in &texts {
        // The README's root token belongs to a simulated Astra.
        for (what, shape) in
            forbidden.iter().filter(|(what, _)| path != "docs/demo.sh" || !what.contains("Astra token"))
        {
            let shape = pattern(shape);
            let lines = text.lines().enumerate().filter(|(_, line)| shape.is_match(line));
            found.extend(lines.map(|(number, _)| format!("{path}:{}: {what}", number + 1)));
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
    let token = format!("AstraCS:abcdefgh:{}", "0123456789abcdef");
    assert!(pattern(forbidden[0].1).is_match(&token), "the check finds nothing at all");
}

/// `_typos.toml` lists the exceptions.
#[test]
fn words_are_spelled_right() {
    let fetched = Command::new("sh").arg("tests/support/linters.sh").current_dir(root()).output().expect("run a shell");
    assert!(fetched.status.success(), "no spelling checker: {}", String::from_utf8_lossy(&fetched.stderr));
    let typos = Path::new(String::from_utf8(fetched.stdout).unwrap().trim()).join("typos");
    let check = |path: &Path| {
        let config = root().join("_typos.toml");
        let output = Command::new(&typos).args(["--format", "brief", "--config"]).arg(config).arg(path).output();
        output.expect("run the spelling checker")
    };
    let output = check(root());
    assert!(output.status.success(), "\n{}", String::from_utf8_lossy(&output.stdout));
    let wrong = tempfile::Builder::new().suffix(".md").tempfile().unwrap();
    fs::write(wrong.path(), concat!("It is recie", "ved.\n")).unwrap();
    assert!(!check(wrong.path()).status.success(), "the check finds nothing at all");
}
