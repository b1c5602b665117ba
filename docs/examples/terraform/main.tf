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

  path = "${vault_mount.astra.path}/orgs/retail/roles/reader"

  # A read shows more than the fields below. Only these fields are compared.
  ignore_absent_fields = true

  # Seconds, as a read shows them. With "1h", each plan would show a change.
  data_json = jsonencode({
    role_id = var.reader_role_id
    ttl     = 3600
    max_ttl = 86400
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
