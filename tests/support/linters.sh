#!/bin/sh
# Prints the folder of the linters in linters.txt. Downloads them into .cache/ once, and checks their digests.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/support/pip.sh
. "$here/pip.sh"
cache=$(cd "$here/../.." && pwd)/.cache/linters
# The name contains a checksum of the list, so a changed list gets a new folder.
linters=$cache/$(cksum <"$here/linters.txt" | tr ' ' -)

if [ ! -d "$linters" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python=$(python_with_pip "$work") || { echo "linters: python3 has neither pip nor venv: install one of them" >&2; exit 1; }
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --target "$work/linters" --requirement "$here/linters.txt" >&2
    # Another process may have created the folder in the meantime.
    mv -T "$work/linters" "$linters" 2>/dev/null || [ -d "$linters" ]
fi
echo "$linters/bin"
