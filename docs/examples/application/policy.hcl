# Mints tokens for one role of one org.
path "astra/creds/retail/reader" {
  capabilities = ["read"]
}

# Renews them and ends them early. The server's policy "default" allows renewals too, but not revocations.
path "sys/leases/renew" {
  capabilities = ["update"]
}

path "sys/leases/revoke" {
  capabilities = ["update"]
}
