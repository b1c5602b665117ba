//! Lists of many tokens, and the number of calls of reads and mints.

use std::collections::BTreeSet;

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
        let shown = listed.whole_data().unwrap();
        assert_eq!(shown["keys"].as_array().unwrap().len() as u64, keys, "{data}");
        assert_eq!(shown["key_info"].as_object().unwrap().len(), 10_000, "{data}");
        assert!(listed.warnings.iter().any(|warning| warning.contains("after=ID009999")), "{data}");
    }
    let rest = list(json!({"after": "ID009999", "limit": 100})).await;
    assert_eq!(rest.whole_data().unwrap()["key_info"].as_object().unwrap().len(), 3);
    assert!(rest.warnings.is_empty());
    let exactly = list(json!({"limit": 10_000})).await;
    assert_eq!(exactly.whole_data().unwrap()["keys"].as_array().unwrap().len(), 10_000);
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
    let client_id = response.whole_data().unwrap()["clientId"].clone();
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
async fn a_list_with_details_makes_one_list_and_one_read_for_each_token() {
    for is_paged in [true, false] {
        let world = world_with(1_000).await;
        world.storage.set_paged(is_paged);
        let list = async || some(world.ask(Operation::List, "org/tokens/", json!({"org_id": ORG})).await);
        // The first list also reads whether the inventory is complete.
        list().await;
        let (lists, calls) = (world.storage.lists(), world.storage.calls());
        assert_eq!(list().await.whole_data().unwrap()["key_info"].as_object().unwrap().len(), 1_000);
        assert_eq!((world.storage.lists() - lists, world.storage.calls() - calls), (1, 1_001), "paged: {is_paged}");
    }
}

#[tokio::test]
async fn an_empty_list_with_warnings_names_no_keys() {
    let world = World::unprepared().await;
    for path in ["org/tokens/", "roles/", "configs/"] {
        // "zeal" is unknown, and the inventory is not complete. The host returns 404 for empty keys.
        let listed = some(world.ask(Operation::List, path, json!({"zeal": 1})).await);
        assert_eq!(Value::Object(listed.whole_data().unwrap()), json!({"keys": []}), "{path}");
    }
}

#[tokio::test]
async fn a_list_of_large_records_shows_details_of_8_mib_only() {
    let large = json!({"token_id": "x", "role_name": "r_w_user", "metadata": {"note": "x".repeat(64 << 10)}});
    let small = json!({"token_id": "x", "role_name": "r_w_user", "metadata": {"note": "x"}});
    let record = |n: usize| if n < 1_000 { &large } else { &small };
    let entries = (0..2_000).map(|n| Entry::json(format!("client/{ORG}/ID{n:06}"), record(n)).unwrap());
    let storage = Arc::new(MemoryStorage::holding(entries));
    let world = World::with(storage, Arc::new(Astra::start(ORG).await));
    world.stored("client-index", json!({"version": 1})).await;
    let list = async |data: Value| some(world.ask(Operation::List, "org/tokens/", data).await);

    let before = world.storage.calls();
    let listed = list(Value::Null).await;
    let calls = world.storage.calls() - before;
    assert!(calls < 200, "{calls} calls");
    let shown = listed.whole_data().unwrap();
    assert_eq!(shown["keys"].as_array().unwrap().len(), 2_000);
    let details = shown["key_info"].as_object().unwrap().len();
    assert!((120..=128).contains(&details), "{details}");
    let warning = format!("only the first {details} tokens; for the next tokens, list with after=ID{:06}", details - 1);
    assert!(listed.warnings[0].contains(&warning), "{:?}", listed.warnings);

    // The warnings lead to the details of all tokens.
    let (mut seen, mut after) = (BTreeSet::new(), String::new());
    loop {
        let listed = list(json!({"after": after, "limit": 300})).await;
        let Some(info) = listed.whole_data().and_then(|data| data.get("key_info")?.as_object().cloned()) else { break };
        seen.extend(info.keys().cloned());
        after.clone_from(info.keys().next_back().unwrap());
    }
    assert_eq!(seen.len(), 2_000);
}

/// Many entries below one folder, on a server without pages.
fn without_pages(entries: impl IntoIterator<Item = (String, Value)>) -> Arc<MemoryStorage> {
    let entries = entries.into_iter().map(|(key, value)| Entry::json(key, &value).unwrap());
    let storage = MemoryStorage::holding(entries);
    storage.set_paged(false);
    Arc::new(storage)
}

#[tokio::test]
async fn without_pages_the_build_of_the_inventory_lists_the_tokens_once() {
    let tokens = (0..20_000).map(|n| {
        let id = format!("OLD{n:05}");
        (format!("token/{id}"), json!({"clientId": id, "orgId": ORG, "roleName": "r_w_user", "token": "AstraCS:x:y"}))
    });
    let config = (format!("config/{ORG}"), json!({"astra_token": ROOT, "org_id": ORG}));
    let storage = without_pages(tokens.chain([config]));
    let world = World::with(storage, Arc::new(Astra::start(ORG).await));
    world.initialize().await;
    assert_eq!(world.keys("client/").len(), 20_000);
    assert!(world.storage.lists() <= 2, "{} lists", world.storage.lists());
}

#[tokio::test]
async fn without_pages_a_count_and_a_sweep_list_the_records_once() {
    let record = json!({"token_id": "x", "role_name": "r_w_user", "expires_at": "2999-01-01T00:00:00Z"});
    let records = (0..2_000).map(|n| (format!("client/{ORG}/ID{n:06}"), record.clone()));
    let storage = without_pages(records.chain([("client-index".to_owned(), json!({"version": 1}))]));
    let world = World::with(storage, Arc::new(Astra::start(ORG).await));
    world.write_config("standard").await;
    world.write_role(json!({})).await;
    let before = world.storage.lists();
    world.write_role(json!({"max_tokens": 5000})).await;
    assert_eq!(world.keys("live/").len(), 2_000);
    let counted = world.storage.lists() - before;
    ok(world.ask(Operation::Rollback, "", Value::Null).await);
    let swept = world.storage.lists() - before - counted;
    // The sweep lists the write-ahead log, the organizations and the records. Two passes can be in the first tick.
    assert!(counted <= 1 && swept <= 5, "{counted} lists of the count, {swept} of the sweep");
}

#[tokio::test]
async fn a_page_over_all_orgs_lists_only_folders_of_orgs() {
    let record = json!({"token_id": "x", "role_name": "r_w_user"});
    let records = (0..20).map(|n| (format!("client/org{}/ID{n:06}", n % 5), record.clone()));
    let entries = records.map(|(key, value)| Entry::json(key, &value).unwrap());
    let world = World::with(Arc::new(MemoryStorage::holding(entries)), Arc::new(Astra::start(ORG).await));
    world.initialize().await;
    let page = async || {
        let before = world.storage.lists();
        let listed = world.list("org/tokens/", json!({"limit": 100})).await;
        (listed["keys"].as_array().unwrap().len(), world.storage.lists() - before)
    };
    assert_eq!(page().await.0, 20);
    assert_eq!(page().await, (20, 5));
    // Another node stores a token of another org.
    world.stored("client/org5/ID000099", record.clone()).await;
    world.backend.invalidate("client/org5/ID000099");
    assert_eq!(page().await, (21, 6));
    // This node mints a token.
    world.write_config("standard").await;
    world.write_role(json!({})).await;
    world.mint("org1").await;
    assert_eq!(page().await, (22, 7));
    world.stored("client/org6/ID000100", record.clone()).await;
    world.backend.invalidate("");
    assert_eq!(page().await.0, 23);
}

/// A mount with one record in each of this many orgs. The mount knows these orgs, and the sweep has not begun.
async fn world_of_orgs(orgs: usize) -> World {
    let record = json!({"token_id": "x", "role_name": "r_w_user", "expires_at": "2999-01-01T00:00:00Z"});
    let entries = (0..orgs).map(|n| Entry::json(format!("client/org{n:03}/ID{n:06}"), &record).unwrap());
    let marker = Entry::json("client-index", &json!({"version": 1})).unwrap();
    let storage = MemoryStorage::holding(entries.chain([marker]));
    let world = World::with(Arc::new(storage), Arc::new(Astra::start(ORG).await));
    assert_eq!(world.list("org/tokens/", json!({"limit": 1})).await["keys"], json!(["ID000000"]));
    world
}

/// The latency of the storage would otherwise add up over thousands of orgs.
#[tokio::test]
async fn a_page_over_all_orgs_lists_many_orgs_at_the_same_time() {
    let world = world_of_orgs(20).await;
    let before = world.storage.lists();
    world.storage.inject(HostFault::HangsAt(1));
    let page = world.list("org/tokens/", json!({"limit": 5}));
    let healed = async {
        eventually(|| world.storage.lists() >= before + 20).await;
        world.storage.heal();
    };
    let (page, ()) = tokio::join!(page, healed);
    assert_eq!(page["keys"], json!(["ID000000", "ID000001", "ID000002", "ID000003", "ID000004"]));
}

#[tokio::test]
async fn a_sweep_reads_the_records_of_the_next_orgs_ahead() {
    let world = world_of_orgs(20).await;
    // The first pass of a process begins at any org, the next one at the first org.
    ok(world.ask(Operation::Rollback, "", Value::Null).await);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3601)).await;
    tokio::time::resume();
    let before = world.storage.lists();
    // The sweep lists the write-ahead log and the orgs, then the records of the first org.
    world.storage.inject(HostFault::HangsAt(3));
    let tick = world.ask(Operation::Rollback, "", Value::Null);
    let healed = async {
        eventually(|| world.storage.lists() >= before + 2 + 5).await;
        world.storage.heal();
    };
    ok(tokio::join!(tick, healed).0);
}
