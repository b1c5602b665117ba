use std::fs;
use std::path::{Path, PathBuf};

/// The runtime knows nothing of the engine that is built on it.
#[test]
fn sdk_does_not_name_the_engine() {
    assert_absent("src/sdk", &["crate::astra"]);
}

/// The engine sees plain data and traits, never the wire or the process.
#[test]
fn engine_does_not_name_the_wire() {
    assert_absent("src/astra", &["sdk::pb", "sdk::wire", "sdk::process", "tonic", "prost"]);
}

fn assert_absent(folder: &str, words: &[&str]) {
    let files = rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    assert!(!files.is_empty(), "no Rust files below {folder}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for word in words {
                assert!(!line.contains(word), "{}:{} names {word}", file.display(), number + 1);
            }
        }
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
