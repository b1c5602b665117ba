//! The texts of `path-help` and the OpenAPI document.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::Operation;

use super::{World, some};

#[tokio::test]
async fn help_and_openapi_describe_the_same_paths_and_parameters() {
    let world = World::unprepared().await;
    let help_on = async |path: &str| {
        let response = some(world.ask(Operation::Help, path, Value::Null).await);
        response.whole_data().unwrap()["help"].as_str().unwrap().to_owned()
    };
    let root = help_on("").await;
    let document = some(world.ask(Operation::Help, "", Value::Null).await).whole_data().unwrap()["openapi"].take();
    for (path, item) in document["paths"].as_object().unwrap() {
        let name = path.trim_matches('/').replace("{org}", "retail").replace("{role}", "reader");
        let help = help_on(&name).await;
        let synopsis = item["description"].as_str().unwrap();
        assert!(root.contains(synopsis), "the help of the mount lists {path}: {root}");
        assert!(help.contains(synopsis), "{path}: {help}");
        for operation in item.as_object().unwrap().values().filter(|value| value.is_object()) {
            assert!(help.contains(operation["description"].as_str().unwrap()), "{path}: {help}");
            // The server's own parameter `list` asks for a list.
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            for parameter in parameters.filter(|parameter| parameter["name"] != "list") {
                let name = parameter["name"].as_str().unwrap();
                assert!(help.contains(&format!("\n    {name} (")), "{path} lacks {name}: {help}");
            }
        }
    }
}

#[tokio::test]
async fn the_openapi_document_requires_the_org_id_of_each_change_of_a_config() {
    let world = World::unprepared().await;
    let document = some(world.ask(Operation::Help, "", Value::Null).await).data.unwrap()["openapi"].take();
    let config = &document["paths"]["/config"];
    let required = |method: &str| config[method]["parameters"][0]["required"].clone();
    // A read can have the logical_name in place of the org_id.
    assert_eq!((required("get"), required("delete")), (json!(false), json!(true)));
    for (method, media) in [("post", "application/json"), ("patch", "application/merge-patch+json")] {
        let schema = &config[method]["requestBody"]["content"][media]["schema"];
        assert_eq!(schema["required"], json!(["org_id"]), "{method}");
    }
}

#[tokio::test]
async fn every_path_is_in_the_openapi_document() {
    let world = World::unprepared().await;
    let response = some(world.ask(Operation::Help, "", Value::Null).await);
    let mut document = response.whole_data().unwrap()["openapi"].take();
    document["info"]["version"].take();
    let parameters = |path: &str, method: &str| {
        let parameters = document["paths"][path][method]["parameters"].as_array().unwrap();
        parameters.iter().map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(parameters("/config", "get"), ["org_id", "logical_name"], "no root token in a query");
    assert_eq!(parameters("/config", "delete"), ["org_id", "force"]);
    assert_eq!(parameters("/role", "get"), ["org_id", "role_name"]);
    assert_eq!(parameters("/org/token", "delete"), ["org_id", "role_name", "logical_name", "client_id", "force"]);
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
