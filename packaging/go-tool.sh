#!/bin/sh
# Prints the path of a program from a Go module: go-tool.sh <package> <version>. Builds it once. Go compares the module and
# its dependencies with the public checksum database. TOOLS is the folder of such programs, as for tool.sh.
set -eu

cd "$(dirname "$0")/.."
package=$1
version=$2
name=$(basename "$package")
folder=${TOOLS:-$(pwd -P)/target/tools}/$name/$version/bin

if [ ! -x "$folder/$name" ]; then
    command -v go >/dev/null || { echo "go-tool: Go is not in PATH, and the build of $name needs it" >&2; exit 1; }
    echo "building $name (about a minute, once)" >&2
    GOBIN=$folder GOFLAGS=-trimpath go install "$package@$version" >&2
fi
echo "$folder/$name"
