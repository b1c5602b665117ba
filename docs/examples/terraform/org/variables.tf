variable "mount" {
  type        = string
  description = "Path of the mount, without slashes at its ends."
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
  description = "Where Astra's DevOps API is."
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
  description = "Is raised to have root_token written."
}

variable "cli" {
  type        = string
  description = "The server's command line client."
  default     = "vault"
}
