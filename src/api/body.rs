//! Parses the bodies of Astra's error answers, and makes their texts safe to show.

use serde_json::Value;

/// The most characters of a quoted text.
pub(super) const QUOTE: usize = 300;

/// The body of an error answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// Nothing, or JSON `null`.
    Empty,
    /// The text of an error in one of Astra's two JSON shapes.
    Api(String),
    /// A text in another form, possibly from a proxy.
    Text(String),
    /// An HTML page, or any other content.
    Unknown,
}

impl Body {
    /// Parses the body of an error answer. Never quotes a body of an unknown shape, because the body may hold a token.
    pub(super) fn parse(body: &[u8], is_html: bool) -> Self {
        let Ok(text) = std::str::from_utf8(body) else { return Self::Unknown };
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Self::Empty;
        }
        match serde_json::from_str::<Value>(text) {
            Ok(Value::Null) => Self::Empty,
            Ok(Value::String(message)) => Self::Api(quote(&message)),
            Ok(Value::Object(object)) => match (errors(&object), message(&object)) {
                (Some(text), _) => Self::Api(quote(&text)),
                (None, Some(text)) => Self::Text(quote(&text)),
                (None, None) => Self::Unknown,
            },
            Ok(_) => Self::Unknown,
            Err(_) if is_html || text.starts_with(['<', '{', '[', '"']) => Self::Unknown,
            Err(_) => Self::Text(quote(text)),
        }
    }
}

/// Returns the messages of Astra's own error object, `{"errors":[{"ID":1,"message":"…"}]}`.
fn errors(object: &serde_json::Map<String, Value>) -> Option<String> {
    let describe = |error: &Value| match error {
        Value::String(text) => Some(text.clone()),
        Value::Object(error) => {
            let text = member(error, "message")?.as_str()?;
            Some(match member(error, "id") {
                Some(Value::String(id)) => format!("{id} {text}"),
                Some(Value::Number(id)) => format!("{id} {text}"),
                _ => text.to_owned(),
            })
        }
        _ => None,
    };
    let texts: Vec<String> = member(object, "errors")?.as_array()?.iter().filter_map(describe).collect();
    if texts.is_empty() { None } else { Some(texts.join(", ")) }
}

/// Returns the message of an error object in the form of many servers and gateways.
fn message(object: &serde_json::Map<String, Value>) -> Option<String> {
    ["message", "error", "description"].iter().find_map(|name| Some(member(object, name)?.as_str()?.to_owned()))
}

/// Returns a member. Ignores the letter case of its key.
fn member<'a>(object: &'a serde_json::Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Makes a text of Astra safe to show: removes tokens and control characters, and shortens the text.
pub(super) fn quote(text: &str) -> String {
    let mut safe = String::new();
    let mut rest = text;
    while let Some(start) = find_ignore_case(rest, "AstraCS") {
        safe.push_str(&rest[..start]);
        safe.push_str("AstraCS:...");
        let tail = &rest[start + "AstraCS".len()..];
        let end = tail.find(|c: char| c.is_whitespace() || "\"'<>,;)}]".contains(c)).unwrap_or(tail.len());
        rest = &tail[end..];
    }
    safe.push_str(rest);
    let mut cut: String = safe.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTE).collect();
    if safe.chars().nth(QUOTE).is_some() {
        cut.push_str("...");
    }
    cut
}

pub(super) fn find_ignore_case(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_an_error_body_is_parsed() {
        let api = |text: &str| Body::Api(text.to_owned());
        let other = |text: &str| Body::Text(text.to_owned());
        let cases: [(&str, Body); 16] = [
            (r#"{"errors":[{"ID":340018,"message":"gone"}]}"#, api("340018 gone")),
            (r#"{"Errors":[{"id":"7","Message":"gone"},{"message":"too"}]}"#, api("7 gone, too")),
            (r#"{"errors":["bad"]}"#, api("bad")),
            (r#""unable to create role""#, api("unable to create role")),
            (r#"{"message":"no"}"#, other("no")),
            (r#"{"error":"no"}"#, other("no")),
            (r#"{"description":"no"}"#, other("no")),
            (r#"{"errors":[]}"#, Body::Unknown),
            (r#"{"errors":[{"ID":1}]}"#, Body::Unknown),
            ("null", Body::Empty),
            ("", Body::Empty),
            ("404 page not found\n", other("404 page not found")),
            ("<html>AstraCS:x</html>", Body::Unknown),
            (r#"{"clientId":"c","secret":"s","token":"t"}"#, Body::Unknown),
            (r#"{"clientId":"c","secret":"s"#, Body::Unknown),
            ("[1]", Body::Unknown),
        ];
        for (body, expected) in cases {
            assert_eq!(Body::parse(body.as_bytes(), false), expected, "{body}");
        }
        assert_eq!(Body::parse(b"oops", true), Body::Unknown);
        assert_eq!(Body::parse(b"\xff\xfe", false), Body::Unknown);
    }

    #[test]
    fn quoted_texts_hide_tokens() {
        let quoted = quote("bad token AstraCS:abc:def, and \"astracs%3Aghi\"\u{7}");
        assert_eq!(quoted, "bad token AstraCS:..., and \"AstraCS:...\" ");
        assert_eq!(quote(&"x".repeat(1000)).len(), QUOTE + 3);
    }
}
