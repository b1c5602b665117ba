# The operator of the engine: root tokens and settings of the organizations, and the end of tokens in an emergency.
# It cannot mint a token, and cannot read one. Roles are another person's: see role-admin.hcl.
#
# The engine is mounted at "astra/". Load it with:
#   vault policy write astra-operator operator.hcl

# Root tokens are written here and are never shown again. Who can write "url" decides where the root token is sent, so give
# this to nobody who may not have the root token itself.
path "astra/config" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

# Replaces a root token, without seeing the old one or the new one.
path "astra/config/rotate-root" {
  capabilities = ["update"]
}

# Which organizations there are.
path "astra/configs" {
  capabilities = ["list"]
}

# Which roles there are, to tell what a change of a config concerns.
path "astra/roles" {
  capabilities = ["list"]
}

# The inventory. It shows client ids, names and callers, never a token.
path "astra/org/tokens" {
  capabilities = ["list"]
}

# Ends a token at once. Reading this path would show tokens and writing it would mint them, so there is no more than this.
path "astra/org/token" {
  capabilities = ["delete"]
}

# What is known of a lease, and its end. A request names the lease in its body, so no policy can narrow these to a mount; but
# the ids of leases cannot be guessed, and only the next rule lists them.
path "sys/leases/lookup" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# The ids of the leases of this mount. The server asks for "sudo" here.
path "sys/leases/lookup/astra/*" {
  capabilities = ["list", "sudo"]
}

# Ends all tokens of a role ("lease revoke -prefix astra/creds/<org>/<role>") or of the mount. The server asks for "sudo" here.
path "sys/leases/revoke-prefix/astra/*" {
  capabilities = ["update", "sudo"]
}

# Makes the server forget leases that cannot be revoked ("lease revoke -force -prefix"). Their tokens may live on in Astra, so
# leave this out if nobody has to disable the mount while Astra is down. The server asks for "sudo" here.
path "sys/leases/revoke-force/astra/*" {
  capabilities = ["update", "sudo"]
}

# Which leases were given up ("vault read sys/leases type=irrevocable"). It holds those of all mounts. The server asks for "sudo"
# here.
path "sys/leases" {
  capabilities = ["read", "sudo"]
}
