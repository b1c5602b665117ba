# An auditor: which organizations, roles and tokens there are, who has them and until when. It changes nothing, and nothing that
# it can read holds a secret.
#
# The engine is mounted at "astra/". Load it with:
#   vault policy write astra-auditor auditor.hcl

# Organizations and their settings. The root token is masked.
path "astra/configs" {
  capabilities = ["list"]
}
path "astra/config" {
  capabilities = ["read"]
}

# Roles, and what they stand for.
path "astra/roles" {
  capabilities = ["list"]
}
path "astra/role" {
  capabilities = ["read"]
}

# The inventory of tokens: who made which, when, with which metadata. Not "astra/org/token", which shows the tokens themselves.
path "astra/org/tokens" {
  capabilities = ["list"]
}

# Leases of this mount, and when each ends. The server asks for "sudo" on the list. A request for one lease names it in its
# body, so no policy can narrow that to a mount.
path "sys/leases/lookup/astra/*" {
  capabilities = ["list", "sudo"]
}
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# Leases that were given up ("vault read sys/leases type=irrevocable"), of all mounts. The server asks for "sudo" here.
path "sys/leases" {
  capabilities = ["read", "sudo"]
}
