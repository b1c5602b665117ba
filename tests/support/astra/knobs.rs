//! What the real service leaves open, or answers differently in different reports. The defaults are what was observed.

use serde::{Deserialize, Serialize};

use super::http::BodyForm;

/// The settings of one simulator; all times in milliseconds of its clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// 200, or 201 as a tolerant client should accept.
    pub create_status: u16,
    /// Whether the answer to a create repeats `description` and `tokenExpiry`.
    pub create_echo: bool,
    /// Keys left out of the answer to a create.
    pub create_omit: Vec<String>,
    pub description: FieldPolicy,
    /// The longest `description` taken, in characters; the real limit is unknown.
    pub description_max: Option<usize>,
    pub token_expiry: FieldPolicy,
    pub bad_expiry: BadExpiry,
    /// Refuse role values that are no role of the organization; the real service takes any text.
    pub strict_roles: bool,
    /// Refuse to mint a token that may do more than its creator.
    pub escalation_check: bool,
    pub list_unset: Unset,
    pub list_shuffle: bool,
    /// Whether expired tokens stay in the list.
    pub list_expired: bool,
    /// Answer an empty list instead of an error to a caller without permission.
    pub list_empty_without_permission: bool,
    pub delete_success: DeleteSuccess,
    pub unknown_id: UnknownId,
    pub permission_failure: PermissionFailure,
    pub malformed_token: MalformedToken,
    /// The error id that an expired token gets.
    pub expired_token_id: i64,
    /// The form of the 400 for a bad body.
    pub bad_body: BodyForm,
    pub role_style: RoleStyle,
    /// The style of the answer to a role create.
    pub role_create_style: RoleStyle,
    /// The status of an attempt to change a built-in role.
    pub built_in_role_status: u16,
    pub user_style: UserStyle,
    /// Whether `currentOrg` tells the name too.
    pub current_org_name: bool,
    /// Whether answers carry an `x-request-id`.
    pub request_id: bool,
    pub connection_close: bool,
    /// After so many requests a connection is closed without notice.
    pub max_requests_per_connection: Option<u32>,
    /// Send bodies chunked instead of with a length.
    pub chunked: bool,
    pub refuse_connections: bool,
    /// Server time of every answer, uniform between the two.
    pub latency_ms: Option<(u64, u64)>,
    pub rate_limit: Option<RateLimit>,
    pub list_delay_after_create_ms: u64,
    pub list_delay_after_delete_ms: u64,
    pub auth_delay_after_create_ms: u64,
    pub auth_delay_after_delete_ms: u64,
    pub role_edit_delay_ms: u64,
}

impl Knobs {
    /// The server time that was recorded of the real service.
    pub const REALISTIC_LATENCY_MS: (u64, u64) = (35, 45);
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            create_status: 200,
            create_echo: false,
            create_omit: Vec::new(),
            description: FieldPolicy::Accept,
            description_max: Some(255),
            token_expiry: FieldPolicy::Accept,
            bad_expiry: BadExpiry::Reject,
            strict_roles: false,
            escalation_check: true,
            list_unset: Unset::Empty,
            list_shuffle: false,
            list_expired: true,
            list_empty_without_permission: false,
            delete_success: DeleteSuccess::NoContent,
            unknown_id: UnknownId::NotFoundErrors,
            permission_failure: PermissionFailure::Errors403,
            malformed_token: MalformedToken::Id340016,
            expired_token_id: 340_018,
            bad_body: BodyForm::Errors,
            role_style: RoleStyle::Lower,
            role_create_style: RoleStyle::PascalStringPolicy,
            built_in_role_status: 400,
            user_style: UserStyle::Pascal,
            current_org_name: false,
            request_id: false,
            connection_close: false,
            max_requests_per_connection: None,
            chunked: false,
            refuse_connections: false,
            latency_ms: None,
            rate_limit: None,
            list_delay_after_create_ms: 0,
            list_delay_after_delete_ms: 0,
            auth_delay_after_create_ms: 0,
            auth_delay_after_delete_ms: 0,
            role_edit_delay_ms: 0,
        }
    }
}

/// A token bucket; the answer beyond it is 429 with `Retry-After` in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RateLimit {
    pub per_second: f64,
    pub burst: f64,
    /// One bucket per calling token instead of per organization.
    pub per_token: bool,
}

/// Declares an enum of bare variants whose JSON names are in snake case.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    )+};
}

choices! {
    /// What becomes of a key of the create call that the published spec does not have.
    FieldPolicy {
        Accept,
        /// 400.
        Refuse,
        /// Taken and forgotten.
        Ignore,
    }

    /// What becomes of an expiry in the past, above the organization's maximum, or not a timestamp.
    BadExpiry { Reject, Clamp, Ignore }

    /// How the list shows a field that a token does not have.
    Unset {
        /// `"description": ""` and `"tokenExpiry": null`.
        Empty,
        Omit,
    }

    DeleteSuccess { NoContent, OkEmpty, OkJson, Accepted }

    /// The answer to a delete of a client id that is not, or no longer, there.
    UnknownId { NotFoundErrors, NotFoundText, BadRequestString, NoContent, ServerErrorString }

    PermissionFailure { Errors403, Null401, String403, Text403 }

    /// The answer to a token that is not well formed.
    MalformedToken {
        Id340016,
        /// The wording of 2021.
        Id340012,
        /// The wording of 2023, with status 403.
        Id340017,
    }

    /// The key style of roles.
    RoleStyle {
        /// As recorded in 2022.
        Lower,
        Pascal,
        /// Pascal case, and the policy as JSON text inside a string.
        PascalStringPolicy,
        /// The names in the published spec.
        Spec,
    }

    UserStyle { Pascal, LowerCamel }
}
