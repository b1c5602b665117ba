//! The functions that the fuzz targets in `tests/fuzz` run.
//!
//! A body is a function `fuzz_<target>` beside the code that it tests. It takes any bytes, and panics if that code
//! breaks an invariant. `make fuzz` runs the bodies on inputs of libFuzzer. The tests below run the bodies on the
//! inputs in `tests/fuzz/corpus`, so an input that once failed is tested in every run.

use std::sync::LazyLock;

use regex_lite::Regex;
use serde::{Serialize, de::DeserializeOwned};
use vault_plugin_sdk::logical::Entry;

type Body = fn(&[u8]);

/// The targets and their bodies.
const BODIES: &[(&str, Body)] = &[
    ("astra_error", crate::fuzz_astra_error),
    ("astra_list", crate::fuzz_astra_list),
    ("astra_token", crate::fuzz_astra_token),
    ("coercion", vault_plugin_sdk::fuzz::fuzz_coercion),
    ("durations", vault_plugin_sdk::fuzz::fuzz_durations),
    ("entries", crate::fuzz_entries),
    ("fields", vault_plugin_sdk::fuzz::fuzz_fields),
    ("lease", crate::fuzz_lease),
    ("names", crate::fuzz_names),
    ("retry_after", crate::fuzz_retry_after),
    ("wal", crate::fuzz_wal),
    ("wire_data", vault_plugin_sdk::fuzz::fuzz_wire_data),
    ("wire_request", vault_plugin_sdk::fuzz::fuzz_wire_request),
];

/// Runs the body of this target on an input.
///
/// # Panics
/// When the code under test breaks an invariant, or there is no such target.
pub fn run(target: &str, data: &[u8]) {
    let body = BODIES.iter().find(|(name, _)| *name == target).map(|(_, body)| body);
    assert!(body.is_some(), "no body for the target {target:?}");
    if let Some(body) = body {
        body(data);
    }
}

/// Decodes a stored entry. Panics if the error shows any part of the entry.
pub(crate) fn decode<T: DeserializeOwned>(data: &[u8]) -> Option<T> {
    const REASON: &str =
        r#"^storage: entry "k": not the expected JSON \((Syntax|Data|Eof) error at line \d+ column \d+\)$"#;
    static FORM: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(REASON).ok());
    let entry = Entry::new("k", data);
    let decoded = entry.decode();
    if let Err(error) = &decoded {
        let text = error.to_string();
        assert!(FORM.as_ref().is_some_and(|form| form.is_match(&text)), "{text}");
    }
    decoded.ok()
}

/// Encodes a value as it is stored.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let entry = Entry::json("k", value);
    assert!(entry.is_ok(), "a value has no JSON form");
    entry.map(|entry| entry.value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use proptest::prelude::*;

    use super::*;

    fn files_in(folder: &str) -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(folder);
        let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn stems_in(folder: &str) -> Vec<String> {
        files_in(folder).iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_body_has_a_target_and_a_corpus() {
        let bodies: Vec<&str> = BODIES.iter().map(|(name, _)| *name).collect();
        assert!(bodies.is_sorted());
        assert_eq!(stems_in("corpus"), bodies);
        assert_eq!(stems_in("fuzz_targets"), bodies);
        let manifest = include_str!("../tests/fuzz/Cargo.toml");
        for name in &bodies {
            let target =
                fs::read_to_string(&files_in("fuzz_targets")[bodies.iter().position(|n| n == name).unwrap()]).unwrap();
            assert!(target.contains(&format!("fuzz::run({name:?}, data)")), "{name}");
            assert!(manifest.contains(&format!("name = {name:?}\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), bodies.len());
    }

    #[test]
    fn no_input_of_the_corpus_breaks_an_invariant() {
        for (name, body) in BODIES {
            let inputs = files_in(&format!("corpus/{name}"));
            assert!(!inputs.is_empty(), "no input for {name}");
            for input in inputs {
                let data = fs::read(&input).unwrap();
                assert!(data.len() <= 1024, "{} is too long", input.display());
                // The test harness shows this line if the body panics.
                println!("{}", input.display());
                body(&data);
            }
        }
    }

    /// Generates bytes, text, and inputs of the corpus with some bytes changed.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let kept: Vec<Vec<u8>> = BODIES
            .iter()
            .flat_map(|(name, _)| files_in(&format!("corpus/{name}")))
            .map(|path| fs::read(path).unwrap())
            .collect();
        let change = (any::<prop::sample::Index>(), any::<u8>());
        let changed =
            (prop::sample::select(kept), prop::collection::vec(change, 0..4)).prop_map(|(mut data, changes)| {
                for (index, byte) in changes {
                    if !data.is_empty() {
                        let at = index.index(data.len());
                        data[at] = byte;
                    }
                }
                data
            });
        prop_oneof![prop::collection::vec(any::<u8>(), 0..64), any::<String>().prop_map(String::into_bytes), changed]
    }

    proptest! {
        #[test]
        fn no_generated_input_breaks_an_invariant(data in input()) {
            for (_, body) in BODIES {
                body(&data);
            }
        }
    }
}
