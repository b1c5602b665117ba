//! The texts of `path-help` and the OpenAPI document.

use serde_json::Value;
use vault_plugin_sdk::logical::Operation;

use super::{World, some};

#[tokio::test]
async fn every_path_has_help() {
    let world = World::unprepared().await;
    let mut texts = String::new();
    let root = some(world.ask(Operation::Help, "", Value::Null).await);
    let document = root.data.unwrap()["openapi"].take();
    let paths = document["paths"].as_object().unwrap().keys();
    let paths = paths.map(|path| path.trim_matches('/').replace("{org}", "retail").replace("{role}", "reader"));
    for path in [String::new()].into_iter().chain(paths) {
        let response = some(world.ask(Operation::Help, &path, Value::Null).await);
        let help = response.data.unwrap()["help"].as_str().unwrap().to_owned();
        texts.push_str(&format!("==== {path:?}\n{}\n", help.trim_end()));
    }
    insta::assert_snapshot!("help", texts);
}

#[tokio::test]
async fn every_path_is_in_the_openapi_document() {
    let world = World::unprepared().await;
    let response = some(world.ask(Operation::Help, "", Value::Null).await);
    let mut document = response.data.unwrap()["openapi"].take();
    document["info"]["version"].take();
    let parameters = |path: &str, method: &str| {
        let parameters = document["paths"][path][method]["parameters"].as_array().unwrap();
        parameters.iter().map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(parameters("/config", "get"), ["org_id", "logical_name"], "no root token in a query");
    assert_eq!(parameters("/config", "delete"), ["org_id", "force"]);
    assert_eq!(parameters("/role", "get"), ["org_id", "role_name"]);
    assert_eq!(parameters("/org/token", "delete"), ["org_id", "role_name", "logical_name", "client_id"]);
    assert_eq!(parameters("/creds/{org}/{role}", "get"), ["logical_name", "metadata", "ttl"]);
    insta::assert_json_snapshot!("openapi", document);
    assert_eq!(world.storage.calls(), 0, "neither making a mount nor help needs storage");
}

#[tokio::test]
async fn the_host_learns_the_special_paths() {
    let special = World::unprepared().await.backend.special_paths();
    assert_eq!(special.seal_wrap_storage, ["config/", "token/", "wal/"]);
    assert_eq!(special.local_storage, ["wal/"]);
    assert!(special.root.is_empty() && special.unauthenticated.is_empty());
}
