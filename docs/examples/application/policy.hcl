# Mints tokens for one role of one organization.
path "astra/creds/retail/reader" {
  capabilities = ["read"]
}

# Renews and revokes the leases. Vault's policy "default" also allows renewals, but not revocations.
path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}
