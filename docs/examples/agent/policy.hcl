# Mints tokens for two roles of one org. That is all: the server's policy "default", which a login with an AppRole brings
# along, allows renewals.
path "astra/creds/retail/reader" {
  capabilities = ["read"]
}

path "astra/creds/retail/writer" {
  capabilities = ["read"]
}
