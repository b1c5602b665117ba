#!/bin/sh
# Prints the command that runs rpm: the rpm in the search path, or that of Debian's packages, which the script downloads into
# .cache/ once. apt checks their digests. Fails if the machine has neither rpm nor apt.
set -eu

if command -v rpm; then
    exit 0
fi

cache=$(cd "$(dirname "$0")/../.." && pwd -P)/.cache/rpm
if [ ! -x "$cache/run" ]; then
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        echo "rpm: this machine has neither rpm nor apt" >&2
        exit 1
    fi
    mkdir -p "$(dirname "$cache")"
    work=$(mktemp -d "$cache.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "downloading rpm (3 MB, once)" >&2
    # This also downloads the libraries that the machine lacks. It installs nothing.
    mkdir -p "$work/archives/partial"
    apt-get -qq --yes --no-install-recommends --download-only -o "Dir::Cache::archives=$work/archives" \
        -o APT::Sandbox::User=root install rpm >&2
    for package in "$work"/archives/*.deb; do
        dpkg-deb -x "$package" "$work/root"
    done
    libraries=$(dirname "$(find "$work/root/usr/lib" -name 'librpm.so.*' | head -n 1)")
    # rpm finds its settings and libraries beside this script.
    cat >"$work/root/run" <<RUN
#!/bin/sh
here=\$(dirname "\$0")
export LD_LIBRARY_PATH="\$here/${libraries#"$work/root/"}" RPM_CONFIGDIR="\$here/usr/lib/rpm"
exec "\$here/usr/bin/rpm" "\$@"
RUN
    chmod 0755 "$work/root/run"
    # Another test can have finished first.
    [ -e "$cache" ] || mv "$work/root" "$cache"
fi
echo "$cache/run"
