# An image of the plugin alone, for servers that run plugins in containers (plugin runtimes of Vault). The server mounts the
# folder of the socket and sets its group. The plugin writes nothing else. image.sh builds this image.
FROM debian:12-slim AS certificates
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*

FROM scratch
# The plugin checks the certificate of Astra with these CA certificates.
COPY --from=certificates /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE.txt NOTICE THIRD_PARTY_LICENSES /licenses/
COPY --chmod=0755 vault-plugin-secrets-datastax-astra /vault-plugin-secrets-datastax-astra
USER 65532:65532
ENTRYPOINT ["/vault-plugin-secrets-datastax-astra"]
