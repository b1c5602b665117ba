#!/bin/sh
# Prints the folder of the Python packages that the tests of the examples need. Downloads them into .cache/ once, and
# checks their digests against a list: python-packages.txt, or the list in the argument. Exits with 3 if the list has no package
# for this machine or for this version of Python.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/support/pip.sh
. "$here/pip.sh"
list=$here/${1:-python-packages.txt}
cache=$(cd "$here/../.." && pwd)/.cache
packages=$cache/python-$(cksum <"$list" | tr ' ' -)
# Wheels with compiled parts fit one version of Python.
if [ "${1:-}" ]; then
    packages=$packages-$(python3 -c 'import sys; print(sys.implementation.cache_tag)')
fi

if [ ! -d "$packages" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python=$(python_with_pip "$work") || {
        echo "python-packages: python3 has neither pip nor venv: install one of them" >&2
        exit 1
    }
    if ! PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --no-deps --require-hashes --only-binary=:all: \
        --disable-pip-version-check --no-warn-script-location --target "$work/packages" --requirement "$list" 2>"$work/errors"; then
        cat "$work/errors" >&2
        # pip found versions on the server, but none for this machine.
        ! grep -q "No matching distribution found" "$work/errors" || exit 3
        exit 1
    fi
    mv "$work/packages" "$packages"
fi
echo "$packages"
