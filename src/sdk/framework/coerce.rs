//! Field types as Go engines read them (OpenBao `sdk/framework/field_data.go`, go-secure-stdlib `parseutil`).
//!
//! Every type has a form as text, because query parameters and the CLI send nothing else. Numbers keep the text that
//! the client wrote, so integers above 2^53 survive, which they do not in Go engines.

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
use crate::sdk::logical::Map;

type Coerced<T> = Result<T, String>;

/// Reads a JSON value (never `null`) as a kind of field.
///
/// # Errors
/// Says what was expected; never holds the value, which may be a secret.
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
        // Go's zero value. Only members of lists and maps get here.
        Value::Null => Ok(String::new()),
        Value::Array(_) | Value::Object(_) => Err("expected a string".into()),
    }
}

/// Returns a number in decimal digits, which an exponent would make a surprise (and `1e999999999` a gigabyte).
fn number_text(number: &Number) -> Coerced<String> {
    let float = finite(number)?;
    let text = number.as_str();
    Ok(if text.contains(['e', 'E']) { float.to_string() } else { text.to_owned() })
}

fn finite(number: &Number) -> Coerced<f64> {
    number.as_str().parse().ok().filter(|float: &f64| float.is_finite()).ok_or_else(|| "number out of range".into())
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
        Value::Number(number) => match number.as_str().parse() {
            Ok(int) => Ok(int),
            Err(_) => truncate(finite(number)?),
        },
        Value::Bool(bool) => Ok(i64::from(*bool)),
        Value::String(text) if text.is_empty() => Ok(0),
        Value::String(text) => go_int(text).ok_or_else(|| "expected a whole number".into()),
        _ => Err("expected a whole number".into()),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn truncate(float: f64) -> Coerced<i64> {
    // 2^63 and its negative, both exact.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    if (-LIMIT..LIMIT).contains(&float) { Ok(float as i64) } else { Err("number out of range".into()) }
}

/// Reads text as Go's `strconv.ParseInt` with base 0 does: a prefix tells the base, and a leading zero means octal.
/// Underscores stand between digits, if there is a prefix or none.
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
    // A second sign would pass the standard parser.
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
    // The parser knows more forms than Go does.
    const RFC_3339: &str = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$";
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Number(number) => number.as_str(),
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

/// Adds a value under the usual spelling of its name, `X-Request-Id`, so that each name is there once.
fn add(headers: &mut BTreeMap<String, Vec<String>>, name: &str, value: &str) {
    let word = |word: &str| {
        let (first, rest) = word.split_at(word.chars().next().map_or(0, char::len_utf8));
        first.to_ascii_uppercase() + &rest.to_ascii_lowercase()
    };
    let name = name.split('-').map(word).collect::<Vec<_>>().join("-");
    headers.entry(name).or_default().push(value.to_owned());
}

const EXPECTED_HEADER: &str = "expected an object of headers, or a list of \"name:value\"";

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use serde_json::json;

    use super::*;

    /// Whatever is read of a value is read again from each form that it can be written in, and no error shows the value.
    pub(crate) fn fuzz_coercion(data: &[u8]) {
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

    /// Returns what a value of a field can be written as.
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
            // Years before the first cannot be written, and seconds leave the fraction out.
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

    /// In none of our own texts.
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
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::fuzz::KINDS;
    use super::*;

    /// Reads JSON text, so that numbers arrive as a client writes them.
    fn read(kind: FieldKind, json: &str) -> Coerced<FieldValue> {
        coerce(kind, &serde_json::from_str(json).unwrap())
    }

    #[track_caller]
    fn reads(kind: FieldKind, cases: &[(&str, FieldValue)]) {
        for (json, expected) in cases {
            assert!(read(kind, json).is_ok_and(|value| value == *expected), "{kind:?} of {json}");
        }
    }

    #[track_caller]
    fn refuses(kind: FieldKind, reason: &str, cases: &[&str]) {
        for json in cases {
            assert_eq!(read(kind, json).err().as_deref(), Some(reason), "{kind:?} of {json}");
        }
    }

    fn text_of(text: &str) -> FieldValue {
        FieldValue::String(text.into())
    }

    fn texts(texts: &[&str]) -> FieldValue {
        FieldValue::Strings(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    fn pairs_of(pairs: &[(&str, &str)]) -> FieldValue {
        FieldValue::Pairs(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn text_takes_every_scalar() {
        reads(
            FieldKind::String,
            &[
                (r#""""#, text_of("")),
                (r#"" a ""#, text_of(" a ")),
                ("5", text_of("5")),
                ("-1.10", text_of("-1.10")),
                ("9007199254740993", text_of("9007199254740993")),
                ("1e3", text_of("1000")),
                ("1.5E-3", text_of("0.0015")),
                ("1e21", text_of("1000000000000000000000")),
                ("true", text_of("1")),
                ("false", text_of("0")),
            ],
        );
        refuses(FieldKind::String, "expected a string", &["[]", "{}", r#"["a"]"#]);
        refuses(FieldKind::String, "number out of range", &["1e400", "-1e999999999999"]);
        reads(
            FieldKind::LowercaseString,
            &[(r#""AbC""#, text_of("abc")), ("1E2", text_of("100")), (r#""İΟΔΟΣ""#, text_of("iοδοσ"))],
        );
    }

    #[test]
    fn names_begin_and_end_with_a_word_character() {
        for name in ["a", "_", "a-b.c", "A_1", "9"] {
            assert!(read(FieldKind::NameString, &json!(name).to_string()).is_ok(), "{name}");
        }
        let reason = "expected letters, digits and underscores, with hyphens and dots only inside";
        refuses(FieldKind::NameString, reason, &[r#""""#, r#""-a""#, r#""a.""#, r#""a/b""#, r#""ä""#, r#""a\n""#]);
    }

    #[test]
    fn whole_numbers_are_read_as_go_reads_them() {
        let cases = [
            ("5", 5),
            ("-5", -5),
            ("1.9", 1),
            ("-1.9", -1),
            ("1e3", 1000),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            (r#""""#, 0),
            (r#""0""#, 0),
            (r#""+7""#, 7),
            (r#""-0x1f""#, -31),
            (r#""0X1F""#, 31),
            (r#""017""#, 15),
            (r#""0o17""#, 15),
            (r#""0b101""#, 5),
            (r#""1_000""#, 1000),
            (r#""0_7""#, 7),
            (r#""0x_1""#, 1),
            (r#""-9223372036854775808""#, i64::MIN),
            ("true", 1),
            ("false", 0),
        ];
        for (json, expected) in cases {
            assert!(read(FieldKind::Int, json).is_ok_and(|value| value == FieldValue::Int(expected)), "{json}");
        }
        let bad = [
            r#""1.5""#,
            r#""x""#,
            r#"" 1""#,
            r#""089""#,
            r#""0x""#,
            r#""1__0""#,
            r#""_1""#,
            r#""1_""#,
            r#""+-1""#,
            r#""0x-1""#,
            r#""--1""#,
            r#""9223372036854775808""#,
            "[]",
            "{}",
            "[1]",
        ];
        refuses(FieldKind::Int, "expected a whole number", &bad);
        refuses(FieldKind::Int, "number out of range", &["9223372036854775808", "1e400", "-1e19"]);
    }

    #[test]
    fn numbers_take_text_and_truth_values() {
        let cases = [("1.5", 1.5), (r#""1.5""#, 1.5), (r#""1e3""#, 1000.0), (r#""""#, 0.0), ("true", 1.0)];
        for (json, expected) in cases {
            assert!(read(FieldKind::Float, json).is_ok_and(|value| value == FieldValue::Float(expected)), "{json}");
        }
        refuses(FieldKind::Float, "expected a number", &[r#""x""#, r#""NaN""#, r#""inf""#, r#""1e400""#, "[]", "{}"]);
        refuses(FieldKind::Float, "number out of range", &["1e400"]);
    }

    #[test]
    fn truth_values_are_those_of_go() {
        for json in ["true", "1", "-2", "0.1", r#""1""#, r#""t""#, r#""T""#, r#""true""#, r#""True""#, r#""TRUE""#] {
            assert!(read(FieldKind::Bool, json).is_ok_and(|value| value == FieldValue::Bool(true)), "{json}");
        }
        for json in
            ["false", "0", "0.0", r#""""#, r#""0""#, r#""f""#, r#""F""#, r#""false""#, r#""False""#, r#""FALSE""#]
        {
            assert!(read(FieldKind::Bool, json).is_ok_and(|value| value == FieldValue::Bool(false)), "{json}");
        }
        refuses(FieldKind::Bool, "expected true or false", &[r#""yes""#, r#""tRUE""#, r#""2""#, "[]", "{}"]);
    }

    #[test]
    fn durations_are_seconds_or_text() {
        let cases = [
            ("3600", 3600),
            ("1.9", 1),
            ("-0.5", 0),
            (r#""-0.5s""#, 0),
            ("1e3", 1000),
            (r#""3600""#, 3600),
            (r#""""#, 0),
            (r#""2d""#, 172_800),
            (r#""1h30m""#, 5400),
            (r#""1.5h""#, 5400),
            (r#""1999ms""#, 1),
        ];
        for (json, seconds) in cases {
            let expected = FieldValue::Duration(Duration::from_secs(seconds));
            assert!(read(FieldKind::Duration, json).is_ok_and(|value| value == expected), "{json}");
        }
        let bad = [r#""1w""#, r#""1d12h""#, r#""30 s""#, r#""1.5""#, "true", "[]", "{}", "9223372037"];
        refuses(FieldKind::Duration, duration::EXPECTED, &bad);
        refuses(FieldKind::Duration, duration::NEGATIVE, &["-1", "-1.5", r#""-5""#, r#""-5s""#]);
        refuses(FieldKind::Duration, "number out of range", &["1e400", "9223372036854775808"]);
    }

    #[test]
    fn times_are_rfc_3339_or_seconds() {
        let cases = [
            (r#""2024-02-29T12:00:00Z""#, 1_709_208_000, 0),
            (r#""2024-02-29T12:00:00.5Z""#, 1_709_208_000, 500_000_000),
            (r#""2024-02-29T14:00:00+02:00""#, 1_709_208_000, 0),
            (r#""1709208000""#, 1_709_208_000, 0),
            ("1709208000", 1_709_208_000, 0),
            (r#""-1""#, -1, 0),
        ];
        for (json, seconds, nanoseconds) in cases {
            let expected = FieldValue::Time(Timestamp::new(seconds, nanoseconds).unwrap());
            assert!(read(FieldKind::Time, json).is_ok_and(|value| value == expected), "{json}");
        }
        let bad = [
            r#""""#,
            r#""2024-02-30T12:00:00Z""#,
            r#""2024-02-29""#,
            r#""2024-02-29 12:00:00Z""#,
            r#""2024-02-29T12:00Z""#,
            r#""2024-02-29T12:00:00""#,
            r#""2024-02-29T12:00:60Z""#,
            r#""2024-02-29T12:00:00Z[UTC]""#,
            r#""99999999999999""#,
            "1.5",
            "true",
            "[]",
            "{}",
        ];
        let reason = "expected a time such as \"2006-01-02T15:04:05Z\", or seconds since 1970";
        refuses(FieldKind::Time, reason, &bad);
    }

    #[test]
    fn pairs_come_as_object_list_or_text() {
        reads(
            FieldKind::Pairs,
            &[
                (
                    r#"{"a":"b","n":1.10,"t":true,"z":null}"#,
                    pairs_of(&[("a", "b"), ("n", "1.10"), ("t", "1"), ("z", "")]),
                ),
                (r#"["a=b","c=d=e","f="]"#, pairs_of(&[("a", "b"), ("c", "d=e"), ("f", "")])),
                (r#""a=b,c=d""#, pairs_of(&[("a", "b,c=d")])),
                ("{}", pairs_of(&[])),
                ("[]", pairs_of(&[])),
            ],
        );
        let bad =
            [r#""""#, r#""a""#, r#""=b""#, r#"["a"]"#, r#"[["a=b"]]"#, r#"{"a":["b"]}"#, r#"{"a":{}}"#, "5", "true"];
        refuses(FieldKind::Pairs, "expected key=value pairs, or an object of text", &bad);
    }

    #[test]
    fn lists_of_text_are_trimmed() {
        reads(
            FieldKind::Strings,
            &[
                (r#"[" a ",5,true,"b,c"]"#, texts(&["a", "5", "1", "b,c"])),
                (r#""a,b""#, texts(&["a,b"])),
                (r#""""#, texts(&[])),
                ("[]", texts(&[])),
                ("5", texts(&["5"])),
            ],
        );
        reads(
            FieldKind::CommaStrings,
            &[
                (r#"[" a ","b,c"]"#, texts(&["a", "b,c"])),
                (r#"" a, b ,,c""#, texts(&["a", "b", "", "c"])),
                (r#""""#, texts(&[])),
                ("5", texts(&["5"])),
            ],
        );
        for kind in [FieldKind::Strings, FieldKind::CommaStrings] {
            refuses(kind, "expected a list of strings", &["{}", "[[]]", r#"[{"a":1}]"#]);
        }
    }

    #[test]
    fn lists_of_numbers_come_in_three_forms() {
        reads(
            FieldKind::CommaInts,
            &[
                (r#"[1,"2",3.9]"#, FieldValue::Ints(vec![1, 2, 3])),
                (r#""1, 2,0x10""#, FieldValue::Ints(vec![1, 2, 16])),
                (r#""""#, FieldValue::Ints(vec![])),
                ("[]", FieldValue::Ints(vec![])),
                ("7", FieldValue::Ints(vec![7])),
            ],
        );
        refuses(FieldKind::CommaInts, "expected a list of whole numbers", &[r#""1,x""#, r#"["x"]"#, "[[1]]", "{}"]);
    }

    #[test]
    fn objects_and_lists_of_anything() {
        let object = json!({"a": [1]});
        let expected = FieldValue::Map(object.as_object().unwrap().clone());
        assert!(coerce(FieldKind::Map, &object).is_ok_and(|value| value == expected));
        refuses(FieldKind::Map, "expected an object", &[r#""{}""#, "[]", "5"]);
        reads(
            FieldKind::List,
            &[
                (r#"[1,"a",{}]"#, FieldValue::List(vec![json!(1), json!("a"), json!({})])),
                (r#""a""#, FieldValue::List(vec![json!("a")])),
            ],
        );
    }

    #[test]
    fn headers_come_in_four_forms() {
        let expected = |pairs: &[(&str, &[&str])]| {
            let owned = |(name, values): &(&str, &[&str])| {
                ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
            };
            FieldValue::Header(pairs.iter().map(owned).collect())
        };
        let json = r#"{"x-a":"1","X-B":["2","3"]}"#;
        let both = expected(&[("X-A", &["1"]), ("X-B", &["2", "3"])]);
        let quoted = json!(json).to_string();
        let encoded = json!(STANDARD.encode(json)).to_string();
        for form in [json, &quoted, &encoded, r#"["x-a: 1","x-b:2","x-B:3"]"#] {
            assert!(read(FieldKind::Header, form).is_ok_and(|value| value == both), "{form}");
        }
        let bad = [r#""x""#, r#"["x"]"#, "[5]", r#"{"a":5}"#, r#"{"a":[5]}"#, "5", r#""""#];
        refuses(FieldKind::Header, EXPECTED_HEADER, &bad);
    }

    proptest! {
        #[test]
        fn no_error_holds_the_value(text in "[A-Z]{8}", which in 0..KINDS.len()) {
            for value in [json!(text), json!([text]), json!({"k": text}), json!([[text]]), json!({"k": [[text]]})] {
                if let Err(reason) = coerce(KINDS[which], &value) {
                    prop_assert!(!reason.contains(&text));
                }
            }
        }

        #[test]
        fn integers_survive_as_number_and_as_text(int: i64) {
            for value in [json!(int), json!(int.to_string())] {
                prop_assert!(coerce(FieldKind::Int, &value).is_ok_and(|value| value == FieldValue::Int(int)));
                prop_assert!(coerce(FieldKind::String, &value).is_ok_and(|value| value == text_of(&int.to_string())));
            }
        }

        #[test]
        fn any_number_is_read_or_refused(digits in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?([eE][-+]?[0-9]{1,12})?") {
            for kind in KINDS {
                if let Ok(FieldValue::String(text)) = read(kind, &digits) {
                    prop_assert!(!text.contains(['e', 'E']));
                    prop_assert!(text.len() < 1200);
                }
            }
        }
    }
}
