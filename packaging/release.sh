#!/bin/sh
# Makes a release for this platform: builds the binary and writes archive, SBOM and checksums to target/dist.
set -eu

cd "$(dirname "$0")/.."
auditable=$(sh packaging/tool.sh cargo-auditable 0.7.7 --debug)
cyclonedx=$(sh packaging/tool.sh cargo-cyclonedx 0.5.9 --debug)
PATH=$(dirname "$auditable"):$(dirname "$cyclonedx"):$PATH
export PATH

# The binary of a release lists its dependencies, for `cargo audit bin`. "cargo auditable build" would put the path of the
# tool into the names of the symbols. Naming the tool without its path avoids that; it then needs the second variable.
binary=$(
    export RUSTC_WORKSPACE_WRAPPER=cargo-auditable
    export CARGO_AUDITABLE_ORIG_ARGS='{"offline":false,"locked":true,"frozen":false,"config":[]}'
    sh packaging/build.sh
)
sh packaging/dist.sh "$binary" "$(rustc -vV | sed -n 's/^host: //p')"
