//! One log line in hclog's JSON form.
//!
//! If `@message`, `@level` or `@timestamp` is not a string, the host's log reader stops the whole server. If the time
//! does not have six digits, or the line is longer than 64 KiB, the host shows the line only in debug mode (go-plugin
//! log_entry.go). So all values are strings, and fields with such a name are renamed.

use std::cell::RefCell;
use std::fmt::{self, Arguments, Write as _};
use std::ops::Range;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use tracing::Level;

/// Longest line, including the newline.
const MAX_LINE: usize = 64 * 1024 - 1;

/// Longest value in bytes. JSON escapes can make the value six times longer.
const MAX_VALUE: usize = 8 * 1024;

/// Largest buffer that is kept for the next line. Most lines are much shorter.
const MAX_KEPT: usize = 4096;

/// hclog wants exactly six digits behind the second.
const TIME: DateTimePrinter = DateTimePrinter::new().precision(Some(6));

thread_local! {
    static KEPT: RefCell<Line> = RefCell::default();
}

/// The origin of a log line.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) level: Level,
    pub(super) time: Timestamp,
    pub(super) module: &'a str,
}

/// A log line that is being written.
#[derive(Default)]
pub(super) struct Line {
    bytes: Vec<u8>,
    /// The current value.
    value: String,
    /// Longest value and longest name of a field in bytes.
    limit: usize,
    /// Where the names of the members are. A name must not be there twice.
    names: Vec<Range<usize>>,
    secrets: &'static [&'static str],
}

/// Writes a line in a buffer of this thread, and passes it with its newline to `output`. `fields` adds message and
/// fields. If the line gets too long, it is called again. The line replaces the text after each prefix in `secrets`.
pub(super) fn render(
    origin: Origin<'_>,
    secrets: &'static [&'static str],
    fields: impl Fn(&mut Line),
    output: impl FnOnce(&[u8]),
) {
    // Writing a field can log a line, too. That line gets a new buffer.
    let mut line = KEPT.try_with(RefCell::take).unwrap_or_default();
    (line.secrets, line.limit) = (secrets, MAX_VALUE);
    loop {
        line.begin(origin);
        fields(&mut line);
        line.end();
        if line.bytes.len() <= MAX_LINE {
            break;
        }
        // The limit cuts values but not names. So at last, fields with long names are left out.
        line.limit /= 2;
    }
    output(&line.bytes);
    if line.bytes.capacity().max(line.value.capacity()) <= MAX_KEPT {
        let _ = KEPT.try_with(|kept| kept.replace(line));
    }
}

impl Line {
    fn begin(&mut self, origin: Origin<'_>) {
        self.bytes.clear();
        self.names.clear();
        self.bytes.extend_from_slice(br#"{"@level":""#);
        self.bytes.extend(origin.level.as_str().bytes().map(|letter| letter.to_ascii_lowercase()));
        self.bytes.extend_from_slice(br#"","@timestamp":""#);
        // Writing into memory cannot fail.
        let _ = TIME.print_timestamp(&origin.time, &mut self.bytes);
        self.bytes.push(b'"');
        self.put("@module", format_args!("{}", origin.module));
    }

    /// Writes the message.
    pub(super) fn message(&mut self, text: Arguments<'_>) {
        self.put("@message", text);
    }

    /// Writes a field. If two fields have the same name, the first field wins.
    pub(super) fn field(&mut self, name: &str, value: Arguments<'_>) {
        if self.limit == 0 || name.len() > self.limit {
            return;
        }
        match name.strip_prefix('@') {
            // hclog uses such names.
            Some(rest) => self.put(&format!("at_{rest}"), value),
            None => self.put(name, value),
        }
    }

    fn put(&mut self, name: &str, value: Arguments<'_>) {
        let start = self.bytes.len();
        self.bytes.push(b',');
        let _ = serde_json::to_writer(&mut self.bytes, name);
        let name = start..self.bytes.len();
        if self.names.iter().any(|known| self.bytes[known.clone()] == self.bytes[name.clone()]) {
            self.bytes.truncate(start);
            return;
        }
        self.names.push(name);
        self.value.clear();
        // Fails where the value is cut.
        let _ = Cut { text: &mut self.value, room: Some(self.limit) }.write_fmt(value);
        redact(&mut self.value, self.secrets);
        self.bytes.push(b':');
        let _ = serde_json::to_writer(&mut self.bytes, &self.value);
    }

    fn end(&mut self) {
        // Has no effect if there is a message.
        self.message(format_args!(""));
        self.bytes.extend_from_slice(b"}\n");
    }
}

/// Accepts the first bytes of a value. A cut secret is still behind its prefix, so it is still replaced.
struct Cut<'a> {
    text: &'a mut String,
    /// How many bytes are accepted. `None` after the cut.
    room: Option<usize>,
}

impl fmt::Write for Cut<'_> {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.room.take().ok_or(fmt::Error)?;
        if part.len() <= room {
            self.text.push_str(part);
            self.room = Some(room - part.len());
            return Ok(());
        }
        let end = (0..=room).rev().find(|at| part.is_char_boundary(*at)).unwrap_or_default();
        self.text.push_str(&part[..end]);
        self.text.push('…');
        Err(fmt::Error)
    }
}

/// Replaces the text after each prefix, up to the first character that cannot be part of a token.
fn redact(text: &mut String, secrets: &[&str]) {
    for prefix in secrets {
        // Most values do not even have the first byte of a prefix.
        let Some(first) = prefix.as_bytes().first() else { continue };
        if !text.as_bytes().contains(first) || !text.contains(prefix) {
            continue;
        }
        let mut clean = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(start) = rest.find(prefix) {
            let (before, secret) = rest.split_at(start + prefix.len());
            clean.push_str(before);
            rest = secret.trim_start_matches(|c: char| c.is_alphanumeric() || "._~:+/=%-".contains(c));
            clean.push_str("[redacted]");
        }
        clean.push_str(rest);
        *text = clean;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn line(message: &str, fields: &[(&str, &str)], secrets: &'static [&'static str]) -> Vec<u8> {
        let time = Timestamp::from_nanosecond(1_767_323_045_000_000_000).unwrap();
        let mut bytes = Vec::new();
        render(
            Origin { level: Level::WARN, time, module: "engine" },
            secrets,
            |line| {
                line.message(format_args!("{message}"));
                fields.iter().for_each(|(name, value)| line.field(name, format_args!("{value}")));
            },
            |line| bytes = line.to_vec(),
        );
        bytes
    }

    fn parse(line: &[u8]) -> Map<String, Value> {
        let text = std::str::from_utf8(line).unwrap().strip_suffix('\n').unwrap();
        assert!(!text.contains('\n'));
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn line_has_the_shape_of_hclog() {
        let line = line("created token", &[("role_name", "r \"1\""), ("@level", "x")], &[]);
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"@level":"warn","@timestamp":"2026-01-02T03:04:05.000000Z","@module":"engine","#,
                r#""@message":"created token","role_name":"r \"1\"","at_level":"x"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_name_is_written_once() {
        let line = line("m", &[("at_x", "1"), ("a", "1"), ("@x", "2"), ("a", "2")], &[]);
        let text = String::from_utf8(line).unwrap();
        assert!(text.ends_with("\"@message\":\"m\",\"at_x\":\"1\",\"a\":\"1\"}\n"), "{text}");
    }

    #[test]
    fn secrets_are_blacked_out_in_every_value() {
        let text = r#"error {"token":"Tok:abc.DEF-9:0f"} and Tok:x, Tok:"#;
        let expected = r#"error {"token":"Tok:[redacted]"} and Tok:[redacted], Tok:[redacted]"#;
        let line = parse(&line(text, &[("cause", text)], &["Tok:", ""]));
        assert_eq!(line["@message"], expected);
        assert_eq!(line["cause"], expected);
    }

    #[test]
    fn secret_is_blacked_out_before_it_is_cut() {
        let text = format!("{}Tok:0123456789", "x".repeat(MAX_VALUE - 8));
        let line = line(&text, &[], &["Tok:"]);
        assert!(!String::from_utf8(line).unwrap().contains("0123"));
    }

    #[test]
    fn line_of_long_values_and_names_stays_below_64_kib() {
        let (control, name) = ("\u{1}".repeat(100_000), "n".repeat(70_000));
        let names: Vec<String> = (0..1000).map(|n| format!("{n:_>70}")).collect();
        let mut fields: Vec<_> = names.iter().map(|name| (name.as_str(), control.as_str())).collect();
        fields.push((&name, "v"));
        let line = line(&control, &fields, &[]);
        assert!(line.len() < 64 * 1024);
        assert!(parse(&line)["@message"].as_str().unwrap().starts_with('\u{1}'));
    }

    #[test]
    fn a_line_inside_a_line_and_after_a_long_line_is_whole() {
        struct Logs;
        impl fmt::Display for Logs {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                assert_eq!(parse(&line("inner", &[], &[]))["@message"], "inner");
                f.write_str("logged")
            }
        }
        let origin = Origin { level: Level::INFO, time: Timestamp::now(), module: "engine" };
        render(
            origin,
            &[],
            |line| line.field("value", format_args!("{Logs}")),
            |line| {
                assert_eq!(parse(line)["value"], "logged");
                assert_eq!(parse(line)["@message"], "");
            },
        );
        line(&"x".repeat(2 * MAX_KEPT), &[], &[]);
        assert_eq!(parse(&line("", &[], &[])).len(), 4);
    }

    proptest! {
        #[test]
        fn every_line_can_be_read_by_the_host(
            message in any::<String>(),
            fields in proptest::collection::vec((r"(@?(level|message|timestamp|module)|.*)", any::<String>()), 0..20),
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let line = line(&message, &fields, &["Tok:"]);
            prop_assert!(line.len() < 64 * 1024);
            let line = parse(&line);
            prop_assert!(line.values().all(Value::is_string));
            prop_assert_eq!(line.keys().filter(|name| name.starts_with('@')).count(), 4);
            prop_assert_eq!(&line["@level"], "warn");
            prop_assert_eq!(&line["@timestamp"], "2026-01-02T03:04:05.000000Z");
        }
    }
}
