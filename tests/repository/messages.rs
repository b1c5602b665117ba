//! Compares the list of log messages in `docs/operations.md` with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use regex_lite::Regex;

const START: &str = "<!-- messages -->\n";

/// Returns level and text of each message at the three levels that operators see. `…` stands for inserted values.
fn of_code() -> BTreeSet<(String, String)> {
    let event = Regex::new(r"tracing::(error|warn|info)!\(").unwrap();
    let literal = Regex::new(r#""((?:[^"\\]|\\.|\\\n)*)""#).unwrap();
    let (joined, filled) = (Regex::new(r"\\\n\s*").unwrap(), Regex::new(r"\{[a-z]*\}").unwrap());
    let mut sources = Vec::new();
    for folder in ["src", "sdk/src"] {
        super::documents::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut sources);
    }
    let mut found = BTreeSet::new();
    for path in sources.iter().filter(|path| !path.display().to_string().contains("/tests/")) {
        let text = fs::read_to_string(path).unwrap();
        let code = super::lengths::without_tests(&text);
        for event in event.captures_iter(code) {
            // The message is the last argument.
            let arguments = arguments(&code[event.get(0).unwrap().end()..]);
            let text = literal.captures_iter(arguments).last();
            let text = &text.unwrap_or_else(|| panic!("{}: an event without a text", path.display()))[1];
            let text = filled.replace_all(&joined.replace_all(text, ""), "…").into_owned();
            found.insert((event[1].to_owned(), text));
        }
    }
    found
}

/// Returns the text up to its closing parenthesis.
fn arguments(code: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for (at, character) in code.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted && depth == 0 => return &code[..at],
            ')' if !quoted => depth -= 1,
            _ => {}
        }
    }
    panic!("an event without an end");
}

#[test]
fn every_message_is_explained_to_operators() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap();
    let (_, rest) = page.split_once(START).expect("where the list starts");
    let rows = rest.split_once("<!-- end -->").expect("where it ends").0.lines().skip(2);
    let listed: BTreeSet<(String, String)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert!(cells.len() >= 3, "{row}");
            (cells[0].to_owned(), cells[1].trim_matches('`').to_owned())
        })
        .collect();
    let code = of_code();
    assert!(code.len() > 30, "the messages were not found: {code:?}");
    let missing: Vec<_> = code.difference(&listed).collect();
    let stale: Vec<_> = listed.difference(&code).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/operations.md, the log:\nnot explained: {missing:#?}\nnot in the code any more: {stale:#?}"
    );
}
