//! Why a request failed, and with it the HTTP status that the host answers.

use super::storage::StorageError;
use crate::tasks::Stopping;

/// A failed request.
///
/// The text of a variant goes to the caller and into the host's audit log, so no variant ever carries a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's mistake: 400, with exactly this text.
    #[error("{0}")]
    InvalidRequest(String),

    /// Any other status, such as 409, 429 or 503, with this text.
    #[error("{message}")]
    Status {
        /// HTTP status between 400 and 599.
        status: u16,
        /// Text for the caller.
        message: String,
    },

    /// The path exists, but not with this operation: 405.
    #[error("unsupported operation")]
    UnsupportedOperation,

    /// There is no such path: 404.
    #[error("unsupported path")]
    UnsupportedPath,

    /// 403.
    #[error("permission denied")]
    PermissionDenied,

    /// This node may not write. The host forwards the request to the active node, which starts it anew, so nothing
    /// may have been changed before this is returned.
    #[error("cannot write to readonly storage")]
    ReadOnly,

    /// Our fault: 500. The caller sees `message`, the log also `cause`.
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

    /// Returns an error with an HTTP status of its own.
    pub fn status(status: u16, message: impl Into<String>) -> Self {
        Self::Status { status, message: message.into() }
    }

    /// Returns our own fault (500) with a text for the caller.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::Internal { message: message.into(), cause: None }
    }

    /// Adds the cause, which only the log shows, to an internal error. Leaves other errors as they are.
    #[must_use]
    pub fn caused_by(mut self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        if let Self::Internal { cause, .. } = &mut self {
            *cause = Some(error.into());
        }
        self
    }

    /// Returns the text for the log: the caller's text, and what caused it.
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

    /// The host looks for this text to forward the request.
    #[test]
    fn a_node_that_may_not_write_says_so_in_the_words_of_the_host() {
        assert_eq!(Error::from(StorageError::ReadOnly).to_string(), "cannot write to readonly storage");
    }
}
