//! Which answers confirm a deletion.

use serde_json::Value;

/// Whether the body of a successful answer confirms the success: it is JSON, and has no member `errors`.
pub(super) fn confirms_success(answer: &[u8]) -> bool {
    // The JSON parser does not check the bytes of strings that it skips, so check them here.
    let Ok(text) = std::str::from_utf8(answer) else { return false };
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(object)) => !object.keys().any(|key| key.eq_ignore_ascii_case("errors")),
        other => other.is_ok(),
    }
}
