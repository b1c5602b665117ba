# The parts of a server's configuration that matter to plugins. Listener and seal are your own.

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

# Owned by root and not writable by the server: who can write here runs programs with the server's rights. No file system
# mounted with noexec, and no symbolic link.
plugin_directory = "/opt/vault/plugins"

# Integrated storage maps its file into memory, which must not be locked.
disable_mlock = true
