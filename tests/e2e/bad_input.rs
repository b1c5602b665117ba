//! Wrong input is refused with a helpful text, and changes nothing.

use serde_json::{Value, json};

use crate::bao::Server;
use crate::world::{Mode, ROLE_ID, World};

/// A request that must be refused, and the words that its error must contain.
struct Case {
    method: &'static str,
    path: String,
    body: Value,
    names: &'static str,
}

fn case(method: &'static str, path: impl Into<String>, body: Value, names: &'static str) -> Case {
    Case { method, path: path.into(), body, names }
}

/// Returns the whole visible state of the mount.
fn state(world: &World) -> Value {
    let ids = world.keys("configs");
    let configs: Vec<Value> = ids.iter().map(|id| world.get(&format!("config?org_id={id}")).data()).collect();
    let roles: Vec<Value> =
        ids.iter().map(|id| world.list(&format!("roles?org_id={id}")).body["data"].clone()).collect();
    json!({
        "configs": configs,
        "roles": roles,
        "tokens": world.list("org/tokens").body["data"],
        "leases": world.server.list(&format!("sys/leases/lookup/{}/org/token/", world.mount)).body["data"],
        "minted": world.minted(),
        "plugins": plugins(&world.server),
    })
}

fn plugins(server: &Server) -> Value {
    json!(server.plugins())
}

/// Sends every case to a mount with one org of each mode, a role and a token.
fn assert_refused(cases: impl FnOnce(&World, &str, &str) -> Vec<Case>) {
    let world = World::new();
    let (standard, sidecar) = (world.configured("direct", Mode::Standard), world.configured("agents", Mode::Sidecar));
    for org in [&standard, &sidecar] {
        world.role(org, "reader", 60, 600);
    }
    world.mint(&standard, "reader", "cart");
    let before = state(&world);
    let mut faults = Vec::new();
    for case in cases(&world, &standard.id, &sidecar.id) {
        let reply = world.server.http(case.method, &world.at(&case.path), &case.body);
        let text = reply.errors();
        if !(400..500).contains(&reply.status) || !text.contains(case.names) {
            faults.push(format!("not refused, or the error does not name {:?}:\n{reply}", case.names));
        }
        world.assert_no_secret("an error", &text);
    }
    let faults: Vec<String> =
        faults.iter().map(|text| text.split("server log").next().unwrap_or_default().to_owned()).collect();
    assert!(faults.is_empty(), "{} cases\n{}", faults.len(), faults.join("\n"));
    assert_eq!(state(&world), before, "a refused request changed something");
}

/// Ids and names that could escape from their storage key. Each is a valid name with one change.
fn bad_names() -> Vec<String> {
    vec!["a/b".into(), "a:b".into(), "../x".into(), "a\nb".into(), "a\u{0}b".into(), "x".repeat(256)]
}

#[test]
fn config_refuses_wrong_values() {
    assert_refused(|world, org_id, _| {
        let token = "AstraCS:aaaaaaaaaaaaaaaaaaaaaaaa:0123456789abcdef";
        let new = |field: &str, value: Value| {
            let mut body = json!({
                "org_id": "2f0e5d1c-0000-4000-8000-000000000001", "astra_token": token, "url": world.url(),
                "verify_connection": false,
            });
            body[field] = value;
            body
        };
        let mut cases = vec![
            case("POST", "config", json!({"astra_token": token}), "org_id"),
            case("POST", "config", new("org_id", json!("")), "org_id"),
            case("POST", "config", json!({"org_id": "2f0e5d1c-0000-4000-8000-000000000001"}), "astra_token"),
            case("POST", "config", new("logical_name", json!("direct")), "logical_name"),
            case("POST", "config", json!({"org_id": org_id, "logical_name": "agents"}), "logical_name"),
            case("GET", "config", Value::Null, "org_id"),
            case("DELETE", "config", Value::Null, "org_id"),
            case("PATCH", "config", json!({"caller_mode": "sidecar"}), "org_id"),
            case("DELETE", format!("config?org_id={org_id}&force=perhaps"), Value::Null, "force"),
        ];
        for name in bad_names() {
            cases.push(case("POST", "config", new("org_id", json!(name)), "org_id"));
        }
        let wrong: [(&str, &[Value]); 8] = [
            ("astra_token", &[json!(""), json!("nonsense"), json!("AstraCS:half"), json!("AstraCS::x"), json!(["x"])]),
            ("url", &[json!("ftp://astra.example"), json!("no url"), json!("http://"), json!(["x"])]),
            ("caller_mode", &[json!("sometimes"), json!(3)]),
            ("verify_connection", &[json!("perhaps"), json!([1])]),
            ("ca_cert", &[json!("no PEM"), json!("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----")]),
            ("request_timeout", &[json!("soon"), json!(-1), json!("-5s"), json!({})]),
            ("description", &[json!("perhaps")]),
            ("token_expiry", &[json!("perhaps")]),
        ];
        for (field, values) in wrong {
            for value in values {
                cases.push(case("POST", "config", new(field, value.clone()), field));
                if field != "verify_connection" {
                    let mut change = json!({"org_id": org_id});
                    change[field] = value.clone();
                    cases.push(case("PATCH", "config", change, field));
                }
            }
        }
        cases
    });
}

/// The host parses these values from a query or a body. `src/tests/input.rs` tests the other values.
#[test]
fn org_token_refuses_wrong_values() {
    assert_refused(|_, org_id, sidecar| {
        let mint = |field: &str, value: Value| {
            let mut body = json!({"org_id": org_id, "role_name": "reader", "logical_name": "new"});
            body[field] = value;
            body
        };
        let read = |query: &str| format!("org/token?org_id={sidecar}&role_name=reader&{query}");
        vec![
            case("POST", "org/token", mint("logical_name", json!("CART")), "logical_name"),
            case("POST", "org/token", mint("org_id", json!("unknown")), "org_id"),
            case("POST", "org/token", mint("org_id", json!(sidecar)), "read"),
            case("POST", "org/token", mint("metadata", json!([["a"]])), "metadata"),
            case("GET", "org/token", Value::Null, "org_id"),
            case("GET", format!("org/token?org_id={org_id}&client_id=a/b"), Value::Null, "client_id"),
            case("GET", format!("org/token?org_id={sidecar}&client_id=abc"), Value::Null, "client_id"),
            case("GET", read("ttl=soon"), Value::Null, "ttl"),
            case("GET", read("ttl=-1"), Value::Null, "ttl"),
            case("GET", read("metadata=nopair"), Value::Null, "metadata"),
            case("DELETE", format!("org/token?org_id={org_id}&role_name=reader"), Value::Null, "logical_name"),
            case("LIST", "org/tokens?org_id=a/b", Value::Null, "org_id"),
            case("LIST", "org/tokens?limit=few", Value::Null, "limit"),
            case("LIST", "org/tokens?after=a&after=b", Value::Null, "after"),
        ]
    });
}

#[test]
fn a_likely_mistake_gives_a_warning() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    let body = json!({"org_id": org.id, "role_name": "reader", "role_id": ROLE_ID, "tll": 60});
    let reply = world.post("role", &body);
    assert!(reply.status < 300 && reply.warnings().contains("tll"), "{reply}");

    let body = json!({"org_id": "unknown", "role_name": "reader", "role_id": ROLE_ID});
    let reply = world.post("role", &body);
    assert!(reply.status < 300 && reply.warnings().contains("org_id"), "{reply}");
}

#[test]
fn an_unknown_path_returns_404() {
    let world = World::new();
    world.configured("shop", Mode::Standard);
    for path in ["nothing", "org", "org/token/x", "creds", "creds/shop", "creds/shop/a/b", "config/x"] {
        assert_eq!(world.get(path).status, 404, "{path}");
    }
}
