#!/bin/sh
# Prints the folder of the Python packages that the tests of the examples need. Downloads them into .cache/ once, and
# checks their digests against python-packages.txt.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/support/pip.sh
. "$here/pip.sh"
cache=$(cd "$here/../.." && pwd)/.cache
packages=$cache/python-$(cksum <"$here/python-packages.txt" | tr ' ' -)

if [ ! -d "$packages" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python=$(python_with_pip "$work") || {
        echo "python-packages: python3 has neither pip nor venv: install one of them" >&2
        exit 1
    }
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --disable-pip-version-check \
        --no-warn-script-location --target "$work/packages" \
        --requirement "$here/python-packages.txt" >&2
    mv "$work/packages" "$packages"
fi
echo "$packages"
