#!/bin/sh
# Prints the folder with the programs prometheus and promtool: that in the search path, or that of Debian's package, which the
# script downloads into .cache/ once. apt checks its digest. Fails if the machine has neither the programs nor apt.
set -eu

found=$(command -v promtool || true)
if [ -n "$found" ] && command -v prometheus >/dev/null; then
    dirname "$found"
    exit 0
fi

cache=$(cd "$(dirname "$0")/../.." && pwd)/.cache/prometheus
if [ ! -x "$cache/usr/bin/promtool" ]; then
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        echo "prometheus: this machine has neither Prometheus nor apt" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$cache")"
    work=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "downloading Prometheus (20 MB, once)" >&2
    (cd "$work" && apt-get -qq download prometheus) >&2
    dpkg-deb -x "$work"/prometheus_*.deb "$work/root"
    # Another test can have finished first.
    [ -e "$cache" ] || mv "$work/root" "$cache"
fi
echo "$cache/usr/bin"
