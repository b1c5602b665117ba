#!/bin/sh
# Fails unless the tag is "v" and the version in Cargo.toml, and the changelog has a heading for this version.
set -eu

cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
if [ "$1" != "v$version" ]; then
    echo "check-tag: the tag is \"$1\", but Cargo.toml has version \"$version\": tag v$version, or change Cargo.toml" >&2
    exit 1
fi
if ! grep -q "^## $version\( \|\$\)" CHANGELOG.md; then
    echo "check-tag: CHANGELOG.md has no heading \"## $version\": add one" >&2
    exit 1
fi
