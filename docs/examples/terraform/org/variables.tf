variable "mount" {
  type        = string
  description = "Path of the mount, without a slash at either end."
}

variable "org_id" {
  type        = string
  description = "Id of the Astra organization."
}

variable "logical_name" {
  type        = string
  description = "Name of the organization in paths of the mount."
}

variable "url" {
  type        = string
  description = "URL of Astra's DevOps API."
  default     = "https://api.astra.datastax.com"
}

variable "root_token" {
  type        = string
  description = "Root token of the organization."
  sensitive   = true
  ephemeral   = true
}

variable "root_token_version" {
  type        = number
  description = "Increase this number to write root_token again."
}

variable "cli" {
  type        = string
  description = "Vault's command line client."
  default     = "vault"
}
