# Mints tokens for two roles of one organization. Renewals need no rule here: a login with an AppRole also gets Vault's policy
# "default", which allows them.
path "astra/creds/retail/reader" {
  capabilities = ["read"]
}

path "astra/creds/retail/writer" {
  capabilities = ["read"]
}
