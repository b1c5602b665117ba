#!/bin/sh
# Builds everything, tests included, with the oldest Rust version that Cargo.toml allows. rustup fetches it.
set -eu

cd "$(dirname "$0")/.."
version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
rustup toolchain install "$version" --profile minimal --no-self-update
cargo "+$version" check --locked --workspace --all-targets --target-dir target/msrv
