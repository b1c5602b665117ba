# Policy for a workload that gets tokens of one role of one organization: the role "reader" of the organization with the logical
# name "shop". The policy cannot see other roles, organizations or tokens.
#
# The engine is mounted at "astra/". Load the policy with:
#   vault policy write shop-reader workload.hcl

# Mints a token. Agents and templates use "read". "update" lets a caller write "ttl", "metadata" and "logical_name" in the body
# of a request. Omit "update" if nobody needs it. Write the full name of the role: "creds/shop/*" would allow future roles.
# "replace" would end the named token of another workload of the same role.
path "astra/creds/shop/reader" {
  capabilities = ["read", "update"]
  denied_parameters = {
    "replace" = []
  }
}

# Renews its own leases. The policy "default" also allows this. The rule is here so that this file is complete.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Shows the remaining time of a lease. The policy "default" also allows this.
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# Revokes its own leases when it no longer needs the tokens. A request has the lease id in its body, so no policy can restrict
# it to the leases of one caller. But lease ids cannot be guessed, and no rule here lists them. Omit this rule if the leases may
# expire instead.
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# The CLI ("lease revoke") has the lease id in the path. So this rule covers only leases of this role.
path "sys/leases/revoke/astra/creds/shop/reader/*" {
  capabilities = ["update"]
}
