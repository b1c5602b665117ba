//! Why a call to Astra failed.

use std::fmt::Display;
use std::time::Duration;

use super::body::{Body, quote};
use super::meter::Outcome;
use super::resolve::Failure;

/// The call that mints a token.
pub(crate) const MINT: &str = "mint a token";

/// The call that makes a client.
pub(crate) const PREPARE: &str = "prepare calls to Astra";

/// The call that lists the roles.
pub(crate) const LIST_ROLES: &str = "list the roles";

/// Why a call failed. The engine's `error` derives the HTTP status and the advice from the case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Case {
    /// The config or a stored name makes the call impossible.
    BadSettings,
    /// No TLS client can be set up on this machine.
    NoTls,
    /// The environment names a proxy that cannot be used.
    BadProxy,
    /// The plugin is stopping.
    Stopping,
    /// The host name was not resolved.
    HostNotResolved,
    /// No DNS server answered in time.
    HostNotResolvedInTime,
    /// No connection was possible.
    NotReachable,
    /// No connection was possible in time.
    NotReachableInTime,
    /// No permit was free in time: other calls for the same org held all permits.
    NoPermit,
    /// The connection broke.
    ConnectionBroken,
    /// Astra did not answer in time.
    NoAnswer,
    /// Astra answered with success, and the engine cannot use the answer.
    UnusableAnswer,
    /// Astra rejected the root token.
    RootTokenRejected,
    /// The token to delete is the root token.
    IsRootToken,
    /// The root token belongs to another organization than the config.
    OtherOrganization,
    /// Astra rejected the request. The answer may name a member of the request.
    RequestRejected {
        /// Whether the answer names the member `description`.
        names_description: bool,
        /// Whether the answer names the member `tokenExpiry`.
        names_expiry: bool,
    },
    /// A proxy asks for a login.
    ProxyLogin,
    /// Astra limits the rate of requests.
    RateLimited,
    /// Astra, or a gateway in front of Astra, answered that the request took too long.
    TimedOut,
    /// Astra, or a gateway in front of Astra, is unavailable.
    Unavailable,
    /// The answer does not come from Astra's API.
    NotAstra,
    /// Astra failed.
    ServerFailed,
    /// Astra's API does not have this status.
    UnexpectedStatus,
}

/// How far a failed call came. This decides whether the call may be repeated, and whether it may have had an effect.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Progress {
    /// The call was not tried.
    NotSent,
    /// No connection was possible, so Astra did not receive the request.
    NoConnection,
    /// The request was sent, at least in part, and no complete answer came.
    NoAnswer,
    /// Astra answered with success, and the engine cannot use the answer.
    Garbled,
    /// Astra answered with another status than success and this body.
    Answer(u16, Body),
}

/// A failed call of Astra. The text has no body, no header and no token. It says what happened; the engine adds the
/// advice.
#[derive(Clone, Debug, thiserror::Error)]
#[error("failed to {call}: {what}")]
pub(crate) struct Error {
    /// The call, such as `mint a token`.
    call: &'static str,
    /// What happened.
    what: String,
    case: Case,
    progress: Progress,
    /// How long Astra asks the client to wait.
    retry_after: Option<Duration>,
    /// Whether an earlier attempt may have had an effect.
    may_have_happened_before: bool,
}

impl Error {
    fn new(case: Case, call: &'static str, what: String, progress: Progress) -> Self {
        Self { call, what, case, progress, retry_after: None, may_have_happened_before: false }
    }

    /// Returns the error for an answer with another status than success.
    pub(super) fn from_answer(call: &'static str, status: u16, body: Body) -> Self {
        let quoted = match &body {
            Body::Api(text) | Body::Text(text) if !text.is_empty() => format!("{status}: {text:?}"),
            _ => status.to_string(),
        };
        let (case, what) = match (status, &body) {
            (401 | 403, _) => (Case::RootTokenRejected, "Astra rejected the root token"),
            (407, _) => (Case::ProxyLogin, "a proxy asks for a login"),
            (429, _) => (Case::RateLimited, "Astra limits the rate of requests"),
            (408 | 504, _) => (Case::TimedOut, "Astra did not answer in time"),
            (503, _) => (Case::Unavailable, "Astra is unavailable"),
            (404, body) if !matches!(body, Body::Api(_)) => {
                (Case::NotAstra, "the answer does not come from Astra's API")
            }
            (400..=499, body) => (refusal(body), "Astra rejected the request"),
            (500..=599, _) => (Case::ServerFailed, "Astra failed"),
            _ => (Case::UnexpectedStatus, "Astra answered with an unexpected status"),
        };
        Self::new(case, call, format!("{what} ({quoted})"), Progress::Answer(status, body))
    }

    /// Returns the error for an answer that cannot be used.
    pub(crate) fn garbled(call: &'static str, reason: impl Display) -> Self {
        let what = format!("the answer of Astra cannot be used: {reason}");
        Self::new(Case::UnusableAnswer, call, what, Progress::Garbled)
    }

    /// Returns the error for settings or names that make the call impossible.
    pub(super) fn bad_settings(call: &'static str, reason: impl Display) -> Self {
        Self::new(Case::BadSettings, call, reason.to_string(), Progress::NotSent)
    }

    /// Returns the error for a deletion of the root token itself.
    pub(super) fn is_root_token(call: &'static str) -> Self {
        let what = "the token is the root token of the config".to_owned();
        Self::new(Case::IsRootToken, call, what, Progress::NotSent)
    }

    /// Returns the error for a root token of another organization, which says nothing about the tokens of this one.
    pub(super) fn other_organization(call: &'static str, named: &str, expected: &str) -> Self {
        let what = format!("the root token belongs to organization {named:?}, not to {expected:?}");
        Self::new(Case::OtherOrganization, call, what, Progress::NotSent)
    }

    /// Returns the error for a call that was cancelled because the plugin is stopping.
    pub(crate) fn stopping(call: &'static str) -> Self {
        Self::new(Case::Stopping, call, "the plugin is stopping".to_owned(), Progress::NotSent)
    }

    /// Returns the error for a failed connection.
    pub(super) fn from_transport(call: &'static str, error: &reqwest::Error) -> Self {
        // This error comes from opening a connection, never from a connection that was open before.
        if let Some(failure) = causes(error).find_map(|cause| cause.downcast_ref::<Failure>()) {
            let case = if failure.is_timeout() { Case::HostNotResolvedInTime } else { Case::HostNotResolved };
            let what = format!("Astra cannot be reached: {}", quote(&failure.to_string()));
            return Self::new(case, call, what, Progress::NoConnection);
        }
        let cause = innermost(error);
        if error.is_connect() {
            // A host that drops packets causes a timeout.
            let case = if error.is_timeout() { Case::NotReachableInTime } else { Case::NotReachable };
            return Self::new(case, call, format!("Astra cannot be reached: {cause}"), Progress::NoConnection);
        }
        let what = format!("the connection to Astra broke: {cause}");
        Self::new(Case::ConnectionBroken, call, what, Progress::NoAnswer)
    }

    /// Returns the error for a request without an answer at the deadline. The request may have been sent.
    pub(super) fn no_answer(call: &'static str, timeout: Duration) -> Self {
        let what = format!("Astra did not answer within {timeout:?}");
        Self::new(Case::NoAnswer, call, what, Progress::NoAnswer)
    }

    /// Returns the error for a call that got no permit before the deadline.
    pub(super) fn no_permit(call: &'static str, timeout: Duration) -> Self {
        let what =
            format!("other calls to Astra for this organization took all of {timeout:?}, so the request was not sent");
        Self::new(Case::NoPermit, call, what, Progress::NotSent)
    }

    /// Returns the error for a client or a request that cannot be created.
    pub(super) fn from_setup(call: &'static str, error: &reqwest::Error) -> Self {
        Self::no_tls(call, innermost(error))
    }

    /// Returns the error for a machine or a config with which no TLS client can be set up.
    pub(super) fn no_tls(call: &'static str, reason: impl Display) -> Self {
        Self::new(Case::NoTls, call, format!("no TLS client can be set up: {reason}"), Progress::NotSent)
    }

    /// Returns the error for a proxy variable that cannot be used.
    pub(super) fn from_proxy(call: &'static str, reason: &impl Display) -> Self {
        Self::new(Case::BadProxy, call, reason.to_string(), Progress::NotSent)
    }

    /// If the connection used a proxy, names the variable of the proxy.
    pub(super) fn through(mut self, variable: Option<&str>) -> Self {
        if let Some(variable) = variable {
            self.what += &format!(" (through the proxy in {variable})");
        }
        self
    }

    /// Adds how long Astra asks the client to wait.
    pub(super) fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// Adds the number of attempts, and whether an earlier attempt may have had an effect.
    pub(super) fn after(mut self, attempts: usize, may_have_happened_before: bool) -> Self {
        self.may_have_happened_before = may_have_happened_before;
        if attempts > 1 {
            self.what += &format!(", after {attempts} attempts");
        }
        if let Some(wait) = self.retry_after {
            self.what += &format!(", and Astra asks to wait {} s", wait.as_secs());
        }
        self
    }

    /// Returns why the call failed.
    pub(crate) fn case(&self) -> Case {
        self.case
    }

    /// Returns the call, such as [`MINT`].
    pub(crate) fn call(&self) -> &'static str {
        self.call
    }

    /// Returns what happened, without the call.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Returns how long Astra asks the client to wait before the next attempt.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns how the last request ended, for measurements.
    pub(super) fn outcome(&self) -> Outcome {
        match self.progress {
            Progress::NotSent => Outcome::NotSent,
            Progress::NoConnection => Outcome::NoConnection,
            Progress::NoAnswer => Outcome::NoAnswer,
            Progress::Garbled => Outcome::Unusable,
            Progress::Answer(status, _) => Outcome::of_status(status),
        }
    }

    /// Whether no attempt was made.
    pub(super) fn is_not_sent(&self) -> bool {
        self.progress == Progress::NotSent
    }

    /// Whether another attempt may succeed and does no harm. A call that is not idempotent is only repeated if the
    /// attempt certainly had no effect.
    pub(super) fn is_retryable(&self, is_idempotent: bool) -> bool {
        match self.progress {
            Progress::NoConnection | Progress::Answer(429, _) => true,
            Progress::NoAnswer | Progress::Answer(500 | 502..=504, _) => is_idempotent,
            Progress::NotSent | Progress::Garbled | Progress::Answer(..) => false,
        }
    }

    /// Whether this attempt or an earlier attempt may have had an effect in Astra. A 503 can come from a gateway that
    /// lost Astra's answer.
    pub(crate) fn may_have_happened(&self) -> bool {
        self.may_have_happened_before
            || match &self.progress {
                Progress::NotSent | Progress::NoConnection => false,
                Progress::NoAnswer | Progress::Garbled | Progress::Answer(408, _) => true,
                // A gateway can answer 404 after it loses the connection to Astra.
                Progress::Answer(404, body) => !matches!(body, Body::Api(_)),
                Progress::Answer(status, _) => !matches!(status, 400..=499),
            }
    }

    /// Whether Astra's API says that the object does not exist. A 404 of a proxy does not count.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self.progress, Progress::Answer(404, Body::Api(_)))
    }

    /// Whether the object may exist or not after this answer.
    pub(super) fn is_unclear(&self) -> bool {
        match self.progress {
            // A login page or a maintenance page of a proxy can come with a success status.
            Progress::Garbled => true,
            // With these statuses, Astra did not look for the object.
            Progress::Answer(status, _) => !matches!(status, 401 | 403 | 407 | 429 | 503),
            Progress::NotSent | Progress::NoConnection | Progress::NoAnswer => false,
        }
    }

    /// Whether Astra answered that it rejects the call, for any reason.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self.progress, Progress::Answer(400..=407 | 409..=428 | 430..=499, _))
    }

    /// Whether Astra answered 401 without a reason: the token is invalid, or it lacks a permission.
    pub(crate) fn is_undetermined(&self) -> bool {
        matches!(self.progress, Progress::Answer(401, Body::Empty))
    }
}

/// Returns the case of a request that Astra rejects with this body.
fn refusal(body: &Body) -> Case {
    let text = match body {
        Body::Api(text) | Body::Text(text) => text.to_ascii_lowercase(),
        Body::Empty | Body::Unknown => String::new(),
    };
    Case::RequestRejected {
        names_description: text.contains("description"),
        names_expiry: text.contains("tokenexpiry") || text.contains("token_expiry"),
    }
}

/// Returns the text of the last cause. The other causes have only general texts.
fn innermost(error: &reqwest::Error) -> String {
    quote(&causes(error).last().map(ToString::to_string).unwrap_or_default())
}

/// Returns an error and its causes.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use serde_json::Value;

    use super::*;
    use crate::api::body::{QUOTE, find_ignore_case};

    /// No text depends on the characters after `AstraCS` in an answer. No text is long or has control characters.
    pub(crate) fn fuzz_astra_error(data: &[u8]) {
        let other = mask(data);
        for is_html in [false, true] {
            let (body, masked) = (Body::parse(data, is_html), Body::parse(&other, is_html));
            // In JSON, an escape is shorter than its replacement.
            if !data.contains(&b'\\') {
                assert_eq!(body, masked);
            }
            let quoted = match &body {
                Body::Api(text) | Body::Text(text) => text.as_str(),
                Body::Empty | Body::Unknown => "",
            };
            assert!(!quoted.contains(char::is_control) && quoted.chars().count() <= QUOTE + 3);
            assert!(!is_html || serde_json::from_slice::<Value>(data).is_ok() || !matches!(body, Body::Text(_)));
            for status in [304, 400, 401, 404, 408, 418, 429, 500, 503, 599] {
                let error = Error::from_answer(MINT, status, body.clone());
                assert!(shows_no_token(&error.to_string()), "{status}");
                assert_eq!(error.is_not_found(), status == 404 && matches!(body, Body::Api(_)));
                assert!(!error.is_not_found() || !error.may_have_happened());
            }
        }
        let Ok(text) = std::str::from_utf8(data) else { return };
        assert_eq!(quote(text), quote(&String::from_utf8_lossy(&other)));
        assert!(shows_no_token(&quote(text)));
    }

    /// Replaces all characters of each token, whatever characters a token may have.
    fn mask(data: &[u8]) -> Vec<u8> {
        let mut masked = data.to_vec();
        let mut at = 0;
        while let Some(start) = masked[at..].windows(7).position(|word| word.eq_ignore_ascii_case(b"AstraCS")) {
            at += start + 7;
            while let Some(byte) = masked.get_mut(at).filter(|c| c.is_ascii_alphanumeric() || b":%_-+/=.~".contains(c))
            {
                *byte = b'k';
                at += 1;
            }
        }
        masked
    }

    /// Whether each token is cut to its beginning and dots.
    fn shows_no_token(text: &str) -> bool {
        let mut tails = text.split("AstraCS");
        let has_none = |text: &str| find_ignore_case(text, "AstraCS").is_none();
        has_none(tails.next().unwrap_or_default())
            && tails.all(|tail| has_none(tail) && (tail.starts_with(":...") || tail.starts_with("...")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_404_of_astras_own_api_means_not_found() {
        let not_found = |body: &[u8]| Error::from_answer("x", 404, Body::parse(body, false)).is_not_found();
        assert!(not_found(br#"{"errors":[{"ID":1,"message":"no such token"}]}"#));
        assert!(not_found(br#""no such token""#));
        assert!(!not_found(br#"{"message":"no Route matched with those values"}"#));
        assert!(!not_found(b"404 page not found"));
        assert!(!not_found(b"<html></html>"));
        assert!(!not_found(b""));
    }

    #[test]
    fn after_a_404_of_a_gateway_the_outcome_is_unknown() {
        let unclear = |body: &[u8]| Error::from_answer(MINT, 404, Body::parse(body, false)).may_have_happened();
        assert!(!unclear(br#"{"errors":[{"ID":1,"message":"no such role"}]}"#));
        assert!(unclear(b"404 page not found"));
        assert!(unclear(b"<html></html>"));
    }
}
