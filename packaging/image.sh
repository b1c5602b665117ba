#!/bin/sh
# Builds the container images from the release archive in target/dist. They hold the released binary and its licences. VAULT
# names the base image of the Vault server. Needs docker.
set -eu

cd "$(dirname "$0")/.."
name=vault-plugin-secrets-datastax-astra
set -- target/dist/"$name"_*.tar.gz
[ -e "$1" ] || { echo 'image: target/dist has no archive: make a release first' >&2; exit 1; }

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
trap 'exit 130' INT TERM
tar -xzf "$1" -C "$context" --strip-components=1

docker build --tag "$name" --file packaging/plugin.Dockerfile "$context"
docker build --tag "$name-openbao" --file packaging/server.Dockerfile "$context"
docker build --tag "$name-vault" --file packaging/server.Dockerfile \
    --build-arg "BASE=${VAULT:-hashicorp/vault:1.21.1}" "$context"
