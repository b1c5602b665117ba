# The plugin alone, for servers that run plugins in containers (Vault's plugin runtimes). The server mounts the folder of
# the socket and says whose group it is; nothing else is written. image.sh builds it.
FROM debian:12-slim AS certificates
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*

FROM scratch
# Astra's certificate is checked with these.
COPY --from=certificates /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE.txt NOTICE THIRD_PARTY_LICENSES /licenses/
COPY --chmod=0755 vault-plugin-secrets-datastax-astra /vault-plugin-secrets-datastax-astra
USER 65532:65532
ENTRYPOINT ["/vault-plugin-secrets-datastax-astra"]
