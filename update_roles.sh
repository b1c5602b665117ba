#!/bin/sh
# Writes a role in Vault for each Astra role of each organization with a config. The engine asks Astra for the roles, so no
# root token leaves the server.
#
#   ASTRA_MOUNT=astra sh update_roles.sh
#
# ASTRA_MOUNT is the path of the mount. The script needs the CLI "vault" or "bao" with its usual variables (VAULT_ADDR and
# others), and a Vault token that may update "<mount>/roles/sync". Existing roles keep their ttl and max_ttl. The script
# deletes no role.
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
[ -n "$cli" ] || fail 'neither "vault" nor "bao" is in PATH: install one of them'

# Prints the part of a line between "map[" and "]".
outcome() {
    printf '%s\n' "$answer" | sed -n "s/^$1  *map\[\(.*\)\]\$/\1/p"
}

# Each page has 16 organizations, because the server stops a request after 90 seconds, and the engine asks Astra for 8
# organizations at a time, with 30 seconds for each.
after=
failed=
while :; do
    # The CLI reads a file if a value begins with "@".
    case $after in @*) value="\\$after" ;; *) value=$after ;; esac
    # The CLI prints errors and warnings itself. The table has one line for each kind of outcome.
    answer=$("$cli" write -format=table "$mount/roles/sync" limit=16 after="$value" </dev/null)

    # Each organization is "<id>:[<role> <role>]".
    outcome created | tr ']' '\n' | while IFS=: read -r org roles; do
        for role in ${roles#'['}; do
            echo "created role $role for org_id ${org# }"
        done
    done

    case $answer in
        *errors*map\[*) ;;
        *) fail "the answer of $mount/roles/sync has an unknown format" ;;
    esac
    [ -z "$(outcome errors)" ] || failed=yes
    next=$(printf '%s\n' "$answer" | sed -n 's/^next  *//p')
    [ -n "$next" ] || break
    [ "$next" != "$after" ] || fail "the import did not get past org_id $after: import each further org_id alone"
    after=$next
done
[ -z "$failed" ] || fail 'could not import the roles of some organizations: see above'
