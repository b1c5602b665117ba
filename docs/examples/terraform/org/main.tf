# Writes the config of an organization. No state and no plan contains the root token: the variable is ephemeral, and the CLI
# reads it from standard input. The module needs "vault" (or "bao", with the variable cli) in PATH where Terraform runs.
#
# The provider's vault_generic_endpoint would store the token in the state, because it has no write-only argument.

terraform {
  required_version = ">= 1.10"
}

resource "terraform_data" "config" {
  triggers_replace = {
    mount              = var.mount
    org_id             = var.org_id
    logical_name       = var.logical_name
    root_token_version = var.root_token_version
  }

  provisioner "local-exec" {
    command = "printf %s \"$ROOT_TOKEN\" | \"$CLI\" write \"$MOUNT/config\" org_id=\"$ORG_ID\" logical_name=\"$LOGICAL_NAME\" url=\"$ASTRA_URL\" astra_token=-"

    environment = {
      CLI          = var.cli
      MOUNT        = var.mount
      ORG_ID       = var.org_id
      LOGICAL_NAME = var.logical_name
      ASTRA_URL    = var.url
      ROOT_TOKEN   = var.root_token
    }
  }
}
