#!/bin/sh
# Prints the folder of the linters in linters.txt, which are fetched once into .cache/ and checked against their digests.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/support/pip.sh
. "$here/pip.sh"
cache=$(cd "$here/../.." && pwd)/.cache/linters
# Another list is another folder.
linters=$cache/$(cksum <"$here/linters.txt" | tr ' ' -)

if [ ! -d "$linters" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python=$(python_with_pip "$work") || { echo "linters: python3 has neither pip nor venv" >&2; exit 1; }
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all: \
        --target "$work/linters" --requirement "$here/linters.txt" >&2
    # Another process may have been faster.
    mv -T "$work/linters" "$linters" 2>/dev/null || [ -d "$linters" ]
fi
echo "$linters/bin"
