#!/bin/sh
# Does jobs with a token of Astra under a lease: renews it, replaces it when the lease cannot be extended any more, and
# revokes it at the end. Needs curl and jq. README.md beside it tells what it reads from its environment.
set -eu

: "${VAULT_ADDR:?}" "${VAULT_TOKEN:?}" "${ASTRA_CREDS:?}"
ASTRA_URL=${ASTRA_URL:-https://api.astra.datastax.com}
JOBS=${JOBS:-10}

lease_id='' ttl=0 renew_at=0 client_id='' token=''

# Secrets reach curl by its standard input: its arguments are seen by every user of the machine.
ask() {
    url=$1 header=$2
    shift 2
    printf 'header = "%s"\n' "$header" | curl --silent --show-error --fail --max-time 30 --config - "$@" "$url"
}

vault() {
    path=$1
    shift
    ask "$VAULT_ADDR/v1/$path" "X-Vault-Token: $VAULT_TOKEN" --header 'X-Vault-Request: true' "$@"
}

# Takes the seconds that the lease was granted.
renew_after() {
    renew_at=$(($(date +%s) + $1 * 2 / 3))
}

mint() {
    answer=$(vault "$ASTRA_CREDS")
    # The lease first: what has one can be revoked, whatever happens next.
    lease_id=$(printf %s "$answer" | jq -r .lease_id)
    ttl=$(printf %s "$answer" | jq -r .lease_duration)
    client_id=$(printf %s "$answer" | jq -r .data.clientId)
    token=$(printf %s "$answer" | jq -r .data.token)
    answer=''
    renew_after "$ttl"
    echo "got token $client_id for $ttl s"
}

# Extends the lease; fails if a new token is needed, because max_ttl is near or the lease is gone.
renew() {
    body=$(jq -n --arg lease_id "$lease_id" --arg increment "$ttl" '$ARGS.named')
    if granted=$(vault sys/leases/renew --request PUT --data "$body" | jq -r .lease_duration) && [ -n "$granted" ]; then
        renew_after "$granted"
        echo "renewed token $client_id for $granted s"
        [ $((granted * 2)) -ge "$ttl" ]
    else
        echo "token $client_id was not renewed" >&2
        return 1
    fi
}

# Ends the token in Astra. If that fails, it ends with its lease.
revoke() {
    [ -n "$lease_id" ] || return 0
    body=$(jq -n --arg lease_id "$lease_id" '$ARGS.named + {sync: true}')
    lease_id='' token=''
    if vault sys/leases/revoke --request PUT --data "$body"; then
        echo "revoked token $client_id"
    else
        echo "token $client_id was not revoked" >&2
    fi
}

# The work itself: here, asking Astra which organization the token is for.
job() {
    ask "$ASTRA_URL/v2/currentOrg" "Authorization: Bearer $token" --output /dev/null
}

trap revoke EXIT
trap 'exit 0' INT TERM

number=1
while [ "$number" -le "$JOBS" ]; do
    if [ -n "$lease_id" ] && [ "$(date +%s)" -ge "$renew_at" ]; then
        renew || revoke
    fi
    [ -n "$lease_id" ] || mint
    job
    echo "job $number done with token $client_id"
    number=$((number + 1))
    sleep 1
done
