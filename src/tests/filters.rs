//! The parameters of the inventory's list that select tokens.

use jiff::{SignedDuration, Timestamp};
use vault_plugin_sdk::logical::Entry;

use super::*;

fn hours_ago(hours: i64) -> String {
    (Timestamp::now() - SignedDuration::from_hours(hours)).to_string()
}

/// A record, `hours` old.
fn record(role: &str, by: &str, pairs: Value, hours: i64) -> Value {
    json!({"token_id": "x", "role_name": role, "display_name": by, "entity_id": format!("entity-{by}"), "metadata": pairs,
        "created_at": hours_ago(hours)})
}

async fn world_of(records: impl IntoIterator<Item = (String, Value)>) -> World {
    let entries = records.into_iter().map(|(key, value)| Entry::json(format!("client/{key}"), &value).unwrap());
    let marker = Entry::json("client-index", &json!({"version": 1})).unwrap();
    let storage = MemoryStorage::holding(entries.chain([marker]));
    let world = World::with(Arc::new(storage), Arc::new(Astra::start(ORG).await));
    world.write_config("standard").await;
    world
}

impl World {
    /// The keys of a filtered list, which are those of its details.
    async fn selected(&self, filter: Value) -> Vec<String> {
        let mut data = json!({"org_id": ORG});
        data.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        let listed = some(self.ask(Operation::List, "org/tokens/", data).await);
        assert!(listed.warnings.is_empty(), "{:?}", listed.warnings);
        let below = some(self.ask(Operation::List, "orgs/retailOrg/tokens/", filter).await);
        assert_eq!(listed.whole_data(), below.whole_data(), "both spellings");
        let data = Value::Object(listed.whole_data().unwrap());
        let keys: Vec<String> = serde_json::from_value(data["keys"].clone()).unwrap_or_default();
        let details: Vec<String> =
            data["key_info"].as_object().map(|info| info.keys().cloned().collect()).unwrap_or_default();
        assert_eq!(keys, details);
        keys
    }
}

async fn world() -> World {
    let mut used = record("writer", "eve", json!({}), 1000);
    used["last_used_at"] = json!(hours_ago(5));
    used["use_count"] = json!(1);
    let go =
        json!({"token_id": "x", "role_name": "reader", "generated_on": hours_ago(2000), "metadata": {"team": "shop"}});
    let unknown = json!({"token_id": "x", "role_name": "reader"});
    world_of([
        (format!("{ORG}/A"), record("reader", "bob", json!({"team": "shop", "app": "cart"}), 1)),
        (format!("{ORG}/B"), record("writer", "bob", json!({"team": "shop"}), 100)),
        (format!("{ORG}/C"), used),
        (format!("{ORG}/D"), go),
        (format!("{ORG}/E"), unknown),
        (format!("{OTHER_ORG}/F"), record("reader", "bob", json!({"team": "shop"}), 1)),
    ])
    .await
}

#[tokio::test]
async fn each_parameter_selects_tokens_and_all_must_match() {
    let world = world().await;
    for (filter, found) in [
        (json!({}), "A B C D E"),
        (json!({"role": "Reader"}), "A D E"),
        (json!({"role_name": "writer"}), "B C"),
        (json!({"role": "nobody"}), ""),
        (json!({"created_by": "bob"}), "A B"),
        (json!({"created_by": "entity-eve"}), "C"),
        (json!({"created_by": "Bob"}), ""),
        (json!({"metadata": "team=shop"}), "A B D"),
        (json!({"metadata": ["team=shop", "app=cart"]}), "A"),
        (json!({"metadata": {"team": "sho"}}), ""),
        // A time that is not known is not before any time.
        (json!({"older_than": "0"}), "A B C D"),
        (json!({"older_than": "99h"}), "B C D"),
        (json!({"older_than": 360_000}), "B C D"),
        (json!({"unused_for": "6h"}), "B D"),
        (json!({"unused_for": "4h"}), "B C D"),
        (json!({"unused_for": "6h", "role": "writer"}), "B"),
        (json!({"older_than": "99h", "after": "B"}), "C D"),
        (json!({"older_than": "99h", "after": "B", "limit": 1}), "C"),
        (json!({"role": "reader", "limit": 2}), "A D"),
        (json!({"role": "reader", "limit": 2, "after": "A"}), "D E"),
    ] {
        let keys = world.selected(filter.clone()).await;
        assert_eq!(keys.join(" "), found, "{filter}");
    }
    let all = some(world.ask(Operation::List, "org/tokens/", json!({"metadata": "team=shop"})).await);
    assert_eq!(all.whole_data().unwrap()["keys"], json!(["A", "B", "D", "F"]), "all organizations");
}

#[tokio::test]
async fn a_wrong_filter_is_an_error_that_names_the_parameter() {
    let world = world().await;
    for (filter, field) in [
        (json!({"role": ""}), "role"),
        (json!({"role": "a..b"}), "role"),
        (json!({"created_by": ""}), "created_by"),
        (json!({"metadata": "team"}), "metadata"),
        (json!({"metadata": "=x"}), "metadata"),
        (json!({"older_than": "a month"}), "older_than"),
        (json!({"older_than": -1}), "older_than"),
        (json!({"unused_for": "-1h"}), "unused_for"),
        (json!({"unused_for": u64::MAX.to_string()}), "unused_for"),
        (json!({"older_than": 2_000_000_000_000_u64}), "older_than"),
    ] {
        for path in ["org/tokens/", "orgs/retailOrg/tokens/"] {
            let error = refused(world.ask(Operation::List, path, filter.clone()).await);
            assert!(error.contains(field), "{filter}: {error}");
        }
    }
}

#[tokio::test]
async fn uses_in_memory_count_for_the_filter() {
    let world = World::with_role("standard").await;
    let client = text(&world.mint("a").await, "clientId");
    let key = format!("client/{ORG}/{client}");
    let mut old = world.storage.json(&key).unwrap();
    old["created_at"] = json!(hours_ago(1000));
    world.stored(&key, old).await;
    assert_eq!(world.selected(json!({"unused_for": "900h"})).await, std::slice::from_ref(&client));
    some(world.read("org/token", order("a")).await);
    assert_eq!(world.selected(json!({"unused_for": "900h"})).await, [""; 0]);
    assert_eq!(world.selected(json!({"older_than": "900h", "created_by": "token-bob"})).await, [client]);
}

/// Each third token is of the role writer.
fn many(orgs: usize, tokens: usize) -> impl Iterator<Item = (String, Value)> {
    (0..tokens).map(move |n| {
        let org = if n % orgs == 0 { ORG.to_owned() } else { format!("org{:03}", n % orgs) };
        let role = if n % 3 == 0 { "writer" } else { "reader" };
        (format!("{org}/ID{n:06}"), record(role, "bob", json!({}), 1))
    })
}

#[tokio::test]
async fn pages_of_a_filter_have_each_match_once() {
    for orgs in [1, 7, 100] {
        for is_paged in [true, false] {
            let world = world_of(many(orgs, 2_000)).await;
            world.storage.set_paged(is_paged);
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let data = json!({"role": "writer", "after": after, "limit": 100});
                let Some(listed) = ok(world.ask(Operation::List, "org/tokens/", data).await) else { break };
                let data = Value::Object(listed.whole_data().unwrap());
                let Some(keys) = data["keys"].as_array().filter(|keys| !keys.is_empty()) else { break };
                assert!(keys.len() <= 100 && data["key_info"].as_object().unwrap().len() == keys.len());
                seen.extend(keys.iter().map(|key| key.as_str().unwrap().to_owned()));
                after.clone_from(seen.last().unwrap());
            }
            let all: Vec<String> = (0..2_000).step_by(3).map(|n| format!("ID{n:06}")).collect();
            assert_eq!(seen, all, "{orgs} orgs");
        }
    }
}

#[tokio::test]
async fn a_page_of_a_filter_reads_no_more_records_than_it_needs() {
    let world = world_of(many(1, 5_000)).await;
    // The first list also reads whether the inventory is complete.
    world.selected(json!({"limit": 1})).await;
    let before = world.storage.calls();
    let listed = world.list("org/tokens/", json!({"org_id": ORG, "role": "writer", "limit": 10})).await;
    assert_eq!(listed["keys"].as_array().unwrap().len(), 10);
    let calls = world.storage.calls() - before;
    assert!(calls <= 2 * 256 + 2, "{calls} calls");
}

#[tokio::test]
async fn a_filter_without_a_limit_shows_details_of_ten_thousand_tokens() {
    let world = world_of(many(5, 12_000 * 3 / 2)).await;
    let listed = some(world.ask(Operation::List, "org/tokens/", json!({"role": "reader"})).await);
    let data = Value::Object(listed.whole_data().unwrap());
    assert_eq!(data["keys"].as_array().unwrap().len(), 12_000);
    assert_eq!(data["key_info"].as_object().unwrap().len(), 10_000);
    let keys: Vec<&str> = data["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    assert!(keys.is_sorted());
    assert!(listed.warnings[0].contains(&format!("after={}", keys[9_999])), "{:?}", listed.warnings);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_does_not_match() {
    let world =
        world_of([(format!("{ORG}/A"), record("reader", "bob", json!({}), 1)), (format!("{ORG}/B"), json!("damaged"))])
            .await;
    let listed = some(world.ask(Operation::List, "org/tokens/", json!({"role": "reader"})).await);
    assert_eq!(listed.whole_data().unwrap()["keys"], json!(["A"]));
    assert!(listed.warnings[0].contains(&format!("client/{ORG}/B")), "{:?}", listed.warnings);
}
