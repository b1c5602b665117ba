# A server with the plugin in it, for `plugin_directory = "/plugins"`. BASE can be any image of Vault or OpenBao, such as
# hashicorp/vault:1.21.1; the base's entry point, user and configuration stay. image.sh builds it.
ARG BASE=openbao/openbao:2.7.2
FROM ${BASE}
COPY --chown=0:0 LICENSE.txt NOTICE THIRD_PARTY_LICENSES /licenses/vault-plugin-secrets-datastax-astra/
# Owned by root: the server may run it, not replace it.
COPY --chown=0:0 --chmod=0755 vault-plugin-secrets-datastax-astra /plugins/vault-plugin-secrets-datastax-astra
