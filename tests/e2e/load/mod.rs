//! Load on a real server: slow callers, large bodies, many mounts, and kills. The tests of a kind compare figures of one
//! run, because times depend on the machine.
//!
//! In CI, the tests are small. `LOAD_FULL=1` runs them at full size. With `--nocapture`, they print their figures.

mod bodies;
mod kills;
mod mounts;
mod slow;

/// Returns the size of a test: small in CI, or full.
fn size(small: usize, full: usize) -> usize {
    if std::env::var_os("LOAD_FULL").is_some() { full } else { small }
}

#[expect(clippy::print_stdout, reason = "the figures are for people")]
fn show(text: &str) {
    println!("{text}");
}
