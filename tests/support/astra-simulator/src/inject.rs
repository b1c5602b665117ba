//! Applies a fault to an answer, and decides how the answer is sent.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fault::{Empty, Kind, Malformed, Redirect, RetryAfter};
use super::http::{BodyForm, Response};

/// How an answer is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    Whole,
    Reset,
    CleanClose,
    Hang(Option<Duration>),
    HangAfterHeaders(Option<Duration>),
    Cut { bytes: usize, reset: bool },
    TruncatedChunk { bytes: usize },
    Slow(Duration),
    Padded(u64),
}

impl Delivery {
    /// Whether the whole answer is sent in the end.
    pub fn completes(self) -> bool {
        matches!(
            self,
            Self::Whole | Self::Slow(_) | Self::Padded(_) | Self::Hang(Some(_)) | Self::HangAfterHeaders(Some(_))
        )
    }
}

/// Applies a fault to the answer of a success. `path` is the path of the request, `now` the time of the simulator.
pub fn apply(kind: &Kind, mut response: Response, path: &str, now: Timestamp) -> (Response, Delivery) {
    let whole = |response| (response, Delivery::Whole);
    let time = |milliseconds: &Option<u64>| milliseconds.map(Duration::from_millis);
    match kind {
        Kind::Latency { .. } | Kind::ClockSkew { .. } | Kind::SlowTls { .. } => whole(response),
        Kind::Status { code, body, retry_after } => {
            let answer = Response::error(*code, *body, Some(i64::from(*code)), "simulated failure");
            whole(match retry_after {
                Some(retry_after) => answer.with_header("retry-after", retry_after_text(retry_after, now)),
                None => answer,
            })
        }
        Kind::Error { code, id, message } => whole(Response::error(*code, BodyForm::Errors, Some(*id), message)),
        Kind::Reset => (response, Delivery::Reset),
        Kind::CleanClose => (response, Delivery::CleanClose),
        Kind::CutBody { bytes, reset } => (with_body(response), Delivery::Cut { bytes: *bytes, reset: *reset }),
        Kind::TruncatedChunk { bytes } => (with_body(response), Delivery::TruncatedChunk { bytes: *bytes }),
        Kind::HangBeforeHeaders { for_ms } => (response, Delivery::Hang(time(for_ms))),
        Kind::HangAfterHeaders { for_ms } => (with_body(response), Delivery::HangAfterHeaders(time(for_ms))),
        Kind::SlowBody { interval_ms } => (with_body(response), Delivery::Slow(Duration::from_millis(*interval_ms))),
        Kind::Malformed(malformed) => {
            response = with_body(response);
            response.body = corrupt(*malformed, &response.body);
            whole(response)
        }
        Kind::ContentType(content_type) => {
            response = with_body(response);
            response.content_type = Some(content_type.clone());
            whole(response)
        }
        Kind::Body { content_type, text } => whole(Response::body(200, content_type, text.as_str())),
        Kind::Empty(empty) => whole(empty_success(*empty)),
        Kind::DropFields(fields) => whole(edit(response, |object| {
            for field in fields {
                object.remove(field);
            }
        })),
        Kind::SetField { field, value } => whole(edit(response, |object| {
            object.insert(field.clone(), value.clone());
        })),
        Kind::HugeBody { bytes } => (with_body(response), Delivery::Padded(*bytes)),
        Kind::Redirect { code, to } => {
            let location = match to {
                Redirect::Same => path.to_owned(),
                Redirect::Other(base) => format!("{}{path}", base.trim_end_matches('/')),
            };
            whole(Response::empty(*code).with_header("location", location))
        }
        Kind::ProxyNotFound { html: true } => whole(Response::error(404, BodyForm::Html, None, "")),
        Kind::ProxyNotFound { html: false } => whole(Response::page_not_found()),
    }
}

/// Formats a time as an HTTP date.
pub fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

pub fn shifted(time: Timestamp, seconds: i64) -> Timestamp {
    time.saturating_add(SignedDuration::from_secs(seconds)).expect("a signed duration can be added")
}

fn retry_after_text(retry_after: &RetryAfter, now: Timestamp) -> String {
    match retry_after {
        RetryAfter::Seconds(seconds) => seconds.to_string(),
        RetryAfter::DateIn(seconds) => http_date(shifted(now, *seconds)),
        RetryAfter::Text(text) => text.clone(),
    }
}

/// Adds a body if the answer has none, because the fault alters the body.
fn with_body(response: Response) -> Response {
    if response.body.is_empty() { Response::json(200, &json!({ "status": "deleted" })) } else { response }
}

fn empty_success(empty: Empty) -> Response {
    let value = match empty {
        Empty::Nothing => return Response::empty(200),
        Empty::Null => Value::Null,
        Empty::Object => json!({}),
        Empty::Array => json!([]),
        Empty::String => json!(""),
    };
    Response::json(200, &value)
}

/// Changes the JSON object of an answer, or each object of a JSON array.
fn edit(mut response: Response, change: impl Fn(&mut serde_json::Map<String, Value>)) -> Response {
    let Ok(mut value) = serde_json::from_slice::<Value>(&response.body) else {
        return response;
    };
    match &mut value {
        Value::Object(object) => change(object),
        Value::Array(items) => items.iter_mut().filter_map(Value::as_object_mut).for_each(change),
        _ => {}
    }
    response.body = value.to_string().into_bytes();
    response
}

fn corrupt(malformed: Malformed, body: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(body).into_owned();
    match malformed {
        Malformed::Cut => body[..body.len() / 2].to_vec(),
        Malformed::TrailingGarbage => format!("{text}}}garbage").into_bytes(),
        Malformed::NotANumber => in_first_object(&text, "\"ratio\":NaN,"),
        Malformed::DuplicateKeys => in_first_object(&text, &duplicates(&text)),
        Malformed::ByteOrderMark => [b"\xef\xbb\xbf", body].concat(),
        Malformed::InvalidUtf8 => {
            let at = text.find(":\"").map_or(body.len(), |colon| colon + 2);
            [&body[..at], b"\xff\xfe", &body[at..]].concat()
        }
        Malformed::WrongTopLevel if text.starts_with('[') => format!("{{\"value\":{text}}}").into_bytes(),
        Malformed::WrongTopLevel => format!("[{text}]").into_bytes(),
    }
}

fn in_first_object(text: &str, members: &str) -> Vec<u8> {
    text.replacen('{', &format!("{{{members}"), 1).into_bytes()
}

fn duplicates(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let first = if value.is_array() { &value[0] } else { &value };
    let keys = first.as_object().into_iter().flat_map(|object| object.keys());
    keys.map(|key| format!("{}:\"duplicate\",", Value::from(key.as_str()))).collect()
}

/// One piece of the padding of a body.
pub const PADDING: &[u8] = &[b' '; 64 << 10];
