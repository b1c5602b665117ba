# A workload that may have tokens of one role of one organization: the role "reader" of the organization with the logical name
# "shop". It cannot see what other roles, organizations or tokens there are.
#
# The engine is mounted at "astra/". Load it with:
#   vault policy write shop-reader workload.hcl

# Mints. Agents and templates read; "update" lets a caller write "ttl", "metadata" and "logical_name" in the body of a request.
# Leave "update" out if nobody needs it. Name the role in full: "creds/shop/*" would allow roles that do not exist yet.
path "astra/creds/shop/reader" {
  capabilities = ["read", "update"]
}

# Keeps its own leases alive. The policy "default" allows this as well; it is here so that the file is enough by itself.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# What is left of a lease. The policy "default" allows this as well.
path "sys/leases/lookup" {
  capabilities = ["update"]
}

# Ends its own tokens when they are not needed any more. A request names the lease in its body, so no policy can narrow this to
# the leases of one caller; but their ids cannot be guessed, and nothing here lists them. Leave it out if leases may just end.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
