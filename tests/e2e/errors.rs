//! What a user sees when Astra fails, and what is left of it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::astra::{BodyForm, Empty, Fault, Kind, Malformed, Route};
use crate::bao::Reply;
use crate::world::{Org, Token, World};

fn world() -> (World, Org) {
    let world = World::new();
    let org = world.next_org();
    let fields = json!({"logical_name": "shop", "caller_mode": "sidecar", "request_timeout": "2s"});
    world.configure(&org, &fields);
    world.role(&org, "reader", 3600, 36000);
    (world, org)
}

/// Asks for a token.
fn ask(world: &World, org: &Org) -> Reply {
    world.get(&format!("org/token?org_id={}&role_name=reader", org.id))
}

fn mint(world: &World, org: &Org) -> Token {
    Token::of(ask(world, org).ok())
}

/// Mints under a fault; returns the text of the failure.
fn failure(world: &World, org: &Org, fault: Fault, status: u16) -> String {
    let fault = world.fault(fault.route(Route::CreateToken));
    let text = ask(world, org).fails(status);
    assert!(world.fired(fault) > 0, "the fault did not happen");
    world.clear_faults();
    world.assert_no_secret("the error", &text);
    text
}

/// Shows that a failed mint left nothing, and that the next one works.
fn assert_clean(world: &World, org: &Org) {
    assert!(world.alive(org).is_empty());
    assert!(world.keys("org/tokens").is_empty());
    assert!(world.server.keys(&format!("sys/leases/lookup/{}/org/token/", world.mount)).is_empty());
    let token = mint(world, org);
    world.revoke(&token).ok();
    assert!(world.alive(org).is_empty());
}

#[test]
fn a_refusal_of_astra_reaches_the_user_with_its_status() {
    let (world, org) = world();
    for (code, status) in [(400, 400), (403, 403)] {
        let kind = || Kind::Error { code, id: 340_099, message: "the reason of Astra".into() };
        let text = failure(&world, &org, Fault::before(kind()), status);
        assert!(text.contains("the reason of Astra") && text.contains(&code.to_string()), "{text}");
        assert_clean(&world, &org);
    }
    for body in [BodyForm::Null, BodyForm::Text, BodyForm::JsonString, BodyForm::Empty, BodyForm::Html] {
        failure(&world, &org, Fault::before(Kind::status(403, body)), 403);
        assert_clean(&world, &org);
    }
}

#[test]
fn a_refused_root_token_is_told_as_such() {
    let (world, org) = world();
    for kind in [Kind::null_401(), Kind::status(401, BodyForm::Errors)] {
        let text = failure(&world, &org, Fault::before(kind), 403);
        assert!(text.contains("401"), "{text}");
        assert_clean(&world, &org);
    }
    assert!(world.delete_token(&org.client_id));
    let text = ask(&world, &org).fails(403);
    assert!(text.contains("token"), "{text}");
}

#[test]
fn a_limit_of_astra_is_a_429() {
    let (world, org) = world();
    let text = failure(&world, &org, Fault::before(Kind::status(429, BodyForm::Errors)), 429);
    assert!(text.contains("429") || text.contains("limit"), "{text}");
    assert_clean(&world, &org);
}

#[test]
fn a_refused_connection_is_a_503_and_leaves_nothing() {
    let (world, org) = world();
    world.refuse_connections(true);
    let text = ask(&world, &org).fails(503);
    assert!(text.to_lowercase().contains("connection refused"), "{text}");
    world.refuse_connections(false);
    assert_clean(&world, &org);
}

#[test]
fn failures_of_the_service_have_statuses_of_a_gateway() {
    let (world, org) = world();
    for (code, status) in [(500, 502), (502, 502), (503, 503), (504, 504)] {
        for body in [BodyForm::Errors, BodyForm::Html] {
            let text = failure(&world, &org, Fault::before(Kind::status(code, body)), status);
            assert!(text.contains(&code.to_string()), "{text}");
            assert!(!text.contains('<'), "a page in the error: {text}");
        }
    }
    assert!(world.alive(&org).is_empty());
    assert!(world.keys("org/tokens").is_empty());
    // An ambiguous outcome is never tried again on its own: one call for each failure.
    assert_eq!(world.calls(Route::CreateToken), 8);
}

#[test]
fn broken_answers_are_a_502() {
    let (world, org) = world();
    let kinds = [
        Kind::Reset,
        Kind::CleanClose,
        Kind::Malformed(Malformed::Cut),
        Kind::Malformed(Malformed::WrongTopLevel),
        Kind::Malformed(Malformed::InvalidUtf8),
        Kind::Empty(Empty::Nothing),
        Kind::Empty(Empty::Object),
        Kind::DropFields(vec!["clientId".into()]),
        Kind::CutBody { bytes: 20, reset: true },
    ];
    let count = kinds.len();
    for kind in kinds {
        failure(&world, &org, Fault::before(kind).once(), 502);
    }
    assert!(world.alive(&org).is_empty());
    assert!(world.keys("org/tokens").is_empty());
    assert_eq!(world.calls(Route::CreateToken), u64::try_from(count).unwrap());
}

#[test]
fn silence_is_a_504_within_the_deadline() {
    let (world, org) = world();
    for kind in [
        Kind::HangBeforeHeaders { for_ms: None },
        Kind::HangAfterHeaders { for_ms: None },
        Kind::SlowBody { interval_ms: 200 },
    ] {
        let start = Instant::now();
        failure(&world, &org, Fault::before(kind).once(), 504);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(10), "{took:?}");
    }
}

#[test]
fn a_failed_revocation_is_told_and_can_be_tried_again() {
    let (world, org) = world();
    let token = mint(&world, &org);
    let fault = world.fault(Fault::before(Kind::ProxyNotFound { html: true }).route(Route::DeleteToken).once());
    // A page of a proxy is no proof that the token is gone.
    let reply = world.revoke(&token);
    assert_eq!(world.fired(fault), 1);
    assert!(reply.status >= 400, "{reply}");
    assert_eq!(world.alive(&org), [token.client_id.as_str()]);
    assert!(world.lease_exists(&token));
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());

    let token = mint(&world, &org);
    world.fault(Fault::before(Kind::status(403, BodyForm::Errors)).route(Route::DeleteToken));
    let text = world.revoke(&token).errors();
    assert!(text.contains("403"), "{text}");
    assert_eq!(world.alive(&org).len(), 1);
    world.clear_faults();
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());
}

#[test]
fn a_config_write_tells_why_the_check_failed() {
    let world = World::new();
    let org = world.next_org();
    let body = json!({"org_id": org.id, "astra_token": org.root_token, "url": world.url()});
    let refused = |text: &str| {
        assert!(text.contains("verify_connection"), "{text}");
        assert!(world.keys("configs").is_empty());
    };
    world.refuse_connections(true);
    refused(&world.post("config", &body).fails(400));
    world.refuse_connections(false);

    world.fault(Fault::before(Kind::status(401, BodyForm::Errors)).route(Route::CurrentOrg));
    world.post("config", &body).fails(400);
    world.clear_faults();
    assert!(world.keys("configs").is_empty());

    // Here Astra does not say.
    world.fault(Fault::before(Kind::null_401()).route(Route::CurrentOrg));
    let reply = world.post("config", &body);
    assert!(reply.status < 300 && !reply.warnings().is_empty(), "{reply}");
}
