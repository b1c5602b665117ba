//! Attacks on the finished binary, and their table in `docs/security.md`. Each row is a test. The answer in a row is
//! the answer that the test compares.

mod astra;
mod callers;
mod peer;
mod table;

use std::path::Path;

use self::table::{ATTACKS, Attack};

const START: &str = "<!-- the attacks that the tests make: DOCS_WRITE=1 cargo test --test e2e attacks -->\n";
const END: &str = "<!-- end of the attacks -->";

/// Returns the row of a test in this module.
#[track_caller]
fn attack(test: &str) -> &'static Attack {
    let mut rows = ATTACKS.iter().flat_map(|(_, rows)| rows.iter());
    rows.find(|row| row.test == test && row.file.starts_with("tests/e2e/attacks/")).expect("a row of the table")
}

impl Attack {
    /// Compares an answer with the row: its first word is the status, and its quoted texts must be in the error.
    #[track_caller]
    fn is_answered_with(&self, status: u16, text: &str) {
        let word = self.answer.split(' ').next().unwrap_or_default();
        assert_eq!(word, status.to_string(), "{}: {text}", self.what);
        let quoted = self.answer.split('`').nth(1).expect("a quoted text");
        let mut rest = text;
        for part in quoted.split('…').map(str::trim).filter(|part| !part.is_empty()) {
            let end = rest.find(part).map(|start| start + part.len());
            assert!(end.is_some(), "{}: {part:?} is not in its place in {text:?}", self.what);
            rest = &rest[end.unwrap_or_default()..];
        }
    }
}

#[test]
fn the_documented_attacks_match_the_tests() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(repository.join(path)).unwrap_or_else(|_| panic!("{path}"));
    let mut found = String::new();
    for (group, rows) in ATTACKS {
        found += &format!("\n### {group}\n\n| attack | answer | protected | test |\n| --- | --- | --- | --- |\n");
        for row in *rows {
            assert!(is_test(&read(row.file), row.test), "no test {} in {}", row.test, row.file);
            let Attack { what, answer, unharmed, file, test } = row;
            found += &format!("| {what} | {answer} | {unharmed} | [`{test}`](../{file}) |\n");
        }
    }
    found.push('\n');
    for file in ["astra", "callers", "peer"].map(|name| format!("tests/e2e/attacks/{name}.rs")) {
        let text = read(&file);
        let tests = text.split("#[test]\nfn ").skip(1).filter_map(|rest| rest.split('(').next());
        for test in tests {
            assert_eq!(attack(test).file, file, "the row of {test} names another file");
        }
    }
    let path = "docs/security.md";
    let text = read(path);
    let (head, rest) = text.split_once(START).expect("the start of the table");
    let (committed, tail) = rest.split_once(END).expect("the end of the table");
    if std::env::var_os("DOCS_WRITE").is_some() {
        std::fs::write(repository.join(path), format!("{head}{START}{found}{END}{tail}")).expect("write the table");
    } else {
        let differs = committed.lines().zip(found.lines()).find(|(committed, found)| committed != found);
        assert!(
            committed == found,
            "{path} differs from the table of the tests (committed, expected):\n{differs:#?}\n\
            to update the document: DOCS_WRITE=1 cargo test --test e2e attacks"
        );
    }
}

/// The attribute of an ignored test, in two pieces: a text search must find only real ignored tests.
const IGNORED: &str = concat!("#[", "ignore");

/// Whether a file has a test of this name that is not ignored.
pub(crate) fn is_test(text: &str, name: &str) -> bool {
    let heads =
        ["    ", ""].iter().flat_map(|indent| ["fn ", "async fn "].map(|word| format!("\n{indent}{word}{name}()")));
    heads.into_iter().filter_map(|head| text.find(&head)).any(|at| {
        let attributes: Vec<&str> =
            text[..at].lines().rev().map(str::trim).take_while(|line| line.starts_with("#[")).collect();
        let is = |word: &str| attributes.iter().any(|line| line.starts_with(word));
        (is("#[test]") || is("#[tokio::test")) && !is(IGNORED) && !is("#[cfg")
    })
}

#[test]
fn a_row_needs_a_test_that_runs() {
    assert!(is_test("mod x {\n    #[test]\n    fn a() {", "a"));
    assert!(is_test("x\n#[tokio::test(flavor = \"multi_thread\")]\nasync fn a() {", "a"));
    assert!(!is_test("x\nfn a() {", "a"));
    assert!(!is_test(&format!("x\n#[test]\n{IGNORED}]\nfn a() {{"), "a"));
    assert!(!is_test("x\n#[test]\nfn ab() {", "a"));
}
