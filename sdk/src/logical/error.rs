//! Errors of requests. The kind of an error decides the HTTP status that the host returns.

use super::storage::StorageError;
use crate::tasks::Stopping;

/// A failed request.
///
/// The text goes to the caller and into the host's audit log, so no variant ever carries a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's mistake: returns 400 with exactly this text.
    #[error("{0}")]
    InvalidRequest(String),

    /// Returns any other status, such as 409, 429 or 503, with this text.
    #[error("{message}")]
    Status {
        /// HTTP status between 400 and 599.
        status: u16,
        /// Text for the caller.
        message: String,
    },

    /// The path exists, but does not support this operation: returns 405.
    #[error("unsupported operation")]
    UnsupportedOperation,

    /// The path does not exist: returns 404.
    #[error("unsupported path")]
    UnsupportedPath,

    /// The caller may not do this: returns 403.
    #[error("permission denied")]
    PermissionDenied,

    /// This node cannot write. The host forwards the request to the active node, which runs it from the start. So do
    /// not change anything before you return this error.
    #[error("cannot write to readonly storage")]
    ReadOnly,

    /// The host has no such service: returns 500. Vault and OpenBao differ in the services of
    /// [`SystemView`](crate::logical::SystemView), so engines do without the service.
    #[error("this host does not support {0}")]
    UnsupportedByHost(&'static str),

    /// Our fault: returns 500. The caller sees only `message`; the log also contains `cause`.
    #[error("{message}")]
    Internal {
        /// Text for the caller.
        message: String,
        /// Text for the log.
        #[source]
        cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl Error {
    /// Returns the caller's mistake (400).
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidRequest(message.into())
    }

    /// Returns an error with this HTTP status.
    pub fn status(status: u16, message: impl Into<String>) -> Self {
        Self::Status { status, message: message.into() }
    }

    /// Returns our own fault (500) with a text for the caller.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal { message: message.into(), cause: None }
    }

    /// Adds a cause to an internal error. Only the log shows the cause. Other errors stay unchanged.
    #[must_use]
    pub fn caused_by(mut self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        if let Self::Internal { cause, .. } = &mut self {
            *cause = Some(error.into());
        }
        self
    }

    /// Returns the text for the log: the caller's text and the cause.
    pub fn detail(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }
}

impl From<StorageError> for Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::ReadOnly => Self::ReadOnly,
            other => Self::internal(other.to_string()),
        }
    }
}

impl From<Stopping> for Error {
    fn from(stopping: Stopping) -> Self {
        Self::status(503, stopping.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_sees_what_the_caller_does_not() {
        let cause = StorageError::Failed("no leader".into());
        let error = Error::internal("cannot read the book").caused_by(cause);
        assert_eq!(error.to_string(), "cannot read the book");
        assert_eq!(error.detail(), "cannot read the book: storage: no leader");
        assert_eq!(Error::invalid("no title").detail(), "no title");
    }

    /// If the host finds this text, it forwards the request.
    #[test]
    fn a_node_that_may_not_write_says_so_in_the_words_of_the_host() {
        assert_eq!(Error::from(StorageError::ReadOnly).to_string(), "cannot write to readonly storage");
    }
}
