variable "org_id" {
  type        = string
  description = "Id of the Astra organization."
}

variable "reader_role_id" {
  type        = string
  description = "Id of the Astra role that the tokens get."
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
  description = "Is raised to have root_token written."
}
