# One policy for all namespaces: a pod of the namespace "retail" mints for the organization with the logical_name "retail".
# Replace ACCESSOR with the accessor of the Kubernetes auth method. The README has the commands.
path "astra/creds/{{identity.entity.aliases.ACCESSOR.metadata.service_account_namespace}}/reader" {
  capabilities = ["read"]
}

# Only the operator's "revoke: true" needs this rule.
path "sys/leases/revoke" {
  capabilities = ["update"]
}
