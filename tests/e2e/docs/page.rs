//! The parts of a document that tests run, compare or write.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A command of a transcript, and what it prints, on one line.
pub(crate) type Step = (String, String);

fn file(document: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(document)
}

fn text(document: &str) -> String {
    std::fs::read_to_string(file(document)).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// Returns the code block behind the comment `<!-- tested: name -->`.
#[track_caller]
pub(crate) fn block(document: &str, name: &str) -> String {
    let text = text(document);
    let found = text.split_once(&format!("<!-- tested: {name} -->\n```"));
    let (_, rest) = found.unwrap_or_else(|| panic!("{document} has no block {name:?}"));
    let (_, rest) = rest.split_once('\n').expect("the line of the fence");
    rest.split_once("```").expect("the end of the block").0.to_owned()
}

/// Returns the commands of a transcript, each with what it prints.
#[track_caller]
pub(crate) fn transcript(document: &str, name: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut goes_on = false;
    for line in block(document, name).lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned(), String::new())),
            (None, Some((command, _))) if goes_on => {
                command.push('\n');
                command.push_str(line);
            }
            (None, Some((_, expected))) => {
                line.split_whitespace().for_each(|word| expected.extend([word, " "]));
            }
            (None, None) => panic!("{document}, {name:?}: a command first"),
        }
        goes_on = line.ends_with('\\');
    }
    steps
}

/// Compares a part of a document with what a run found, or writes it there if DOCS_WRITE is set.
#[track_caller]
pub(crate) fn agrees(document: &str, start: &str, end: &str, found: &str, test: &str) {
    // Tests that run side by side may write to one document.
    static WRITING: Mutex<()> = Mutex::new(());
    let _lock = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let text = text(document);
    let (head, rest) = text.split_once(start).unwrap_or_else(|| panic!("{document} has no {start:?}"));
    let (committed, tail) =
        rest.split_once(end).unwrap_or_else(|| panic!("{document} has no {end:?} behind {start:?}"));
    if std::env::var_os("DOCS_WRITE").is_some() {
        std::fs::write(file(document), format!("{head}{start}{found}{end}{tail}")).expect("write the document");
        return;
    }
    let differs = committed.lines().zip(found.lines()).find(|(committed, found)| committed != found);
    assert!(
        committed == found,
        "{document}, behind {start:?}, is not what was found, from here on (committed, found):\n{differs:#?}\n\
         DOCS_WRITE=1 cargo test --test e2e {test} writes it anew"
    );
}
