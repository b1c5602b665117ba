//! The errors of the engine, with their HTTP status and their advice.

use std::time::Duration;

use vault_plugin_sdk::logical::{self, StorageError};
use vault_plugin_sdk::tasks::Stopping;

use super::api::{self, Case, LIST_ROLES, MINT};
use super::names::{InvalidName, OrgId};

/// A failed request. No error text holds a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A field has a value that cannot be used.
    #[error("{field} {reason}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with the value, and what to do.
        reason: String,
    },
    /// The caller must change the request or the configuration. The text says what to do.
    #[error("{0}")]
    Refused(String),
    /// The object to be changed does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The same request can succeed later.
    #[error("{0}")]
    NotYet(String),
    /// Background work took too long.
    #[error("the work took longer than {0:?}; a later tick retries")]
    OutOfTime(Duration),
    /// A call of Astra failed.
    #[error("{0}; {advice}", advice = advice(.0))]
    Api(#[from] api::Error),
    /// A call of Astra for a rotation of the root token failed.
    #[error("{error}; {advice}", advice = root_advice(.error, .permission))]
    RootCall {
        /// What happened.
        error: api::Error,
        /// What to check if Astra rejects the root token.
        permission: &'static str,
    },
    /// A change in Astra succeeded or may have succeeded, and a later step failed.
    #[error("{step}: {cause}; {left}")]
    Unfinished {
        /// The step that failed.
        step: &'static str,
        /// What became of the change in Astra.
        left: String,
        /// Why it failed.
        cause: Box<Error>,
    },
    /// The request failed for every org. Never empty.
    #[error("the import failed for every organization: {}", list_failures(.0))]
    EveryOrg(Vec<(OrgId, Error)>),
    /// A stored entry cannot be read: it is damaged, or a newer version wrote it. The text names its key.
    #[error("{0}")]
    Unreadable(String),
    /// The host's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Another error of the host.
    #[error(transparent)]
    Host(#[from] logical::Error),
}

impl Error {
    /// Returns the error for one field.
    pub(crate) fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field { field, reason: reason.into() }
    }

    /// Returns the error for a request that needs the complete inventory. `else_do` is another way out, if there is one.
    pub(crate) fn inventory_incomplete(else_do: Option<&str>) -> Self {
        let else_do = else_do.map(|else_do| format!(", or {else_do}")).unwrap_or_default();
        Self::NotYet(format!("the inventory of tokens is still being built; try again later{else_do}"))
    }

    /// Returns what happened, without the call of Astra and without advice.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Api(error) | Self::RootCall { error, .. } => error.what().to_owned(),
            error => error.to_string(),
        }
    }

    /// Whether to log this at `error`. Internal errors are excluded because the SDK logs them.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::Api(_) | Self::RootCall { .. } | Self::OutOfTime(_) => true,
            Self::EveryOrg(errors) => errors.iter().any(|(_, error)| error.is_failure()),
            Self::Unfinished { cause, .. } => cause.status().is_some(),
            Self::Field { .. } | Self::Refused(_) | Self::NotFound(_) | Self::NotYet(_) => false,
            Self::Unreadable(_) | Self::Storage(_) | Self::Host(_) => false,
        }
    }

    /// Whether the storage or the host failed.
    pub(crate) fn is_of_host(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Host(_))
    }

    /// Whether the caller made the mistake. The host then adds nothing to the text.
    fn is_callers(&self) -> bool {
        matches!(self, Self::Field { .. } | Self::Refused(_))
    }

    /// Returns the HTTP status, or `None` for failures of the host.
    fn status(&self) -> Option<u16> {
        match self {
            Self::Api(error) | Self::RootCall { error, .. } => Some(status(error.case())),
            Self::Refused(_) | Self::Field { .. } => Some(400),
            Self::NotFound(_) => Some(404),
            Self::NotYet(_) => Some(503),
            Self::OutOfTime(_) => Some(504),
            Self::Unfinished { cause, .. } => cause.status(),
            Self::EveryOrg(errors) => errors.first().and_then(|(_, error)| error.status()),
            Self::Unreadable(_) | Self::Storage(_) | Self::Host(_) => None,
        }
    }

    /// Logs a failure with its cause. Mistakes of the caller are logged at `debug`.
    pub(crate) fn log(&self, operation: &str, path: &str) {
        if self.is_failure() {
            tracing::error!(operation, path, error = %self, "failed to answer a request");
        } else {
            tracing::debug!(operation, path, error = %self, "rejected a request");
        }
    }

    /// Returns the error of a renewal or revocation. Avoids error responses, which the host prints in Go's debug form,
    /// and the kinds of errors that make the host give up on the lease.
    pub(crate) fn for_lease(self) -> logical::Error {
        let message = self.to_string();
        match logical::Error::from(self) {
            logical::Error::InvalidRequest(message) => logical::Error::status(400, message),
            error @ (logical::Error::Status { .. } | logical::Error::ReadOnly | logical::Error::Internal { .. }) => {
                error
            }
            _ => logical::Error::internal(message),
        }
    }
}

/// Separates an entry that cannot be read from other failures, so that the entry harms only its own object. Returns the
/// entry, and the reason why it cannot be read.
pub(crate) fn readable<T>(entry: Result<Option<T>, Error>) -> Result<(Option<T>, Option<Error>), Error> {
    match entry {
        Ok(entry) => Ok((entry, None)),
        Err(reason @ Error::Storage(StorageError::Encoding { .. })) => Ok((None, Some(reason))),
        Err(error) => Err(error),
    }
}

impl From<InvalidName> for Error {
    fn from(invalid: InvalidName) -> Self {
        Self::field(invalid.field, invalid.reason)
    }
}

impl From<Stopping> for Error {
    fn from(stopping: Stopping) -> Self {
        Self::NotYet(stopping.to_string())
    }
}

impl From<Error> for logical::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Storage(error) => error.into(),
            Error::Host(error) => error,
            error => match error.status() {
                Some(400) if error.is_callers() => Self::InvalidRequest(error.to_string()),
                Some(status) => Self::status(status, error.to_string()),
                None => Self::internal(error.to_string()),
            },
        }
    }
}

/// Returns the HTTP status for a failed call of Astra.
pub(crate) fn status(case: Case) -> u16 {
    match case {
        Case::RequestRejected { .. } | Case::IsRootToken | Case::OtherOrganization => 400,
        Case::RootTokenRejected => 403,
        Case::RateLimited => 429,
        Case::ProxyLogin
        | Case::ConnectionBroken
        | Case::UnusableAnswer
        | Case::NotAstra
        | Case::ServerFailed
        | Case::UnexpectedStatus => 502,
        Case::BadSettings
        | Case::NoTls
        | Case::BadProxy
        | Case::Stopping
        | Case::HostNotResolved
        | Case::NotReachable
        | Case::Unavailable => 503,
        Case::HostNotResolvedInTime | Case::NotReachableInTime | Case::NoPermit | Case::NoAnswer | Case::TimedOut => {
            504
        }
    }
}

/// Returns what to do about a failed call of Astra.
pub(crate) fn advice(error: &api::Error) -> &'static str {
    match error.case() {
        Case::BadSettings => "write url and astra_token of the config again",
        Case::NoTls => "check the ca_cert of the config, and that this machine has CA certificates",
        Case::BadProxy => "correct the variable, then restart the server, or register and reload the plugin",
        Case::HostNotResolved | Case::HostNotResolvedInTime => {
            "check the url of the config or the proxy, and /etc/hosts and /etc/resolv.conf of the server's machine"
        }
        Case::NotReachable | Case::NotReachableInTime => "check the url and ca_cert of the config, and the network",
        Case::NoPermit | Case::NoAnswer => "try again, or raise the request_timeout of the config",
        Case::ConnectionBroken | Case::Stopping => "try again",
        Case::UnusableAnswer | Case::NotAstra => "check the url of the config and any proxy",
        Case::RootTokenRejected if error.call() == LIST_ROLES => {
            "check that the astra_token of the config is live and has the permission org-role-read"
        }
        Case::RootTokenRejected => {
            "check that the astra_token of the config is live and may manage tokens and the role"
        }
        Case::IsRootToken => "first write another astra_token to the config",
        Case::OtherOrganization => "write an astra_token of the organization of the tokens to the config",
        // The published API of Astra does not list these two members of the request.
        Case::RequestRejected { names_description, names_expiry } if error.call() == MINT => {
            match (names_description, names_expiry) {
                (true, true) => {
                    "if Astra takes neither member, set description=false and token_expiry=false on the config"
                }
                (true, false) => "if Astra takes no description, set description=false on the config",
                (false, true) => "if Astra takes no expiry, set token_expiry=false on the config",
                (false, false) => "check the role_id of the role",
            }
        }
        Case::RequestRejected { .. } => "see the reason that Astra gives",
        Case::ProxyLogin => "check the login in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY",
        Case::RateLimited | Case::TimedOut | Case::Unavailable | Case::ServerFailed => "try again later",
        Case::UnexpectedStatus => "check the url of the config",
    }
}

/// Returns what to do about a failed call of a rotation. The new root token has the Astra roles of the old root token,
/// and no role of Vault.
fn root_advice(error: &api::Error, permission: &'static str) -> &'static str {
    match error.case() {
        Case::RootTokenRejected => permission,
        Case::RequestRejected { names_description: false, names_expiry: false } => "see the reason that Astra gives",
        _ => advice(error),
    }
}

/// Lists the failures of several orgs.
fn list_failures(errors: &[(OrgId, Error)]) -> String {
    let failures = errors.iter().map(|(org, error)| format!("org_id {:?}: {error}", org.as_str()));
    failures.collect::<Vec<_>>().join("; ")
}
