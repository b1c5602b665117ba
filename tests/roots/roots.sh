#!/bin/sh
# Makes the roots of other systems in .cache/roots, each once. `make test-roots` calls it.
set -eu

fail() {
    echo "test-roots: $1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "not run: it needs root, for chroot and mounts"
for program in debootstrap unshare ip; do
    command -v "$program" >/dev/null || fail "not run: it needs $program"
done

cd "$(dirname "$0")/../.."
mkdir -p .cache/roots
# The mirror that this machine uses, else the one that debootstrap knows.
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1)

modules=libnss-myhostname,libnss-mdns,libnss-resolve

# make_root <suite> <packages>
make_root() {
    root=.cache/roots/$1
    [ ! -e "$root" ] || return 0
    echo "making a root of Debian $1 (2 minutes, once)" >&2
    rm -rf "$root.new"
    # Unquoted, because an empty one is no argument.
    # shellcheck disable=SC2086
    debootstrap --variant=minbase --include="$2" \
        "$1" "$root.new" $mirror >"$root.log" 2>&1 || fail "debootstrap failed, see $root.log"
    mv "$root.new" "$root"
}
make_root bullseye $modules
# The glibc of bookworm is the one that most machines link the release binary with. In these two, libnss-resolve depends on
# a message bus, and debootstrap chooses none.
make_root bookworm dbus,$modules
make_root trixie dbus,$modules
