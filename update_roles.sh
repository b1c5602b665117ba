#!/bin/sh
# Makes a role in Vault for every role of every Astra organization that has a config. The engine asks Astra itself, so no
# root token leaves the server.
#
#   ASTRA_MOUNT=astra sh update_roles.sh
#
# ASTRA_MOUNT is the path of the mount. It takes the CLI "vault" or "bao", set up as usual (VAULT_ADDR and so on), with a
# token that may update "<mount>/roles/sync". Roles that exist keep their ttl and max_ttl; none is deleted.
set -euf

fail() {
    echo "update_roles.sh: $1" >&2
    exit 1
}

mount=${ASTRA_MOUNT:-astra}
mount=${mount%/}

set -- vault bao
if [ -n "${BAO_ADDR-}" ] && [ -z "${VAULT_ADDR-}" ]; then
    set -- bao vault
fi
cli=
for name; do
    if [ -z "$cli" ] && command -v "$name" >/dev/null; then cli=$name; fi
done
[ -n "$cli" ] || fail 'neither "vault" nor "bao" is in PATH'

# What failed, and what is left to the operator, the CLI prints itself. The table has one line for each kind of outcome.
answer=$("$cli" write -force -format=table "$mount/roles/sync")

# Prints the part of a line between "map[" and "]".
outcome() {
    printf '%s\n' "$answer" | sed -n "s/^$1  *map\[\(.*\)\]\$/\1/p"
}

# Each organization is "<id>:[<role> <role>]".
outcome created | tr ']' '\n' | while IFS=: read -r org roles; do
    for role in ${roles#'['}; do
        echo "created role $role for org_id ${org# }"
    done
done

case $answer in
    *errors*map\[*) ;;
    *) fail "the answer of $mount/roles/sync is not understood" ;;
esac
[ -z "$(outcome errors)" ] || fail 'the roles of some organizations could not be updated, see above'
