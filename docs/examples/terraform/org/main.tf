# Writes the config of an org without its root token in any state or plan: the variable is ephemeral, and the CLI reads it
# from its standard input. It needs "vault" (or "bao", by the variable cli) in PATH where Terraform runs.
#
# The provider's vault_generic_endpoint would keep the token in the state: it has no write-only argument.

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
