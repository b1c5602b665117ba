# Policy for the operator of the engine. It manages root tokens and settings of the organizations, and deletes tokens in an
# emergency. It cannot mint or read a token. Another person manages roles: see role-admin.hcl.
#
# The engine is mounted at "astra/". Load the policy with:
#   vault policy write astra-operator operator.hcl

# Write root tokens here. The engine never shows them again. A person who can write "url" decides where the root token is sent,
# so give this permission only to people who may have the root token.
path "astra/config" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

# Replaces a root token. The caller sees neither the old nor the new root token.
path "astra/config/rotate-root" {
  capabilities = ["update"]
}
path "astra/orgs/+/rotate-root" {
  capabilities = ["update"]
}

# Compares Astra's list of tokens with the inventory. With dry_run=false, it deletes the differences.
path "astra/orgs/+/tidy" {
  capabilities = ["update"]
}

# Lists organizations, by their ids and by their names in paths.
path "astra/configs" {
  capabilities = ["list"]
}
path "astra/orgs" {
  capabilities = ["list"]
}

# The state of the mount and of its organizations. With check=true, the engine asks Astra about each root token.
path "astra/status" {
  capabilities = ["read"]
}

# Lists roles, to see which roles a change of a config affects.
path "astra/roles" {
  capabilities = ["list"]
}

# The inventory. It shows client ids, names and callers, never a token.
path "astra/org/tokens" {
  capabilities = ["list"]
}

# Deletes a token at once. A read of this path would show tokens, and a write would mint tokens, so neither is allowed.
path "astra/org/token" {
  capabilities = ["delete"]
}

# Deletes a token by its client id. A read is not allowed: the inventory shows the same.
path "astra/orgs/+/tokens/+" {
  capabilities = ["delete"]
}

# Finds the owner of a leaked token. The caller needs the token or its client id.
path "astra/lookup" {
  capabilities = ["update"]
}

# Shows and revokes a lease. A request has the lease id in its body, so no policy can restrict it to a mount. But lease ids
# cannot be guessed, and only the next rule lists them.
path "sys/leases/lookup" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# "lease revoke <lease id>" of the CLI has the lease id in the path.
path "sys/leases/revoke/astra/*" {
  capabilities = ["update"]
}

# Lists the ids of the leases of this mount. Vault requires "sudo" here.
path "sys/leases/lookup/astra/*" {
  capabilities = ["list", "sudo"]
}

# Revokes all leases of a role ("lease revoke -prefix astra/creds/<org>/<role>") or of the mount. Vault requires "sudo" here.
path "sys/leases/revoke-prefix/astra/*" {
  capabilities = ["update", "sudo"]
}

# Makes Vault forget leases that cannot be revoked ("lease revoke -force -prefix"). Their tokens may stay live in Astra. Omit this
# rule if nobody must disable the mount while Astra is down. Vault requires "sudo" here.
path "sys/leases/revoke-force/astra/*" {
  capabilities = ["update", "sudo"]
}

# Lists irrevocable leases of all mounts ("vault read sys/leases type=irrevocable"). Vault requires "sudo" here.
path "sys/leases" {
  capabilities = ["read", "sudo"]
}
