#!/bin/sh
# Builds the release of HEAD twice, in two folders and with two paths of CARGO_HOME, and compares every byte.
# `make -C packaging reproducible` calls it. Uncommitted changes are not part of the builds.
set -eu

cd "$(dirname "$0")/.."
TOOLS=${TOOLS:-$(pwd -P)/target/tools}
CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}
export TOOLS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
ln -s "$(cd "$CARGO_HOME" && pwd)" "$work/another-home"

git clone --quiet . "$work/one"
git clone --quiet "$work/one" "$work/elsewhere/and-deeper/two"

# make_release <folder> <CARGO_HOME>
make_release() {
    # The two builds must share nothing: no cache of compiled code, no target folder.
    env -u CARGO_TARGET_DIR -u RUSTC_WRAPPER -u MAKEFLAGS -u MAKELEVEL CARGO_HOME="$2" \
        sh "$work/$1/packaging/release.sh"
}
make_release one "$CARGO_HOME"
make_release elsewhere/and-deeper/two "$work/another-home"

first=$work/one/target/dist
second=$work/elsewhere/and-deeper/two/target/dist
diff -r "$first" "$second" || { echo 'reproducible: the two releases differ: see above' >&2; exit 1; }
for place in "$work" "$(cd "$CARGO_HOME" && pwd)"; do
    for binary in "$work"/one/target/*/release/vault-plugin-secrets-datastax-astra; do
        if grep -q -a -F "$place" "$binary"; then
            echo "reproducible: the binary contains the path $place" >&2
            exit 1
        fi
    done
done
echo "reproducible: two builds of $(git -C "$work/one" rev-parse HEAD) are identical:"
cat "$first/SHA256SUMS" "$first/BINARY_SHA256SUMS"
