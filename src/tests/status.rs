//! `status`: the state of the mount and of its orgs.

use std::time::Duration;

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, ReplicationState, Storage as _};
use vault_plugin_sdk::testing::HostFault;
use wiremock::ResponseTemplate;

use super::{ORG, OTHER_ORG, ROLE_ID, ROOT, World, data, eventually, lease, ok, order, refused, some, status};

impl World {
    pub(super) async fn status(&self, fields: Value) -> Value {
        data(self.read("status", fields).await)
    }

    /// Returns what `status` shows of the org of the tests.
    async fn org_status(&self) -> Value {
        self.status(json!({"org_id": ORG})).await["orgs"][ORG].take()
    }

    /// Another process of the mount, after the first pass of its sweep.
    async fn in_next_process(self) -> Self {
        let next = Self::with(self.storage, self.astra);
        next.initialize().await;
        ok(next.tick(false).await);
        next
    }

    async fn mint_at_creds(&self) -> vault_plugin_sdk::logical::Response {
        some(self.read("creds/retailOrg/r_w_user", json!({})).await)
    }
}

#[tokio::test]
async fn the_state_follows_the_last_call_and_nothing_is_asked() {
    let world = World::with_role("standard").await;
    let asked = world.astra.state().requests.len();
    let before = world.status(json!({})).await;
    assert_eq!((&before["active"], &before["org_count"], &before["next"]), (&json!(true), &json!(1), &json!("")));
    assert_eq!(before["states"], json!({"ok": 0, "failing": 0, "root_refused": 0, "unknown": 1}));
    assert_eq!(before["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&before["wal_entries"], &before["wal_oldest_seconds"]), (&json!(0), &Value::Null));
    let org = &before["orgs"][ORG];
    assert_eq!((&org["state"], &org["last_success"], &org["last_error"]), (&json!("unknown"), &json!(""), &json!("")));
    assert_eq!(org["logical_name"], "retailOrg");
    assert_eq!(world.astra.state().requests.len(), asked, "status asks Astra");

    world.mint("first").await;
    let org = world.org_status().await;
    assert_eq!((&org["state"], &org["last_error"]), (&json!("ok"), &json!("")));
    assert!(org["last_success"].as_str().unwrap().ends_with('Z'), "{org}");
    let described = world.astra.state().live.values().next().unwrap()["description"].to_string();
    assert!(described.contains(before["instance"].as_str().unwrap()), "{described}");

    for (answer, state, error) in [
        (ResponseTemplate::new(503), "failing", "503"),
        (ResponseTemplate::new(401).set_body_json("revoked"), "root_refused", "revoked"),
        (ResponseTemplate::new(400).set_body_json("bad role"), "ok", "bad role"),
        (ResponseTemplate::new(403).set_body_json(format!("token {ROOT} is dead")), "root_refused", "dead"),
    ] {
        world.astra.answer_all("POST", answer);
        status(world.write("org/token", order("next")).await);
        world.astra.heal();
        let org = world.org_status().await;
        assert_eq!(org["state"], state, "{org}");
        let text = org["last_error"].as_str().unwrap();
        assert!(text.contains(error) && !text.contains(ROOT.rsplit(':').next().unwrap()), "{text}");
        assert_ne!(org["last_error_at"], "");
    }
    let states = world.status(json!({})).await["states"].take();
    assert_eq!(states, json!({"ok": 0, "failing": 0, "root_refused": 1, "unknown": 0}));

    // A new config has had no call. `check` makes one.
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "20s"})).await);
    assert_eq!(world.org_status().await["state"], "unknown");
    let asked = world.astra.state().requests.len();
    let checked = world.status(json!({"org_id": ORG, "check": true})).await;
    assert_eq!((&checked["orgs"][ORG]["state"], &checked["states"]["ok"]), (&json!("ok"), &json!(1)));
    assert_eq!(world.astra.state().requests.len(), asked + 1);
}

#[tokio::test]
async fn a_check_finds_a_dead_root_token_and_a_token_whose_roles_astra_does_not_know() {
    let world = World::with_role("standard").await;
    let check = async || world.status(json!({"check": "true"})).await["orgs"][ORG]["state"].take();
    assert_eq!(check().await, "ok");
    world.astra.answer("GET", ResponseTemplate::new(401));
    assert_eq!(check().await, "ok", "Astra lists the tokens");
    world.astra.answer_all("GET", ResponseTemplate::new(401));
    assert_eq!(check().await, "root_refused");
    world.astra.heal();
    world.astra.answer_all("GET", ResponseTemplate::new(400).set_body_json("no"));
    assert_eq!(check().await, "ok", "Astra answers");
}

#[tokio::test]
async fn a_deleted_org_is_not_counted_and_a_damaged_config_fails() {
    let world = World::with_role("standard").await;
    world.mint_at_creds().await;
    world.stored(&format!("config/{OTHER_ORG}"), json!("damaged")).await;
    world.backend.invalidate(&format!("config/{OTHER_ORG}"));
    let shown = world.status(json!({})).await;
    assert_eq!((&shown["org_count"], &shown["orgs"][OTHER_ORG]["state"]), (&json!(2), &json!("failing")));
    let text = shown["orgs"][OTHER_ORG]["last_error"].as_str().unwrap().to_owned();
    assert!(text.contains("cannot be read"), "{text}");

    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    let shown = world.status(json!({})).await;
    assert_eq!(shown["states"], json!({"ok": 0, "failing": 0, "root_refused": 0, "unknown": 1}));
    assert_eq!(shown["orgs"].as_object().unwrap().keys().collect::<Vec<_>>(), [OTHER_ORG]);
}

#[tokio::test]
async fn wrong_fields_are_400s_that_name_the_field() {
    let world = World::with_role("standard").await;
    for (fields, words) in [
        (json!({"limit": 0}), "limit must be 1 to 1000"),
        (json!({"limit": -1}), "limit must be 1 to 1000"),
        (json!({"limit": 1001}), "limit must be 1 to 1000"),
        (json!({"limit": 101, "check": true}), "limit must be 1 to 100 with check"),
        (json!({"org_id": OTHER_ORG}), "no config for org_id"),
        (json!({"org_id": "a/b"}), "org_id must not contain"),
        (json!({"check": "perhaps"}), "check"),
    ] {
        let text = refused(world.read("status", fields.clone()).await);
        assert!(text.contains(words), "{fields}: {text}");
    }
}

#[tokio::test]
async fn ten_thousand_orgs_are_shown_in_pages_and_cost_no_reads() {
    let world = World::with_orgs(10_000).await;
    let first = world.status(json!({"limit": 1000})).await;
    assert_eq!((&first["org_count"], &first["next"]), (&json!(10_001), &json!("org-00998")));
    let before = world.storage.calls();
    let (mut after, mut seen, mut pages) = (String::new(), 0, 0);
    while {
        let page = world.status(json!({"limit": 1000, "after": after})).await;
        seen += page["orgs"].as_object().unwrap().len();
        pages += 1;
        page["next"].as_str().unwrap().clone_into(&mut after);
        !after.is_empty()
    } {}
    assert_eq!((seen, pages), (10_001, 11));
    assert_eq!(world.storage.calls() - before, pages, "each page lists the write-ahead log, and reads nothing");
    let small = world.status(json!({})).await;
    assert_eq!(small["orgs"].as_object().unwrap().len(), 100);
    assert!(small.to_string().len() < 50_000, "{} bytes", small.to_string().len());
}

#[tokio::test]
async fn the_cost_does_not_grow_with_the_number_of_tokens() {
    let world = World::with_role("standard").await;
    let mut costs = Vec::new();
    for tokens in [1, 300] {
        while world.astra.live() < tokens {
            world.mint_at_creds().await;
        }
        let before = world.storage.calls();
        world.status(json!({})).await;
        some(world.read("metrics", json!({})).await);
        costs.push(world.storage.calls() - before);
    }
    assert_eq!(costs[1], 2, "{costs:?}");
}

#[tokio::test]
async fn tokens_are_counted_once_the_sweep_has_seen_them() {
    let world = World::with_role("standard").await;
    world.mint("before").await;
    assert_eq!(world.org_status().await["tokens"], Value::Null, "not known yet");
    let world = world.remounted().await;
    assert_eq!(world.org_status().await["tokens"], Value::Null);
    ok(world.tick(false).await);
    assert_eq!(world.org_status().await["tokens"], 1);
    let minted = world.mint_at_creds().await;
    world.mint("named").await;
    assert_eq!(world.org_status().await["tokens"], 3);
    // The lease of a deleted token is revoked later.
    let by_id = json!({"org_id": ORG, "client_id": super::text(&minted, "clientId")});
    ok(world.ask(Operation::Delete, "org/token", by_id).await);
    assert_eq!(world.org_status().await["tokens"], 2);
    ok(world.revoke(&lease(&minted)).await);
    assert_eq!(world.org_status().await["tokens"], 2);
}

/// The storage fails at each call of a mint. The mint is undone, whether its token was stored or not.
#[tokio::test]
async fn an_undone_mint_does_not_change_the_number_of_tokens() {
    for fault in [HostFault::At, HostFault::From] {
        for n in 1.. {
            let world = World::with_role("standard").await;
            world.mint("kept").await;
            ok(world.tick(false).await);
            assert_eq!(world.org_status().await["tokens"], 1);
            let before = world.storage.calls();
            world.storage.inject(fault(n));
            let minted = world.write("org/token", order("undone")).await;
            let is_past = world.storage.calls() - before < n;
            world.storage.heal();
            ok(world.tick(true).await);
            assert_eq!(world.org_status().await["tokens"], world.keys("client/").len(), "{:?}", fault(n));
            if is_past {
                ok(minted);
                break;
            }
        }
    }
}

#[tokio::test]
async fn tidied_tokens_are_counted_once() {
    let world = World::with_role("standard").await;
    let [missing, unknown] = [world.mint("missing").await, world.mint("unknown").await];
    world.mint("kept").await;
    let unknown = super::text(&unknown, "clientId");
    for key in world.keys("").into_iter().filter(|key| key.ends_with(&unknown) || key.ends_with(":unknown")) {
        world.storage.delete(&key).await.unwrap();
    }
    world.astra.state().live.remove(&super::text(&missing, "clientId"));
    let world = world.in_next_process().await;
    assert_eq!(world.org_status().await["tokens"], 2);
    let tidied = data(world.write("orgs/retailOrg/tidy", json!({"safety_buffer": 0, "dry_run": false})).await);
    assert_eq!(
        (&tidied["unknown"]["count"], &tidied["missing"]["count"], &tidied["deleted"]),
        (&json!(1), &json!(1), &json!(2))
    );
    assert_eq!(world.org_status().await["tokens"], 1);
    // The lease of a deleted token stays. Another process, which has not seen the deletion, revokes the lease.
    let world = world.in_next_process().await;
    ok(world.revoke(&lease(&missing)).await);
    assert_eq!(world.org_status().await["tokens"], 1);
}

#[tokio::test]
async fn open_entries_of_the_log_are_shown_and_read_once() {
    let world = World::with_role("standard").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(503));
    let entry = |org: &str, age: i64| {
        let created_at = jiff::Timestamp::now().as_second() - age;
        let data = json!({"org_id": org, "client_id": "x", "token_id": "x", "timeout_seconds": 30});
        json!({"type": "token-delete", "data": data, "created_at": created_at})
    };
    for (id, org, age) in [("a", ORG, 100), ("b", ORG, 7200), ("c", "stray", 10)] {
        world.stored(&format!("wal/{id}"), entry(org, age)).await;
    }
    world.stored("wal/d", json!("damaged")).await;
    let shown = world.status(json!({})).await;
    assert_eq!((&shown["wal_entries"], &shown["orgs"][ORG]["wal_entries"]), (&json!(4), &json!(2)));
    for age in [&shown["wal_oldest_seconds"], &shown["orgs"][ORG]["wal_oldest_seconds"]] {
        assert!((7200..7260).contains(&age.as_u64().unwrap()), "{shown}");
    }
    let before = world.storage.calls();
    assert_eq!(world.status(json!({})).await["wal_entries"], 4);
    assert_eq!(world.storage.calls() - before, 1, "one list");
}

#[tokio::test]
async fn a_standby_says_so_and_shows_what_it_knows() {
    let world = World::with_role("standard").await;
    world.mint("first").await;
    world.system.set_state(ReplicationState::PERFORMANCE_STANDBY);
    let writes = world.storage.writes();
    let shown = world.status(json!({"check": true})).await;
    assert_eq!((&shown["active"], &shown["orgs"][ORG]["state"]), (&json!(false), &json!("ok")));
    assert_eq!(world.storage.writes(), writes);
}

#[tokio::test]
async fn requests_in_flight_in_the_queue_and_limited_by_astra_are_shown() {
    let world = World::with_role("standard").await;
    let minting = world.minting("slow", Duration::from_secs(3)).await;
    let org = world.org_status().await;
    assert_eq!(
        (&org["calls_in_flight"], &org["calls_queued"], &org["rate_limited"]),
        (&json!(1), &json!(0), &json!(0))
    );
    some(minting.await.unwrap());
    assert_eq!(world.status(json!({})).await["calls_in_flight"], 0);
    world.astra.answer("POST", ResponseTemplate::new(429));
    world.mint("limited").await;
    assert_eq!(world.org_status().await["rate_limited"], 1);
}

/// A storage that fails must not look like a mount without orgs.
#[tokio::test]
async fn a_fault_of_the_storage_is_an_error() {
    let world = World::with_role("standard").await;
    world.status(json!({})).await;
    for path in ["status", "metrics"] {
        world.storage.inject(HostFault::At(1));
        assert!(world.read(path, json!({})).await.is_err(), "{path}");
        world.storage.heal();
    }
    // The role stays usable.
    ok(world.write("role", json!({"org_id": ORG, "role_name": "other", "role_id": ROLE_ID})).await);
    eventually(|| world.storage.keys().iter().any(|key| key.ends_with(":other"))).await;
}
