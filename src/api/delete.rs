//! How long a deletion tries, and which answers confirm it.

use serde_json::Value;

/// Which further requests a deletion makes after its first attempt failed.
pub(crate) trait Patience: Sync {
    /// Whether to make the same request again.
    fn may_retry(&self) -> bool;

    /// Whether to list all tokens, which shows whether the token is deleted.
    fn may_list(&self) -> bool;

    /// Notes that Astra listed all tokens.
    fn note_list(&self);
}

/// Makes all requests that can help.
impl Patience for () {
    fn may_retry(&self) -> bool {
        true
    }

    fn may_list(&self) -> bool {
        true
    }

    fn note_list(&self) {}
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
