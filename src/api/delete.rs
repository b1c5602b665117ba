//! Which answers confirm a deletion, and which further requests a deletion makes after a failed request.

use serde_json::Value;

/// Decides whether a deletion makes a further request after a failed request.
pub(crate) trait Patience: Sync {
    /// Whether to repeat the request.
    fn may_retry(&self) -> bool;

    /// Whether to list all tokens, which shows whether the token is deleted.
    fn may_list(&self) -> bool;
}

/// Makes all requests that can help.
pub(crate) struct Unlimited;

impl Patience for Unlimited {
    fn may_retry(&self) -> bool {
        true
    }

    fn may_list(&self) -> bool {
        true
    }
}

/// Whether the body of a successful answer confirms the success: it is JSON, and has no member `errors`.
pub(super) fn confirms_success(answer: &[u8]) -> bool {
    // The JSON parser does not check the bytes of strings that it skips, so check them here.
    let Ok(text) = std::str::from_utf8(answer) else { return false };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => !object.keys().any(|key| key.eq_ignore_ascii_case("errors")),
        other => other.is_ok(),
    }
}
