//! Why a call to Astra failed.

use std::fmt::Display;
use std::time::Duration;

use serde_json::Value;

use super::resolve::Failure;

/// The call that makes a token.
pub(super) const MINT: &str = "mint a token";

/// The call that lists the roles.
pub(super) const LIST_ROLES: &str = "list the roles";

const CHECK_ROLE: &str = "check the role_id of the role";

const SEE_MESSAGE: &str = "see what Astra says";

const RAISE_TIMEOUT: &str = "try again, or raise the request_timeout of the config";

const CHECK_NAMES: &str =
    "check the url of the config or the proxy, and /etc/hosts and /etc/resolv.conf of the server's machine";

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

/// How far a failed call came; decides what may be done about it.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Progress {
    /// It was not even tried.
    NotSent,
    /// There was no connection, so Astra never saw the request.
    NoConnection,
    /// The request went out, at least in part, and no whole answer came.
    NoAnswer,
    /// Astra's success came in a form that cannot be used.
    Garbled,
    /// Another status than success, and its body.
    Answer(u16, Body),
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
    progress: Progress,
    /// How long Astra asks to wait.
    retry_after: Option<Duration>,
    /// Whether an attempt before this one may have had its effect.
    may_have_happened_before: bool,
}

impl Error {
    fn new(kind: Kind, call: &'static str, what: String, advice: &'static str, progress: Progress) -> Self {
        Self { kind, call, what, advice, progress, retry_after: None, may_have_happened_before: false }
    }

    /// Returns the failure that an answer with another status than success means.
    pub(super) fn from_answer(call: &'static str, status: u16, body: Body) -> Self {
        let quoted = match &body {
            Body::Api(text) | Body::Text(text) if !text.is_empty() => format!("{status}: {text:?}"),
            _ => status.to_string(),
        };
        let (kind, what, advice) = match (status, &body) {
            (401 | 403, _) if call == LIST_ROLES => (
                Kind::RootToken,
                "Astra refused the root token",
                "check that the astra_token of the config is live and has the permission org-role-read",
            ),
            (401 | 403, _) => (
                Kind::RootToken,
                "Astra refused the root token",
                "check that the astra_token of the config is live and may manage tokens and the role",
            ),
            (407, _) => (
                Kind::BadGateway,
                "a proxy asks for a login",
                "check the login in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY",
            ),
            (429, _) => (Kind::Throttled, "Astra limits the rate of requests", "try again later"),
            (408 | 504, _) => (Kind::Timeout, "Astra did not answer in time", "try again later"),
            (503, _) => (Kind::Unavailable, "Astra is unavailable", "try again later"),
            (404, body) if !matches!(body, Body::Api(_)) => {
                (Kind::BadGateway, "the answer is not one of Astra's API", "check the url of the config and any proxy")
            }
            (400..=499, body) if call == MINT => (Kind::Request, "Astra refused the request", mint_advice(body)),
            (400..=499, _) => (Kind::Request, "Astra refused the request", SEE_MESSAGE),
            (500..=599, _) => (Kind::BadGateway, "Astra failed", "try again later"),
            _ => (Kind::BadGateway, "Astra answered with an unexpected status", "check the url of the config"),
        };
        Self::new(kind, call, format!("{what} ({quoted})"), advice, Progress::Answer(status, body))
    }

    /// Returns the failure that an answer which cannot be used means.
    pub(crate) fn garbled(call: &'static str, reason: impl Display) -> Self {
        let what = format!("the answer of Astra makes no sense: {reason}");
        let advice = "check the url of the config and any proxy";
        Self::new(Kind::BadGateway, call, what, advice, Progress::Garbled)
    }

    /// Returns the failure of a connection.
    pub(super) fn from_transport(call: &'static str, error: &reqwest::Error) -> Self {
        // An error of this kind comes from making a connection, never from one that was in use before.
        if let Some(failure) = causes(error).find_map(|cause| cause.downcast_ref::<Failure>()) {
            let kind = if failure.is_timeout() { Kind::Timeout } else { Kind::Unavailable };
            let what = format!("Astra cannot be reached: {}", quote(&failure.to_string()));
            return Self::new(kind, call, what, CHECK_NAMES, Progress::NoConnection);
        }
        let cause = innermost(error);
        if error.is_connect() {
            // A host that drops packets is one that does not answer.
            let kind = if error.is_timeout() { Kind::Timeout } else { Kind::Unavailable };
            let what = format!("Astra cannot be reached: {cause}");
            let advice = "check the url and ca_cert of the config, and the network";
            return Self::new(kind, call, what, advice, Progress::NoConnection);
        }
        let what = format!("the connection to Astra broke: {cause}");
        Self::new(Kind::BadGateway, call, what, "try again", Progress::NoAnswer)
    }

    /// Returns the failure of a request that was sent, or was about to be, when the deadline came.
    pub(crate) fn no_answer(call: &'static str, timeout: Duration) -> Self {
        let what = format!("Astra did not answer within {timeout:?}");
        Self::new(Kind::Timeout, call, what, RAISE_TIMEOUT, Progress::NoAnswer)
    }

    /// Returns the failure of a call whose turn never came.
    pub(super) fn no_turn(call: &'static str, timeout: Duration) -> Self {
        let what = format!("other calls to Astra for this org took all of {timeout:?}, so the request was not sent");
        Self::new(Kind::Timeout, call, what, RAISE_TIMEOUT, Progress::NotSent)
    }

    /// Returns the failure to make a client, or a request, at all.
    pub(super) fn from_setup(call: &'static str, error: &reqwest::Error) -> Self {
        let what = format!("no TLS client can be set up: {}", innermost(error));
        let advice = "check the ca_cert of the config, and that this machine has CA certificates";
        Self::new(Kind::Unavailable, call, what, advice, Progress::NotSent)
    }

    /// Returns the error for a proxy variable that cannot be used.
    pub(super) fn from_proxy(call: &'static str, reason: &impl Display) -> Self {
        let advice = "correct the variable, then restart the server, or register and reload the plugin";
        Self::new(Kind::Unavailable, call, reason.to_string(), advice, Progress::NotSent)
    }

    /// Names the variable of the proxy that the connection used, if any.
    pub(super) fn through(mut self, variable: Option<&str>) -> Self {
        if let Some(variable) = variable {
            self.what += &format!(" (through the proxy in {variable})");
        }
        self
    }

    /// Says what to do where it was about a root token instead of a token of a role: if Astra refused it, give it
    /// `permission`.
    pub(crate) fn about_root(self, permission: &'static str) -> Self {
        match self.kind {
            Kind::RootToken => Self { advice: permission, ..self },
            Kind::Request if self.advice == CHECK_ROLE => Self { advice: SEE_MESSAGE, ..self },
            _ => self,
        }
    }

    /// Adds how long Astra asks to wait.
    pub(super) fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        Self { retry_after, ..self }
    }

    /// Adds what the caller of a call that was given up shall know of its attempts.
    pub(super) fn after(mut self, attempts: usize, may_have_happened_before: bool) -> Self {
        self.may_have_happened_before = may_have_happened_before;
        if attempts > 1 {
            self.what += &format!(", after {attempts} attempts");
        }
        if let Some(wait) = self.retry_after {
            self.what += &format!(", and Astra asks to wait {} s", wait.as_secs());
        }
        self
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

    /// How long Astra asks to wait before the next attempt.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether there never was an attempt.
    pub(super) fn is_not_sent(&self) -> bool {
        self.progress == Progress::NotSent
    }

    /// Whether another attempt may go better and does no harm. What is not idempotent is only repeated if the attempt
    /// surely had no effect.
    pub(super) fn is_retryable(&self, is_idempotent: bool) -> bool {
        match self.progress {
            Progress::NoConnection | Progress::Answer(429, _) => true,
            Progress::NoAnswer | Progress::Answer(500 | 502..=504, _) => is_idempotent,
            Progress::NotSent | Progress::Garbled | Progress::Answer(..) => false,
        }
    }

    /// Whether Astra may have done what was asked for all the same, at this attempt or one before it. A 503, too, can
    /// come from a gateway that lost the answer.
    pub(crate) fn may_have_happened(&self) -> bool {
        self.may_have_happened_before
            || match &self.progress {
                Progress::NotSent | Progress::NoConnection => false,
                Progress::NoAnswer | Progress::Garbled | Progress::Answer(408, _) => true,
                // A gateway says this, too, when it loses the server that it asked.
                Progress::Answer(404, body) => !matches!(body, Body::Api(_)),
                Progress::Answer(status, _) => !matches!(status, 400..=499),
            }
    }

    /// Whether Astra's own API says that what was asked for is not there. A proxy's 404 is not that.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self.progress, Progress::Answer(404, Body::Api(_)))
    }

    /// Whether the answer leaves open if what was asked for is there.
    pub(super) fn is_unclear(&self) -> bool {
        match self.progress {
            // A proxy that asks for a login or tells of its maintenance does so with a success as well.
            Progress::Garbled => true,
            // The others say that Astra did not even look.
            Progress::Answer(status, _) => !matches!(status, 401 | 403 | 407 | 429 | 503),
            Progress::NotSent | Progress::NoConnection | Progress::NoAnswer => false,
        }
    }

    /// Whether Astra answered 401 without a word: the token is bad, or it is good and lacks a permission.
    pub(crate) fn is_undetermined(&self) -> bool {
        matches!(self.progress, Progress::Answer(401, Body::Empty))
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

/// Returns what to do about a mint that Astra refuses. Two members of the request are not in its published API.
fn mint_advice(body: &Body) -> &'static str {
    let (Body::Api(text) | Body::Text(text)) = body else { return CHECK_ROLE };
    let text = text.to_ascii_lowercase();
    match (text.contains("description"), text.contains("tokenexpiry") || text.contains("token_expiry")) {
        (true, true) => "if it takes neither, set description=false and token_expiry=false on the config of the org",
        (true, false) => "if it takes no description, set description=false on the config of the org",
        (false, true) => "if it takes no expiry, set token_expiry=false on the config of the org",
        (false, false) => CHECK_ROLE,
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
    quote(&causes(error).last().map(ToString::to_string).unwrap_or_default())
}

/// Returns an error and its causes.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;

    /// What follows `AstraCS` in an answer has no influence on any text, and no text has control characters or is long.
    pub(crate) fn fuzz_astra_error(data: &[u8]) {
        let other = mask(data);
        for is_html in [false, true] {
            let (body, masked) = (Body::parse(data, is_html), Body::parse(&other, is_html));
            // In JSON, an escape is shorter than what is put in its place.
            if !data.contains(&b'\\') {
                assert_eq!(body, masked);
            }
            let quoted = match &body {
                Body::Api(text) | Body::Text(text) => text.as_str(),
                Body::Empty | Body::Unknown => "",
            };
            assert!(!quoted.contains(char::is_control) && quoted.chars().count() <= QUOTE + 3);
            assert!(!is_html || serde_json::from_slice::<Value>(data).is_ok() || !matches!(body, Body::Text(_)));
            for status in [304, 400, 401, 404, 408, 418, 429, 500, 503, 599] {
                let error = Error::from_answer(MINT, status, body.clone());
                assert!(shows_no_token(&error.to_string()), "{status}");
                assert_eq!(error.is_not_found(), status == 404 && matches!(body, Body::Api(_)));
                assert!(!error.is_not_found() || !error.may_have_happened());
                assert!((400..600).contains(&error.status()));
            }
        }
        let Ok(text) = std::str::from_utf8(data) else { return };
        assert_eq!(quote(text), quote(&String::from_utf8_lossy(&other)));
        assert!(shows_no_token(&quote(text)));
    }

    /// Returns the same with other letters in each token, of any kind that a token could have.
    fn mask(data: &[u8]) -> Vec<u8> {
        let mut masked = data.to_vec();
        let mut at = 0;
        while let Some(start) = masked[at..].windows(7).position(|word| word.eq_ignore_ascii_case(b"AstraCS")) {
            at += start + 7;
            while let Some(byte) = masked.get_mut(at).filter(|c| c.is_ascii_alphanumeric() || b":%_-+/=.~".contains(c))
            {
                *byte = b'k';
                at += 1;
            }
        }
        masked
    }

    /// Whether dots follow the beginning of each token.
    fn shows_no_token(text: &str) -> bool {
        let mut tails = text.split("AstraCS");
        let has_none = |text: &str| find_ignore_case(text, "AstraCS").is_none();
        has_none(tails.next().unwrap_or_default())
            && tails.all(|tail| has_none(tail) && (tail.starts_with(":...") || tail.starts_with("...")))
    }
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

    #[test]
    fn a_404_of_a_gateway_says_nothing_of_what_happened() {
        let unclear = |body: &[u8]| Error::from_answer(MINT, 404, Body::parse(body, false)).may_have_happened();
        assert!(!unclear(br#"{"errors":[{"ID":1,"message":"no such role"}]}"#));
        assert!(unclear(b"404 page not found"));
        assert!(unclear(b"<html></html>"));
    }
}
