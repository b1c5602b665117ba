//! What the calls of an org told about its Astra and its root token.
//!
//! Architecture invariant: knows the result of the last calls only, and calls nothing.

use std::sync::atomic::{AtomicI64, AtomicU8, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::api::{self, Case};

/// The state of an org.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// The last call succeeded.
    Ok,
    /// The last call failed.
    Failing,
    /// Astra rejected the root token in the last call.
    RootRefused,
    /// No call was made since the process started, or since the config changed.
    Unknown,
}

impl State {
    pub(crate) const ALL: [Self; 4] = [Self::Ok, Self::Failing, Self::RootRefused, Self::Unknown];

    /// Returns the name of the state in answers and labels.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::RootRefused => "root_refused",
            Self::Unknown => "unknown",
        }
    }
}

/// The results of the calls of one org.
pub(crate) struct Health {
    state: AtomicU8,
    /// In milliseconds since 1970; 0 if no call succeeded.
    last_success: AtomicI64,
    last_error: Mutex<Option<Failure>>,
}

/// A failed call.
#[derive(Clone)]
pub(crate) struct Failure {
    pub(crate) time: Timestamp,
    /// What happened. Holds no secret, as no error of a call does.
    pub(crate) text: String,
}

impl Health {
    /// Notes the result of a call.
    pub(crate) fn note<T>(&self, result: &Result<T, api::Error>) {
        match result {
            Err(error) => self.note_error(error),
            Ok(_) => {
                self.last_success.store(Timestamp::now().as_millisecond(), Relaxed);
                self.set(State::Ok);
            }
        }
    }

    /// Notes a failed call.
    pub(crate) fn note_error(&self, error: &api::Error) {
        // The plugin stops: that says nothing about Astra.
        if error.case() == Case::Stopping {
            return;
        }
        *self.failure() = Some(Failure { time: Timestamp::now(), text: error.to_string() });
        match error.case() {
            Case::RootTokenRejected => self.set(State::RootRefused),
            // Astra works, and does not take this one request.
            Case::RequestRejected { .. } | Case::IsRootToken => self.set(State::Ok),
            _ => self.set(State::Failing),
        }
    }

    /// Forgets the state, because the config changed. The times stay.
    pub(crate) fn forget(&self) {
        self.set(State::Unknown);
    }

    /// Returns the state.
    pub(crate) fn state(&self) -> State {
        State::ALL.get(usize::from(self.state.load(Relaxed))).copied().unwrap_or(State::Unknown)
    }

    /// Returns when a call last succeeded.
    pub(crate) fn last_success(&self) -> Option<Timestamp> {
        Some(self.last_success.load(Relaxed))
            .filter(|time| *time > 0)
            .and_then(|time| Timestamp::from_millisecond(time).ok())
    }

    /// Returns the last failed call.
    pub(crate) fn last_error(&self) -> Option<Failure> {
        self.failure().clone()
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(State::Unknown as u8),
            last_success: AtomicI64::new(0),
            last_error: Mutex::default(),
        }
    }
}
