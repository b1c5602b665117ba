//! The rules for log lines that a host can read on a plugin's stderr (`go-plugin` `log_entry.go`, `client.go`).

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Longest line that a host reads in one piece.
const LINE_LIMIT: usize = 64 * 1024;

/// Reads one line. Fails if a host would print the line raw or crash on it.
///
/// # Errors
/// Names the broken rule. Never quotes the line.
pub fn parse(line: &str) -> Result<Map<String, Value>, String> {
    if line.len() >= LINE_LIMIT {
        return Err(format!("a line of {} bytes", line.len()));
    }
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let members = deserializer.deserialize_map(Members).map_err(|_| "not a JSON object, or a key twice".to_owned())?;
    deserializer.end().map_err(|_| "something behind the JSON object".to_owned())?;
    for (key, value) in &members {
        if key.starts_with('@') && !value.is_string() {
            return Err(format!("{key} is not a string"));
        }
    }
    let text = |key: &str| members.get(key).and_then(Value::as_str).ok_or_else(|| format!("no {key}"));
    text("@message")?;
    let level = text("@level")?;
    if !["trace", "debug", "info", "warn", "error"].contains(&level) {
        return Err("@level is none that hosts know".to_owned());
    }
    if !is_timestamp(text("@timestamp")?) {
        return Err("@timestamp is not of the form 2006-01-02T15:04:05.000000Z".to_owned());
    }
    Ok(members)
}

/// Whether a text has Go's layout `2006-01-02T15:04:05.000000Z07:00`, with exactly six fractional digits.
fn is_timestamp(text: &str) -> bool {
    let Some((_, fraction)) = text.split_once('.') else { return false };
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    let zone = &fraction[digits..];
    digits == 6 && (zone == "Z" || zone.len() == 6) && text.parse::<jiff::Timestamp>().is_ok()
}

/// The members of an object. A repeated key is an error: hosts would keep the last value, which may have another type
/// than the first.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some((key, value)) = access.next_entry::<String, Value>()? {
            if members.insert(key, value).is_some() {
                return Err(serde::de::Error::custom("a key twice"));
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn lines_that_hosts_can_parse_are_accepted() {
        let good = [
            r#"{"@level":"info","@message":"m","@module":"a.b","@timestamp":"2026-01-02T03:04:05.123456Z","k":5}"#,
            r#"{"@level":"error","@message":"m","@timestamp":"2026-01-02T03:04:05.123456+02:00"}"#,
        ];
        for line in good {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn lines_that_hosts_cannot_parse_are_refused() {
        let bad = [
            "plain text",
            "[]",
            r#"{"@level":"info","@message":5,"@timestamp":"2026-01-02T03:04:05.123456Z"}"#,
            r#"{"@level":"info","@message":"m","@timestamp":"2026-01-02T03:04:05.123Z"}"#,
            r#"{"@level":"info","@message":"m","@timestamp":"2026-01-02T03:04:05.123456789Z"}"#,
            r#"{"@level":"warning","@message":"m","@timestamp":"2026-01-02T03:04:05.123456Z"}"#,
            r#"{"@level":"info","@message":"m","@timestamp":null}"#,
            r#"{"@level":"info","@message":"m"}"#,
            r#"{"@level":"info","@message":"m","@message":"n","@timestamp":"2026-01-02T03:04:05.123456Z"}"#,
            r#"{"@level":"info","@message":"m","@module":1,"@timestamp":"2026-01-02T03:04:05.123456Z"}"#,
        ];
        for line in bad {
            assert!(parse(line).is_err(), "{line}");
        }
        let long = format!(
            r#"{{"@level":"info","@message":"{}","@timestamp":"2026-01-02T03:04:05.123456Z"}}"#,
            "x".repeat(64 * 1024)
        );
        assert!(parse(&long).is_err());
    }
}
