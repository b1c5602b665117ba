#!/bin/sh
# Prints the path of a program from a crate: tool.sh <crate> <version> [options of cargo install]. Builds it once. TOOLS is
# the folder of such programs, which several checkouts can share.
set -eu

cd "$(dirname "$0")/.."
name=$1
version=$2
shift 2
folder=${TOOLS:-$(pwd -P)/target/tools}/$name/$version

if [ ! -x "$folder/bin/$name" ]; then
    # Debug information triples the time of the build.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked "$@" --root "$folder" "$name@$version" >&2
fi
echo "$folder/bin/$name"
