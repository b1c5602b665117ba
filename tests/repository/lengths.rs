//! Files have at most 400 lines. Clippy holds functions to 60 (`clippy.toml`).

use std::fs;
use std::path::Path;

const MOST: usize = 400;

/// Folders of code and of support for tests. Files of tests do not count.
const FOLDERS: [&str; 4] = ["src", "sdk/src", "tests/support", "docs/examples"];

#[test]
fn files_have_at_most_400_lines_without_their_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in FOLDERS {
        super::documents::files(&root.join(folder), &mut paths);
    }
    paths.retain(|path| is_code(path.strip_prefix(root).unwrap()));
    assert!(paths.len() > 50, "only {} files were found", paths.len());

    let mut long = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let code = without_tests(&text);
        let lines = code.lines().count();
        if lines > MOST {
            long.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(long.is_empty(), "split these files, which have more than {MOST} lines:\n{}", long.join("\n"));
}

/// Returns whether a file is hand-written Rust, and not a test module of the crate.
fn is_code(path: &Path) -> bool {
    let generated = path.starts_with("sdk/src/pb");
    let tests = path.ends_with("tests.rs") || path.components().skip(1).any(|part| part.as_os_str() == "tests");
    path.extension().is_some_and(|extension| extension == "rs") && !generated && !tests
}

/// Returns the text before the module of tests, which other tests can use if it is `pub(crate)`.
pub(super) fn without_tests(text: &str) -> &str {
    let ends = ["mod tests", "pub(crate) mod tests"].map(|module| text.find(&format!("#[cfg(test)]\n{module}")));
    &text[..ends.into_iter().flatten().min().unwrap_or(text.len())]
}
