//! Checks of an installation for a person who runs the binary by hand, as `<binary> -doctor`.
//!
//! [`machine`] checks the file of the plugin and the machine. An engine adds checks of the service that it calls, and
//! offers all of them as a [`Command`](crate::Command).
//!
//! Architecture invariant: a check leaves nothing behind on the machine, and no text of a check holds a secret.

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

/// Whether a check found a fault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Verdict {
    /// Nothing is wrong.
    Ok,
    /// The check was not made.
    Skipped,
    /// The plugin works, and something should be changed.
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
    /// Returns a check that found nothing wrong. `found` says what is there, without a full stop.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    /// Returns a check that was not made, and why.
    pub fn skipped(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Skipped, found: reason.into(), advice: String::new() }
    }

    /// Returns a check that found something to be changed, although the plugin works. `advice` says what to do.
    pub fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warning, found: found.into(), advice: advice.into() }
    }

    /// Returns a check that found why the plugin cannot work. `advice` says what to do.
    pub fn failed(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Failed, found: found.into(), advice: advice.into() }
    }

    /// Returns the verdict.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }
}
