//! Unfinished changes, and how the engine undoes or finishes them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Answer, Operation};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage};
use wiremock::ResponseTemplate;

use super::{ORG, ROOT, World, eventually, failed, lease, ok, order, some, status, text};

const MARKER: &str = "0123456789abcdef0123456789abcdef";

/// The description of a token of the mint with [`MARKER`].
fn described() -> String {
    format!("vault 0a1b/{MARKER} mount=astra/ role=r_w_user name= by=")
}

impl World {
    /// Runs a tick of the host. With `immediate`, the tick also processes young entries.
    pub(super) async fn tick(&self, immediate: bool) -> Answer {
        self.ask(Operation::Rollback, "", json!({"immediate": immediate})).await
    }

    /// Writes the WAL entry of a mint of another process, with this age in seconds.
    async fn noted(&self, id: &str, age: i64, data: Value) {
        let mut mint =
            json!({"org_id": ORG, "role_name": "r_w_user", "marker": MARKER, "described": true, "timeout_seconds": 30});
        mint.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        let created_at = Timestamp::now().as_second() - age;
        self.stored(&format!("wal/{id}"), json!({"type": "token-mint", "data": mint, "created_at": created_at})).await;
    }

    /// Writes the WAL entry of a deletion of another process, with this age in seconds. The token has a record.
    async fn deletion_noted(&self, id: &str, age: i64, client_id: &str, timeout: u64) {
        let record = self.storage.json(&format!("client/{ORG}/{client_id}")).unwrap();
        let data =
            json!({"org_id": ORG, "client_id": client_id, "token_id": record["token_id"], "timeout_seconds": timeout});
        let created_at = Timestamp::now().as_second() - age;
        self.stored(&format!("wal/{id}"), json!({"type": "token-delete", "data": data, "created_at": created_at}))
            .await;
    }

    /// Mints a token in Astra that the engine does not know.
    fn planted(&self, client_id: &str, description: &str) {
        self.astra.state().live.insert(client_id.into(), json!({"roles": [], "description": description}));
    }

    /// Waits for the background work, and until the tick has undone the rest.
    pub(super) async fn until_undone(&self) {
        self.until_unfinished(0).await;
    }

    /// Waits for the background work, and until the tick has left this number of entries unfinished.
    pub(super) async fn until_unfinished(&self, entries: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.unfinished().len() != entries {
            assert!(Instant::now() < deadline, "the log has other entries: {:?}", self.unfinished());
            ok(self.tick(true).await);
            tokio::task::yield_now().await;
        }
    }

    /// Makes all records so old that no lease of their tokens can exist. Astra does not know an expiry.
    pub(super) async fn make_overdue(&self) {
        for key in self.keys("client/") {
            let mut record = self.storage.json(&key).unwrap();
            record["expires_at"] = json!("2022-01-01T00:00:00Z");
            record["expires_in_astra"] = json!(false);
            self.stored(&key, record).await;
        }
    }

    /// Keys of the WAL entries whose token the engine has not looked for yet. The others stay for a while, because a
    /// request can take effect late.
    pub(super) fn unfinished(&self) -> Vec<String> {
        let is_looked_for =
            |key: &String| self.storage.json(key).is_some_and(|entry| entry["data"].get("looked").is_some());
        self.keys("wal/").into_iter().filter(|key| !is_looked_for(key)).collect()
    }

    pub(super) fn is_clean(&self) -> bool {
        self.astra.live() == 0
            && self.unfinished().is_empty()
            && ["token/", "client/"].iter().all(|prefix| self.keys(prefix).is_empty())
    }
}

#[tokio::test]
async fn a_mint_has_a_wal_entry_until_its_token_is_stored() {
    let world = World::with_role("standard").await;
    let caller = world.minting("a", Duration::from_millis(1500)).await;
    let noted = world.storage.json(&world.keys("wal/")[0]).unwrap();
    assert_eq!((noted["type"].as_str(), noted["data"]["org_id"].as_str()), (Some("token-mint"), Some(ORG)));
    let marker = noted["data"]["marker"].as_str().unwrap();
    let described = world.astra.state().live.values().next().unwrap()["description"].as_str().unwrap().to_owned();
    let parts: Vec<&str> = described.split([' ', '/']).take(3).collect();
    assert!(parts[0] == "vault" && parts[1].len() == 12 && parts[2] == marker, "{described}");
    // While the mint runs, the tick does not undo its entry, whatever the age of the entry.
    ok(world.tick(true).await);
    let minted = some(caller.await.unwrap());
    assert_eq!((world.astra.live(), world.keys("wal/").len()), (1, 0));
    ok(world.revoke(&lease(&minted)).await);
    assert!(world.is_clean());
}

/// With a slow host, each call that waits for another call makes a mint slower.
#[tokio::test]
async fn a_mint_stores_its_token_and_its_record_at_the_same_time() {
    let world = World::with_role("standard").await;
    // The first mint fills the caches.
    some(world.read("creds/retailOrg/r_w_user", Value::Null).await);
    let before = world.storage.calls();
    let (put_of_first, calls_of_mint) = (3, 5);
    world.storage.inject(HostFault::HangsAt(put_of_first));
    let (backend, read) =
        (world.backend.clone(), super::request(Operation::Read, "creds/retailOrg/r_w_user", Value::Null));
    let mint = tokio::spawn(async move { backend.handle(read).await });
    eventually(|| world.keys("token/").len() == 2 && world.keys("client/").len() == 2).await;
    assert!(!mint.is_finished() && world.storage.calls() - before == 4, "no call of the mint hangs");
    world.storage.heal();
    some(mint.await.expect("does not panic"));
    assert_eq!(world.storage.calls() - before, calls_of_mint);
}

#[tokio::test]
async fn a_mint_writes_its_wal_entry_while_the_host_tells_the_maximum_of_the_mount() {
    let world = World::with_role("standard").await;
    let fact_of_mount = 2;
    world.system.inject(HostFault::HangsAt(fact_of_mount));
    let (backend, read) =
        (world.backend.clone(), super::request(Operation::Read, "creds/retailOrg/r_w_user", Value::Null));
    let mint = tokio::spawn(async move { backend.handle(read).await });
    eventually(|| world.keys("wal/").len() == 1).await;
    assert!(!mint.is_finished() && world.astra.live() == 0);
    world.system.heal();
    some(mint.await.expect("does not panic"));
    // If the host does not tell the maximum, nothing is left.
    world.system.inject(HostFault::At(fact_of_mount));
    failed(world.read("creds/retailOrg/r_w_user", Value::Null).await);
    assert_eq!((world.keys("wal/").len(), world.astra.live()), (0, 1));
}

#[tokio::test]
async fn a_token_whose_answer_was_lost_is_found_and_deleted_at_once() {
    let world = World::with_role("standard").await;
    for answer in [
        ResponseTemplate::new(500),
        ResponseTemplate::new(503),
        ResponseTemplate::new(200).set_body_string("{\"clientId\":"),
        ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/"),
    ] {
        let posts = world.astra.count("POST");
        world.astra.answer_after("POST", answer);
        let (_, text) = status(world.write("org/token", order("a")).await);
        assert!(text.contains("deletes the token as soon as Astra lists the token"), "{text}");
        eventually(|| world.is_clean()).await;
        assert_eq!(world.astra.count("POST"), posts + 1, "a mint is repeated");
    }
    world.mint("a").await;
}

#[tokio::test]
async fn the_tick_deletes_a_token_that_was_not_found_at_once() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
    world.astra.answer_after("POST", ResponseTemplate::new(500));
    world.astra.answer_all("GET", ResponseTemplate::new(500));
    assert_eq!(status(world.write("org/token", order("a")).await).0, 502);
    eventually(|| world.astra.count("GET") > 1).await;
    // A young entry can belong to another node.
    ok(world.tick(false).await);
    assert_eq!((world.astra.live(), world.keys("wal/").len()), (1, 1));
    // The engine retries the search for the token.
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.tick(true).await.is_ok() {
        assert!(Instant::now() < deadline, "the tick does not try");
        tokio::task::yield_now().await;
    }
    assert_eq!((world.astra.live(), world.keys("wal/").len()), (1, 1));
    // After a failure, the tick skips the org for a while, so that the org does not delay other orgs.
    let asked = world.astra.count("GET");
    failed(world.tick(true).await);
    assert_eq!(world.astra.count("GET"), asked);
    world.astra.heal();
    let fresh = world.remounted().await;
    ok(fresh.tick(true).await);
    assert!(fresh.is_clean());
}

#[tokio::test]
async fn retries_of_callers_do_not_list_all_tokens_each_time() {
    let world = World::with_role("standard").await;
    world.astra.answer_after_all("POST", ResponseTemplate::new(500));
    world.astra.answer_all("GET", ResponseTemplate::new(500));
    let asked = world.astra.count("GET");
    failed(world.write("org/token", order("a")).await);
    // The search makes four attempts. During the search, the tick does not process the entry.
    let deadline = Instant::now() + Duration::from_secs(10);
    while world.tick(true).await.is_ok() {
        assert!(Instant::now() < deadline, "the search goes on");
        tokio::task::yield_now().await;
    }
    for n in 0..20 {
        failed(world.write("org/token", order(&format!("b{n}"))).await);
    }
    // Waits for the background work.
    world.backend.cleanup().await;
    assert_eq!((world.astra.count("GET") - asked, world.keys("wal/").len(), world.astra.live()), (4, 21, 21));
    world.astra.heal();
    let fresh = world.remounted().await;
    ok(fresh.tick(true).await);
    assert!(fresh.is_clean());
}

#[tokio::test]
async fn an_entry_is_undone_only_when_no_process_can_still_work_on_it() {
    let world = World::with_role("standard").await;
    world.planted("young", "vault 0a1b/young");
    world.planted("old", &described());
    world.noted("1", 53, json!({"marker": "young"})).await;
    world.noted("2", 57, json!({})).await;
    ok(world.tick(false).await);
    assert_eq!(world.unfinished(), ["wal/1"]);
    assert_eq!(world.astra.state().live.keys().collect::<Vec<_>>(), ["young"]);
}

#[tokio::test]
async fn all_tokens_of_a_repeated_mint_are_undone() {
    let world = World::with_role("standard").await;
    let minted = some(world.ask(Operation::Update, "org/token", order("kept")).await);
    // A gateway repeated the request of an unfinished mint, and Astra lists the tokens of other mints, too.
    for client_id in ["first", "second", "third"] {
        world.planted(client_id, &described());
    }
    world.planted("other", "vault 0a1b/another");
    world.noted("1", 60, json!({})).await;
    ok(world.tick(false).await);
    assert_eq!(world.unfinished(), [""; 0]);
    let live: Vec<String> = world.astra.state().live.keys().cloned().collect();
    assert_eq!(live, [text(&minted, "clientId"), "other".to_owned()]);
    assert_eq!(world.keys("client/").len(), 1);
}

#[tokio::test]
async fn a_mint_that_takes_effect_late_is_undone() {
    let world = World::with_role("standard").await;
    let description = described();
    world.noted("1", 60, json!({})).await;
    for client_id in ["late", "twice"] {
        ok(world.tick(false).await);
        assert_eq!((world.keys("wal/").len(), world.unfinished().len()), (1, 0), "{client_id}");
        world.planted(client_id, &description);
    }
    ok(world.tick(false).await);
    assert!(world.is_clean());
    for (age, timeout, entries) in [(890, 30, 1), (910, 30, 0), (2990, 300, 1), (3010, 300, 0)] {
        world.noted("1", age, json!({"timeout_seconds": timeout})).await;
        ok(world.tick(false).await);
        assert_eq!(world.keys("wal/").len(), entries, "{age} s after a call with {timeout} s");
    }
}

#[tokio::test]
async fn a_mint_blocks_the_deletion_of_its_config_until_the_first_look() {
    let world = World::with_role("standard").await;
    world.noted("1", 60, json!({})).await;
    let (code, message) = status(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    assert!(code == 503 && message.contains("unfinished"), "{code}: {message}");
    ok(world.tick(false).await);
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    // Without a config, nobody can look again.
    ok(world.tick(false).await);
    assert!(world.keys("wal/").is_empty());
}

#[tokio::test]
async fn a_token_that_the_storage_stores_late_is_removed() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    let (key, entry) = world.keys("token/").first().map(|key| (key.clone(), world.storage.json(key).unwrap())).unwrap();
    ok(world.revoke(&lease(&minted)).await);
    let put_of_token = 4;
    world.storage.fail_nth(put_of_token);
    let (_, message) = status(world.write("org/token", order("a")).await);
    assert!(message.contains("the token could not be stored"), "{message}");
    let client_id = world.storage.json(&world.keys("wal/")[0]).unwrap()["data"]["client_id"].clone();
    let mut late = entry;
    late["clientId"] = client_id;
    world.stored(&key, late).await;
    ok(world.tick(true).await);
    assert!(world.is_clean() && world.keys("wal/").is_empty(), "{:?}", world.storage.keys());
    world.mint("a").await;
}

#[tokio::test]
async fn the_undo_of_a_mint_removes_the_stored_token_and_record() {
    for mode in ["standard", "sidecar"] {
        let world = World::with_role(mode).await;
        let operation = if mode == "standard" { Operation::Update } else { Operation::Read };
        let minted = some(world.ask(operation, "org/token", order("a")).await);
        let record = world.storage.json(&world.keys("client/")[0]).unwrap();
        let mut data = json!({"marker": record["marker"]});
        if mode == "standard" {
            data["token_id"] = record["token_id"].clone();
        }
        world.noted("1", 60, data).await;
        ok(world.tick(false).await);
        assert!(world.is_clean(), "{mode}");
        // The host has no lease of this token. If it had, the revocation would succeed.
        ok(world.revoke(&lease(&minted)).await);
    }
}

/// A process is killed at any storage call of a mint. The next process builds the inventory before its first tick.
#[tokio::test]
async fn a_crash_at_any_call_of_a_mint_before_the_inventory_is_built_leaves_no_token() {
    for n in 1.. {
        let world = Arc::new(World::with_role("standard").await);
        world.storage.inject(HostFault::HangsAt(n));
        let caller = tokio::spawn({
            let world = world.clone();
            async move { world.mint("a").await }
        });
        let before = world.storage.calls();
        eventually(|| caller.is_finished() || world.storage.calls() - before >= n).await;
        if caller.is_finished() {
            assert!(n > 4, "no call was held up");
            break;
        }
        let mut left = world.storage.entries();
        left.retain(|entry| entry.key != "client-index");
        for entry in left.iter_mut().filter(|entry| entry.key.starts_with("wal/")) {
            // Both processes are one process here, so an entry with its own id would count as unfinished work.
            entry.key = "wal/killed".into();
        }
        let next = World::with(Arc::new(MemoryStorage::holding(left)), world.astra.clone());
        let is_minted = next.unfinished().is_empty() && !next.keys("token/").is_empty();
        next.initialize().await;
        ok(next.tick(true).await);
        assert!(is_minted || next.is_clean(), "killed at call {n}: {:?}", next.storage.keys());
    }
}

#[tokio::test]
async fn a_token_in_use_is_never_undone() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    world.noted("1", 60, json!({"client_id": text(&minted, "clientId")})).await;
    world.noted("2", 60, json!({"client_id": ROOT.split(':').nth(1)})).await;
    world.noted("3", 60, json!({})).await;
    ok(world.tick(false).await);
    assert_eq!((world.astra.live(), world.unfinished().len(), world.astra.count("DELETE")), (1, 0, 0));
    some(world.read("org/token", order("a")).await);
}

#[tokio::test]
async fn an_answer_that_names_a_token_in_use_deletes_no_token() {
    let world = World::with_role("standard").await;
    let first = world.mint("a").await;
    world.astra.change("clientId", json!(text(&first, "clientId")));
    world.astra.change("clientId", json!(ROOT.split(':').nth(1)));
    for name in ["b", "c"] {
        let (code, message) = status(world.write("org/token", order(name)).await);
        assert!(code == 502 && message.contains("its clientId belongs to"), "{message}");
        eventually(|| world.astra.live() == 1 && world.unfinished().is_empty()).await;
    }
    assert_eq!(text(&some(world.read("org/token", order("a")).await), "token"), text(&first, "token"));
}

#[tokio::test]
async fn an_entry_is_kept_until_its_token_is_deleted_has_expired_or_is_very_old() {
    let world = World::new().await;
    world.noted("1", 60, json!({})).await;
    world.noted("2", 60, json!({"expires_at": "2999-01-01T00:00:00Z"})).await;
    world.noted("3", 60, json!({"expires_at": "2022-01-01T00:00:00Z"})).await;
    world.noted("4", 31 * 86400, json!({})).await;
    let error = failed(world.tick(false).await).to_string();
    assert!(error.contains("no config for org_id"), "{error}");
    assert_eq!(world.keys("wal/"), ["wal/1", "wal/2"]);
    world.planted("left", &described());
    world.write_config("standard").await;
    ok(world.tick(false).await);
    assert!(world.is_clean());
}

#[tokio::test]
async fn without_a_description_only_a_known_client_id_is_undone() {
    let world = World::with_role("standard").await;
    let off = json!({"org_id": ORG, "description": false, "token_expiry": false});
    let warnings = some(world.write("config", off).await).warnings;
    assert!(warnings.iter().any(|text| text.contains("cannot find and delete")) && warnings.len() == 2, "{warnings:?}");
    world.astra.answer_after("POST", ResponseTemplate::new(500));
    let (_, message) = status(world.write("org/token", order("a")).await);
    assert!(message.contains("cannot find it without a description, and the token does not expire"), "{message}");
    eventually(|| world.keys("wal/").is_empty()).await;
    assert_eq!(world.astra.live(), 1);
    // After Astra's answer, the client id is known.
    let before = world.storage.calls();
    let minted = world.mint("b").await;
    ok(world.revoke(&lease(&minted)).await);
    let calls = world.storage.calls() - before;
    for n in 1..=calls {
        world.storage.fail_nth(n);
        if let Ok(answer) = world.write("org/token", order("c")).await {
            let secret = lease(&answer.unwrap());
            if world.revoke(&secret).await.is_err() {
                ok(world.revoke(&secret).await);
            }
        }
        world.until_undone().await;
        assert_eq!(world.astra.live(), 1, "call {n} of {calls}");
    }
}

#[tokio::test]
async fn the_tick_finishes_a_deletion_with_an_unknown_outcome() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "1s"})).await);
    for effective in [true, false] {
        let minted = world.mint("a").await;
        let error = || ResponseTemplate::new(500);
        world.astra.answer_all("GET", error());
        match effective {
            true => world.astra.answer_after_all("DELETE", error()),
            false => world.astra.answer_all("DELETE", error()),
        }
        failed(world.revoke(&lease(&minted)).await);
        assert_eq!((world.keys("wal/").len(), world.keys("token/").len()), (1, 1));
        world.astra.heal();
        ok(world.tick(true).await);
        let left = usize::from(!effective);
        // A deletion that has not taken effect can take effect late, so its entry stays.
        assert_eq!((world.astra.live(), world.keys("wal/").len(), world.keys("token/").len()), (left, left, left));
        assert_eq!(world.keys("client/").len(), left);
        ok(world.revoke(&lease(&minted)).await);
        assert!(world.is_clean());
    }
}

/// A gateway can send a request to Astra after the request has failed. The token is then gone, and no lease says so.
#[tokio::test]
async fn a_deletion_that_takes_effect_late_is_finished() {
    let world = World::with_role("standard").await;
    let client_id = text(&world.mint("a").await, "clientId");
    world.deletion_noted("1", 60, &client_id, 30).await;
    for _ in 0..2 {
        ok(world.tick(false).await);
        assert_eq!((world.keys("wal/").len(), world.keys("token/").len(), world.keys("client/").len()), (1, 1, 1));
    }
    world.astra.state().live.remove(&client_id);
    ok(world.tick(false).await);
    assert!(world.is_clean());

    let client_id = text(&world.mint("a").await, "clientId");
    for (age, timeout, entries) in [(890, 30, 1), (910, 30, 0), (2990, 300, 1), (3010, 300, 0)] {
        world.deletion_noted("1", age, &client_id, timeout).await;
        ok(world.tick(false).await);
        assert_eq!(world.keys("wal/").len(), entries, "{age} s after a call with {timeout} s");
        assert_eq!(world.keys("client/").len(), 1, "a token that Astra has stays");
    }
}

#[tokio::test]
async fn a_token_without_a_lease_is_swept() {
    let world = World::with_role("standard").await;
    for name in ["a", "b", "c"] {
        world.mint(name).await;
    }
    let keys = world.keys("client/");
    for (key, end) in keys.iter().zip(["2022-01-01T00:00:00Z", ""]) {
        let mut record = world.storage.json(key).unwrap();
        record["expires_at"] = json!(end);
        world.stored(key, record).await;
    }
    ok(world.tick(false).await);
    assert_eq!(world.keys("client/"), keys[1..]);
    assert_eq!((world.astra.live(), world.keys("token/").len(), world.keys("wal/").len()), (2, 2, 0));
    // The sweep makes one pass in an hour.
    let calls = world.storage.calls();
    ok(world.tick(false).await);
    assert_eq!(world.storage.calls() - calls, 1, "the log is listed, and nothing else is looked at");
}

#[tokio::test]
async fn a_sweep_checks_thousands_of_records_in_one_tick() {
    let world = World::new().await;
    let records = 3000;
    for n in 0..records {
        let overdue = n % 1000 == 999;
        let end = if overdue { "2022-01-01T00:00:00Z" } else { "2999-01-01T00:00:00Z" };
        world.stored(&format!("client/org-{}/c{n:04}", n / 1000), json!({"token_id": "t", "expires_at": end})).await;
    }
    ok(world.tick(false).await);
    assert_eq!(world.keys("client/").len(), records - 3);
}

#[tokio::test]
async fn a_sweep_continues_where_the_time_of_the_last_tick_was_used_up() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "10m"})).await);
    for name in ["a", "b", "c"] {
        world.mint(name).await;
    }
    world.make_overdue().await;
    for method in ["GET", "DELETE"] {
        world.astra.answer_all(method, ResponseTemplate::new(200).set_delay(Duration::from_secs(3600)));
    }
    let records = world.keys("client/");
    tokio::time::pause();
    // The first token takes more time than the tick has. Afterwards its org is left alone for a while.
    for _ in 0..2 {
        ok(world.tick(false).await);
    }
    assert_eq!(world.keys("client/"), records);
    tokio::time::resume();
    world.astra.heal();
    let fresh = world.remounted().await;
    for _ in 0..2 {
        ok(fresh.tick(false).await);
    }
    assert!(fresh.is_clean());
}

#[tokio::test]
async fn a_sweep_returns_to_the_tokens_that_it_could_not_delete() {
    let world = World::with_role("standard").await;
    world.mint("a").await;
    world.make_overdue().await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(500));
    world.astra.answer_all("GET", ResponseTemplate::new(500));
    ok(world.tick(false).await);
    ok(world.tick(false).await);
    world.astra.heal();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    ok(world.tick(false).await);
    assert!(world.is_clean(), "{:?}", world.storage.keys());
}

#[tokio::test]
async fn a_token_that_has_expired_in_astra_ends_in_vault_alone() {
    for config in ["deleted", "refused"] {
        let world = World::with_role("standard").await;
        let minted = world.mint("a").await;
        world.mint("b").await;
        match config {
            "deleted" => drop(ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await)),
            _ => world.astra.answer_all("DELETE", ResponseTemplate::new(401)),
        }
        failed(world.revoke(&lease(&minted)).await);
        let mut old = lease(&minted);
        old.internal_data.insert("expires_at".to_owned(), json!("2022-01-01T00:00:00Z"));
        ok(world.revoke(&old).await);
        for key in world.keys("client/") {
            let mut record = world.storage.json(&key).unwrap();
            record["expires_at"] = json!("2022-01-01T00:00:00Z");
            world.stored(&key, record).await;
        }
        ok(world.tick(false).await);
        assert!(world.keys("token/").is_empty() && world.keys("client/").is_empty(), "{config}");
    }
}

#[tokio::test]
async fn a_forced_delete_removes_a_token_that_astra_cannot_delete() {
    for config in ["deleted", "refused"] {
        let world = World::with_role("standard").await;
        let minted = world.mint("a").await;
        let by_id = json!({"org_id": ORG, "client_id": text(&minted, "clientId")});
        match config {
            "deleted" => drop(ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await)),
            _ => world.astra.answer_all("DELETE", ResponseTemplate::new(401)),
        }
        failed(world.ask(Operation::Delete, "org/token", by_id.clone()).await);
        assert_eq!(world.keys("token/").len(), 1, "{config}");
        let mut forced = by_id;
        forced["force"] = json!(true);
        ok(world.ask(Operation::Delete, "org/token", forced).await);
        assert!(world.keys("token/").is_empty() && world.keys("client/").is_empty(), "{config}");
        ok(world.revoke(&lease(&minted)).await);
    }
}

#[tokio::test]
async fn repeated_deletions_of_a_token_have_one_wal_entry() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(500));
    world.astra.answer_all("GET", ResponseTemplate::new(500));
    for _ in 0..6 {
        failed(world.revoke(&lease(&minted)).await);
        failed(world.ask(Operation::Delete, "org/token", order("a")).await);
        assert_eq!(world.keys("wal/").len(), 1);
    }
    world.astra.heal();
    ok(world.revoke(&lease(&minted)).await);
    world.until_undone().await;
    assert!(world.is_clean());
}

/// The deletions of a token share one entry. A deletion that Astra rejects says nothing about an earlier deletion, whose
/// answer was lost, or whose process was killed.
#[tokio::test]
async fn a_rejected_deletion_keeps_the_entry_of_an_earlier_deletion() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    world.astra.answer_after_all("DELETE", ResponseTemplate::new(500));
    world.astra.answer_all("GET", ResponseTemplate::new(500));
    failed(world.revoke(&lease(&minted)).await);
    assert_eq!((world.keys("wal/").len(), world.astra.live()), (1, 0));
    world.astra.heal();
    world.astra.answer("DELETE", ResponseTemplate::new(403));
    failed(world.revoke(&lease(&minted)).await);
    assert_eq!(world.keys("wal/").len(), 1);
    ok(world.tick(true).await);
    assert!(world.is_clean());

    // Without an earlier deletion, a rejection leaves nothing to settle.
    let minted = world.mint("b").await;
    world.astra.answer("DELETE", ResponseTemplate::new(403));
    failed(world.revoke(&lease(&minted)).await);
    assert_eq!((world.keys("wal/").len(), world.astra.live()), (0, 1));
}

/// The host tries to revoke a lease six times, and many leases at the same time.
#[tokio::test]
async fn a_revocation_retries_while_astra_fails_for_a_moment() {
    let world = World::with_role("standard").await;
    let minted = [world.mint("a").await, world.mint("b").await];
    for (answers, minted) in [(3, &minted[0]), (1, &minted[1])] {
        for _ in 0..answers {
            world.astra.answer("DELETE", ResponseTemplate::new(503));
        }
        ok(world.revoke(&lease(minted)).await);
    }
    assert!(world.is_clean());
}

#[tokio::test]
async fn the_shutdown_of_a_mount_waits_for_running_mints() {
    let world = World::with_role("standard").await;
    let caller = world.minting("a", Duration::from_millis(700)).await;
    let backend = world.backend.clone();
    let cleanup = tokio::spawn(async move { backend.cleanup().await });
    tokio::task::yield_now().await;
    let (code, message) = status(world.write("org/token", order("b")).await);
    assert!(code == 503 && message.contains("stopping"), "{message}");
    cleanup.await.unwrap();
    assert!(caller.is_finished(), "the mint was left alone");
    some(caller.await.unwrap());
    assert_eq!((world.astra.live(), world.keys("wal/").len()), (1, 0));
}

#[tokio::test]
async fn the_shutdown_of_a_mount_has_a_time_limit() {
    let world = World::with_role("standard").await;
    let caller = world.minting("a", Duration::from_secs(20)).await;
    // Astra uses another clock, so the next event is the time limit of the shutdown.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    world.backend.cleanup().await;
    assert!(start.elapsed() < Duration::from_secs(5) && world.keys("wal/").len() == 1, "{:?}", start.elapsed());
    drop(caller);
}

#[tokio::test]
async fn an_org_whose_astra_hangs_does_not_block_the_tick_of_other_orgs() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "10m"})).await);
    for name in ["a", "b"] {
        world.mint(name).await;
    }
    world.make_overdue().await;
    for n in 0..40 {
        world.noted(&format!("{n}"), 1000, json!({"marker": "x"})).await;
    }
    let done = json!({"org_id": ORG, "client_id": "gone", "token_id": "gone", "timeout_seconds": 30});
    world.stored("wal/z", json!({"type": "token-delete", "data": done, "created_at": 0})).await;
    for method in ["GET", "DELETE"] {
        world.astra.answer_all(method, ResponseTemplate::new(200).set_delay(Duration::from_secs(3600)));
    }
    tokio::time::pause();
    // The host cancels a tick in the same way.
    let tick = tokio::time::timeout(Duration::from_secs(90), world.tick(false)).await;
    failed(tick.expect("the tick comes to its end"));
    assert!(!world.keys("wal/").contains(&"wal/z".to_owned()));
    assert_eq!(world.keys("token/").len(), 2);
}

#[tokio::test]
async fn without_a_description_the_tick_deletes_the_token_that_astra_named() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "description": false})).await);
    world.astra.change("orgId", json!("another"));
    world.astra.answer_all("DELETE", ResponseTemplate::new(500));
    assert_eq!(status(world.write("org/token", order("a")).await).0, 502);
    eventually(|| world.astra.count("DELETE") == 4).await;
    world.astra.heal();
    assert_eq!(world.astra.live(), 1);
    let fresh = world.remounted().await;
    fresh.until_undone().await;
    assert!(fresh.is_clean());
}

#[tokio::test]
async fn a_token_whose_answer_the_host_drops_is_deleted() {
    for (mode, path, order) in [
        ("standard", "org/token", order("org1")),
        ("sidecar", "org/token", order("org1")),
        ("standard", "creds/retailOrg/r_w_user", json!({})),
    ] {
        let world = World::with_role(mode).await;
        let operation = if mode == "sidecar" { Operation::Read } else { Operation::Update };
        let minted = some(world.ask(operation, path, order).await);
        assert_eq!(world.astra.live(), 1);
        minted.undelivered.expect("a minted token can be taken back").run();
        eventually(|| world.astra.live() == 0).await;
        eventually(|| [world.keys("token/"), world.keys("wal/"), world.keys("client/")].concat().is_empty()).await;
    }
}

#[tokio::test]
async fn a_dropped_answer_during_an_outage_is_undone_by_the_tick() {
    let world = World::with_role("standard").await;
    let minted = world.mint("org1").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(500));
    minted.undelivered.expect("a minted token can be taken back").run();
    eventually(|| world.keys("wal/").len() == 1 && world.astra.count("DELETE") > 0).await;
    assert_eq!(world.astra.live(), 1);
    world.astra.heal();
    world.until_undone().await;
    assert_eq!(world.astra.live(), 0);
}

#[tokio::test]
async fn an_answer_without_a_new_token_takes_nothing_back() {
    let world = World::with_role("standard").await;
    world.mint("org1").await;
    assert!(some(world.read("org/token", order("org1")).await).undelivered.is_none());
}

#[tokio::test]
async fn the_entries_of_an_org_share_one_list_of_a_tick() {
    let world = World::with_role("standard").await;
    let kept = text(&world.mint("kept").await, "clientId");
    let gone = text(&world.mint("gone").await, "clientId");
    world.astra.state().live.remove(&gone);
    let markers: Vec<String> = (0..100).map(|n| format!("{n:032x}")).collect();
    for (n, marker) in markers.iter().enumerate() {
        world.noted(&format!("mint{n}"), 60, json!({"marker": marker})).await;
        world.planted(&format!("lost{n}"), &format!("vault 0a1b/{marker} mount=astra/"));
        let client_id = [kept.as_str(), gone.as_str()][n % 2];
        world.deletion_noted(&format!("deletion{n}"), 60, client_id, 30).await;
    }
    let lists = || world.astra.state().requests.iter().filter(|request| *request == "GET /v2/clientIdSecrets").count();
    let before = lists();
    ok(world.tick(false).await);
    assert_eq!(lists() - before, 1);
    assert_eq!(world.astra.state().live.keys().collect::<Vec<_>>(), [&kept]);
    // The deletions of the token that Astra kept can take effect late.
    assert_eq!((world.unfinished().len(), world.keys("token/").len()), (50, 1));
    // The list of a tick says nothing about the changes before the next tick.
    world.planted("late", &format!("vault 0a1b/{} mount=astra/", markers[7]));
    ok(world.tick(false).await);
    assert_eq!((lists() - before, world.astra.live()), (2, 1));
}

#[tokio::test]
async fn a_tick_asks_a_failing_astra_once_for_each_org() {
    let world = World::with_role("standard").await;
    for n in 0..100 {
        world.noted(&format!("mint{n}"), 60, json!({"marker": format!("{n:032x}")})).await;
    }
    world.astra.answer_all("GET", ResponseTemplate::new(500));
    let before = world.astra.count("GET");
    failed(world.tick(false).await);
    let attempts_of_one_call = 4;
    assert_eq!(world.astra.count("GET") - before, attempts_of_one_call);
    assert_eq!(world.unfinished().len(), 100);
}

/// The host cancels a tick after 90 seconds, so that a longer undo would never note its trouble.
#[tokio::test]
async fn the_undo_of_a_rotation_has_the_time_limit_of_a_tick() {
    let world = World::with_role("standard").await;
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "10m"})).await);
    let note = json!({"org_id": ORG, "old": "old", "marker": MARKER, "described": true, "new": "new", "stored": true,
        "timeout_seconds": 600});
    let noted = json!({"type": "root-rotate", "data": note, "created_at": Timestamp::now().as_second() - 1000});
    world.stored("wal/1", noted).await;
    for method in ["GET", "DELETE"] {
        world.astra.answer_all(method, ResponseTemplate::new(200).set_delay(Duration::from_secs(3600)));
    }
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let tick = tokio::time::timeout(Duration::from_secs(90), world.tick(false)).await;
    let error = failed(tick.expect("the tick ends before the host cancels it")).to_string();
    assert!(error.contains("longer than 45s") && start.elapsed() < Duration::from_secs(50), "{error}");
    // The trouble is noted: the next tick skips the org.
    let error = failed(world.tick(false).await).to_string();
    assert!(error.contains("less than 30 seconds ago") && world.keys("wal/").len() == 1, "{error}");
}
