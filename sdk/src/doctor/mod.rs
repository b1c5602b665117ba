//! Checks of an installation for a person who runs the binary by hand, as `<binary> -doctor`.
//!
//! [`machine`] checks the file of the plugin and the machine. An engine adds checks of the service that the engine calls, and
//! offers all checks as a [`Command`](crate::Command).
//!
//! Architecture invariant: a check leaves nothing behind on the machine, and its texts contain no secret.

mod machine;
mod report;

pub use self::machine::machine;
pub use self::report::Report;

/// The result of one check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    advice: String,
}

/// The verdict of a check.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// The check was not made.
    Skipped,
    /// The plugin works, but the user should change something.
    Warning,
    /// The plugin cannot work.
    Failed,
}

impl Verdict {
    /// Returns the word for the verdict, in the table and in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

impl Check {
    /// Returns a check that found nothing wrong. `found` describes the state, without a full stop.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    /// Returns a check that was not made, for this reason.
    pub fn skipped(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Skipped, found: reason.into(), advice: String::new() }
    }

    /// Returns a check that found a fault with which the plugin still works. `advice` tells the user what to do.
    pub fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, found: found.into(), advice: advice.into() }
    }

    /// Returns a check that found a fault with which the plugin cannot work. `advice` tells the user what to do.
    pub fn failed(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failed, found: found.into(), advice: advice.into() }
    }

    /// Returns the verdict.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}
