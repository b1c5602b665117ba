//! Attacks by Astra, or by an attacker in its place.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::attack;
use super::peer::Peer;
use crate::astra::{Astra, AstraFault, Certificate, Kind, Redirect, Route};
use crate::bao::{Reply, Server};
use crate::world::{Org, ROLE_ID, World};

/// More than the engine may use for a response of Astra, and less than an attacker sends.
const MEMORY_KIB: u64 = 48 << 10;

/// Long enough on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Returns a mount on a server whose plugin only serves hostile peers.
fn world(mount: &str, astra: crate::astra::Builder) -> (World, Org) {
    static SERVER: OnceLock<Arc<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Arc::new(Server::dev()));
    server.enable(mount);
    let world = World::with_astra(server, mount, astra);
    let org = world.next_org();
    (world, org)
}

/// Returns a mount with a configured org that has the role `reader`.
fn ready(mount: &str) -> (World, Org) {
    let (world, org) = world(mount, Astra::builder().orgs(3));
    world.configure(&org, &json!({"logical_name": "shop", "request_timeout": "2s"}));
    world.role(&org, "reader", 3600, 36000);
    (world, org)
}

/// Mints under a fault and compares the answer with the table. Then checks that no token is left and that the next mint
/// works.
#[track_caller]
fn mint_under_fault(test: &str, world: &World, org: &Org, kind: Kind) {
    let fault = world.fault(AstraFault::after(kind).route(Route::CreateToken));
    let reply = world.get("creds/shop/reader");
    assert!(world.fired(fault) > 0);
    world.clear_faults();
    attack(test).is_answered_with(reply.status, &reply.errors());
    world.assert_no_secret("an error", &reply.errors());
    // The undo runs at once, but the caller does not wait for it.
    world.wait_for(SOON, |astra| astra.live(&org.id).is_empty());
    assert!(world.keys("org/tokens").is_empty());
    let next = crate::world::Token::of(world.get("creds/shop/reader").ok());
    world.revoke(&next).ok();
}

#[test]
fn a_redirect_to_another_host_is_not_followed() {
    let (world, org) = ready("redirect");
    let thief = Peer::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    for code in [301, 302, 303, 307, 308] {
        let kind = Kind::Redirect { code, to: Redirect::Other(thief.url.clone()) };
        mint_under_fault("a_redirect_to_another_host_is_not_followed", &world, &org, kind);
    }
    assert_eq!(thief.connections(), 0, "the redirect was followed");
}

#[test]
fn an_answer_of_100_mb_does_not_fill_the_memory() {
    let (world, org) = ready("huge");
    let &[plugin] = world.server.plugins().as_slice() else { panic!("one process serves all mounts") };
    let before = peak(plugin);
    mint_under_fault("an_answer_of_100_mb_does_not_fill_the_memory", &world, &org, Kind::HugeBody { bytes: 100 << 20 });
    let grown = peak(plugin) - before;
    assert!(grown < MEMORY_KIB, "the memory of the plugin grew by {grown} KiB");
    assert_eq!(world.server.plugins(), [plugin]);
}

/// Returns the highest memory use of a process so far, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status of the plugin");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn a_very_slow_answer_ends_with_a_timeout() {
    let (world, org) = ready("drip");
    let start = Instant::now();
    mint_under_fault("a_very_slow_answer_ends_with_a_timeout", &world, &org, Kind::SlowBody { interval_ms: 500 });
    // A reader that waits for a byte each half a second would need minutes.
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_server_with_a_wrong_certificate_gets_no_request() {
    let good = Astra::builder().tls(Certificate::Valid).spawn();
    let of_another = good.ca_pem().expect("a CA").to_owned();
    let cases = [("unknown", Certificate::Valid), ("expired", Certificate::Expired), ("host", Certificate::WrongHost)];
    for (name, certificate) in cases {
        let (world, org) = world(&format!("tls-{name}"), Astra::builder().orgs(3).tls(certificate));
        let trusted = if name == "unknown" { of_another.as_str() } else { world.ca_pem().expect("a CA") };
        let body = json!({"org_id": org.id, "astra_token": org.root_token, "url": world.url(), "ca_cert": trusted});
        let reply = world.post("config", &body);
        attack("a_server_with_a_wrong_certificate_gets_no_request").is_answered_with(reply.status, &reply.errors());
        // A write without the connection check succeeds. Then the mint must fail before it sends a request.
        world.configure(&org, &json!({"logical_name": "shop", "ca_cert": trusted, "verify_connection": false}));
        world.role(&org, "reader", 60, 600);
        world.get("creds/shop/reader").fails(503);
        assert!(world.requests().is_empty(), "{name}: a request was sent");
    }
}

#[test]
fn a_client_id_cannot_change_the_path_of_a_call() {
    let (world, org) = ready("client-id");
    for id in ["../organizations/roles", "a/b", "..", ".", "a:b", "a%2fb/../..", "a\r\nb", "a\u{0}b", ""] {
        let kind = Kind::SetField { field: "clientId".into(), value: json!(id) };
        mint_under_fault("a_client_id_cannot_change_the_path_of_a_call", &world, &org, kind);
    }
    let kind = Kind::SetField { field: "clientId".into(), value: json!("x".repeat(1000)) };
    mint_under_fault("a_client_id_cannot_change_the_path_of_a_call", &world, &org, kind);
    let paths: Vec<String> = world.requests().into_iter().map(|call| call.path).collect();
    let known = |path: &str| {
        let id = path.strip_prefix("/v2/clientIdSecrets/");
        matches!(path, "/v2/clientIdSecrets" | "/v2/currentOrg") || id.is_some_and(|id| world.token(id).is_some())
    };
    assert!(paths.iter().all(|path| known(path)), "{paths:?}");
}

#[test]
fn a_token_with_invalid_characters_reaches_no_caller() {
    let (world, org) = ready("token");
    let meets = |token: &str, generated_on: &str| {
        let text = json!({"clientId": "EvilClient", "secret": "s", "orgId": org.id, "token": token, "roles": [],
            "generatedOn": generated_on});
        let body = Kind::Body { content_type: "application/json".into(), text: text.to_string() };
        world.fault(AstraFault::before(body).route(Route::CreateToken).once());
        world.get("creds/shop/reader")
    };
    let long = "x".repeat(100_000);
    for digest in ["a\nadmin: true", "a\r\nb", "a b", "a\u{0}b", "a\u{1b}[2J", "a\u{2028}b", &long] {
        let reply = meets(&format!("AstraCS:EvilClient:{digest}"), "2026-01-01T00:00:00Z");
        attack("a_token_with_invalid_characters_reaches_no_caller").is_answered_with(reply.status, &reply.errors());
    }
    assert!(world.keys("org/tokens").is_empty());
    // The engine does not refuse a token with an invalid time. It shows the time of its own clock instead.
    for time in ["today\nadmin: true", &long, "\u{1b}[2J"] {
        let token = crate::world::Token::of(meets("AstraCS:EvilClient:0123456789abcdef", time).ok());
        let told = token.data["generatedOn"].as_str().expect("a time").to_owned();
        assert!(told.parse::<jiff::Timestamp>().is_ok(), "{told:.100}");
        world.revoke(&token).ok();
    }
}

/// Mints for an org that does not exist. The peer answers the call to Astra.
fn mint_of(world: &World, name: &str, peer: &Peer) -> Reply {
    let token = format!("AstraCS:{name}:0123456789abcdef0123456789abcdef");
    let body = json!({"org_id": name, "logical_name": name, "astra_token": token, "url": peer.url,
        "request_timeout": "2s", "verify_connection": false});
    world.post("config", &body).ok();
    world.post("role", &json!({"org_id": name, "role_name": "reader", "role_id": ROLE_ID})).ok();
    world.get(&format!("creds/{name}/reader"))
}

/// Lets each peer answer a mint, all at the same time, and compares the answers with the table.
fn mint_at_each_peer(test: &str, mount: &str, peers: Vec<(&str, Peer)>) {
    let (world, _) = world(mount, Astra::builder().orgs(1));
    std::thread::scope(|scope| {
        for (name, peer) in &peers {
            let world = &world;
            scope.spawn(move || {
                let reply = mint_of(world, name, peer);
                assert!(peer.connections() > 0, "{name} got no request");
                assert!(reply.errors().len() < 2000 && !reply.errors().contains("EVIL"), "{name}: {reply}");
                attack(test).is_answered_with(reply.status, &format!("{name}: {}", reply.errors()));
            });
        }
    });
    assert!(world.keys("org/tokens").is_empty());
    // The plugin still serves the mount.
    assert_eq!(world.keys("configs").len(), peers.len());
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

#[test]
fn only_the_mint_with_hostile_headers_fails() {
    let head = |lines: &str| format!("{OK}{lines}\r\n\r\n{{}}");
    let many: String = (0..20_000).map(|n| format!("x-{n}: EVIL\r\n")).collect();
    let peers = vec![
        ("many", Peer::saying(head(&many))),
        ("long", Peer::saying(head(&format!("x: {}", "EVIL".repeat(1 << 20))))),
        ("endless", Peer::never_ending("HTTP/1.1 200 OK\r\n", "x: EVIL\r\n")),
        ("nul", Peer::saying(head("x: EVIL\0EVIL"))),
        ("bare", Peer::saying(head("x: EVIL\nEVIL\rEVIL"))),
        ("negative", Peer::saying(head("content-length: -1"))),
        ("two-lengths", Peer::saying(head("content-length: 2\r\ncontent-length: 3"))),
        ("large-length", Peer::saying(head("content-length: 99999999999999999999999"))),
        ("chunk", Peer::saying(format!("{OK}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nEVIL"))),
        ("status", Peer::saying("HTTP/1.1 99999 EVIL\r\n\r\n")),
        ("version", Peer::saying("HTTP/9.9 200 OK\r\n\r\n{}")),
        (
            "upgrade",
            Peer::saying("HTTP/1.1 101 Switching Protocols\r\nupgrade: EVIL\r\nconnection: upgrade\r\n\r\nEVIL"),
        ),
        ("tls", Peer::saying(b"\x15\x03\x01\x00\x02\x02\x28".to_vec())),
        ("h2", Peer::saying(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00".repeat(9))),
        ("nothing", Peer::saying("")),
    ];
    mint_at_each_peer("only_the_mint_with_hostile_headers_fails", "headers", peers);
}

#[test]
fn endless_interim_answers_end_with_a_timeout() {
    let peers = vec![
        ("interim", Peer::never_ending("", "HTTP/1.1 100 Continue\r\n\r\n")),
        ("early", Peer::never_ending("", "HTTP/1.1 103 Early Hints\r\nlink: EVIL\r\n\r\n")),
    ];
    mint_at_each_peer("endless_interim_answers_end_with_a_timeout", "interim", peers);
}

#[test]
fn only_the_mint_with_a_hostile_body_fails() {
    let whole = |body: Vec<u8>, more: &str| {
        [format!("{OK}{more}content-length: {}\r\n\r\n", body.len()).into_bytes(), body].concat()
    };
    let nested = |open: &str, close: &str, depth: usize| (open.repeat(depth) + "1" + &close.repeat(depth)).into_bytes();
    let keys: String = (0..30_000).map(|n| format!("\"EVIL{n}\":1,")).collect();
    let peers = vec![
        ("arrays", Peer::saying(whole(nested("[", "]", 200_000), ""))),
        ("objects", Peer::saying(whole(nested("{\"EVIL\":", "}", 50_000), ""))),
        ("keys", Peer::saying(whole(format!("{{{keys}\"clientId\":\"\"}}").into_bytes(), ""))),
        ("number", Peer::saying(whole(format!("{{\"clientId\":1e{}}}", "9".repeat(100_000)).into_bytes(), ""))),
        ("surrogate", Peer::saying(whole(br#"{"clientId":"\ud800","token":"EVIL"}"#.to_vec(), ""))),
        // The engine does not decompress the body, so the body cannot grow.
        ("packed", Peer::saying(whole(b"\x1f\x8b\x08EVIL".repeat(1000), "content-encoding: gzip\r\n"))),
        ("page", Peer::saying(whole(b"<script>EVIL</script>".to_vec(), ""))),
        ("endless", Peer::never_ending("HTTP/1.1 200 OK\r\n\r\n", "[")),
    ];
    mint_at_each_peer("only_the_mint_with_a_hostile_body_fails", "bodies", peers);
}

#[test]
fn a_long_reason_is_shortened_and_cleaned() {
    let evil = "\u{1b}]0;title\u{7}\r\nforged log line ".repeat(2000);
    let mut peers = Vec::new();
    for (name, body) in [("text", evil.clone()), ("json", json!({"errors": [{"ID": 1, "message": evil}]}).to_string())]
    {
        let answer = format!("HTTP/1.1 400 Bad\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        peers.push((name, Peer::saying(answer)));
    }
    let (world, _) = world("reason", Astra::builder().orgs(1));
    for (name, peer) in peers {
        let reply = mint_of(&world, name, &peer);
        attack("a_long_reason_is_shortened_and_cleaned").is_answered_with(reply.status, &reply.errors());
        assert!(
            reply.errors().len() < 2000 && !reply.errors().chars().any(|c| c.is_control() && !"\n\t".contains(c)),
            "{reply}"
        );
    }
    let log = world.server.log();
    assert!(
        !log.contains('\u{1b}') && !log.lines().any(|line| line.trim_start().starts_with("forged")),
        "the log contains a forged line"
    );
}

/// Lets Astra return this list of roles, and returns the answer to an import.
fn import(world: &World, org: &Org, list: &Value) -> Reply {
    let body = Kind::Body { content_type: "application/json".into(), text: list.to_string() };
    world.fault(AstraFault::before(body).route(Route::ListRoles).once());
    world.post("roles/sync", &json!({"org_id": org.id}))
}

#[test]
fn a_list_of_60_000_roles_is_not_imported() {
    let (world, org) = ready("roles");
    let list: Vec<Value> = (0..60_000).map(|n| json!({"id": format!("id-{n}"), "name": format!("role {n}")})).collect();
    let reply = import(&world, &org, &json!(list));
    attack("a_list_of_60_000_roles_is_not_imported").is_answered_with(reply.status, &reply.errors());
    assert_eq!(world.keys("roles"), ["reader"]);
}

#[test]
fn imported_roles_have_only_safe_names() {
    let (world, org) = ready("role-names");
    let names = ["../../config", "a/b:c", "\u{202e}\u{1b}[2J", "x\u{0}y", "...", "{{x}}", "reader", "Reader"];
    let mut list: Vec<Value> =
        names.iter().enumerate().map(|(n, name)| json!({"id": format!("id-{n}"), "name": name})).collect();
    list.push(json!({"id": "long", "name": "n".repeat(90_000)}));
    list.push(json!({"id": "x".repeat(90_000), "name": "long id"}));
    list.extend(["a\r\nb", "\u{0}", ""].map(|id| json!({"id": id, "name": format!("wrong id {id:?}")})));
    list.extend([json!(7), json!([]), json!(null), json!({"id": 7, "name": {}})]);
    let before = world.get(&format!("role?org_id={}&role_name=reader", org.id)).data();
    let reply = import(&world, &org, &json!(list));
    attack("imported_roles_have_only_safe_names").is_answered_with(reply.status, &reply.warnings());
    assert!(!reply.warnings().chars().any(|c| c.is_control() && c != '\n'), "{reply}");
    for name in world.keys("roles") {
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name:?}");
    }
    assert_eq!(
        world.get(&format!("role?org_id={}&role_name=reader", org.id)).data(),
        before,
        "an import changed an existing role"
    );
    assert_eq!(world.keys("configs"), std::slice::from_ref(&org.id));
}
