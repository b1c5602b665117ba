#!/bin/sh
# Fails unless a tag is the version that Cargo.toml has, with a leading v, and the changelog tells what is in it.
set -eu

cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
if [ "$1" != "v$version" ]; then
    echo "check-tag: the tag is $1, but Cargo.toml has version $version" >&2
    exit 1
fi
if ! grep -q "^## $version\( \|\$\)" CHANGELOG.md; then
    echo "check-tag: CHANGELOG.md has no heading \"## $version\"" >&2
    exit 1
fi
