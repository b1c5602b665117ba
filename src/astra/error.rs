//! Why the engine could not do what it was asked to.

use std::time::Duration;

use super::api;
use super::names::{InvalidName, OrgId};
use crate::sdk::logical::{self, StorageError};

/// A failed request. No text of it holds a secret.
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
    /// The request cannot be done as things are. Says what to do.
    #[error("{0}")]
    Refused(String),
    /// What shall be changed does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request can be done later.
    #[error("{0}")]
    NotYet(String),
    /// Background work did not end in time.
    #[error("the work took longer than {0:?} and goes on at a later tick")]
    OutOfTime(Duration),
    /// Astra did not do it.
    #[error("{0}")]
    Api(#[from] api::Error),
    /// Astra did it, and what came after failed.
    #[error("{step}: {cause}; {left}")]
    Unfinished {
        /// What failed.
        step: &'static str,
        /// What was done about the change in Astra.
        left: String,
        /// Why it failed.
        cause: Box<Error>,
    },
    /// Astra did the same thing for no org. Never empty.
    #[error("no organization is done: {}", each(.0))]
    EveryOrg(Vec<(OrgId, Error)>),
    /// The host's storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Anything else that the host says.
    #[error(transparent)]
    Host(#[from] logical::Error),
}

impl Error {
    /// Returns the complaint about one field.
    pub(crate) fn field(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Field { field, reason: reason.into() }
    }

    /// Returns what happened, without the call of Astra and without advice.
    pub(crate) fn what(&self) -> String {
        match self {
            Self::Api(error) => error.what().to_owned(),
            error => error.to_string(),
        }
    }

    /// Whether this is for an operator to see. What has no status is, too, but the runtime logs that itself.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::Api(_) | Self::OutOfTime(_) => true,
            Self::EveryOrg(errors) => errors.iter().any(|(_, error)| error.is_failure()),
            Self::Unfinished { cause, .. } => cause.status().is_some(),
            Self::Field { .. } | Self::Refused(_) | Self::NotFound(_) | Self::NotYet(_) => false,
            Self::Storage(_) | Self::Host(_) => false,
        }
    }

    /// Returns the HTTP status of a failure that is not our own.
    fn status(&self) -> Option<u16> {
        match self {
            Self::Api(error) => Some(error.status()),
            Self::Refused(_) | Self::Field { .. } => Some(400),
            Self::NotFound(_) => Some(404),
            Self::NotYet(_) => Some(503),
            Self::OutOfTime(_) => Some(504),
            Self::Unfinished { cause, .. } => cause.status(),
            Self::EveryOrg(errors) => errors.first().and_then(|(_, error)| error.status()),
            Self::Storage(_) | Self::Host(_) => None,
        }
    }

    /// Logs a failure with its cause. The caller's own mistakes are only of interest while debugging.
    pub(crate) fn log(&self, operation: &str, path: &str) {
        if self.is_failure() {
            tracing::error!(operation, path, error = %self, "failed to answer a request");
        } else {
            tracing::debug!(operation, path, error = %self, "refused a request");
        }
    }

    /// Returns the error of a renewal or revocation. The host prints error responses of those in Go's debug form, so
    /// none is used, and gives up for ever on some kinds of errors, so they are not used either.
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

impl From<InvalidName> for Error {
    fn from(invalid: InvalidName) -> Self {
        Self::field(invalid.field, invalid.reason)
    }
}

impl From<Error> for logical::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Field { .. } | Error::Refused(_) => Self::InvalidRequest(error.to_string()),
            Error::NotFound(message) => Self::status(404, message),
            Error::NotYet(message) => Self::status(503, message),
            Error::OutOfTime(_) => Self::status(504, error.to_string()),
            Error::Api(error) => Self::status(error.status(), error.to_string()),
            Error::Unfinished { .. } | Error::EveryOrg(_) => match error.status() {
                Some(status) => Self::status(status, error.to_string()),
                None => Self::internal(error.to_string()),
            },
            Error::Storage(error) => error.into(),
            Error::Host(error) => error,
        }
    }
}

/// Tells the failures of several orgs.
fn each(errors: &[(OrgId, Error)]) -> String {
    let told = errors.iter().map(|(org, error)| format!("org_id {:?}: {error}", org.as_str()));
    told.collect::<Vec<_>>().join("; ")
}
