#!/bin/sh
# Runs the engine's main job on a real server, with a simulated Astra, showing each command and what it prints.
# `make demo` calls it with PLUGIN and SIMULATOR, the paths of the two binaries. With --stay it stops after the set-up and
# leaves everything running until Ctrl-C. DEMO_LOGS is where the logs go, DEMO_PAUSE how many seconds to rest before a command.
# shellcheck disable=SC2162 # "run read" is the CLI's read.
set -eu

ORG=ccd99999-facd-4ad3-bbb9-9903d9999999
ROOT_TOKEN=AstraCS:DemoRootTokenDemoRootTok:608ba9999999999999190219608ba9999999999999190219608ba99999999999
ROLE_ID=946cfbde-24cc-4953-9355-d57bfd61bf39 # "API R/W User"
NAME=vault-plugin-secrets-datastax-astra

root=$(cd "$(dirname "$0")/.." && pwd)
host=$(sh "$root/tests/support/host-bin.sh")
cli=$(basename "$host")
work=$(mktemp -d)
logs=${DEMO_LOGS:-$root/target/demo}
mkdir -p "$logs"
: >"$logs/server.log"
pids='' interrupted='' over=130

# Colours are for a terminal, unless its user wants none.
bold='' cyan='' red='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
    escape=$(printf '\033')
    bold="${escape}[1m" cyan="${escape}[36m" red="${escape}[31m" plain="${escape}[0m"
fi

stop() {
    status=$?
    trap - EXIT INT TERM
    for pid in $pids; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    if [ "$status" -ne 0 ] && [ -z "$interrupted" ]; then
        printf '\n%sThe demo stopped before its end.%s The last lines of %s:\n' "$red" "$plain" "$logs/server.log" >&2
        tail -n 20 "$logs/server.log" >&2 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap stop EXIT
trap 'interrupted=yes; exit "$over"' INT TERM

# Waits until a command succeeds, for 30 seconds at most.
await() {
    tries=300
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "gave up waiting for: $*" >&2; exit 1; }
        sleep 0.1
    done
}

# Says what comes next, and why.
say() {
    printf '\n%s# %s%s\n' "$bold" "$*" "$plain"
    sleep "${DEMO_PAUSE:-0}"
}

# Shows a command as a person would type it.
show() {
    printf '%s$ %s' "$cyan" "$1"
    shift
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '%s\n' "$plain"
}

# Shows a command of the server's CLI, then runs it. What it prints is kept in $work/out too.
run() {
    show "$cli" "$@"
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

say "A simulated Astra, so that nothing here needs an account: one organization and its root token."
show astra-simulator --org "$ORG" --root-token AstraCS:...
"$SIMULATOR" --org "$ORG" --root-token "$ROOT_TOKEN" >"$work/astra.out" 2>"$logs/astra.log" &
pids="$pids $!"
await grep -q control_url "$work/astra.out"
astra=$(sed -n 's/.*"url":"\([^"]*\)".*/\1/p' "$work/astra.out")
control=$(sed -n 's/.*"control_url":"\([^"]*\)".*/\1/p' "$work/astra.out")
echo "Astra is at $astra"

mkdir "$work/plugins" "$work/home"
cp "$PLUGIN" "$work/plugins/$NAME"
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export HOME="$work/home" VAULT_ADDR="http://127.0.0.1:$port" BAO_ADDR="http://127.0.0.1:$port" VAULT_TOKEN=root BAO_TOKEN=root

say "A server in dev mode: it keeps everything in memory, and ends with the demo. What it logs is kept in a file."
show "$cli" server -dev -dev-root-token-id=root -dev-plugin-dir=plugins
"$host" server -dev -dev-no-store-token -dev-root-token-id=root -dev-plugin-dir="$work/plugins" \
    -dev-listen-address="127.0.0.1:$port" >"$logs/server.log" 2>&1 &
server=$!
pids="$pids $server"
await "$host" status
"$host" version
echo "log: ${logs#"$PWD"/}/server.log"

say "The server runs no program that it was not told the digest of, so the plugin is registered by it."
run plugin register -sha256="$(sha256sum "$work/plugins/$NAME" | cut -d' ' -f1)" -command="$NAME" secret "$NAME"

say "A mount gives the engine a path of its own in the server. There can be many."
run secrets enable -path=astra "$NAME"

say "The engine gets the organization's root token, to mint others with. Nobody else needs it from now on."
run write astra/config org_id="$ORG" astra_token="$ROOT_TOKEN" url="$astra" logical_name=retail

say "It never comes back: a read shows a mask."
run read astra/config org_id="$ORG"

say "A role names one of Astra's, with the life of its tokens: an hour, and ten with renewals."
run write astra/role org_id="$ORG" role_name=r_w_user role_id="$ROLE_ID" ttl=1h max_ttl=10h

if [ "${1:-}" = --stay ]; then
    cat <<TEXT

${bold}# Everything is up. In another terminal:$plain

export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=root BAO_ADDR=$BAO_ADDR BAO_TOKEN=root
$host write astra/org/token org_id=$ORG role_name=r_w_user logical_name=me
$host read astra/creds/retail/r_w_user
# what Astra has: $control/tokens

${bold}# Ctrl-C ends it.$plain
TEXT
    over=0
    wait "$server"
    exit 1
fi

say "Standard mode, for people and programs: a write mints a token under a name, with notes about who it is for."
run write astra/org/token org_id="$ORG" role_name=r_w_user logical_name=checkout metadata=owner=ann metadata=team=shop
client_id=$(value clientId)
lease_id=$(value lease_id)

say "Whoever may read it gets the same token again, without another one in Astra."
run read astra/org/token org_id="$ORG" client_id="$client_id"

say "The inventory has every token, so that none is forgotten."
run list astra/org/tokens

say "Astra has it too."
alive "$client_id"

say "The token lives under a lease: two hours are asked for, and granted, since max_ttl allows them."
run lease renew -increment=2h "$lease_id"

say "When the lease ends, by command or by time, so does the token."
run lease revoke -sync "$lease_id"

say "In Astra as well: this asks Astra, not the server."
alive "$client_id" | tee "$work/alive"
grep -q gone "$work/alive"

say "A path for each role mints with one read: what agents use, and what a policy can allow by itself."
run read astra/creds/retail/r_w_user
client_id=$(value clientId)

say "Its lease is revoked like any other."
run lease revoke -sync "$(value lease_id)"
alive "$client_id" | tee "$work/alive"
grep -q gone "$work/alive"

cat <<TEXT

${bold}# That is the main job. Where to read on:$plain
  README.md                  six commands to a token on your own server
  docs/examples/README.md    agents, Kubernetes, Terraform, programs
  docs/operations.md         what happens on a bad day
  make dev                   leaves all this running, to try it by hand
TEXT
