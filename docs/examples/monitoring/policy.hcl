# Policy for a monitoring system. It can read the state and the metrics of the engine, and nothing else. Neither has a secret.
#
# The engine is mounted at "astra/". Load the policy with:
#   vault policy write astra-monitoring policy.hcl

# Metrics for Prometheus.
path "astra/metrics" {
  capabilities = ["read"]
}

# The state of the mount and of its organizations. With check=true, the engine asks Astra for each organization.
path "astra/status" {
  capabilities = ["read"]
}
