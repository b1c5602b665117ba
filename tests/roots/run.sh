#!/bin/sh
# Makes the root file systems and runs the tests in them. PLUGIN and HOST_BIN name the binary and the server.
set -eu

cd "$(dirname "$0")/../.."
sh tests/roots/roots.sh
cargo test --locked --no-run --test roots
# The tests have their own network, and other processes do not see their mounts.
exec unshare --mount --net sh -c 'ip link set lo up && exec cargo test --locked --offline --test roots -- --nocapture'
