# An image of a server with the plugin, for `plugin_directory = "/plugins"`. BASE can be any image of Vault or OpenBao, such
# as hashicorp/vault:1.21.1. Its entry point, user and configuration stay. image.sh builds this image.
ARG BASE=openbao/openbao:2.7.2
FROM ${BASE}
COPY --chown=0:0 LICENSE.txt NOTICE THIRD_PARTY_LICENSES /licenses/vault-plugin-secrets-datastax-astra/
# root owns the file, so the server can run the plugin but not replace it.
COPY --chown=0:0 --chmod=0755 vault-plugin-secrets-datastax-astra /plugins/vault-plugin-secrets-datastax-astra
