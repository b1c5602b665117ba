//! The request that the current task works for: the fields that its log lines carry, and the snapshot that its storage
//! reads.
//!
//! A `tracing` span for each request would cost more, and most requests log nothing. So the log asks here, and only when it
//! writes a line.

use std::sync::Arc;

tokio::task_local! {
    /// The current request. Work that the request starts belongs to it, too.
    static CURRENT: Arc<Context>;
}

/// The members of a request that its log lines and storage calls need.
#[derive(Debug, Default)]
pub(crate) struct Context {
    pub(crate) mount: String,
    pub(crate) backend_uuid: Arc<str>,
    pub(crate) request_id: String,
    pub(crate) operation: &'static str,
    /// Id of the snapshot from which the storage reads.
    pub(crate) snapshot: Option<Arc<str>>,
}

impl Context {
    /// Returns the fields for log lines.
    pub(crate) fn fields(&self) -> [(&'static str, &str); 4] {
        [
            ("operation", self.operation),
            ("request_id", &self.request_id),
            ("backend_uuid", &self.backend_uuid),
            ("mount", &self.mount),
        ]
    }
}

/// Runs work for a request.
pub(crate) fn scope<W: Future>(context: Arc<Context>, work: W) -> impl Future<Output = W::Output> {
    CURRENT.scope(context, work)
}

/// Runs work for a request, or for none, that never waits.
pub(crate) fn sync_scope<T>(context: Option<Arc<Context>>, work: impl FnOnce() -> T) -> T {
    match context {
        Some(context) => CURRENT.sync_scope(context, work),
        None => work(),
    }
}

/// Returns the current request, if there is one.
pub(crate) fn current() -> Option<Arc<Context>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Shows the current request, if there is one.
pub(crate) fn with_current<T>(show: impl FnOnce(&Context) -> T) -> Option<T> {
    CURRENT.try_with(|context| show(context)).ok()
}
