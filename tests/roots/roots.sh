#!/bin/sh
# Creates the root file systems of other machines in .cache/roots, each only once. run.sh calls this script.
set -eu

fail() {
    echo "test-roots: $1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root for chroot and mounts: run it as root"
for program in debootstrap unshare ip; do
    command -v "$program" >/dev/null || fail "needs $program: install it"
done

cd "$(dirname "$0")/../.."
mkdir -p .cache/roots
# The mirror of this machine. If it has none, debootstrap uses its default mirror.
# shellcheck disable=SC2016 # apt-get fills in $(SITE).
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1)

modules=libnss-myhostname,libnss-mdns,libnss-resolve

# make_root <suite> <packages>
make_root() {
    root=.cache/roots/$1
    [ ! -e "$root" ] || return 0
    echo "creating a root file system of Debian $1 (2 minutes, once)" >&2
    rm -rf "$root.new"
    # $mirror is unquoted: if it is empty, there must be no argument.
    # shellcheck disable=SC2086
    debootstrap --variant=minbase --include="$2" \
        "$1" "$root.new" $mirror >"$root.log" 2>&1 || fail "debootstrap failed, see $root.log"
    mv "$root.new" "$root"
}
make_root bullseye $modules
# Most machines link the release binary with the glibc of bookworm. Since bookworm, libnss-resolve needs a message bus, and
# debootstrap does not choose a package for it.
make_root bookworm dbus,$modules
make_root trixie dbus,$modules
