# Policy for a monitoring system. It can read only the state and the metrics of the engine. Neither contains a secret.
#
# The engine is mounted at "astra/". Load the policy with:
#   vault policy write astra-monitoring policy.hcl

# Metrics for Prometheus.
path "astra/metrics" {
  capabilities = ["read"]
}

# The state of the mount and of its organizations. With check=true, the engine asks Astra about each root token.
path "astra/status" {
  capabilities = ["read"]
}
