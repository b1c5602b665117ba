# Configuration of "vault agent" or "bao agent" that starts a program with a token in its environment, and starts it again with the
# next token.

vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "approle" {
    config = {
      role_id_file_path                   = "/etc/astra-agent/role_id"
      secret_id_file_path                 = "/etc/astra-agent/secret_id"
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  # The agent waits for Vault, even for an hour. The program keeps running.
  exit_on_retry_failure = false
}

# The agent mints one token for both variables, because both read the same path.
env_template "ASTRA_CLIENT_ID" {
  contents             = "{{ with secret \"astra/creds/retail/reader?logical_name=shop\" }}{{ .Data.clientId }}{{ end }}"
  error_on_missing_key = true
}

env_template "ASTRA_TOKEN" {
  contents             = "{{ with secret \"astra/creds/retail/reader?logical_name=shop\" }}{{ .Data.token }}{{ end }}"
  error_on_missing_key = true
}

exec {
  command                   = ["/usr/local/bin/shop-reader"]
  restart_on_secret_changes = "always"
  restart_stop_signal       = "SIGTERM"
}
