//! `roles/sync`: imported roles, reported roles and failing orgs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use vault_plugin_sdk::logical::{Error, Operation, ReplicationState, Response};
use vault_plugin_sdk::testing::HostFault;
use wiremock::ResponseTemplate;

use super::astra::Astra;
use super::{ORG, OTHER_ORG, ROLE_ID, ROOT, World, data, eventually, failed, ok, refused, some, status};

/// A mount with a config of [`ORG`], and these roles in Astra.
async fn world(roles: Value) -> World {
    let world = World::new().await;
    world.write_config("standard").await;
    world.astra.state().roles = roles;
    world
}

/// The same, with a second org that has its own Astra.
async fn two_orgs(roles: Value, others: Value) -> (World, Arc<Astra>) {
    let world = world(roles).await;
    let other = Arc::new(Astra::start(OTHER_ORG).await);
    other.state().roles = others;
    let config = json!({"org_id": OTHER_ORG, "astra_token": ROOT, "url": other.url()});
    assert!(ok(world.write("config", config).await).is_none());
    (world, other)
}

fn listed(roles: &[(&str, &str)]) -> Value {
    roles.iter().map(|(id, name)| json!({"id": id, "name": name})).collect()
}

async fn sync(world: &World) -> Response {
    some(world.write("roles/sync", json!({})).await)
}

/// Returns one list of the answer for [`ORG`].
fn of(response: &Response, kind: &str) -> Value {
    response.whole_data().unwrap()[kind][ORG].clone()
}

/// Returns the ids of the roles of an org by their names.
fn stored(world: &World, org: &str) -> BTreeMap<String, String> {
    let prefix = format!("role/{org}:");
    let keys = world.keys(&prefix);
    let entry = |key: &String| {
        let role = world.storage.json(key).unwrap();
        assert_eq!(role["role_name"], key[prefix.len()..]);
        (key[prefix.len()..].to_owned(), role["role_id"].as_str().unwrap().to_owned())
    };
    keys.iter().map(entry).collect()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn each_astra_role_becomes_a_role_and_a_second_time_nothing_changes() {
    let world = world(listed(&[("1", "R/W User"), ("2", "API R/W Svc Acct"), ("3", "Billing Admin")])).await;
    let answer = sync(&world).await;
    let names = json!(["api_r_w_svc_acct", "billing_admin", "r_w_user"]);
    let empty = json!({ORG: []});
    let none = json!({ORG: {}});
    let expected = json!({"created": {ORG: names}, "updated": empty, "unchanged": empty, "collisions": none,
        "renamed": none, "vanished": empty, "errors": {}});
    assert_eq!(Value::Object(answer.whole_data().unwrap()), expected);
    assert_eq!(answer.warnings, Vec::<String>::new());
    assert_eq!(stored(&world, ORG), map(&[("api_r_w_svc_acct", "2"), ("billing_admin", "3"), ("r_w_user", "1")]));
    let day = json!({"role_name": "r_w_user", "role_id": "1", "org_id": ORG,
        "ttl": 86_400_000_000_000_i64, "max_ttl": 86_400_000_000_000_i64});
    assert_eq!(world.storage.json(&format!("role/{ORG}:r_w_user")).unwrap(), day);

    let before = world.storage.entries();
    let answer = some(world.write("roles/sync", json!({"org_id": ORG})).await);
    assert_eq!((of(&answer, "created"), of(&answer, "unchanged")), (json!([]), names));
    assert!(world.storage.entries() == before && answer.warnings.is_empty());
}

#[tokio::test]
async fn a_role_that_exists_keeps_its_settings_and_gets_the_new_id() {
    let world = world(listed(&[("1", "R/W User"), ("2", "Reader")])).await;
    let pairs = json!({"owner": "{{display_name}}"});
    world
        .write_role(json!({"ttl": "60s", "max_ttl": "10m", "required_metadata": "app", "default_metadata": pairs}))
        .await;
    // This read fills the cache, so that the test would detect an old value.
    data(world.read("role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    let answer = sync(&world).await;
    assert_eq!((of(&answer, "updated"), of(&answer, "created")), (json!(["r_w_user"]), json!(["reader"])));
    let role = data(world.read("role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    assert_eq!((&role["role_id"], &role["ttl"], &role["max_ttl"]), (&json!("1"), &json!("1m0s"), &json!("10m0s")));
    assert_eq!((&role["required_metadata"], &role["default_metadata"]), (&json!(["app"]), &pairs));
}

#[tokio::test]
async fn roles_without_an_astra_role_of_the_same_name_are_reported_and_stay() {
    let world = world(listed(&[("1", "New Name"), ("2", "Reader")])).await;
    for (name, id) in [("old_name", "1"), ("gone", "9"), ("also_gone", "8"), ("reader", "2")] {
        ok(world.write("role", json!({"org_id": ORG, "role_name": name, "role_id": id})).await);
    }
    // The import of one org ignores the roles of another org.
    ok(world.write("role", json!({"org_id": OTHER_ORG, "role_name": "theirs", "role_id": "7"})).await);
    let before = stored(&world, ORG);
    let answer = sync(&world).await;
    assert_eq!(of(&answer, "renamed"), json!({"old_name": "New Name"}));
    assert_eq!(of(&answer, "vanished"), json!(["also_gone", "gone"]));
    assert_eq!((of(&answer, "created"), of(&answer, "unchanged")), (json!(["new_name"]), json!(["reader"])));
    assert_eq!(answer.warnings.len(), 2, "{:?}", answer.warnings);
    assert!(answer.warnings[0].contains(r#""old_name" is "New Name" in Astra"#), "{:?}", answer.warnings);
    assert!(answer.warnings[1].ends_with(r#""also_gone", "gone""#), "{:?}", answer.warnings);
    let mut after = stored(&world, ORG);
    assert_eq!(after.remove("new_name").as_deref(), Some("1"));
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_name_that_several_astra_roles_would_have_is_not_imported() {
    let mut roles = vec![
        ("1", "R/W User"),
        ("2", "R-W User"),
        ("3", "Other"),
        ("4", "Other!?"),
        ("4", "Other!?"),
        ("5", "Twice"),
        ("5", "twice"),
    ];
    for _ in 0..2 {
        let world = world(listed(&roles)).await;
        for (name, id) in [("r_w_user", "2"), ("other_", "x")] {
            ok(world.write("role", json!({"org_id": ORG, "role_name": name, "role_id": id, "ttl": 60})).await);
        }
        let answer = sync(&world).await;
        assert_eq!(of(&answer, "collisions"), json!({"r_w_user": ["R-W User", "R/W User"]}));
        assert!(answer.warnings.iter().any(|text| text.contains(r#""R-W User", "R/W User""#)), "{:?}", answer.warnings);
        // One id twice is no collision, and neither is "Other" with "Other!?".
        assert_eq!((of(&answer, "created"), of(&answer, "updated")), (json!(["other", "twice"]), json!(["other_"])));
        let expected = [("other", "3"), ("other_", "4"), ("r_w_user", "2"), ("twice", "5")];
        assert_eq!(stored(&world, ORG), map(&expected));
        assert_eq!(of(&answer, "vanished"), json!([]));
        roles.reverse();
    }
}

#[tokio::test]
async fn a_role_with_a_collision_is_not_created_and_not_changed() {
    let world = world(listed(&[("1", "a b"), ("2", "A/B"), ("3", "C"), ("4", "c")])).await;
    ok(world.write("role", json!({"org_id": ORG, "role_name": "c", "role_id": "9"})).await);
    let answer = sync(&world).await;
    assert_eq!(of(&answer, "collisions"), json!({"a_b": ["A/B", "a b"], "c": ["C", "c"]}));
    assert_eq!(of(&answer, "vanished"), json!(["c"]));
    assert_eq!(stored(&world, ORG), map(&[("c", "9")]));
}

#[tokio::test]
async fn entries_that_cannot_be_imported_are_skipped_with_a_warning() {
    let long = "x".repeat(256);
    let world = world(json!([
        {"ID": "1", "Name": "One", "Policy": "{\"id\": \"inner\"}"}, {"id": "2"}, {"name": "three"}, null,
        {"id": "4", "name": long}, {"id": long, "name": "five"}, {"id": "6\n", "name": "six"}
    ]))
    .await;
    let answer = sync(&world).await;
    assert_eq!(stored(&world, ORG), map(&[("one", "1")]));
    assert!(answer.warnings.len() == 1 && answer.warnings[0].contains(" 6 entries "), "{:?}", answer.warnings);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn names_are_safe_and_say_which_role_it_was(names in proptest::collection::vec("\\PC{1,12}", 1..20)) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let roles: Vec<(String, String)> =
                names.iter().enumerate().map(|(id, name)| (format!("id-{id}"), name.clone())).collect();
            let mut list = roles.clone();
            // A valid role.
            list.push(("anchor".to_owned(), "Anchor Role".to_owned()));
            let world = world(list.iter().map(|(id, name)| json!({"ID": id, "Name": name})).collect()).await;
            sync(&world).await;
            let stored = stored(&world, ORG);
            assert_eq!(stored["anchor_role"], "anchor");
            let expected = |name: &str| {
                let lower = name.to_ascii_lowercase();
                let words = lower.split(|c: char| !c.is_ascii_alphanumeric());
                let joined = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("_");
                let edge = |c: Option<char>| c.is_some_and(|c| !c.is_ascii_alphanumeric());
                match (edge(lower.chars().next()), edge(lower.chars().last())) {
                    _ if joined.is_empty() => "_".to_owned(),
                    (before, after) => format!("{}{joined}{}", if before { "_" } else { "" }, if after { "_" } else { "" }),
                }
            };
            for (name, id) in stored {
                let claims: Vec<&String> =
                    list.iter().filter(|(_, text)| expected(text) == name && !text.trim().is_empty()).map(|(id, _)| id).collect();
                assert_eq!(claims, [&id], "{name}");
            }
        });
    }
}

#[tokio::test]
async fn one_org_that_fails_does_not_stop_the_others() {
    let roles = listed(&[("1", "Reader")]);
    for kind in ["refused", "slow", "garbled", "not allowed"] {
        let (world, other) = two_orgs(roles.clone(), roles.clone()).await;
        match kind {
            "refused" => other.answer_all("GET", ResponseTemplate::new(503)),
            "slow" => {
                let short = json!({"org_id": OTHER_ORG, "request_timeout": "1s"});
                ok(world.ask(Operation::Patch, "config", short).await);
                other.delay("GET", Duration::from_secs(20));
            }
            "garbled" => other.answer_all("GET", ResponseTemplate::new(200).set_body_json(json!({"no": "list"}))),
            _ => other.answer_all("GET", ResponseTemplate::new(403).set_body_json(json!("no such permission"))),
        }
        let answer = sync(&world).await;
        assert_eq!(stored(&world, ORG), map(&[("reader", "1")]), "{kind}");
        assert_eq!(stored(&world, OTHER_ORG), map(&[]), "{kind}");
        let answered = Value::Object(answer.whole_data().unwrap());
        assert_eq!(answered["created"], json!({ORG: ["reader"]}), "{kind}");
        let error = answered["errors"][OTHER_ORG].as_str().unwrap();
        assert!(error.starts_with("failed to list the roles: "), "{kind}: {error}");
        assert_eq!(error.contains("org-role-read") && error.contains("no such permission"), kind == "not allowed");
        assert!(answer.warnings.len() == 1 && answer.warnings[0].contains(error), "{kind}: {:?}", answer.warnings);

        // If the request names only this org, the request fails.
        let expected = match kind {
            "refused" => Some(503),
            "garbled" => Some(502),
            "not allowed" => Some(403),
            _ => None,
        };
        if let Some(expected) = expected {
            let (code, text) = status(world.write("roles/sync", json!({"org_id": OTHER_ORG})).await);
            assert_eq!((code, text.as_str()), (expected, error), "{kind}");
        }
        other.heal();
        let answer = sync(&world).await;
        assert!(answer.warnings.is_empty(), "{kind}");
        assert_eq!(stored(&world, OTHER_ORG), map(&[("reader", "1")]), "{kind}");
    }
}

#[tokio::test]
async fn when_all_orgs_fail_the_request_fails_and_names_each_org() {
    let (world, other) = two_orgs(listed(&[("1", "Reader")]), listed(&[("1", "Reader")])).await;
    world.astra.answer_all("GET", ResponseTemplate::new(401).set_body_string("null"));
    other.answer_all("GET", ResponseTemplate::new(502));
    let (code, text) = status(world.write("roles/sync", json!({})).await);
    // The status is that of the first org in byte order.
    assert_eq!(code, 502);
    for part in [ORG, OTHER_ORG, "org-role-read", "Astra failed (502)"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(world.keys("role/").is_empty());
}

#[tokio::test]
async fn errors_of_an_import_say_what_to_do() {
    let world = World::new().await;
    let text = refused(world.write("roles/sync", json!({})).await);
    assert!(text.contains("vault write astra/config"), "{text}");
    let text = refused(world.write("roles/sync", json!({"org_id": ORG})).await);
    assert!(text.contains(ORG) && text.contains("no config"), "{text}");
    assert!(refused(world.write("roles/sync", json!({"org_id": "a/b"})).await).contains("org_id"));
    assert!(matches!(failed(world.read("roles/sync", json!({})).await), Error::UnsupportedOperation));
    // Astra may return an empty list to a token without the permission.
    world.write_config("standard").await;
    world.astra.state().roles = json!([]);
    ok(world.write("role", json!({"org_id": ORG, "role_name": "r", "role_id": ROLE_ID})).await);
    let (code, text) = status(world.write("roles/sync", json!({})).await);
    assert!(code == 502 && text.contains("org-role-read"), "{code} {text}");
    // A list does not import, with or without a slash.
    assert_eq!(world.list("roles", json!({})).await["keys"], json!(["r"]));
    assert_eq!(world.list("roles/", json!({})).await["keys"], json!(["r"]));
}

#[tokio::test]
async fn an_import_on_a_standby_does_not_call_astra() {
    let world = world(listed(&[("1", "Reader")])).await;
    world.astra.state().requests.clear();
    world.system.set_state(ReplicationState::PERFORMANCE_STANDBY);
    assert!(matches!(failed(world.write("roles/sync", json!({})).await), Error::ReadOnly));
    assert!(world.astra.state().requests.is_empty());
}

#[tokio::test]
async fn a_storage_that_fails_for_one_org_does_not_stop_the_others() {
    let (world, other) = two_orgs(listed(&[("1", "Reader")]), listed(&[("1", "Reader")])).await;
    other.delay("GET", Duration::from_millis(300));
    // The first write belongs to the org with the fast Astra.
    let before = world.storage.calls();
    let request = async { world.write("roles/sync", json!({})).await };
    let fault = async {
        eventually(|| !stored(&world, ORG).is_empty()).await;
        world.storage.inject(HostFault::At(1));
        assert!(world.storage.calls() > before);
    };
    let (answer, ()) = tokio::join!(request, fault);
    assert!(matches!(failed(answer), Error::Internal { .. }));
    assert_eq!(stored(&world, ORG), map(&[("reader", "1")]));
    let answer = sync(&world).await;
    assert_eq!(of(&answer, "unchanged"), json!(["reader"]));
    assert_eq!(stored(&world, OTHER_ORG), map(&[("reader", "1")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_and_a_write_never_overwrite_each_other() {
    let names: Vec<String> = (0..8).map(|n| format!("role{n}")).collect();
    let astra: Vec<(&str, &str)> = names.iter().map(|name| ("new", name.as_str())).collect();
    let world = Arc::new(world(listed(&astra)).await);
    // This delay lets another request run between a read and the following write.
    world.storage.inject(HostFault::Slow(Duration::from_millis(2)));
    for round in 1..=10 {
        for name in &names {
            let old = json!({"org_id": ORG, "role_name": name, "role_id": "old", "ttl": 1, "max_ttl": 1000});
            ok(world.write("role", old).await);
        }
        let mut writers = tokio::task::JoinSet::new();
        for name in names.clone() {
            let world = world.clone();
            writers.spawn(async move {
                let ttl = json!({"org_id": ORG, "role_name": name, "ttl": 100 + round});
                ok(world.ask(Operation::Patch, "role", ttl).await);
            });
        }
        sync(&world).await;
        writers.join_all().await;
        for name in &names {
            let role = data(world.read("role", json!({"org_id": ORG, "role": name})).await);
            let expected = vault_plugin_sdk::framework::format_duration(Duration::from_secs(100 + round));
            assert_eq!((&role["role_id"], role["ttl"].as_str()), (&json!("new"), Some(expected.as_str())));
        }
    }
}

#[tokio::test]
async fn after_a_hang_up_each_role_is_imported_or_unchanged() {
    let world = Arc::new(world(listed(&[("1", "Reader"), ("2", "Writer")])).await);
    world.storage.inject(HostFault::Slow(Duration::from_millis(20)));
    let request = tokio::spawn({
        let world = world.clone();
        async move { world.write("roles/sync", json!({})).await }
    });
    eventually(|| world.astra.state().requests.iter().any(|line| line.ends_with("/roles"))).await;
    request.abort();
    world.storage.heal();
    // The import has changed nothing, or is complete.
    world.backend.cleanup().await;
    let stored = stored(&world, ORG);
    assert!(stored.is_empty() || stored == map(&[("reader", "1"), ("writer", "2")]), "{stored:?}");
}

/// A mount with this many orgs of one Astra, whose `org_id`s are labels.
async fn many_orgs(count: usize) -> World {
    let world = World::new().await;
    for n in 0..count {
        let config = json!({"astra_token": ROOT, "url": world.astra.url(), "org_id": format!("org{n:02}"),
            "logical_name": "", "caller_mode": 1, "astra_org_id": ORG});
        world.stored(&format!("config/org{n:02}"), config).await;
    }
    world
}

fn orgs_in(response: &Response, kind: &str) -> Vec<String> {
    response.whole_data().unwrap()[kind].as_object().unwrap().keys().cloned().collect()
}

fn next(response: &Response) -> Option<String> {
    response.whole_data().unwrap().get("next").map(|next| next.as_str().unwrap().to_owned())
}

#[tokio::test]
async fn the_pages_of_an_import_reach_each_org_once() {
    let world = many_orgs(10).await;
    let (mut after, mut pages) = (String::new(), Vec::new());
    loop {
        let asked = world.astra.count("GET");
        let page = some(world.write("roles/sync", json!({"after": after, "limit": 4})).await);
        let orgs = orgs_in(&page, "created");
        assert_eq!(world.astra.count("GET") - asked, orgs.len(), "one call for each org");
        pages.push(orgs);
        match next(&page) {
            Some(next) => after = next,
            None => break,
        }
    }
    let all: Vec<String> = (0..10).map(|n| format!("org{n:02}")).collect();
    assert_eq!(pages, [&all[..4], &all[4..8], &all[8..]]);
    // Without a limit, an import has no next page. A place does not need to exist, and can be past the end.
    assert_eq!(next(&sync(&world).await), None);
    let rest = some(world.write("roles/sync", json!({"after": "org07x"})).await);
    assert_eq!((orgs_in(&rest, "unchanged"), next(&rest)), (all[8..].to_vec(), None));
    let none = some(world.write("roles/sync", json!({"after": "z", "limit": 1})).await);
    assert_eq!((orgs_in(&none, "unchanged"), orgs_in(&none, "errors"), next(&none)), (vec![], vec![], None));
    let exact = some(world.write("roles/sync", json!({"limit": 10})).await);
    assert_eq!((orgs_in(&exact, "unchanged").len(), next(&exact)), (10, None));
}

#[tokio::test]
async fn a_page_whose_orgs_all_fail_names_the_next_page() {
    let world = many_orgs(4).await;
    world.astra.answer_all("GET", ResponseTemplate::new(403));
    let page = some(world.write("roles/sync", json!({"limit": 3})).await);
    assert_eq!((orgs_in(&page, "errors").len(), next(&page).as_deref()), (3, Some("org02")));
    let (code, text) = status(world.write("roles/sync", json!({"limit": 3, "after": "org02"})).await);
    assert!(code == 403 && text.contains("Astra rejected"), "{code} {text}");
}

#[tokio::test]
async fn a_page_of_an_import_has_a_limit_and_no_org() {
    let world = many_orgs(1).await;
    let text = refused(world.write("roles/sync", json!({"limit": -1})).await);
    assert!(text.contains("limit"), "{text}");
    for page in [json!({"org_id": "org00", "limit": 1}), json!({"org_id": "org00", "after": "a"})] {
        let text = refused(world.write("roles/sync", page).await);
        assert!(text.contains("org_id"), "{text}");
    }
}
