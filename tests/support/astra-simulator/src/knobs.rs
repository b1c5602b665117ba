//! Settings for behaviour of the real service that is unknown, or that differs between reports. The defaults are the
//! observed behaviour.

use serde::{Deserialize, Serialize};

use super::http::BodyForm;

/// The settings of one simulator. All times are in milliseconds of the simulator's clock.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// The status of a create. A tolerant client accepts both 200 and 201.
    pub create_status: u16,
    /// Whether the answer to a create repeats `description` and `tokenExpiry`.
    pub create_echo: bool,
    /// Keys that the answer to a create omits.
    pub create_omit: Vec<String>,
    pub description: FieldPolicy,
    /// The longest accepted `description`, in characters. The real limit is unknown.
    pub description_max: Option<usize>,
    /// Whether a longer description is cut off instead of rejected.
    pub description_cut: bool,
    pub token_expiry: FieldPolicy,
    pub bad_expiry: BadExpiry,
    /// Whether to reject texts that are not roles of the organization. The real service accepts any text.
    pub strict_roles: bool,
    /// Whether to reject a mint if the new token would have more permissions than its creator.
    pub escalation_check: bool,
    pub list_unset: Unset,
    pub list_shuffle: bool,
    /// Whether expired tokens stay in the list.
    pub list_expired: bool,
    /// Whether a caller without permission gets an empty list instead of an error.
    pub list_empty_without_permission: bool,
    pub delete_success: DeleteSuccess,
    pub unknown_id: UnknownId,
    pub permission_failure: PermissionFailure,
    pub malformed_token: MalformedToken,
    /// The error id in the answer to an expired token.
    pub expired_token_id: i64,
    /// The form of the answer 400 to an invalid body.
    pub bad_body: BodyForm,
    pub role_style: RoleStyle,
    /// The style of the answer when a role is created.
    pub role_create_style: RoleStyle,
    /// The status of the answer to a change of a built-in role.
    pub built_in_role_status: u16,
    pub user_style: UserStyle,
    /// Whether the answer of `currentOrg` contains the name, too.
    pub current_org_name: bool,
    /// Whether answers have the header `x-request-id`.
    pub request_id: bool,
    pub connection_close: bool,
    /// After this number of requests, the server closes the connection without notice.
    pub max_requests_per_connection: Option<u32>,
    /// Whether bodies are sent in chunks instead of with a length.
    pub chunked: bool,
    pub refuse_connections: bool,
    /// The least and the longest delay of an answer. The delay is random between them.
    pub latency_ms: Option<(u64, u64)>,
    pub rate_limit: Option<RateLimit>,
    pub list_delay_after_create_ms: u64,
    pub list_delay_after_delete_ms: u64,
    pub auth_delay_after_create_ms: u64,
    pub auth_delay_after_delete_ms: u64,
    pub role_edit_delay_ms: u64,
}

impl Knobs {
    /// The delay that was recorded on the real service.
    pub const REALISTIC_LATENCY_MS: (u64, u64) = (35, 45);
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            create_status: 200,
            create_echo: true,
            create_omit: Vec::new(),
            description: FieldPolicy::Accept,
            description_max: Some(255),
            description_cut: false,
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

/// A token bucket. If the bucket is empty, the answer is 429 with `Retry-After` in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct RateLimit {
    pub per_second: f64,
    pub burst: f64,
    /// Whether each calling token has its own bucket, instead of each organization.
    pub per_token: bool,
}

/// Declares an enum of variants without data. Their JSON names are in snake case.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    )+};
}

choices! {
    /// How a create call handles a key that the published specification does not contain.
    FieldPolicy {
        Accept,
        /// Returns 400.
        Reject,
        /// Accepts the key and does not store it.
        Ignore,
    }

    /// How a create call handles an expiry in the past, above the organization's maximum, or not a timestamp.
    BadExpiry { Reject, Clamp, Ignore }

    /// How the list shows a member that a token does not have.
    Unset {
        /// `"description": ""` and `"tokenExpiry": null`.
        Empty,
        Omit,
    }

    DeleteSuccess { NoContent, OkEmpty, OkJson, Accepted }

    /// The answer to a delete of a token that does not exist, or was deleted before.
    UnknownId { NotFoundErrors, NotFoundText, BadRequestString, NoContent, ServerErrorString }

    PermissionFailure { Errors403, Null401, String403, Text403 }

    /// The answer to a malformed token.
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
        /// As in the published specification.
        Spec,
    }

    UserStyle { Pascal, LowerCamel }
}
