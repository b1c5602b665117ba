//! Tests the test harness itself with an engine that is built into the server.

use serde_json::json;

use crate::bao::{Server, alive};

#[test]
fn a_server_answers_cli_and_http_and_stops_when_dropped() {
    let server = Server::dev();
    server.cli(&["secrets", "enable", "-path=store", "-version=1", "kv"]).ok();
    server.cli(&["write", "store/one", "colour=blue"]).ok();
    assert_eq!(server.get("store/one").data(), json!({"colour": "blue"}));
    assert_eq!(server.keys("store"), ["one"]);
    assert!(server.keys("store/none").is_empty());
    assert!(server.cli(&["read", "store/two"]).fails().contains("No value found"));
    server.http("GET", "store/two", &json!(null)).fails(404);

    let pid = server.pid();
    assert!(alive(pid));
    drop(server);
    assert!(!alive(pid));
}

#[test]
fn a_server_keeps_its_data_after_a_seal_and_a_restart() {
    let server = Server::raft();
    server.cli(&["secrets", "enable", "-path=store", "-version=1", "kv"]).ok();
    server.cli(&["write", "store/one", "colour=blue"]).ok();

    server.seal();
    server.get("store/one").fails(503);
    server.unseal();
    assert_eq!(server.get("store/one").data(), json!({"colour": "blue"}));

    server.restart();
    assert_eq!(server.get("store/one").data(), json!({"colour": "blue"}));
}
