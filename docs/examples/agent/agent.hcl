# Configuration of "vault agent" or "bao agent" on a virtual machine. The agent writes one Astra token for each of two roles into
# files that a program reads.

vault {
  address = "https://vault.example.com:8200"
}

# The machine logs in with an AppRole. Without a sink, the agent does not write its Vault token to a file.
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
  # The agent waits for Vault, even for an hour. Existing files stay.
  exit_on_retry_failure = false
}

template {
  source               = "/etc/astra-agent/reader.ctmpl"
  destination          = "/run/astra-agent/reader.env"
  perms                = "0640"
  error_on_missing_key = true

  # The command runs when the token changes, not when the lease is renewed.
  exec {
    command = ["systemctl", "try-reload-or-restart", "shop-reader.service"]
    timeout = "60s"
  }
}

template {
  source               = "/etc/astra-agent/writer.ctmpl"
  destination          = "/run/astra-agent/writer.env"
  perms                = "0640"
  error_on_missing_key = true

  exec {
    command = ["systemctl", "try-reload-or-restart", "shop-writer.service"]
    timeout = "60s"
  }
}
