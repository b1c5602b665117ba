#!/bin/sh
# Makes a Debian and an RPM package from each release archive in a folder, and writes them to the same folder:
# packages.sh [folder]. The packages contain the released files. The same archive gives the same bytes. Needs Go.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$here/../target/dist}"
out=$(pwd)
name=vault-plugin-secrets-datastax-astra
# 2.45.2 is the newest version whose dependencies the module proxy has in full.
nfpm=$(sh "$here/go-tool.sh" github.com/goreleaser/nfpm/v2/cmd/nfpm v2.45.2)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

PACKAGE_MAINTAINER=${PACKAGE_MAINTAINER:-$name maintainers <noreply@localhost>}
export PACKAGE_MAINTAINER
for archive in "$name"_*_linux_*.tar.gz; do
    [ -e "$archive" ] || { echo "packages: $out has no release archive: make a release first" >&2; exit 1; }
    release=${archive%.tar.gz}
    PACKAGE_ARCH=${release##*_}
    PACKAGE_VERSION=${release#"$name"_}
    PACKAGE_VERSION=${PACKAGE_VERSION%%_*}
    tar -xzf "$archive" -C "$work"
    # All times in the packages are the time of the release.
    SOURCE_DATE_EPOCH=$(stat -c %Y "$work/$release/$name")
    export PACKAGE_ARCH PACKAGE_VERSION SOURCE_DATE_EPOCH
    for kind in deb rpm; do
        (cd "$work/$release" && "$nfpm" package --config "$here/nfpm.yaml" --packager "$kind" --target "$out/") >&2
    done
    rm -rf "${work:?}/$release"
done
