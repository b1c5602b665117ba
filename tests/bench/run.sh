#!/bin/sh
# Builds the plugin and runs the benchmark: run.sh [guard|profile|scale [stop]]. HOST_BIN names the server. bench.rs explains the modes,
# and settings.rs the environment variables.
set -eu

cd "$(dirname "$0")/../.."
case ${1:-} in
    profile) PLUGIN=$(sh packaging/build.sh profiling) ;;
    *) PLUGIN=$(sh packaging/build.sh) ;;
esac
export PLUGIN
case ${1:-} in
    guard | scale) ;;
    *)
        OHA=$(sh packaging/tool.sh oha 1.16.0)
        export OHA
        ;;
esac
# The benchmark program is optimized, but it reuses the dependencies that the tests have built.
CARGO_PROFILE_DEV_OPT_LEVEL=2 exec cargo bench --locked --profile dev --bench bench -- "$@"
