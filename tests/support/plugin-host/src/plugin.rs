//! Finds the binary under test, and the example programs.
//!
//! The tests run the binary that ships, which `make bin` builds. A debug build is linked dynamically and checks for
//! overflow, so it is not the same. Therefore no test builds the plugin, and the path always comes from `PLUGIN`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::SystemTime;

/// Returns the path of the binary in `PLUGIN`.
pub fn binary() -> &'static Path {
    static BINARY: LazyLock<Result<PathBuf, String>> = LazyLock::new(find);
    match &*BINARY {
        Ok(path) => path,
        Err(error) => panic!("{error}: run `eval \"$(make -s bin)\"`, which builds the binary and sets PLUGIN"),
    }
}

/// Returns the program of an example. `cargo test` and `cargo build --examples` build it next to the tests.
pub fn example(name: &str) -> PathBuf {
    program(&format!("examples/{name}"), "cargo build --examples")
}

/// Returns the program of the simulated Astra.
pub fn simulator() -> PathBuf {
    program("astra-simulator", "sh tests/support/simulator-bin.sh")
}

fn program(path: &str, command: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("the path of this program");
    let profile = tests.parent().and_then(Path::parent).expect("the folder of the profile");
    let file = profile.join(path);
    assert!(file.is_file(), "{} is missing: run `{command}`", file.display());
    file
}

#[expect(clippy::disallowed_methods, reason = "reads the environment of the test run")]
fn find() -> Result<PathBuf, String> {
    let given = std::env::var_os("PLUGIN").filter(|path| !path.is_empty()).ok_or("PLUGIN is not set")?;
    let path = Path::new(&given).canonicalize().map_err(|error| format!("PLUGIN is {given:?}: {error}"))?;
    let built = modified(&path);
    // cargo writes a list of the sources next to the program.
    let sources = fs::read_to_string(path.with_extension("d")).unwrap_or_default();
    match sources.split_whitespace().skip(1).find(|source| modified(Path::new(source)) > built) {
        Some(source) => Err(format!("PLUGIN is older than {source:?}")),
        None => Ok(path),
    }
}

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}
