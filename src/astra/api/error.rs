//! Why a call to Astra failed.

use std::time::Duration;

use serde_json::Value;

/// The call that makes a token.
pub(super) const MINT: &str = "mint a token";

/// How much of a text of Astra is quoted, in characters.
const QUOTE: usize = 300;

/// What kind of failure it was; decides the status that the caller sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Astra refused the request or the role.
    Request,
    /// Astra refused the root token.
    RootToken,
    /// Astra's rate limit.
    Throttled,
    /// Astra failed, its answer made no sense, or the connection broke.
    BadGateway,
    /// Astra is not there.
    Unavailable,
    /// No answer in time.
    Timeout,
}

/// What the body of an error answer was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Body {
    /// Nothing, or JSON `null`.
    Empty,
    /// An error in one of the two JSON shapes that are Astra's own, and its text.
    Api(String),
    /// Text in another form, which a proxy may have written.
    Text(String),
    /// A page for people, or anything else.
    Unknown,
}

/// A failed call to Astra. Holds no body, no header and no token.
#[derive(Clone, Debug, thiserror::Error)]
#[error("failed to {call}: {what}; {advice}")]
pub(crate) struct Error {
    /// What kind of failure it was.
    pub(crate) kind: Kind,
    /// What was tried, such as `mint a token`.
    call: &'static str,
    /// What happened.
    what: String,
    /// What to do about it.
    advice: &'static str,
    /// Astra's status and body, where there was an answer.
    answer: Option<(u16, Body)>,
}

impl Error {
    /// Returns the failure that an answer with another status than success means.
    pub(super) fn from_answer(call: &'static str, status: u16, body: Body) -> Self {
        let quoted = match &body {
            Body::Api(text) | Body::Text(text) if !text.is_empty() => format!("{status}: {text:?}"),
            _ => status.to_string(),
        };
        let (kind, what, advice) = match (status, &body) {
            (401 | 403, _) => (
                Kind::RootToken,
                "Astra refused the root token",
                "check that the astra_token of the config is live and may manage tokens and the role",
            ),
            (429, _) => (Kind::Throttled, "Astra limits the rate of requests", "try again later"),
            (408 | 504, _) => (Kind::Timeout, "Astra did not answer in time", "try again later"),
            (503, _) => (Kind::Unavailable, "Astra is unavailable", "try again later"),
            (404, body) if !matches!(body, Body::Api(_)) => {
                (Kind::BadGateway, "the answer is not one of Astra's API", "check the url of the config and any proxy")
            }
            (400..=499, _) if call == MINT => {
                (Kind::Request, "Astra refused the request", "check the role_id of the role")
            }
            (400..=499, _) => (Kind::Request, "Astra refused the request", "see what Astra says"),
            (500..=599, _) => (Kind::BadGateway, "Astra failed", "try again later"),
            _ => (Kind::BadGateway, "Astra answered with an unexpected status", "check the url of the config"),
        };
        Self { kind, call, what: format!("{what} ({quoted})"), advice, answer: Some((status, body)) }
    }

    /// Returns the failure that an answer which cannot be used means.
    pub(crate) fn garbled(call: &'static str, reason: impl std::fmt::Display) -> Self {
        let what = format!("the answer of Astra makes no sense: {reason}");
        Self { kind: Kind::BadGateway, call, what, advice: "check the url of the config and any proxy", answer: None }
    }

    /// Returns the failure of a connection.
    pub(super) fn from_transport(call: &'static str, error: reqwest::Error, timeout: Duration) -> Self {
        let (kind, what, advice) = if error.is_timeout() {
            let what = format!("Astra did not answer within {timeout:?}");
            (Kind::Timeout, what, "try again, or raise the request_timeout of the config")
        } else if error.is_connect() {
            let what = format!("Astra cannot be reached: {}", innermost(&error));
            (Kind::Unavailable, what, "check the url and ca_cert of the config, and the network")
        } else {
            (Kind::BadGateway, format!("the connection to Astra broke: {}", innermost(&error)), "try again")
        };
        Self { kind, call, what, advice, answer: None }
    }

    /// Returns the failure to make a client at all.
    pub(super) fn from_setup(call: &'static str, error: &reqwest::Error) -> Self {
        let what = format!("no TLS client can be set up: {}", innermost(error));
        let advice = "check the ca_cert of the config, and that this machine has CA certificates";
        Self { kind: Kind::Unavailable, call, what, advice, answer: None }
    }

    /// Returns the HTTP status that the caller shall see.
    pub(crate) fn status(&self) -> u16 {
        match self.kind {
            Kind::Request => 400,
            Kind::RootToken => 403,
            Kind::Throttled => 429,
            Kind::BadGateway => 502,
            Kind::Unavailable => 503,
            Kind::Timeout => 504,
        }
    }

    /// Returns what happened, without what was tried and what to do.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Whether Astra's own API says that what was asked for is not there. A proxy's 404 is not that.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self.answer, Some((404, Body::Api(_))))
    }

    /// Whether Astra may have done what was asked for all the same.
    pub(crate) fn may_have_happened(&self) -> bool {
        match self.kind {
            Kind::Request | Kind::RootToken | Kind::Throttled => false,
            Kind::Unavailable => self.answer.is_some(),
            Kind::BadGateway | Kind::Timeout => !matches!(self.answer, Some((404, _))),
        }
    }

    /// Whether the answer leaves open if what was asked for is there.
    pub(super) fn is_unclear(&self) -> bool {
        // The others say that Astra did not even look.
        matches!(self.answer, Some((status, _)) if !matches!(status, 401 | 403 | 429 | 503))
    }

    /// Whether Astra answered 401 without a word: the token is bad, or it is good and lacks a permission.
    pub(crate) fn is_undetermined(&self) -> bool {
        matches!(self.answer, Some((401, Body::Empty)))
    }
}

impl Body {
    /// Reads the body of an error answer. Astra's API uses several shapes; what is in none of them is never quoted,
    /// since it may hold a token.
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

/// Returns the message of an error object as many servers and gateways write it.
fn message(object: &serde_json::Map<String, Value>) -> Option<String> {
    ["message", "error", "description"].iter().find_map(|name| Some(member(object, name)?.as_str()?.to_owned()))
}

/// Returns a member, whatever the letter case of its key.
fn member<'a>(object: &'a serde_json::Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Returns a text of Astra as it may be shown: without tokens, without control characters, and short.
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

fn find_ignore_case(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

/// Returns the last cause in the chain, which is the one that says something.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    quote(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_an_error_body_is_understood() {
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
    fn tokens_are_cut_out_of_what_is_quoted() {
        let quoted = quote("bad token AstraCS:abc:def, and \"astracs%3Aghi\"\u{7}");
        assert_eq!(quoted, "bad token AstraCS:..., and \"AstraCS:...\" ");
        assert_eq!(quote(&"x".repeat(1000)).len(), QUOTE + 3);
    }

    #[test]
    fn a_404_is_only_believed_when_it_is_astras_own() {
        let not_found = |body: &[u8]| Error::from_answer("x", 404, Body::parse(body, false)).is_not_found();
        assert!(not_found(br#"{"errors":[{"ID":1,"message":"no such token"}]}"#));
        assert!(not_found(br#""no such token""#));
        assert!(!not_found(br#"{"message":"no Route matched with those values"}"#));
        assert!(!not_found(b"404 page not found"));
        assert!(!not_found(b"<html></html>"));
        assert!(!not_found(b""));
    }
}
