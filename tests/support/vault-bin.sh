#!/bin/sh
# Prints the path of a Vault server: HOST_BIN, if it is a `vault`. Otherwise the script builds the server of
# tests/vault-server into .cache/vault/, once.
set -eu

fail() {
    echo "vault-bin: $1" >&2
    exit 1
}

here=$(cd "$(dirname "$0")" && pwd)

if [ -n "${HOST_BIN:-}" ]; then
    found=$(sh "$here/host-bin.sh")
    case $("$found" version) in
        "Vault "*)
            echo "$found"
            exit 0
            ;;
    esac
fi

source=$here/../vault-server
version=$(sed -n 's|^require github.com/hashicorp/vault v||p' "$source/go.mod")
cache=$(cd "$here/../.." && pwd)/.cache/vault
vault=$cache/vault-$version

if [ ! -x "$vault" ]; then
    command -v go >/dev/null || fail "Go is not in PATH, and the build of Vault needs it: install Go, or set HOST_BIN to a vault binary"
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "building Vault $version (about ten minutes, once)" >&2
    # Without symbols, the linker is faster and the file is a third smaller.
    (cd "$source" && go build -mod=readonly -ldflags='-s -w' -o "$work/vault" .) >&2 \
        || fail "could not build Vault: set HOST_BIN to a vault binary"
    mv "$work/vault" "$vault"
fi
echo "$vault"
