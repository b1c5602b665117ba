#!/bin/sh
# Runs the engine's main job on a real server, with a simulated Astra, showing each command and what it prints.
# `make demo` calls it with PLUGIN and SIMULATOR, the paths of the two binaries. With --stay it stops after the set-up and
# leaves everything running until Ctrl-C.
set -eu

ORG=ccd99999-facd-4ad3-bbb9-9903d9999999
ROOT_TOKEN=AstraCS:DemoRootTokenDemoRootTok:608ba9999999999999190219608ba9999999999999190219608ba99999999999
ROLE_ID=946cfbde-24cc-4953-9355-d57bfd61bf39 # "API R/W User"
NAME=vault-plugin-secrets-datastax-astra

root=$(cd "$(dirname "$0")/.." && pwd)
host=$(sh "$root/tests/support/host-bin.sh")
cli=$(basename "$host")
work=$(mktemp -d)
pids=

stop() {
    status=$?
    trap - EXIT INT TERM
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ "$status" -ne 0 ]; then
        echo "the demo failed; the end of the server's log:" >&2
        tail -n 20 "$work/server.log" >&2 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT TERM

# Waits until a command succeeds, for 30 seconds at most.
await() {
    tries=300
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "gave up waiting for: $*" >&2; exit 1; }
        sleep 0.1
    done
}

say() {
    printf '\n# %s\n' "$*"
}

# Shows a command as a person would type it, then runs it. What it prints is kept in $work/out too.
run() {
    printf '$ %s' "$cli"
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$host" "$@" >"$work/out" 2>&1 || { cat "$work/out"; return 1; }
    cat "$work/out"
}

# Prints one value of the table that the last command printed.
value() {
    awk -v key="$1" '$1 == key { print $2 }' "$work/out"
}

# Asks the simulated Astra itself which of the tokens it issued are alive.
alive() {
    python3 - "$control" "$1" <<'PYTHON'
import json, sys, urllib.request
control, client_id = sys.argv[1:]
tokens = json.load(urllib.request.urlopen(control + "/tokens"))["tokens"]
alive = any(token["live"] for token in tokens if token["client_id"] == client_id)
print("astra: token %s is %s" % (client_id, "alive" if alive else "gone"))
PYTHON
}

say "A simulated Astra with one organization and its root token."
"$SIMULATOR" --org "$ORG" --root-token "$ROOT_TOKEN" >"$work/astra.out" 2>"$work/astra.log" &
pids="$pids $!"
await grep -q control_url "$work/astra.out"
astra=$(sed -n 's/.*"url":"\([^"]*\)".*/\1/p' "$work/astra.out")
control=$(sed -n 's/.*"control_url":"\([^"]*\)".*/\1/p' "$work/astra.out")
echo "astra: $astra"

mkdir "$work/plugins" "$work/home"
cp "$PLUGIN" "$work/plugins/$NAME"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export HOME="$work/home" VAULT_ADDR="http://127.0.0.1:$port" BAO_ADDR="http://127.0.0.1:$port" VAULT_TOKEN=root BAO_TOKEN=root

say "A server in dev mode. Its log is kept out of the way."
printf '$ %s server -dev -dev-root-token-id=root -dev-plugin-dir=plugins\n' "$cli"
"$host" server -dev -dev-no-store-token -dev-root-token-id=root -dev-plugin-dir="$work/plugins" \
    -dev-listen-address="127.0.0.1:$port" >"$work/server.log" 2>&1 &
server=$!
pids="$pids $server"
await "$host" status
"$host" version

say "Register the plugin by its digest, and mount it."
run plugin register -sha256="$(sha256sum "$work/plugins/$NAME" | cut -d' ' -f1)" -command="$NAME" secret "$NAME"
run secrets enable -path=astra "$NAME"

say "Give it the root token of the organization. It never comes back: reads show a mask."
run write astra/config org_id="$ORG" astra_token="$ROOT_TOKEN" url="$astra" logical_name=retail
run read astra/config org_id="$ORG"

say "Name one of Astra's roles, with the life of its tokens."
run write astra/role org_id="$ORG" role_name=r_w_user role_id="$ROLE_ID" ttl=1h max_ttl=10h
run read astra/role org_id="$ORG" role_name=r_w_user

if [ "${1:-}" = --stay ]; then
    cat <<TEXT

# Everything is up. In another terminal:

export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=root BAO_ADDR=$BAO_ADDR BAO_TOKEN=root
$host write astra/org/token org_id=$ORG role_name=r_w_user logical_name=me
# server log: $work/server.log    what Astra has: $control/tokens

# Ctrl-C ends it.
TEXT
    wait "$server"
    exit 1
fi

say "Standard mode: a write mints a token, a read shows it again."
run write astra/org/token org_id="$ORG" role_name=r_w_user logical_name=checkout metadata=owner=ann metadata=team=shop
client_id=$(value clientId)
lease_id=$(value lease_id)
run read astra/org/token org_id="$ORG" client_id="$client_id"
run list astra/org/tokens
alive "$client_id"

say "Its lease can be looked at, renewed and ended."
run lease lookup "$lease_id"
run lease renew -increment=2h "$lease_id"
run lease revoke -sync "$lease_id"
alive "$client_id" | tee "$work/alive"
grep -q gone "$work/alive"

say "Sidecar mode, for agents: a read mints."
run write astra/config org_id="$ORG" caller_mode=sidecar
run read astra/org/token org_id="$ORG" role_name=r_w_user logical_name=agent
client_id=$(value clientId)
run lease revoke -sync "$(value lease_id)"
alive "$client_id" | tee "$work/alive"
grep -q gone "$work/alive"

say "That is the main job. Where to read on: README.md, and 'make dev' to try it by hand."
