//! Reads the parts of a document that tests run, and compares or writes the parts that tests capture.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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

/// Returns the commands of a sample: lines with a prompt, and the lines that continue them.
#[track_caller]
pub(super) fn commands(document: &str, name: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut continued = false;
    for line in block(document, name).lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push(command.to_owned()),
            (None, Some(command)) if continued => *command = format!("{command}\n{line}"),
            (None, Some(_)) => {}
            (None, None) => panic!("{document}, {name:?}: the sample does not start with a command"),
        }
        continued = line.ends_with('\\');
    }
    commands
}

/// Compares a part of a document with the findings of a run, or writes the findings if DOCS_WRITE is set.
#[track_caller]
pub(crate) fn agrees(document: &str, start: &str, end: &str, found: &str, test: &str) {
    // Tests run in parallel, and several tests write to one document.
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
        "{document} differs from the output behind {start:?} (committed, found):\n{differs:#?}\n\
         to update the document: DOCS_WRITE=1 cargo test --test e2e {test}"
    );
}
