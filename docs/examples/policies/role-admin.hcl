# Policy for the administrator of roles. A role decides which Astra permissions its tokens have, and how long they live.
# The policy cannot mint a token, and cannot read or write a root token. But a person who can write a role decides which
# permissions its tokens have. With this policy and the permission to mint for one role, a person can give that role every
# permission that the root token can give.
#
# The engine is mounted at "astra/". Load the policy with:
#   vault policy write astra-role-admin role-admin.hcl

# Roles. If a role is deleted, its tokens stay live.
path "astra/role" {
  capabilities = ["create", "update", "patch", "read", "delete"]
}

# Lists roles.
path "astra/roles" {
  capabilities = ["list"]
}

# Imports the roles of Astra.
path "astra/roles/sync" {
  capabilities = ["update"]
}

# Lists organizations: a role needs the id of an organization.
path "astra/configs" {
  capabilities = ["list"]
}
