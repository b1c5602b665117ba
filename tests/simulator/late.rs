//! Faults after which the operation takes effect late, or a second time. The clock of the simulator decides when.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::astra::{Astra, AstraFault, BodyForm, Delay, Kind, Route, TokenView, built_in_id};
use crate::client::{Client, ROLES, TOKENS};

/// One minute, so that no effect comes before a test sets the clock forward.
const DELAY: Delay = Delay { min_ms: 60_000, max_ms: 60_000 };

fn timeout() -> Kind {
    Kind::HangBeforeHeaders { for_ms: Some(40) }
}

fn pass_time(astra: &Astra) {
    astra.advance(Duration::from_millis(DELAY.max_ms));
}

fn live(astra: &Astra) -> Vec<TokenView> {
    astra.live(&astra.org().id)
}

#[tokio::test]
async fn a_late_create_is_answered_with_a_failure_and_takes_effect_later() {
    for (kind, status) in [
        (Kind::status(503, BodyForm::Html), Some(503)),
        (timeout(), Some(504)),
        (Kind::Latency { min_ms: 40, max_ms: 40 }, Some(504)),
        (Kind::Reset, None),
        (Kind::CleanClose, None),
    ] {
        let astra = Astra::spawn();
        let client = Client::new(&astra);
        let fault = astra.fault(AstraFault::late(kind.clone(), DELAY).route(Route::CreateToken).once());
        let begin = Instant::now();
        let body = json!({ "roles": [built_in_id("RO User")], "description": "marker" });
        let outcome = client.try_send(client.request(Method::POST, TOKENS).json(&body)).await;
        assert_eq!(outcome.ok().map(|answer| answer.status), status, "{kind:?}");
        if matches!(kind, Kind::HangBeforeHeaders { .. } | Kind::Latency { .. }) {
            assert!(begin.elapsed() >= Duration::from_millis(40));
        }
        assert_eq!((astra.fired(fault), live(&astra).len()), (1, 0));

        astra.clear_faults();
        pass_time(&astra);
        let tokens = live(&astra);
        assert_eq!((tokens.len(), astra.minted()), (1, 1), "{kind:?}");
        assert_eq!((tokens[0].description.as_deref(), tokens[0].delivered), (Some("marker"), false));
        assert!(client.listed().await.contains(&tokens[0].client_id));
        let call = &astra.requests()[0];
        assert_eq!(
            (&call.faults, &call.minted),
            (&vec![kind.name().into(), "late".into()], &Some(tokens[0].client_id.clone()))
        );
    }
}

#[tokio::test]
async fn a_repeated_create_makes_a_second_token_with_the_same_description() {
    for (kind, is_delivered) in [(Kind::Latency { min_ms: 0, max_ms: 0 }, true), (Kind::Reset, false)] {
        let astra = Astra::spawn();
        let client = Client::new(&astra);
        astra.fault(AstraFault::twice(kind.clone(), DELAY).route(Route::CreateToken).once());
        let body = json!({ "roles": ["x"], "description": "marker" });
        let outcome = client.try_send(client.request(Method::POST, TOKENS).json(&body)).await;
        assert_eq!(outcome.is_ok(), is_delivered, "{kind:?}");
        let first = live(&astra);
        assert_eq!(first.len(), 1);

        pass_time(&astra);
        let both = live(&astra);
        assert_eq!(both.len(), 2, "{kind:?}");
        assert!(both.iter().all(|token| token.description.as_deref() == Some("marker")));
        let delivered: Vec<_> = both.iter().filter(|token| token.delivered).map(|token| &token.client_id).collect();
        assert_eq!(delivered, if is_delivered { vec![&first[0].client_id] } else { vec![] });
        assert_eq!(astra.requests()[0].minted.as_ref(), Some(&first[0].client_id));
    }
}

#[tokio::test]
async fn a_delete_takes_effect_late_or_meets_its_own_effect() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let (one, _) = client.mint("x").await;
    astra.fault(AstraFault::late(Kind::status(503, BodyForm::Text), DELAY).route(Route::DeleteToken).once());
    assert_eq!(client.try_delete(&one).await.unwrap().status, 503);
    assert_eq!(live(&astra).len(), 1);
    pass_time(&astra);
    assert!(live(&astra).is_empty());
    assert_eq!(client.try_delete(&one).await.unwrap().status, 404);

    let (two, _) = client.mint("x").await;
    astra.fault(AstraFault::twice(Kind::Reset, DELAY).route(Route::DeleteToken).once());
    assert!(client.try_delete(&two).await.is_err());
    assert!(live(&astra).is_empty());
    let three = client.mint("x").await.0;
    pass_time(&astra);
    assert_eq!(live(&astra).len(), 1, "the second delete finds nothing to delete");
    assert_eq!(live(&astra)[0].client_id, three);
}

#[tokio::test]
async fn any_request_can_be_late() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let role = astra.create_role(&astra.org().id, "own", &["org-token-read"]);
    astra.fault(AstraFault::late(Kind::CleanClose, DELAY).route(Route::DeleteRole));
    let path = format!("{ROLES}/{role}");
    assert!(client.try_send(client.request(Method::DELETE, &path)).await.is_err());
    assert_eq!(client.get(&path).await.status, 200);
    pass_time(&astra);
    assert_eq!(client.get(&path).await.status, 404);
}

#[tokio::test]
async fn a_late_request_whose_caller_was_deleted_has_no_effect() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    astra.fault(AstraFault::late(Kind::Reset, DELAY).route(Route::CreateToken));
    assert!(client.try_create("x").await.is_err());
    assert!(astra.delete_token(&astra.org().client_id));
    pass_time(&astra);
    assert_eq!(astra.minted(), 0);
}

#[tokio::test]
async fn late_effects_come_in_the_order_that_the_seed_of_the_fault_determines() {
    let effects = |seed| async move {
        let astra = Astra::spawn();
        let client = Client::new(&astra);
        let delay = Delay { min_ms: 60_000, max_ms: 660_000 };
        astra.fault(
            AstraFault::late(Kind::status(503, BodyForm::Empty), delay).route(Route::CreateToken).chance(1.0, seed),
        );
        for role in ["one", "two", "three", "four"] {
            assert_eq!(client.try_create(role).await.unwrap().status, 503);
        }
        astra.advance(Duration::from_millis(delay.max_ms));
        // Two simulators mint the same client ids one after the other, so these pairs show the order of the mints.
        let seen: Vec<_> = live(&astra).into_iter().map(|token| (token.client_id, token.roles)).collect();
        assert_eq!(seen.len(), 4, "every request took effect");
        seen
    };
    let first = effects(7).await;
    assert_eq!(first, effects(7).await, "the same seed gives the same order");
    assert_ne!(first, effects(8).await);
}

#[tokio::test]
async fn faults_with_late_effects_can_be_set_over_the_control_endpoint() {
    let astra = Astra::spawn();
    let client = Client::new(&astra);
    let http = reqwest::Client::new();
    let post =
        |path: &str, body: serde_json::Value| http.post(format!("{}{path}", astra.control_url())).json(&body).send();
    let fault = json!({
        "match": { "route": "create_token", "count": 1 },
        "phase": { "late": { "min_ms": 1000, "max_ms": 120_000 } },
        "kind": { "status": { "code": 503 } },
    });
    assert_eq!(post("/faults", fault).await.unwrap().status(), 200);
    assert_eq!(client.try_create("x").await.unwrap().status, 503);
    assert_eq!(astra.counters()["faults"], json!({ "status": 1, "late": 1 }));
    post("/clock", json!({ "advance_ms": 120_000 })).await.unwrap();
    assert_eq!(live(&astra).len(), 1);

    astra.fault(AstraFault::late(Kind::Reset, DELAY));
    assert!(client.try_create("x").await.is_err());
    post("/reset", json!({})).await.unwrap();
    pass_time(&astra);
    assert_eq!(astra.minted(), 0, "a reset forgets late requests");
}
