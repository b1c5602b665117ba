//! The faults of the storm: faults of Astra, and kills of the plugin.

use std::time::{Duration, Instant};

use serde_json::json;

use super::setup::Storm;
use crate::astra::{AstraFault, BodyForm, Delay, Empty, Kind, Malformed, Redirect, RetryAfter, Route};

/// Delays in milliseconds: calls succeed after SHORT, and always fail after LONG.
const SHORT: u64 = 200;
const LONG: u64 = 2500;

/// Sets the faults. Each has a small chance of occurring.
pub(super) fn set_faults(storm: &Storm, rng: &mut fastrand::Rng) {
    let mut set = |route: Route, chance: f64, faults: Vec<AstraFault>| {
        for fault in faults {
            storm.world.fault(fault.route(route).chance(chance, rng.u64(..)));
        }
    };
    set(Route::CreateToken, 0.004, mint_faults());
    // The host gives a lease up after six failures in a row, so these faults must be rare.
    set(Route::DeleteToken, 0.008, delete_faults());
    set(Route::ListTokens, 0.01, list_faults());
    set(Route::CurrentOrg, 0.01, list_faults());
    for org in storm.world.orgs() {
        // If an answer names the root token, the engine must not delete the root token.
        let root = Kind::SetField { field: "clientId".into(), value: json!(org.client_id) };
        storm.world.fault(AstraFault::after(root).route(Route::CreateToken).org(&org.id).chance(0.005, rng.u64(..)));
    }
}

/// Sets the faults after which a request takes effect late, or a second time, up to `longest` after the failure. The seed
/// chooses how often each occurs.
pub(super) fn set_late_faults(storm: &Storm, rng: &mut fastrand::Rng, longest: Duration) {
    let delay = Delay { min_ms: 1000, max_ms: u64::try_from(longest.as_millis()).expect("a delay of some minutes") };
    // A late request is answered with a 504. A request that takes effect twice is answered with a success. If that is a
    // mint, nothing leads to its second token, which stays until it expires.
    let slow = Kind::HangBeforeHeaders { for_ms: Some(SHORT) };
    for route in [Route::CreateToken, Route::DeleteToken] {
        let failures = gateway_failures().into_iter();
        let mut faults: Vec<AstraFault> = failures
            .flat_map(|kind| [AstraFault::late(kind.clone(), delay), AstraFault::twice(kind, delay)])
            .chain([AstraFault::late(slow.clone(), delay)])
            .collect();
        if route == Route::DeleteToken {
            faults.push(AstraFault::twice(slow.clone(), delay));
        }
        for fault in faults {
            let chance = 0.001 + 0.004 * rng.f64();
            storm.world.fault(fault.route(route).chance(chance, rng.u64(..)));
        }
    }
}

/// Kills the plugin every three to eight seconds until the end. Returns the number of killed plugins.
pub(super) fn kill_plugins_until(storm: &Storm, rng: &mut fastrand::Rng, end: Instant) -> usize {
    let mut kills = 0;
    loop {
        let pause = Duration::from_millis(rng.u64(3000..=8000));
        let left = end.saturating_duration_since(Instant::now());
        std::thread::sleep(pause.min(left));
        if pause >= left {
            return kills;
        }
        kills += storm.server.kill_plugins_unnoticed();
    }
}

/// Failures of any call. Only the effect of the call is unknown.
fn failures() -> Vec<Kind> {
    vec![
        Kind::Reset,
        Kind::CleanClose,
        Kind::HangBeforeHeaders { for_ms: Some(SHORT) },
        Kind::HangBeforeHeaders { for_ms: Some(LONG) },
        Kind::status(500, BodyForm::Errors),
        Kind::status(502, BodyForm::Html),
        Kind::Status { code: 503, body: BodyForm::Text, retry_after: Some(RetryAfter::Seconds(1)) },
        Kind::status(504, BodyForm::Empty),
    ]
}

/// Failures of a gateway that still sends the request to Astra, or sends it again.
fn gateway_failures() -> Vec<Kind> {
    vec![
        Kind::Reset,
        Kind::CleanClose,
        Kind::HangBeforeHeaders { for_ms: None },
        Kind::HangBeforeHeaders { for_ms: Some(LONG) },
        Kind::status(503, BodyForm::Text),
        Kind::status(504, BodyForm::Html),
    ]
}

/// Rejections, which have no effect.
fn rejections() -> Vec<Kind> {
    let after = [
        RetryAfter::Seconds(0),
        RetryAfter::Seconds(1),
        RetryAfter::Seconds(-1),
        RetryAfter::Seconds(86_400),
        RetryAfter::DateIn(1),
        RetryAfter::Text("soon".into()),
    ];
    let mut kinds: Vec<Kind> = after.into_iter().map(Kind::too_many_requests).collect();
    kinds.extend([
        Kind::status(429, BodyForm::Empty),
        Kind::status(403, BodyForm::Errors),
        Kind::null_401(),
        Kind::Redirect { code: 302, to: Redirect::Same },
        Kind::Redirect { code: 307, to: Redirect::Other("http://127.0.0.1:9".into()) },
    ]);
    kinds
}

/// Unreadable answers.
fn garbage() -> Vec<Kind> {
    let mut kinds = vec![
        Kind::CutBody { bytes: 40, reset: false },
        Kind::CutBody { bytes: 40, reset: true },
        Kind::TruncatedChunk { bytes: 40 },
        Kind::HangAfterHeaders { for_ms: Some(LONG) },
        Kind::SlowBody { interval_ms: 100 },
        Kind::Body { content_type: "text/html".into(), text: "<html>maintenance</html>".into() },
    ];
    let bodies = [Malformed::Cut, Malformed::TrailingGarbage, Malformed::NotANumber, Malformed::InvalidUtf8];
    kinds.extend(bodies.map(Kind::Malformed));
    kinds.push(Kind::Malformed(Malformed::WrongTopLevel));
    kinds
}

/// Successes without content.
fn empties() -> Vec<Kind> {
    [Empty::Nothing, Empty::Null, Empty::Object, Empty::Array, Empty::String].map(Kind::Empty).into()
}

fn mint_faults() -> Vec<AstraFault> {
    let field = |name: &str, value| Kind::SetField { field: name.into(), value };
    let drop = |name: &str| Kind::DropFields(vec![name.into()]);
    // Only after the effect: without a real token, these answers would describe tokens that never existed.
    let odd = vec![
        drop("clientId"),
        drop("token"),
        drop("secret"),
        drop("orgId"),
        drop("generatedOn"),
        field("clientId", json!("AnotherTokensClientIdABC")),
        field("clientId", json!(7)),
        field("orgId", json!("another-org")),
        field("token", json!("")),
        Kind::Malformed(Malformed::DuplicateKeys),
        Kind::Malformed(Malformed::ByteOrderMark),
        Kind::ContentType("text/html".into()),
        Kind::HugeBody { bytes: 2 << 20 },
        Kind::HangAfterHeaders { for_ms: Some(SHORT) },
    ];
    let before = [failures(), rejections(), garbage(), empties()].concat();
    let after = [failures(), garbage(), empties(), odd].concat();
    before.into_iter().map(AstraFault::before).chain(after.into_iter().map(AstraFault::after)).collect()
}

fn delete_faults() -> Vec<AstraFault> {
    let page = Kind::Body { content_type: "text/html".into(), text: "<html>log in</html>".into() };
    let proxies = vec![Kind::ProxyNotFound { html: true }, Kind::ProxyNotFound { html: false }, page];
    let before =
        [failures(), proxies, vec![Kind::too_many_requests(RetryAfter::Seconds(1)), Kind::null_401()]].concat();
    before.into_iter().map(AstraFault::before).chain(failures().into_iter().map(AstraFault::after)).collect()
}

fn list_faults() -> Vec<AstraFault> {
    [failures(), garbage(), empties()].concat().into_iter().map(AstraFault::before).collect()
}
