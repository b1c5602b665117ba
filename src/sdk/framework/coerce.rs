//! Field types as Go engines read them.

use serde_json::Value;

use super::field::{FieldKind, FieldValue};

/// Reads a JSON value (never `null`) as a kind of field.
///
/// # Errors
/// Says what was expected; never holds the value, which may be a secret.
pub(super) fn coerce(kind: FieldKind, value: &Value) -> Result<FieldValue, String> {
    todo!("{kind:?} {}", value.is_null())
}
