//! Lists of many tokens, and the number of calls of reads and mints.

use vault_plugin_sdk::logical::Entry;
use vault_plugin_sdk::testing::HostFault;

use super::*;

/// A mount whose inventory has this many tokens.
async fn world_with(tokens: usize) -> World {
    let record =
        json!({"token_id": "x", "role_name": "r_w_user", "logical_name": "", "generated_on": "", "created_at": ""});
    let entries = (0..tokens).map(|n| Entry::json(format!("client/{ORG}/ID{n:06}"), &record).unwrap());
    let marker = Entry::json("client-index", &json!({"version": 1})).unwrap();
    let storage = MemoryStorage::holding(entries.chain([marker]));
    World::with(Arc::new(storage), Arc::new(Astra::start(ORG).await))
}

#[tokio::test]
async fn a_list_has_all_keys_and_details_of_ten_thousand_tokens() {
    let world = world_with(10_003).await;
    let list = async |data: Value| some(world.ask(Operation::List, "org/tokens/", data).await);
    for data in [json!({}), json!({"limit": 0}), json!({"limit": 10_002}), json!({"org_id": ORG})] {
        let listed = list(data.clone()).await;
        let keys = data["limit"].as_u64().filter(|limit| *limit > 0).unwrap_or(10_003);
        let shown = listed.data.unwrap();
        assert_eq!(shown["keys"].as_array().unwrap().len() as u64, keys, "{data}");
        assert_eq!(shown["key_info"].as_object().unwrap().len(), 10_000, "{data}");
        assert!(listed.warnings.iter().any(|warning| warning.contains("after=ID009999")), "{data}");
    }
    let rest = list(json!({"after": "ID009999", "limit": 100})).await;
    assert_eq!(rest.data.unwrap()["key_info"].as_object().unwrap().len(), 3);
    assert!(rest.warnings.is_empty());
    let exactly = list(json!({"limit": 10_000})).await;
    assert_eq!(exactly.data.unwrap()["keys"].as_array().unwrap().len(), 10_000);
    assert!(exactly.warnings.is_empty());
}

#[tokio::test]
async fn a_list_stops_reading_if_the_caller_hangs_up() {
    let world = world_with(5_000).await;
    world.storage.inject(HostFault::HangsAt(100));
    let backend = world.backend.clone();
    let before = world.storage.calls();
    let caller =
        tokio::spawn(async move { backend.handle(request(Operation::List, "org/tokens/", Value::Null)).await });
    eventually(|| world.storage.calls() >= before + 100).await;
    caller.abort();
    assert!(caller.await.is_err_and(|error| error.is_cancelled()));
    let read = world.storage.calls();
    world.storage.heal();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.storage.calls(), read);
    assert!(read < before + 300, "{read} calls, though one of them hung");
}

#[tokio::test]
async fn reads_and_mints_make_the_fewest_possible_calls() {
    let world = World::with_role("standard").await;
    let response = world.mint("first").await;
    let client_id = response.data.as_ref().unwrap()["clientId"].clone();
    let by_name = json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": "first"});
    let by_id = json!({"org_id": ORG, "client_id": client_id});
    let role = json!({"org_id": ORG, "role_name": "r_w_user"});
    let cost = async |path: &str, data: &Value| {
        let astra = || ["GET", "POST", "DELETE"].iter().map(|method| world.astra.count(method)).sum::<usize>();
        let before = (world.storage.calls(), world.system.calls(), astra());
        some(world.read(path, data.clone()).await);
        (world.storage.calls() - before.0, world.system.calls() - before.1, astra() - before.2)
    };
    // The calls of the storage, of the host's facts, and of Astra.
    assert_eq!(cost("config", &json!({"org_id": ORG})).await, (0, 0, 0));
    assert_eq!(cost("role", &role).await, (0, 0, 0));
    assert_eq!(cost("org/token", &by_name).await, (1, 0, 0));
    assert_eq!(cost("org/token", &by_id).await, (2, 0, 0));

    let writes = world.storage.writes();
    world.mint("second").await;
    assert_eq!(world.storage.writes() - writes, 4, "the log, the record, the token, the end of the log");
}

#[tokio::test]
async fn an_empty_list_with_warnings_names_no_keys() {
    let world = World::unprepared().await;
    for path in ["org/tokens/", "roles/", "configs/"] {
        // "zeal" is unknown, and the inventory is not complete. The host returns 404 for empty keys.
        let listed = some(world.ask(Operation::List, path, json!({"zeal": 1})).await);
        assert_eq!(Value::Object(listed.data.unwrap()), json!({"keys": []}), "{path}");
    }
}
