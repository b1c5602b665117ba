#!/bin/sh
# Tests the release binary, PLUGIN, on Go's own plugin host. Without Go, says that these tests are not run.
set -eu

cd "$(dirname "$0")"
if ! command -v go >/dev/null; then
    echo "not run: the tests on Go's plugin host, because Go is not in PATH" >&2
    exit 0
fi
exec go test -mod=readonly -count=1 .
