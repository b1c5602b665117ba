variable "org_id" {
  type        = string
  description = "Id of the Astra organization."
}

variable "reader_role_id" {
  type        = string
  description = "Id of the Astra role of the tokens."
}

variable "root_token" {
  type        = string
  description = "Root token of the organization, AstraCS:<client id>:<secret>."
  sensitive   = true
  ephemeral   = true

  # Needed only when root_token_version changes.
  default = null
}

variable "root_token_version" {
  type        = number
  description = "Increase this number to write root_token again."
}
