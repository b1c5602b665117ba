#!/bin/sh
# Packs a release binary: writes archive, SBOM and checksums into target/dist. release.sh calls it with the binary and
# its platform. Times, owners and the order of files are fixed, so the same commit gives the same bytes.
set -eu

binary=$1
triple=$2
name=$(basename "$binary")
cd "$(dirname "$0")/.."

fail() {
    echo "dist: $binary $1" >&2
    exit 1
}
grep -q -a -F .dep-v0 "$binary" || fail "has no list of its dependencies: build it with cargo-auditable"
if readelf --program-headers "$binary" | grep -q INTERP; then
    fail "is not static: install a static C library"
fi

case $triple in
    x86_64-*-linux-*) platform=linux_amd64 ;;
    aarch64-*-linux-*) platform=linux_arm64 ;;
    *) platform=$triple ;;
esac
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
release=${name}_${version}_$platform
# The time of the commit. A source archive has no commit.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

rm -rf target/dist
mkdir -p "target/dist/$release"
cp "$binary" LICENSE.txt NOTICE README.md CHANGELOG.md "target/dist/$release/"
python3 packaging/licenses.py texts "$triple" >"target/dist/$release/THIRD_PARTY_LICENSES"
chmod 0644 "target/dist/$release"/*
chmod 0755 "target/dist/$release" "target/dist/$release/$name"

python3 packaging/sbom.py "$binary" "$triple" >"target/dist/$release.cdx.json"

cd target/dist
tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=ustar -cf "$release.tar" "$release"
gzip -9 -n "$release.tar"
# An operator checks SHA256SUMS after the download, and registers the digest in BINARY_SHA256SUMS with the server.
sha256sum "$release.cdx.json" "$release.tar.gz" >SHA256SUMS
sha256sum "$release/$name" >BINARY_SHA256SUMS
rm -rf "$release"
cat SHA256SUMS BINARY_SHA256SUMS
