# The parts of Vault's configuration that matter to plugins. Adapt the listener, and add your seal.

storage "raft" {
  path    = "/var/lib/vault"
  node_id = "vault-1"
}

listener "tcp" {
  address       = "0.0.0.0:8200"
  tls_cert_file = "/etc/vault.d/tls.crt"
  tls_key_file  = "/etc/vault.d/tls.key"
}

api_addr     = "https://vault-1.example.com:8200"
cluster_addr = "https://vault-1.example.com:8201"

# The directory belongs to root, and Vault cannot write to it: a user who can write here runs programs with Vault's privileges.
# Do not use a file system with noexec, or a symbolic link.
plugin_directory = "/opt/vault/plugins"

# Integrated storage maps its file into memory. This memory must not be locked, so Vault and the plugin lock no memory. The unit
# keeps their memory out of swap.
disable_mlock = true
