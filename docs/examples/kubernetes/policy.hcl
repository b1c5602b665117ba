# Mints tokens for one role of one org. The server's policy "default" allows renewals.
path "astra/creds/retail/reader" {
  capabilities = ["read"]
}

# For the operator's "revoke: true" only.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
