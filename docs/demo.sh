#!/bin/sh
# Shows the main features of the engine on a real server with a simulated Astra: each command with its output.
# `make demo` runs this script. With --stay, the script stops after the set-up and keeps everything running until Ctrl-C.
#   PLUGIN, SIMULATOR  paths of the two binaries
#   DEMO_LOGS          folder for the logs
#   DEMO_PAUSE         seconds to wait before each command
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

# Only a terminal gets colours, and only if the user did not switch them off.
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
        printf '\n%sThe demo failed.%s The last lines of %s:\n' "$red" "$plain" "$logs/server.log" >&2
        tail -n 20 "$logs/server.log" >&2 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}
trap stop EXIT
trap 'interrupted=yes; exit "$over"' INT TERM

# Waits until a command succeeds, but at most 30 seconds.
await() {
    tries=300
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "gave up waiting for: $*" >&2; exit 1; }
        sleep 0.1
    done
}

# Explains the next command.
say() {
    printf '\n%s# %s%s\n' "$bold" "$*" "$plain"
    sleep "${DEMO_PAUSE:-0}"
}

# Prints a command as a person would type it.
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

# Prints a command of the server's CLI and runs it. Also keeps its output in $work/out.
run() {
    show "$cli" "$@"
    "$host" "$@" >"$work/out" 2>&1 || { cat "$work/out"; return 1; }
    cat "$work/out"
}

# Prints one value of the table in $work/out.
value() {
    awk -v key="$1" '$1 == key { print $2 }' "$work/out"
}

# Asks the simulated Astra whether a token is alive.
alive() {
    python3 - "$control" "$1" <<'PYTHON'
import json, sys, urllib.request
control, client_id = sys.argv[1:]
tokens = json.load(urllib.request.urlopen(control + "/tokens"))["tokens"]
alive = any(token["live"] for token in tokens if token["client_id"] == client_id)
print("astra: token %s is %s" % (client_id, "alive" if alive else "gone"))
PYTHON
}

say "Start a simulated Astra with one organization and its root token. So the demo needs no Astra account."
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

say "Start a server in dev mode. It keeps everything in memory, and stops with the demo. Its log goes to a file."
show "$cli" server -dev -dev-root-token-id=root -dev-plugin-dir=plugins
"$host" server -dev -dev-no-store-token -dev-root-token-id=root -dev-plugin-dir="$work/plugins" \
    -dev-listen-address="127.0.0.1:$port" >"$logs/server.log" 2>&1 &
server=$!
pids="$pids $server"
await "$host" status
"$host" version
echo "log: ${logs#"$PWD"/}/server.log"

say "Register the plugin with its SHA-256. The server only starts a program with a registered digest."
run plugin register -sha256="$(sha256sum "$work/plugins/$NAME" | cut -d' ' -f1)" -command="$NAME" secret "$NAME"

say "Enable the engine at a path of the server. One server can have many such mounts."
run secrets enable -path=astra "$NAME"

say "Write the config with the root token. The engine mints other tokens with it. Nobody else needs it now."
run write astra/config org_id="$ORG" astra_token="$ROOT_TOKEN" url="$astra" logical_name=retail

say "Read the config. The engine never shows the root token again, only its first characters."
run read astra/config org_id="$ORG"

say "Write a role: a name for one Astra role. Leases last one hour, or ten hours with renewals."
run write astra/role org_id="$ORG" role_name=r_w_user role_id="$ROLE_ID" ttl=1h max_ttl=10h

if [ "${1:-}" = --stay ]; then
    cat <<TEXT

${bold}# Everything runs. In another terminal, type:$plain

export VAULT_ADDR=$VAULT_ADDR VAULT_TOKEN=root BAO_ADDR=$BAO_ADDR BAO_TOKEN=root
$host write astra/org/token org_id=$ORG role_name=r_w_user logical_name=me
$host read astra/creds/retail/r_w_user
# the tokens in Astra: $control/tokens

${bold}# Press Ctrl-C to stop.$plain
TEXT
    over=0
    wait "$server"
    exit 1
fi

say "Mint a named token (standard mode, for people and programs). The metadata says who needs the token."
run write astra/org/token org_id="$ORG" role_name=r_w_user logical_name=checkout metadata=owner=ann metadata=team=shop
client_id=$(value clientId)
lease_id=$(value lease_id)

say "Fetch the same token. In standard mode, a read does not mint."
run read astra/org/token org_id="$ORG" client_id="$client_id"

say "List all live tokens: the inventory."
run list astra/org/tokens

say "Ask Astra for the state of the token."
alive "$client_id"

say "Renew the lease of the token for two hours. The max_ttl of the role allows that."
run lease renew -increment=2h "$lease_id"

say "Revoke the lease. The engine deletes the token, as it does when a lease expires."
run lease revoke -sync "$lease_id"

say "Ask Astra again for the state of the token."
alive "$client_id" | tee "$work/alive"
grep -q gone "$work/alive"

say "Mint with a single read, as agents do. Each role has its own path, so a policy can allow one role."
run read astra/creds/retail/r_w_user
client_id=$(value clientId)

say "Revoke this lease too."
run lease revoke -sync "$(value lease_id)"
alive "$client_id" | tee "$work/alive"
grep -q gone "$work/alive"

cat <<TEXT

${bold}# These are the main features. Next steps:$plain
  README.md                  mint a token on your own server
  docs/examples/README.md    agents, Kubernetes, Terraform, programs
  docs/operations.md         failures, root tokens, backup, monitoring
  make dev                   keeps a server running, to try the commands
TEXT
