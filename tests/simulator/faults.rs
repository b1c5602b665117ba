//! Each fault, as a client sees it. Tests both phases of a fault if both make sense.

use std::error::Error;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::{Value, json};

use crate::astra::{
    Astra, AstraFault, BodyForm, Empty, Kind, Malformed, Phase, Redirect, RetryAfter, Route, built_in_id,
};
use crate::client::{Answer, CURRENT_ORG, Client, TOKENS};

type Outcome = Result<Answer, reqwest::Error>;

/// Creates a token with the fault in each phase. Checks the result of the client, and whether the create took effect.
async fn in_both_phases(kind: Kind, check: impl Fn(Outcome)) {
    for phase in [Phase::Before, Phase::After] {
        let astra = Astra::spawn();
        let client = Client::new(&astra);
        let mut fault = AstraFault::before(kind.clone()).route(Route::CreateToken).once();
        fault.phase = phase;
        let fault = astra.fault(fault);
        check(client.try_create(built_in_id("RO User")).await);
        assert_eq!(astra.fired(fault), 1);
        let live = astra.live(&astra.org().id);
        assert_eq!(live.len(), usize::from(phase == Phase::After), "tokens after phase {phase:?}");
        let call = &astra.requests()[0];
        assert_eq!(call.faults, [kind.name()]);
        assert_eq!(call.minted.as_ref(), live.first().map(|token| &token.client_id));

        let (client_id, _) = client.mint(built_in_id("RO User")).await;
        assert!(client.listed().await.contains(&client_id), "the next create succeeds");
        for token in live {
            assert!(client.listed().await.contains(&token.client_id), "the list has the token whose answer was lost");
        }
    }
}

fn io_kind(error: &reqwest::Error) -> Option<ErrorKind> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = error.source();
    }
    None
}

#[tokio::test]
async fn a_status_fault_has_every_form_of_body() {
    for (form, body, content_type) in [
        (
            BodyForm::Errors,
            r#"{"errors":[{"ID":503,"message":"simulated failure"}]}"#,
            "application/json; charset=UTF-8",
        ),
        (BodyForm::JsonString, "\"simulated failure\"", "application/json; charset=UTF-8"),
        (BodyForm::Text, "simulated failure", "text/plain; charset=utf-8"),
        (BodyForm::Null, "null", "application/json; charset=UTF-8"),
        (BodyForm::Empty, "", ""),
        (BodyForm::Html, "<html><body><h1>503</h1></body></html>\n", "text/html"),
        (BodyForm::PageNotFound, "404 page not found\n", "text/plain; charset=utf-8"),
    ] {
        in_both_phases(Kind::status(503, form), |outcome| {
            let answer = outcome.unwrap();
            assert_eq!((answer.status, answer.text(), answer.header("content-type")), (503, body, content_type));
        })
        .await;
    }
    in_both_phases(Kind::null_401(), |outcome| {
        let answer = outcome.unwrap();
        assert_eq!((answer.status, answer.json()), (401, Value::Null));
    })
    .await;
    let error = Kind::Error { code: 401, id: 340_018, message: "Resource not found".into() };
    in_both_phases(error, |outcome| assert_eq!(outcome.unwrap().error_id(), 340_018)).await;
}

#[tokio::test]
async fn retry_after_has_every_form() {
    for (form, expected) in [
        (RetryAfter::Seconds(7), "7"),
        (RetryAfter::Seconds(-5), "-5"),
        (RetryAfter::Seconds(86_400), "86400"),
        (RetryAfter::Text("soon".into()), "soon"),
    ] {
        in_both_phases(Kind::too_many_requests(form), |outcome| {
            let answer = outcome.unwrap();
            assert_eq!((answer.status, answer.header("retry-after")), (429, expected));
        })
        .await;
    }
    in_both_phases(Kind::too_many_requests(RetryAfter::DateIn(3600)), |outcome| {
        let answer = outcome.unwrap();
        let wait = date(answer.header("retry-after")) - date(answer.header("date"));
        assert!((3599..=3600).contains(&wait), "{wait}");
    })
    .await;
    in_both_phases(Kind::status(429, BodyForm::Errors), |outcome| {
        assert_eq!(outcome.unwrap().header("retry-after"), "");
    })
    .await;
}

#[tokio::test]
async fn connections_break_in_every_way() {
    in_both_phases(Kind::Reset, |outcome| {
        assert_eq!(io_kind(&outcome.unwrap_err()), Some(ErrorKind::ConnectionReset));
    })
    .await;
    in_both_phases(Kind::CleanClose, |outcome| {
        let error = outcome.unwrap_err();
        assert_ne!(io_kind(&error), Some(ErrorKind::ConnectionReset));
        assert!(error.is_request() && error.status().is_none());
    })
    .await;
    in_both_phases(Kind::CutBody { bytes: 10, reset: false }, |outcome| {
        assert!(is_body_error(&outcome.unwrap_err()));
    })
    .await;
    in_both_phases(Kind::CutBody { bytes: 10, reset: true }, |outcome| {
        let error = outcome.unwrap_err();
        assert_eq!(io_kind(&error), Some(ErrorKind::ConnectionReset));
    })
    .await;
    in_both_phases(Kind::TruncatedChunk { bytes: 10 }, |outcome| {
        assert!(is_body_error(&outcome.unwrap_err()));
    })
    .await;
}

#[tokio::test]
async fn a_hang_lasts_forever_or_for_a_time() {
    for phase in [Phase::Before, Phase::After] {
        for kind in [Kind::HangBeforeHeaders { for_ms: None }, Kind::HangAfterHeaders { for_ms: None }] {
            let astra = Astra::spawn();
            let client = Client::new(&astra);
            let mut fault = AstraFault::before(kind.clone()).route(Route::CreateToken).once();
            fault.phase = phase;
            let fault = astra.fault(fault);
            let (call, cancel) = futures_util::future::abortable(client.try_create("x"));
            let (outcome, ()) = tokio::join!(call, async {
                astra.until(DEADLINE, |astra| astra.fired(fault) == 1).await;
                cancel.abort();
            });
            assert!(outcome.is_err(), "no answer before the call was cancelled");
            assert_eq!(astra.live(&astra.org().id).len(), usize::from(phase == Phase::After));
            assert_eq!(client.try_get(CURRENT_ORG).await.unwrap().status, 200);
        }
    }
    for kind in [Kind::HangBeforeHeaders { for_ms: Some(60) }, Kind::HangAfterHeaders { for_ms: Some(60) }] {
        let astra = Astra::spawn();
        astra.fault(AstraFault::after(kind).once());
        let begin = Instant::now();
        let (client_id, _) = Client::new(&astra).mint("x").await;
        assert!(begin.elapsed() >= Duration::from_millis(60));
        astra.until(DEADLINE, |astra| astra.token(&client_id).unwrap().delivered).await;
    }
}

#[tokio::test]
async fn a_hang_ends_when_the_simulator_stops() {
    let astra = Astra::spawn();
    astra.fault(AstraFault::before(Kind::HangBeforeHeaders { for_ms: None }));
    let client = Client::new(&astra);
    let call = tokio::spawn(async move { client.try_get(CURRENT_ORG).await.map(|answer| answer.status) });
    astra.until(DEADLINE, |astra| astra.calls(Route::CurrentOrg) == 1).await;
    drop(astra);
    assert!(!call.await.unwrap().unwrap_err().is_timeout());
}

#[tokio::test]
async fn latency_comes_before_or_after_the_effect() {
    for (phase, effect) in [(Phase::Before, 0), (Phase::After, 1)] {
        let astra = Astra::spawn();
        let mut fault = AstraFault::before(Kind::Latency { min_ms: 5_000, max_ms: 5_000 }).route(Route::CreateToken);
        fault.phase = phase;
        let fault = astra.fault(fault);
        let client = Client::new(&astra);
        let call = tokio::spawn(async move { client.try_create("x").await.is_ok() });
        astra.until(DEADLINE, |astra| astra.fired(fault) == 1).await;
        assert_eq!(astra.minted(), effect);
        call.abort();
    }
    let astra = Astra::spawn();
    astra.fault(AstraFault::after(Kind::Latency { min_ms: 30, max_ms: 40 }));
    astra.fault(AstraFault::after(Kind::status(500, BodyForm::Text)));
    let begin = Instant::now();
    assert_eq!(Client::new(&astra).get(CURRENT_ORG).await.status, 500, "latency and another fault occur together");
    assert!(begin.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn a_create_cancelled_during_latency_counts_as_undelivered() {
    let astra = Astra::spawn();
    let latency = Kind::Latency { min_ms: 500, max_ms: 500 };
    let fault = astra.fault(AstraFault::after(latency).route(Route::CreateToken));
    let client = Client::new(&astra);
    let call = tokio::spawn(async move { client.try_create("x").await.is_ok() });
    astra.until(DEADLINE, |astra| astra.fired(fault) == 1).await;
    call.abort();
    astra.until(DEADLINE, |astra| astra.requests()[0].took_ms.is_some()).await;
    assert_eq!(astra.undelivered(&astra.org().id).len(), 1);
}

#[tokio::test]
async fn a_slow_body_arrives_one_byte_at_a_time() {
    in_both_phases(Kind::SlowBody { interval_ms: 1 }, |outcome| {
        assert_eq!(outcome.unwrap().json()["clientId"].as_str().unwrap().len(), 24);
    })
    .await;
    let astra = Astra::spawn();
    astra.fault(AstraFault::after(Kind::SlowBody { interval_ms: 20 }));
    let client = Client::new(&astra);
    let request = client.request(reqwest::Method::GET, TOKENS).timeout(Duration::from_millis(200));
    assert!(client.try_send(request).await.unwrap_err().is_timeout());
}

#[tokio::test]
async fn json_is_malformed_in_every_way() {
    in_both_phases(Kind::Malformed(Malformed::Cut), |outcome| assert!(!is_json(&outcome.unwrap()))).await;
    in_both_phases(Kind::Malformed(Malformed::TrailingGarbage), |outcome| {
        let answer = outcome.unwrap();
        assert!(!is_json(&answer) && answer.body.starts_with(b"{\"clientId\""));
    })
    .await;
    in_both_phases(Kind::Malformed(Malformed::NotANumber), |outcome| {
        let answer = outcome.unwrap();
        assert!(!is_json(&answer) && answer.text().starts_with("{\"ratio\":NaN,"));
    })
    .await;
    in_both_phases(Kind::Malformed(Malformed::DuplicateKeys), |outcome| {
        let answer = outcome.unwrap();
        assert_eq!(answer.text().matches("\"clientId\"").count(), 2);
        assert_eq!(answer.json()["clientId"].as_str().unwrap().len(), 24, "a client uses the last one");
    })
    .await;
    in_both_phases(Kind::Malformed(Malformed::ByteOrderMark), |outcome| {
        assert!(outcome.unwrap().body.starts_with(b"\xef\xbb\xbf{"));
    })
    .await;
    in_both_phases(Kind::Malformed(Malformed::InvalidUtf8), |outcome| {
        assert!(std::str::from_utf8(&outcome.unwrap().body).is_err());
    })
    .await;
    in_both_phases(Kind::Malformed(Malformed::WrongTopLevel), |outcome| {
        assert!(outcome.unwrap().json().is_array());
    })
    .await;
}

#[tokio::test]
async fn a_success_can_have_other_content() {
    for (empty, body) in [
        (Empty::Nothing, ""),
        (Empty::Null, "null"),
        (Empty::Object, "{}"),
        (Empty::Array, "[]"),
        (Empty::String, "\"\""),
    ] {
        in_both_phases(Kind::Empty(empty), |outcome| {
            let answer = outcome.unwrap();
            assert_eq!((answer.status, answer.text()), (200, body));
        })
        .await;
    }
    in_both_phases(Kind::DropFields(vec!["token".into(), "secret".into()]), |outcome| {
        let keys: Vec<String> = outcome.unwrap().json().as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["clientId", "description", "generatedOn", "orgId", "roles", "tokenExpiry"]);
    })
    .await;
    in_both_phases(Kind::SetField { field: "clientId".into(), value: json!(5) }, |outcome| {
        assert_eq!(outcome.unwrap().json()["clientId"], 5);
    })
    .await;
    in_both_phases(Kind::ContentType("text/html".into()), |outcome| {
        let answer = outcome.unwrap();
        assert_eq!(answer.header("content-type"), "text/html");
        assert!(answer.json().is_object());
    })
    .await;
    let html = Kind::Body { content_type: "application/json".into(), text: "<html></html>".into() };
    in_both_phases(html, |outcome| assert_eq!(outcome.unwrap().text(), "<html></html>")).await;
    in_both_phases(Kind::HugeBody { bytes: 20 << 20 }, |outcome| {
        let answer = outcome.unwrap();
        assert!(answer.body.len() > 20 << 20 && is_json(&answer));
    })
    .await;
}

#[tokio::test]
async fn a_proxy_can_answer_instead_of_the_api() {
    for (html, content_type) in [(true, "text/html"), (false, "text/plain; charset=utf-8")] {
        let astra = Astra::spawn();
        let client = Client::new(&astra);
        let (client_id, _) = client.mint("x").await;
        astra.fault(AstraFault::before(Kind::ProxyNotFound { html }).route(Route::DeleteToken));
        let answer = client.try_delete(&client_id).await.unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (404, content_type));
        assert_eq!(astra.live(&astra.org().id).len(), 1);
    }
    let other = Astra::spawn();
    let to = Redirect::Other(other.url().into());
    in_both_phases(Kind::Redirect { code: 307, to }, |outcome| {
        let answer = outcome.unwrap();
        let location = format!("{}{TOKENS}", other.url());
        assert_eq!((answer.status, answer.header("location")), (307, location.as_str()));
    })
    .await;
    in_both_phases(Kind::Redirect { code: 302, to: Redirect::Same }, |outcome| {
        assert_eq!(outcome.unwrap().header("location"), TOKENS);
    })
    .await;
}

#[tokio::test]
async fn a_delete_can_take_effect_although_its_answer_is_lost() {
    for (fault, is_deleted) in [(AstraFault::before(Kind::Reset), false), (AstraFault::after(Kind::Reset), true)] {
        let astra = Astra::spawn();
        let client = Client::new(&astra);
        let (client_id, _) = client.mint("x").await;
        astra.fault(fault.route(Route::DeleteToken).target(&client_id).once());
        assert!(client.try_delete(&client_id).await.is_err());
        assert_eq!(astra.live(&astra.org().id).is_empty(), is_deleted);
        assert_eq!(client.try_delete(&client_id).await.unwrap().status, if is_deleted { 404 } else { 204 });
    }
}

#[tokio::test]
async fn clock_skew_changes_the_date_header() {
    let astra = Astra::spawn();
    astra.fault(AstraFault::after(Kind::ClockSkew { seconds: -7200 }));
    let answer = Client::new(&astra).get(CURRENT_ORG).await;
    let behind = Timestamp::now().as_second() - date(answer.header("date"));
    assert!((7199..7300).contains(&behind), "{behind}");
    assert_eq!(answer.headers.get_all("date").iter().count(), 1);
}

#[tokio::test]
async fn a_fault_affects_only_matching_requests() {
    let astra = Astra::builder().orgs(2).spawn();
    let (one, two) = (Client::new(&astra), Client::with_token(&astra, &astra.orgs()[1].root_token));
    let teapot = || AstraFault::before(Kind::status(418, BodyForm::Empty));

    let fault = astra.fault(teapot().org(&astra.org().id));
    assert_eq!((status(&one).await, status(&two).await), (418, 200));
    astra.clear_fault(fault);
    let fault = astra.fault(teapot().caller(&astra.orgs()[1].client_id));
    assert_eq!((status(&one).await, status(&two).await), (200, 418));
    astra.clear_fault(fault);
    let fault = astra.fault(teapot().nth(2).times(2));
    let seen = [status(&one).await, status(&one).await, status(&one).await, status(&one).await];
    assert_eq!((seen, astra.fired(fault)), ([200, 418, 418, 200], 2));
    astra.clear_faults();

    let mut windowed = teapot();
    (windowed.on.from_ms, windowed.on.until_ms) = (Some(60_000), Some(120_000));
    astra.fault(windowed);
    let mut seen = vec![status(&one).await];
    for _ in 0..2 {
        astra.advance(Duration::from_secs(61));
        seen.push(status(&one).await);
    }
    assert_eq!(seen, [200, 418, 200]);
    astra.clear_faults();

    let mut runs = Vec::new();
    for _ in 0..2 {
        let fault = astra.fault(teapot().chance(0.5, 42));
        let mut run = Vec::new();
        for _ in 0..32 {
            run.push(status(&one).await);
        }
        runs.push(run);
        astra.clear_fault(fault);
    }
    assert!(runs[0].contains(&200) && runs[0].contains(&418));
    assert_eq!(runs[0], runs[1], "the same seed gives the same sequence");
}

async fn status(client: &Client) -> u16 {
    client.get(CURRENT_ORG).await.status
}

fn is_json(answer: &Answer) -> bool {
    serde_json::from_slice::<Value>(&answer.body).is_ok()
}

fn is_body_error(error: &reqwest::Error) -> bool {
    error.is_body() || error.is_decode()
}

fn date(text: &str) -> i64 {
    rfc2822::parse(text).expect("an HTTP date").timestamp().as_second()
}

const DEADLINE: Duration = Duration::from_secs(10);
