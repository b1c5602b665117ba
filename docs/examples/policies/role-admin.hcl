# The administrator of roles: which rights in Astra a name in Vault stands for, and how long its tokens live.
# It cannot mint a token, and cannot touch a root token. But who can write a role decides what the tokens of that role may do:
# whoever holds this policy and may mint for one role can give that role every right that the root token can give.
#
# The engine is mounted at "astra/". Load it with:
#   vault policy write astra-role-admin role-admin.hcl

# Roles. Deleting one leaves its tokens alone.
path "astra/role" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

# Which roles there are.
path "astra/roles" {
  capabilities = ["list"]
}

# Imports the roles of Astra.
path "astra/roles/sync" {
  capabilities = ["update"]
}

# Which organizations there are: a role needs the id of one.
path "astra/configs" {
  capabilities = ["list"]
}
