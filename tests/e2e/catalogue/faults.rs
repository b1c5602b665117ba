//! The faults, in families. The caller sees the same result for all faults of a family.

use serde_json::{Value, json};

use crate::astra::{BodyForm, Empty, Kind, Malformed, Phase, Redirect, RetryAfter};

/// A placeholder for a value of the run: another host's URL, or the client id of a live token.
pub(super) const OTHER: &str = "$OTHER";

/// Faults with the same outcome.
pub(super) struct Family {
    /// Astra's behaviour, in the words of the table.
    pub(super) what: &'static str,
    pub(super) kinds: Vec<Kind>,
    pub(super) phases: &'static [Phase],
    pub(super) reach: Reach,
}

/// The calls that a fault affects.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Every call that mints or deletes.
    Call,
    /// The first call that mints or deletes.
    Once,
    /// Every call for the org.
    Org,
}

const BEFORE: &[Phase] = &[Phase::Before];
const AFTER: &[Phase] = &[Phase::After];
const BOTH: &[Phase] = &[Phase::Before, Phase::After];

/// Faults of the call that mints.
pub(super) fn mint_families() -> Vec<Family> {
    let field = |field: &str, value: Value| Kind::SetField { field: field.into(), value };
    let without = |fields: &[&str]| Kind::DropFields(fields.iter().map(|&field| field.into()).collect());
    vec![
        call("rejects the request: 400, 404, 409 or 422 in Astra's own format", api(&[400, 404, 409, 422]), BEFORE),
        call("rejects the root token: 401 or 403 in any format", rejections(), BEFORE),
        call("limits the rate (429) of every attempt, without a usable `Retry-After`", throttled(), BEFORE),
        call("limits the rate (429), with a `Retry-After` longer than `request_timeout`", throttled_for_long(), BEFORE),
        once(
            "limits the rate (429) once, with a `Retry-After` shorter than `request_timeout` or without one",
            [throttled(), vec![limit(BodyForm::Errors, Some(RetryAfter::Seconds(1)))]].concat(),
            BEFORE,
        ),
        call("fails: 500 or 502", statuses(&[500, 502]), BOTH),
        call("is unavailable: 503", statuses(&[503]), BOTH),
        call("is unavailable: 503, with a `Retry-After` longer than `request_timeout`", unavailable_for_long(), BOTH),
        call("does not answer in time: 504", statuses(&[504]), BOTH),
        call("breaks the connection before or during the answer", broken(), BOTH),
        call("is silent, or slower than `request_timeout`", silent(), BOTH),
        call("creates the token after `request_timeout`", vec![Kind::HangBeforeHeaders { for_ms: Some(3500) }], BEFORE),
        call("is slow within `request_timeout`, or its clock is wrong", harmless(), AFTER),
        call("answers with broken JSON, or with other data", [garbage(), mislabelled(), flaws()].concat(), BOTH),
        call("answers with success and an empty body", empty(), BOTH),
        call(
            "omits a required field of the token, or sends it with another type",
            vec![
                without(&["clientId"]),
                without(&["token", "secret"]),
                without(&["orgId"]),
                field("clientId", json!(7)),
                field("orgId", Value::Null),
                field("token", json!("nonsense")),
            ],
            BOTH,
        ),
        call(
            "names another organization, the client id of another token, or a token that does not match",
            vec![
                field("orgId", json!("11111111-2222-3333-4444-555555555555")),
                field("token", json!("AstraCS:AnotherTokensClientIdAbc:0123456789abcdef")),
                field("clientId", json!(OTHER)),
            ],
            BOTH,
        ),
        call(
            "omits a field that the engine can compute: `token` or `generatedOn`",
            vec![without(&["token", "generatedOn"])],
            AFTER,
        ),
        call("repeats keys", vec![Kind::Malformed(Malformed::DuplicateKeys)], AFTER),
        call("names other roles than the request", vec![field("roles", json!(["another"]))], AFTER),
        call("answers with more than 1 MiB", vec![Kind::HugeBody { bytes: 2 << 20 }], BOTH),
        call("redirects, to the same host or another host", redirects(), BOTH),
        call("is not reached: a proxy's 404", foreign_answers(), BOTH),
        org("creates the token, and then fails every call for a while", outage(), AFTER),
    ]
}

/// Faults of the call that deletes. Not included: a success without effect, because the engine cannot detect it.
pub(super) fn deletion_families() -> Vec<Family> {
    let transient = [statuses(&[500, 502, 503, 504]), broken(), throttled()].concat();
    let gone = "Resource not found: token with identifier: auth-manager returned 404 for call %s/v2/admin/tokens?%s";
    let gone = Kind::Error { code: 401, id: 340_018, message: gone.into() };
    vec![
        once("fails in any way, once", transient, BEFORE),
        once(
            "deletes the token and fails in any way, once",
            [statuses(&[500, 502, 503, 504]), broken()].concat(),
            AFTER,
        ),
        call("rejects the request: 400, 409 or 422 in Astra's own format", api(&[400, 409, 422]), BOTH),
        call(
            "rejects the root token: 401 or 403 in any format, also error 340018 with the text \"404\" and \"not found\"",
            [rejections(), vec![gone]].concat(),
            BEFORE,
        ),
        call("limits the rate (429) of every attempt, without a usable `Retry-After`", throttled(), BEFORE),
        call("limits the rate (429), with a `Retry-After` longer than `request_timeout`", throttled_for_long(), BEFORE),
        call("fails: 500 or 502", statuses(&[500, 502]), BOTH),
        call("is unavailable: 503", statuses(&[503]), BOTH),
        call("is unavailable: 503, with a `Retry-After` longer than `request_timeout`", unavailable_for_long(), BOTH),
        call("does not answer in time: 504", statuses(&[504]), BOTH),
        call("breaks the connection before or during the answer", broken(), BOTH),
        call("is silent, or slower than `request_timeout`", silent(), BOTH),
        call("is slow within `request_timeout`, or its clock is wrong", harmless(), AFTER),
        call("answers with success and a body that is not JSON", [garbage(), mislabelled()].concat(), BOTH),
        call("answers with more than 1 MiB", vec![Kind::HugeBody { bytes: 2 << 20 }], BOTH),
        call("redirects, to the same host or another host", redirects(), BOTH),
        call("is not reached: a proxy's 404", foreign_answers(), BOTH),
        org("fails every call for a while", outage(), BOTH),
    ]
}

/// All faults of any call.
pub(super) fn every_fault() -> Vec<Kind> {
    let mut all: Vec<Kind> =
        mint_families().into_iter().chain(deletion_families()).flat_map(|family| family.kinds).collect();
    all.push(Kind::Latency { min_ms: 5000, max_ms: 5000 });
    all
}

fn call(what: &'static str, kinds: Vec<Kind>, phases: &'static [Phase]) -> Family {
    Family { what, kinds, phases, reach: Reach::Call }
}

fn once(what: &'static str, kinds: Vec<Kind>, phases: &'static [Phase]) -> Family {
    Family { what, kinds, phases, reach: Reach::Once }
}

fn org(what: &'static str, kinds: Vec<Kind>, phases: &'static [Phase]) -> Family {
    Family { what, kinds, phases, reach: Reach::Org }
}

/// The first status with every form of body, the other statuses with two very different forms.
fn statuses(codes: &[u16]) -> Vec<Kind> {
    use BodyForm::{Empty, Errors, Html, JsonString, Null, PageNotFound, Text};
    let with = |code: u16, forms: &[BodyForm]| forms.iter().map(|&form| Kind::status(code, form)).collect::<Vec<_>>();
    let mut kinds = with(codes[0], &[Errors, JsonString, Text, Null, Empty, Html, PageNotFound]);
    kinds.extend(codes[1..].iter().flat_map(|&code| with(code, &[Errors, Html])));
    kinds
}

/// Answers in the formats of Astra's API.
fn api(codes: &[u16]) -> Vec<Kind> {
    let forms = [BodyForm::Errors, BodyForm::JsonString];
    codes.iter().flat_map(|&code| forms.map(|form| Kind::status(code, form))).collect()
}

fn rejections() -> Vec<Kind> {
    statuses(&[401]).into_iter().chain(statuses(&[403])).collect()
}

fn limit(body: BodyForm, retry_after: Option<RetryAfter>) -> Kind {
    Kind::Status { code: 429, body, retry_after }
}

fn throttled() -> Vec<Kind> {
    vec![
        limit(BodyForm::Errors, None),
        limit(BodyForm::Text, None),
        limit(BodyForm::Empty, Some(RetryAfter::Seconds(0))),
        limit(BodyForm::Errors, Some(RetryAfter::Seconds(-1))),
        limit(BodyForm::Errors, Some(RetryAfter::Text("soon".into()))),
    ]
}

fn throttled_for_long() -> Vec<Kind> {
    [RetryAfter::Seconds(5), RetryAfter::Seconds(86_400), RetryAfter::DateIn(3600)]
        .map(|time| limit(BodyForm::Errors, Some(time)))
        .into()
}

fn unavailable_for_long() -> Vec<Kind> {
    let long = |body| Kind::Status { code: 503, body, retry_after: Some(RetryAfter::Seconds(60)) };
    vec![long(BodyForm::Errors), long(BodyForm::Html)]
}

fn broken() -> Vec<Kind> {
    vec![
        Kind::Reset,
        Kind::CleanClose,
        Kind::CutBody { bytes: 5, reset: true },
        Kind::CutBody { bytes: 5, reset: false },
        Kind::TruncatedChunk { bytes: 5 },
    ]
}

fn silent() -> Vec<Kind> {
    vec![
        Kind::HangBeforeHeaders { for_ms: None },
        Kind::HangAfterHeaders { for_ms: None },
        Kind::HangAfterHeaders { for_ms: Some(4000) },
        Kind::SlowBody { interval_ms: 200 },
    ]
}

fn harmless() -> Vec<Kind> {
    vec![
        Kind::Latency { min_ms: 50, max_ms: 100 },
        Kind::HangBeforeHeaders { for_ms: Some(50) },
        Kind::HangAfterHeaders { for_ms: Some(50) },
        Kind::ClockSkew { seconds: -86_400 },
        Kind::ClockSkew { seconds: 86_400 },
    ]
}

fn garbage() -> Vec<Kind> {
    [Malformed::Cut, Malformed::TrailingGarbage, Malformed::NotANumber, Malformed::InvalidUtf8]
        .map(Kind::Malformed)
        .into()
}

/// Defects that only matter if the engine reads the content.
fn flaws() -> Vec<Kind> {
    [Malformed::ByteOrderMark, Malformed::WrongTopLevel].map(Kind::Malformed).into()
}

/// A web page labelled as JSON, and JSON labelled as a web page.
fn mislabelled() -> Vec<Kind> {
    let page = "<html><body>Please log in</body></html>";
    vec![
        Kind::ContentType("text/html".into()),
        Kind::Body { content_type: "application/json".into(), text: page.into() },
        Kind::Body { content_type: "text/html".into(), text: page.into() },
    ]
}

fn empty() -> Vec<Kind> {
    [Empty::Nothing, Empty::Null, Empty::Object, Empty::Array, Empty::String].map(Kind::Empty).into()
}

fn redirects() -> Vec<Kind> {
    let to = |code| [Redirect::Same, Redirect::Other(OTHER.into())].map(|to| Kind::Redirect { code, to });
    [301, 302, 307].into_iter().flat_map(to).collect()
}

fn foreign_answers() -> Vec<Kind> {
    [true, false].map(|html| Kind::ProxyNotFound { html }).into()
}

fn outage() -> Vec<Kind> {
    vec![
        Kind::HangBeforeHeaders { for_ms: None },
        Kind::Reset,
        Kind::status(503, BodyForm::Html),
        Kind::status(500, BodyForm::Errors),
        Kind::ProxyNotFound { html: true },
    ]
}
