//! Checks the server's audit log: it contains the requests to the engine, and no secret in clear text.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::bao::{AUDIT, Options, Server};
use crate::world::{Mode, Token, World};

#[test]
fn the_audit_log_holds_no_secret_in_clear_text() {
    let server = Arc::new(Server::dev_with(&Options { config: AUDIT, ..Options::default() }));
    let file = server.audit();
    let world = World::at_mount(&server, "astra");

    let standard = world.configured("shop", Mode::Standard);
    let sidecar = world.configured("agents", Mode::Sidecar);
    for org in [&standard, &sidecar] {
        world.role(org, "reader", 3600, 36000);
    }
    let written = world.mint(&standard, "reader", "cart");
    world.fetch(&standard, &written).ok();
    let query = format!("org/token?org_id={}&role_name=reader&metadata=team%3Dblue", sidecar.id);
    let read = Token::of(world.get(&query).ok());
    for token in [&written, &read] {
        world.renew(token, 60).ok();
    }
    world.get(&format!("config?org_id={}", standard.id)).ok();
    world.patch("config", &json!({"org_id": standard.id, "astra_token": standard.root_token})).ok();
    for listed in ["org/tokens", "configs", "roles"] {
        world.list(listed).ok();
    }
    // A token that Astra rejects, and a token in the wrong field.
    world
        .post("config", &json!({"org_id": standard.id, "astra_token": format!("{}x:y", standard.root_token)}))
        .fails(400);
    world.post("org/token", &json!({"org_id": standard.id, "role_name": standard.root_token})).fails(400);
    world.revoke(&written).ok();
    world.delete(&format!("org/token?org_id={}&client_id={}", sidecar.id, read.client_id)).ok();

    let text = fs::read_to_string(file).expect("the audit log");
    world.assert_no_secret("the audit log", &text);
    let entries: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    // Requests and responses are in the log. Values that are not secret are hashed, too.
    let hashed = |path: &str, pointer: &str| {
        let of_path = entries.iter().filter(|entry| entry["request"]["path"] == world.at(path).as_str());
        let values: Vec<&str> = of_path.filter_map(|entry| entry.pointer(pointer)?.as_str()).collect();
        assert!(values.iter().all(|value| value.starts_with("hmac-sha256:")), "{path} {pointer} is not hashed");
        values.len()
    };
    assert_eq!(hashed("org/token", "/response/data/token"), 3, "one write, one fetch and one read that mints");
    assert!(hashed("config", "/request/data/astra_token") >= 4);
    assert!(hashed("config", "/response/data/astra_token") >= 1);
    let renewed = entries.iter().filter(|entry| entry["request"]["path"] == "sys/leases/renew");
    let tokens: Vec<&str> = renewed.filter_map(|entry| entry.pointer("/response/data/token")?.as_str()).collect();
    assert!(
        tokens.len() == 2 && tokens.iter().all(|token| token.starts_with("hmac-sha256:")),
        "the log of a renewal holds a token that is not hashed"
    );
}
