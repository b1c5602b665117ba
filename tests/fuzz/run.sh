#!/bin/sh
# Fuzzes each target for FUZZ_SECONDS (30). New inputs go to tests/fuzz/target, inputs that break a promise to
# tests/fuzz/artifacts.
set -eu

cd "$(dirname "$0")/../.."
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    printf '%s\n' 'fuzz: install nightly Rust and cargo-fuzz:' \
        '  rustup toolchain install nightly --profile minimal' '  cargo install cargo-fuzz --locked' >&2
    exit 1
fi

# The dependencies have the same versions as in the binary.
cp Cargo.lock tests/fuzz/
cargo +nightly fuzz build --fuzz-dir tests/fuzz --sanitizer none
for corpus in tests/fuzz/corpus/*; do
    target=${corpus##*/}
    mkdir -p "tests/fuzz/target/corpus/$target"
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none "$target" "tests/fuzz/target/corpus/$target" "$corpus" \
        -- -max_total_time="${FUZZ_SECONDS:-30}" -max_len=1024 -print_final_stats=1
done
