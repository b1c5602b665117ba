# A mount, one organization, one role, and the policy for users of the role. No state and no plan contains the root token.

terraform {
  # Ephemeral variables need this version.
  required_version = ">= 1.10"

  required_providers {
    vault = {
      source  = "hashicorp/vault"
      version = ">= 4.0"
    }
  }
}

# Address and token come from VAULT_ADDR and VAULT_TOKEN.
provider "vault" {}

resource "vault_mount" "astra" {
  path        = "astra"
  type        = "vault-plugin-secrets-datastax-astra"
  description = "Application tokens of Astra DB"

  max_lease_ttl_seconds = 86400
}

module "retail" {
  source = "./org"

  mount              = vault_mount.astra.path
  org_id             = var.org_id
  logical_name       = "retail"
  root_token         = var.root_token
  root_token_version = var.root_token_version
}

resource "vault_generic_endpoint" "reader" {
  # The role needs the config and the mount.
  depends_on = [module.retail]

  # All roles have the same path. Their fields identify them.
  path           = "${vault_mount.astra.path}/role"
  disable_read   = true
  disable_delete = true

  data_json = jsonencode({
    org_id    = var.org_id
    role_name = "reader"
    role_id   = var.reader_role_id
    ttl       = "1h"
    max_ttl   = "24h"
  })
}

resource "vault_policy" "reader" {
  name   = "astra-retail-reader"
  policy = data.vault_policy_document.reader.hcl
}

data "vault_policy_document" "reader" {
  rule {
    description  = "Mints tokens for one role of one organization."
    path         = "${vault_mount.astra.path}/creds/retail/reader"
    capabilities = ["read"]
  }
}
