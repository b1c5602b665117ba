# Policy for an auditor. It can read organizations, roles, tokens, their callers and their expiry. It cannot change anything, and
# it cannot read secrets.
#
# The engine is mounted at "astra/". Load the policy with:
#   vault policy write astra-auditor auditor.hcl

# Organizations and their settings. The root token is masked.
path "astra/configs" {
  capabilities = ["list"]
}
path "astra/config" {
  capabilities = ["read"]
}

# Roles and their Astra roles.
path "astra/roles" {
  capabilities = ["list"]
}
path "astra/role" {
  capabilities = ["read"]
}

# The inventory of tokens: callers, times and metadata. It does not allow "astra/org/token", because that path shows the tokens.
path "astra/org/tokens" {
  capabilities = ["list"]
}

# Finds the owner of a leaked token. The request is a write, because a token must not be in a URL. It changes nothing.
path "astra/lookup" {
  capabilities = ["update"]
}

# The state of the mount and of its organizations.
path "astra/status" {
  capabilities = ["read"]
}

# Leases of this mount and their expiry. Vault requires "sudo" for the list. A request for one lease has the lease id in its
# body, so no policy can restrict it to a mount.
path "sys/leases/lookup/astra/*" {
  capabilities = ["list", "sudo"]
}
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# Irrevocable leases of all mounts ("vault read sys/leases type=irrevocable"). Vault requires "sudo" here.
path "sys/leases" {
  capabilities = ["read", "sudo"]
}
