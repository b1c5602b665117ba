# Mints tokens for one role of one organization. Vault's policy "default" allows renewals.
path "astra/creds/retail/reader" {
  capabilities = ["read"]
}

# Only the operator's "revoke: true" needs this rule.
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# Only operator-static.yaml needs this rule.
path "astra/static-creds/retail/ci" {
  capabilities = ["read"]
}
