# Configuration of "vault agent" or "bao agent" on a virtual machine: one token of Astra for each of two roles, in files
# that a program reads.

vault {
  address = "https://vault.example.com:8200"
}

# The machine logs in with an AppRole. The agent keeps its own token to itself: there is no sink.
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
  # A server that is away for an hour is waited for; what was rendered stays.
  exit_on_retry_failure = false
}

template {
  source               = "/etc/astra-agent/reader.ctmpl"
  destination          = "/run/astra-agent/reader.env"
  perms                = "0640"
  error_on_missing_key = true

  # Runs when there is another token, not when its lease was renewed.
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
