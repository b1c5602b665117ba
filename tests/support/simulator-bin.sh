#!/bin/sh
# Builds the simulated Astra and prints its path.
set -eu

cd "$(dirname "$0")/../.."
cargo build --locked --package astra-simulator >&2
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$(pwd -P)/$target ;; esac
echo "$target/debug/astra-simulator"
