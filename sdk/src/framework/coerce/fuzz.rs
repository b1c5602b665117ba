use serde_json::json;

use super::*;

/// Checks that a value survives a round trip through each form, and that no error contains the value.
pub fn fuzz_coercion(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
    if value.is_null() {
        return;
    }
    for kind in KINDS {
        if let Ok(read) = coerce(kind, &value) {
            for form in forms(kind, &read) {
                assert!(coerce(kind, &form).is_ok_and(|again| again == read), "{kind:?} of {form}");
            }
        }
        assert!(coerce(kind, &marked(&value)).err().is_none_or(|reason| !reason.contains(MARK)), "{kind:?}");
    }
}

/// Returns all JSON forms of a field's value.
fn forms(kind: FieldKind, value: &FieldValue) -> Vec<Value> {
    let has = |items: &[String], c: char| items.iter().any(|item| item.contains(c));
    match value {
        FieldValue::String(text) => vec![json!(text)],
        FieldValue::Int(int) => vec![json!(int), json!(int.to_string())],
        FieldValue::Float(float) => vec![json!(float), json!(float.to_string())],
        FieldValue::Bool(bool) => vec![json!(bool), json!(u8::from(*bool)), json!(bool.to_string())],
        FieldValue::Duration(length) => {
            let seconds = length.as_secs();
            vec![json!(seconds), json!(seconds.to_string()), json!(duration::format_duration(*length))]
        }
        // RFC 3339 has no years before 0, and the form in seconds drops the fraction.
        FieldValue::Time(time) if time.subsec_nanosecond() != 0 => vec![json!(time.to_string())],
        FieldValue::Time(time) if time.to_string().starts_with('-') => vec![json!(time.as_second())],
        FieldValue::Time(time) => vec![json!(time.as_second()), json!(time.to_string())],
        FieldValue::Map(map) => vec![json!(map)],
        FieldValue::Pairs(pairs) if pairs.keys().any(|key| key.is_empty() || key.contains('=')) => {
            vec![json!(pairs)]
        }
        FieldValue::Pairs(pairs) => {
            let list: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            vec![json!(pairs), json!(list)]
        }
        FieldValue::Strings(items) if kind == FieldKind::Strings || has(items, ',') || *items == [""] => {
            vec![json!(items)]
        }
        FieldValue::Strings(items) => vec![json!(items), json!(items.join(","))],
        FieldValue::Ints(ints) => {
            let texts: Vec<String> = ints.iter().map(i64::to_string).collect();
            vec![json!(ints), json!(texts.join(", "))]
        }
        FieldValue::List(items) => vec![json!(items)],
        FieldValue::Header(headers) => {
            let text = json!(headers).to_string();
            vec![json!(headers), json!(STANDARD.encode(&text)), json!(text)]
        }
    }
}

/// Returns the value with a mark in every text.
pub(crate) fn marked(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(format!("{MARK}{text}{MARK}")),
        Value::Array(items) => items.iter().map(marked).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (format!("{MARK}{key}"), marked(value))).collect(),
        other => other.clone(),
    }
}

/// A character that no text of the SDK contains.
pub(crate) const MARK: char = '\u{2603}';

pub(super) const KINDS: [FieldKind; 15] = [
    FieldKind::String,
    FieldKind::LowercaseString,
    FieldKind::NameString,
    FieldKind::Int,
    FieldKind::Float,
    FieldKind::Bool,
    FieldKind::Duration,
    FieldKind::Time,
    FieldKind::Map,
    FieldKind::Pairs,
    FieldKind::Strings,
    FieldKind::CommaStrings,
    FieldKind::CommaInts,
    FieldKind::List,
    FieldKind::Header,
];
