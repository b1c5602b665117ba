# Policy for a team that manages one organization: the one with the logical name "shop". The team changes settings, replaces the
# root token, manages roles and static roles, mints tokens, and sees and deletes every token of its organization. It cannot see other organizations.
#
# The engine is mounted at "astra/". An operator writes the config first ("vault write astra/orgs/shop org_id=... astra_token=...").
# Load the policy with:
#   vault policy write astra-shop-team org-team.hcl

# Settings and root token. Another logical_name would move the organization to paths that other policies may name.
path "astra/orgs/shop" {
  capabilities = ["update", "patch", "read"]
  denied_parameters = {
    "logical_name" = []
  }
}

# Replaces the root token. The caller sees neither the old nor the new root token.
path "astra/orgs/shop/rotate-root" {
  capabilities = ["update"]
}

# Roles. A role decides which of the root token's permissions its tokens have.
path "astra/orgs/shop/sync-roles" {
  capabilities = ["update"]
}
path "astra/orgs/shop/roles" {
  capabilities = ["list"]
}
path "astra/orgs/shop/roles/*" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

# Static roles: tokens without a lease that a schedule replaces, and the current token of each.
path "astra/orgs/shop/static-roles" {
  capabilities = ["list"]
}
path "astra/orgs/shop/static-roles/*" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}
path "astra/static-creds/shop/*" {
  capabilities = ["read"]
}

# The inventory: who has a token, and what for. It never shows a token.
path "astra/orgs/shop/tokens" {
  capabilities = ["list"]
}
path "astra/orgs/shop/tokens/*" {
  capabilities = ["read", "delete"]
}

# Compares Astra's list of tokens with the inventory. Only an operator deletes the differences, because only an operator knows
# whether a second server was restored from a backup.
path "astra/orgs/shop/tidy" {
  capabilities = ["update"]
  denied_parameters = {
    "dry_run" = []
  }
}

# Mints tokens of every role of the organization.
path "astra/creds/shop/*" {
  capabilities = ["read", "update"]
}
