//! One log line in hclog's JSON form.
//!
//! If `@message`, `@level` or `@timestamp` is not a string, the host's log reader stops the whole server. If the time
//! does not have six digits, or the line is longer than 64 KiB, the host shows the line only in debug mode (go-plugin
//! log_entry.go). So all values are strings, and fields with such a name are renamed.

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::Level;

/// Longest line, including the newline.
const MAX_LINE: usize = 64 * 1024 - 1;

/// Longest value in bytes. JSON escapes can make the value six times longer.
const MAX_VALUE: usize = 8 * 1024;

/// The contents of one log line.
pub(super) struct Record<'a> {
    pub(super) level: Level,
    pub(super) time: Timestamp,
    pub(super) module: &'a str,
    pub(super) message: &'a str,
    /// If two fields have the same name, the last field wins.
    pub(super) fields: Vec<(&'a str, &'a str)>,
}

/// Returns the line with its newline. Replaces the text after each prefix in `secrets`.
pub(super) fn render(record: &Record<'_>, secrets: &[&str]) -> Vec<u8> {
    let clean = |text: &str| cut(redact(text, secrets), MAX_VALUE);
    let fields: Vec<_> = record.fields.iter().map(|(name, text)| (*name, clean(text))).collect();
    let message = clean(record.message);
    let mut limit = MAX_VALUE;
    loop {
        let mut line = object(record, &message, &fields, limit).to_string().into_bytes();
        if line.len() < MAX_LINE {
            line.push(b'\n');
            return line;
        }
        // The limit cuts values but not names. So at last, fields with long names are left out.
        limit /= 2;
    }
}

fn object(record: &Record<'_>, message: &str, fields: &[(&str, String)], limit: usize) -> Value {
    let value = |text: &str| Value::String(cut(text.to_owned(), limit));
    let mut object = Map::new();
    for (name, text) in fields {
        if limit > 0 && name.len() <= limit {
            object.insert(rename(name), value(text));
        }
    }
    object.insert("@level".into(), record.level.as_str().to_ascii_lowercase().into());
    object.insert("@message".into(), value(message));
    object.insert("@module".into(), value(record.module));
    object.insert("@timestamp".into(), record.time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string().into());
    Value::Object(object)
}

/// Renames fields that start with `@`, because hclog uses these names.
fn rename(name: &str) -> String {
    match name.strip_prefix('@') {
        Some(rest) => format!("at_{rest}"),
        None => name.to_owned(),
    }
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Replaces the text after each prefix, up to the first character that cannot be part of a token.
pub(super) fn redact(text: &str, secrets: &[&str]) -> String {
    let mut text = text.to_owned();
    for prefix in secrets.iter().filter(|prefix| !prefix.is_empty()) {
        let mut clean = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(start) = rest.find(prefix) {
            let (before, secret) = rest.split_at(start + prefix.len());
            clean.push_str(before);
            rest = secret.trim_start_matches(|c: char| c.is_alphanumeric() || "._~:+/=%-".contains(c));
            clean.push_str("[redacted]");
        }
        clean.push_str(rest);
        text = clean;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record<'a>(message: &'a str, fields: Vec<(&'a str, &'a str)>) -> Record<'a> {
        let time = Timestamp::from_nanosecond(1_767_323_045_000_000_000).unwrap();
        Record { level: Level::WARN, time, module: "engine", message, fields }
    }

    fn parse(line: &[u8]) -> Map<String, Value> {
        let text = std::str::from_utf8(line).unwrap().strip_suffix('\n').unwrap();
        assert!(!text.contains('\n'));
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn line_has_the_shape_of_hclog() {
        let line = render(&record("created token", vec![("role_name", "r \"1\""), ("@level", "x")]), &[]);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"@level":"warn","@message":"created token","@module":"engine","#,
                r#""@timestamp":"2026-01-02T03:04:05.000000Z","at_level":"x","role_name":"r \"1\""}"#,
                "\n"
            )
        );
    }

    #[test]
    fn secrets_are_blacked_out_in_every_value() {
        let text = r#"error {"token":"Tok:abc.DEF-9:0f"} and Tok:x, Tok:"#;
        let expected = r#"error {"token":"Tok:[redacted]"} and Tok:[redacted], Tok:[redacted]"#;
        assert_eq!(redact(text, &["Tok:"]), expected);
        let line = parse(&render(&record(text, vec![("cause", text)]), &["Tok:", ""]));
        assert_eq!(line["@message"], expected);
        assert_eq!(line["cause"], expected);
    }

    #[test]
    fn secret_is_blacked_out_before_it_is_cut() {
        let text = format!("{}Tok:0123456789", "x".repeat(MAX_VALUE - 8));
        let line = render(&record(&text, vec![]), &["Tok:"]);
        assert!(!String::from_utf8(line).unwrap().contains("0123"));
    }

    #[test]
    fn line_of_long_values_and_names_stays_below_64_kib() {
        let (control, name) = ("\u{1}".repeat(100_000), "n".repeat(70_000));
        let names: Vec<String> = (0..5000).map(|n| format!("field_{n}")).collect();
        let mut fields: Vec<_> = names.iter().map(|name| (name.as_str(), control.as_str())).collect();
        fields.push((&name, "v"));
        let line = render(&record(&control, fields), &[]);
        assert!(line.len() < 64 * 1024);
        assert!(parse(&line)["@message"].as_str().unwrap().starts_with('\u{1}'));
    }

    proptest! {
        #[test]
        fn every_line_can_be_read_by_the_host(
            message in any::<String>(),
            fields in proptest::collection::vec((r"(@?(level|message|timestamp|module)|.*)", any::<String>()), 0..20),
        ) {
            let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let line = render(&record(&message, fields), &["Tok:"]);
            prop_assert!(line.len() < 64 * 1024);
            let line = parse(&line);
            prop_assert!(line.values().all(Value::is_string));
            prop_assert_eq!(line.keys().filter(|name| name.starts_with('@')).count(), 4);
            prop_assert_eq!(&line["@level"], "warn");
            prop_assert_eq!(&line["@timestamp"], "2026-01-02T03:04:05.000000Z");
        }
    }
}
