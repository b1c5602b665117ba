//! Field types as Go engines read them (OpenBao `sdk/framework/field_data.go`, go-secure-stdlib `parseutil`).
//!
//! Every type has a text form, because query parameters and the CLI send only text. Unlike in Go engines, integers
//! above 2^53 keep all digits.
//!
//! The SDK works with and without serde_json's feature `arbitrary_precision`. The SDK does not enable the feature,
//! because the feature changes how the whole binary reads numbers. Go reads a number in a text field as the client
//! wrote it. An engine that must do the same enables the feature. Without the feature, `1.10` is read as `1.1`, and
//! integers above 2^64 lose digits.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use regex_lite::Regex;
use serde_json::{Number, Value};

use super::duration::{self, from_seconds, parse_duration};
use super::field::{FieldKind, FieldValue};
use super::lower::to_lower;
use crate::logical::Map;

type Coerced<T> = Result<T, String>;

/// Reads a JSON value (never `null`) as a kind of field.
///
/// # Errors
/// Returns the expected form. The error never contains the value, which may be a secret.
pub(super) fn coerce(kind: FieldKind, value: &Value) -> Coerced<FieldValue> {
    Ok(match kind {
        FieldKind::String => FieldValue::String(text(value)?),
        FieldKind::LowercaseString => FieldValue::String(to_lower(&text(value)?)),
        FieldKind::NameString => FieldValue::String(name(text(value)?)?),
        FieldKind::Int => FieldValue::Int(int(value)?),
        FieldKind::Float => FieldValue::Float(float(value)?),
        FieldKind::Bool => FieldValue::Bool(bool(value)?),
        FieldKind::Duration => FieldValue::Duration(duration(value)?),
        FieldKind::Time => FieldValue::Time(time(value)?),
        FieldKind::Map => FieldValue::Map(value.as_object().cloned().ok_or("expected an object")?),
        FieldKind::Pairs => FieldValue::Pairs(pairs(value)?),
        FieldKind::Strings => FieldValue::Strings(strings(value)?),
        FieldKind::CommaStrings => FieldValue::Strings(comma_strings(value)?),
        FieldKind::CommaInts => FieldValue::Ints(comma_ints(value)?),
        FieldKind::List => FieldValue::List(value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])),
        FieldKind::Header => FieldValue::Header(header(value)?),
    })
}

fn text(value: &Value) -> Coerced<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => number_text(number),
        Value::Bool(bool) => Ok(u8::from(*bool).to_string()),
        // Go's zero value. Only members of lists and maps can be null here.
        Value::Null => Ok(String::new()),
        Value::Array(_) | Value::Object(_) => Err("expected a string".into()),
    }
}

/// Returns a number in decimal digits. An exponent would surprise users, and `1e999999999` would need a gigabyte.
fn number_text(number: &Number) -> Coerced<String> {
    let float = finite(number)?;
    let text = number.to_string();
    Ok(if text.contains(['e', 'E']) { float.to_string() } else { text })
}

fn finite(number: &Number) -> Coerced<f64> {
    number.as_f64().filter(|float| float.is_finite()).ok_or_else(|| "number out of range".into())
}

fn name(text: String) -> Coerced<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let inside = text.chars().all(|c| is_word(c) || matches!(c, '-' | '.'));
    if inside && text.starts_with(is_word) && text.ends_with(is_word) {
        return Ok(text);
    }
    Err("expected letters, digits and underscores, with hyphens and dots only inside".into())
}

fn int(value: &Value) -> Coerced<i64> {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(int) => Ok(int),
            None => truncate(finite(number)?),
        },
        Value::Bool(bool) => Ok(i64::from(*bool)),
        Value::String(text) if text.is_empty() => Ok(0),
        Value::String(text) => go_int(text).ok_or_else(|| "expected a whole number".into()),
        _ => Err("expected a whole number".into()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn truncate(float: f64) -> Coerced<i64> {
    // 2^63. A float represents 2^63 and -2^63 exactly.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&float) { Ok(float as i64) } else { Err("number out of range".into()) }
}

/// Reads text as Go's `strconv.ParseInt` with base 0 does: a prefix sets the base, and a leading zero means octal.
/// Underscores may separate digits, and may follow a prefix.
fn go_int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (if text.starts_with('-') { "-" } else { "" }, rest),
        None => ("", text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some(_) if lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, &*lower),
    };
    let prefixed = radix != 10;
    let lonely = digits.contains("__") || digits.ends_with('_') || (digits.starts_with('_') && !prefixed);
    // The standard parser would accept a second sign.
    if lonely || digits.starts_with(['-', '+']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{}", digits.replace('_', "")), radix).ok()
}

fn float(value: &Value) -> Coerced<f64> {
    match value {
        Value::Number(number) => finite(number),
        Value::Bool(bool) => Ok(f64::from(u8::from(*bool))),
        Value::String(text) if text.is_empty() => Ok(0.0),
        Value::String(text) => {
            text.parse().ok().filter(|float: &f64| float.is_finite()).ok_or_else(|| "expected a number".into())
        }
        _ => Err("expected a number".into()),
    }
}

fn bool(value: &Value) -> Coerced<bool> {
    match value {
        Value::Bool(bool) => Ok(*bool),
        Value::Number(number) => Ok(finite(number)? != 0.0),
        Value::String(text) => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            _ => Err("expected true or false".into()),
        },
        _ => Err("expected true or false".into()),
    }
}

fn duration(value: &Value) -> Coerced<Duration> {
    match value {
        Value::String(text) => parse_duration(text),
        Value::Number(_) => from_seconds(int(value)?),
        _ => Err(duration::EXPECTED.into()),
    }
}

fn time(value: &Value) -> Coerced<Timestamp> {
    const EXPECTED: &str = "expected a time such as \"2006-01-02T15:04:05Z\", or seconds since 1970";
    // jiff's parser accepts more forms than Go does.
    const RFC_3339: &str = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$";
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => &number.to_string(),
        _ => return Err(EXPECTED.into()),
    };
    let time = match text.parse() {
        Ok(seconds) => Timestamp::from_second(seconds).ok(),
        Err(_) if Regex::new(RFC_3339).is_ok_and(|form| form.is_match(text)) => text.parse().ok(),
        Err(_) => None,
    };
    time.ok_or_else(|| EXPECTED.into())
}

fn pairs(value: &Value) -> Coerced<BTreeMap<String, String>> {
    const EXPECTED: &str = "expected key=value pairs, or an object of text";
    let pair = |item: &Value| {
        let text = text(item).map_err(|_| EXPECTED)?;
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(EXPECTED.to_owned()),
        }
    };
    match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| Ok((key.clone(), text(value).map_err(|_| EXPECTED)?))).collect()
        }
        Value::Array(items) => items.iter().map(pair).collect(),
        one => pair(one).map(|pair| BTreeMap::from([pair])),
    }
}

fn strings(value: &Value) -> Coerced<Vec<String>> {
    let trimmed = |item: &Value| match text(item) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(_) => Err("expected a list of strings".to_owned()),
    };
    match value {
        Value::Array(items) => items.iter().map(trimmed).collect(),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        one => Ok(vec![trimmed(one)?]),
    }
}

fn comma_strings(value: &Value) -> Coerced<Vec<String>> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.split(',').map(|item| item.trim().to_owned()).collect()),
        other => strings(other),
    }
}

fn comma_ints(value: &Value) -> Coerced<Vec<i64>> {
    const EXPECTED: &str = "expected a list of whole numbers";
    let item = |item: &Value| int(item).map_err(|_| EXPECTED.to_owned());
    match value {
        Value::Array(items) => items.iter().map(item).collect(),
        Value::String(text) if text.is_empty() => Ok(Vec::new()),
        Value::String(text) => text.split(',').map(|part| item(&Value::String(part.trim().into()))).collect(),
        one => Ok(vec![item(one)?]),
    }
}

fn header(value: &Value) -> Coerced<BTreeMap<String, Vec<String>>> {
    match value {
        Value::Object(map) => header_of(map),
        Value::Array(items) => {
            let mut headers = BTreeMap::new();
            for item in items {
                let (name, value) = item.as_str().and_then(|text| text.split_once(':')).ok_or(EXPECTED_HEADER)?;
                add(&mut headers, name.trim(), value.trim());
            }
            Ok(headers)
        }
        Value::String(text) => {
            let decoded = STANDARD.decode(text);
            let json = decoded.as_deref().unwrap_or(text.as_bytes());
            header_of(&serde_json::from_slice(json).map_err(|_| EXPECTED_HEADER)?)
        }
        _ => Err(EXPECTED_HEADER.into()),
    }
}

fn header_of(map: &Map) -> Coerced<BTreeMap<String, Vec<String>>> {
    let mut headers = BTreeMap::new();
    for (name, value) in map {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            add(&mut headers, name, value.as_str().ok_or(EXPECTED_HEADER)?);
        }
    }
    Ok(headers)
}

/// Adds a value. The name is first converted to its usual spelling, such as `X-Request-Id`, so that each name occurs
/// once.
fn add(headers: &mut BTreeMap<String, Vec<String>>, name: &str, value: &str) {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
    };
    let name = name.split('-').map(word).collect::<Vec<_>>().join("-");
    headers.entry(name).or_default().push(value.to_owned());
}

const EXPECTED_HEADER: &str = "expected an object of headers, or a list of \"name:value\"";

#[cfg(any(test, fuzzing, feature = "testing"))]
pub(super) mod fuzz;
#[cfg(test)]
mod tests;
