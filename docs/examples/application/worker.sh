#!/bin/sh
# Does jobs with an Astra token and its lease. Renews the lease, replaces the token when the lease cannot be extended, and
# revokes the lease at the end. Needs curl and jq. README.md lists the environment variables.
set -eu

: "${VAULT_ADDR:?}" "${VAULT_TOKEN:?}" "${ASTRA_CREDS:?}"
ASTRA_URL=${ASTRA_URL:-https://api.astra.datastax.com}
JOBS=${JOBS:-10}

lease_id='' ttl=0 renew_at=0 client_id='' token=''

# Passes secrets to curl on standard input, because every user of the machine can see its arguments.
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

# Takes the duration of the lease in seconds.
renew_after() {
    renew_at=$(($(date +%s) + $1 * 2 / 3))
}

mint() {
    answer=$(vault "$ASTRA_CREDS")
    # Store the lease first: if a later step fails, the token can still be revoked.
    lease_id=$(printf %s "$answer" | jq -r .lease_id)
    ttl=$(printf %s "$answer" | jq -r .lease_duration)
    client_id=$(printf %s "$answer" | jq -r .data.clientId)
    token=$(printf %s "$answer" | jq -r .data.token)
    answer=''
    renew_after "$ttl"
    echo "got token $client_id for $ttl s"
}

# Extends the lease. Fails if a new token is needed: max_ttl is near, or the lease no longer exists.
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

# Deletes the token in Astra. If that fails, the token lives until its lease expires.
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

# The job: asks Astra which organization the token belongs to.
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
