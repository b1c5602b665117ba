#!/bin/sh
# Builds what is measured and runs the benchmark: run.sh [guard|profile]. HOST_BIN names the server. bench.rs says what each
# mode measures, and settings.rs which variables change a run.
set -eu

cd "$(dirname "$0")/../.."
case ${1:-} in
    profile) PLUGIN=$(sh packaging/build.sh profiling) ;;
    *) PLUGIN=$(sh packaging/build.sh) ;;
esac
export PLUGIN
# Counting instructions takes no load generator.
if [ "${1:-}" != guard ]; then
    OHA=$(sh packaging/tool.sh oha 1.16.0)
    export OHA
fi
# The measuring program is optimized, but its dependencies are those that the tests have built.
CARGO_PROFILE_DEV_OPT_LEVEL=2 exec cargo bench --locked --profile dev --bench bench -- "$@"
