//! `replace=true`: the next token under a name, while the old one lives on for a while.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Response};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage};
use wiremock::ResponseTemplate;

use super::logs::capture;
use super::trial::live;
use super::{ORG, World, data, eventually, failed, lease, ok, order, refused, request, some, text};

fn replacement(name: &str, overlap: Value) -> Value {
    let mut order = order(name);
    order["replace"] = json!(true);
    if !overlap.is_null() {
        order["overlap"] = overlap;
    }
    order
}

/// After this time, the host cannot drop an answer any more.
const WINDOW: Duration = Duration::from_secs(7);

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn id(minted: &Response) -> String {
    text(minted, "clientId")
}

impl World {
    async fn replace(&self, name: &str, overlap: Value) -> Response {
        some(self.write("org/token", replacement(name, overlap)).await)
    }

    async fn is_live(&self, minted: &Response) -> bool {
        live(self).contains(&id(minted))
    }

    /// Waits until Astra has only this token. The host cannot drop an answer any more.
    async fn only(&self, minted: &Response) {
        pass(WINDOW).await;
        eventually(|| live(self).into_iter().eq([id(minted)])).await;
        eventually(|| self.tasks.is_empty()).await;
    }

    /// Fetches the token of a name.
    async fn fetched(&self, name: &str) -> Value {
        data(self.read("org/token", order(name)).await)["token"].clone()
    }

    /// Lets the overlap of a replaced token end now.
    async fn end_overlap(&self, minted: &Response) {
        let key = format!("client/{ORG}/{}", id(minted));
        let mut record = self.storage.json(&key).expect("a record");
        assert!(record["replaced_until"].is_string(), "the token is not replaced");
        record["replaced_until"] = json!("2020-01-01T00:00:00Z");
        self.stored(&key, record).await;
    }

    /// The key of the entry of the only token.
    fn token_key(&self) -> String {
        let [key] = &self.keys("token/")[..] else { panic!("{:?}", self.keys("token/")) };
        key.clone()
    }

    /// A new process that was not initialized, on a copy of the storage.
    fn after_a_crash(&self) -> Self {
        Self::with(Arc::new(MemoryStorage::holding(self.storage.entries())), self.astra.clone())
    }

    fn kinds(&self) -> (usize, usize, usize) {
        (self.keys("token/").len(), self.keys("client/").len(), self.keys("wal/").len())
    }
}

#[tokio::test]
async fn a_replacement_without_an_overlap_deletes_the_old_token_without_a_tick() {
    let world = World::with_role("standard").await;
    let old = world.mint("checkout").await;
    let new = world.replace("checkout", Value::Null).await;
    assert!(id(&old) != id(&new) && new.warnings.is_empty());
    world.only(&new).await;
    assert_eq!(world.fetched("checkout").await, text(&new, "token"));
    assert_eq!(world.kinds(), (1, 1, 0));
    // The lease of the old token ends cleanly, and harms the new token in no way.
    ok(world.revoke(&lease(&old)).await);
    assert!(world.is_live(&new).await && world.kinds() == (1, 1, 0));
    ok(world.revoke(&lease(&new)).await);
    assert!(world.is_clean());
}

#[tokio::test]
async fn during_the_overlap_both_tokens_live_and_the_name_is_of_the_new_one() {
    let world = World::with_role("standard").await;
    let old = world.mint("checkout").await;
    let new = world.replace("checkout", json!("10m")).await;
    eventually(|| world.tasks.is_empty()).await;
    ok(world.tick(false).await);
    assert!(world.is_live(&old).await && world.is_live(&new).await);
    assert_eq!(world.fetched("checkout").await, text(&new, "token"));
    let by_id = data(world.read("org/token", json!({"org_id": ORG, "client_id": id(&old)})).await);
    assert_eq!(by_id["token"], text(&old, "token"));
    let found = data(world.write("lookup", json!({"token": text(&old, "token")})).await);
    assert_eq!((&found["known"], &found["matches"]), (&json!(true), &json!(true)));
    let until: Timestamp = found["replaced_until"].as_str().unwrap().parse().unwrap();
    let left = until.duration_since(Timestamp::now()).as_secs();
    assert!((590..=600).contains(&left), "{left}");

    // A renewal of the old lease grants no more than the rest of the overlap.
    let issued = lease(&old).issue_time(Timestamp::now());
    let renewed = lease(&some(world.renew(&issued, json!({})).await));
    assert!(renewed.ttl <= Duration::from_secs(600) && renewed.ttl > Duration::from_secs(590), "{:?}", renewed.ttl);
    let renewed = lease(&some(world.renew(&lease(&new).issue_time(Timestamp::now()), json!({})).await));
    assert_eq!(renewed.ttl, Duration::from_secs(3600));

    world.end_overlap(&old).await;
    // The end of the overlap is in the memory of this process; another process finds it in the records.
    let world = world.after_a_crash();
    ok(world.tick(false).await);
    world.only(&new).await;
    assert_eq!(world.kinds(), (1, 1, 0));
    let text = failed(world.renew(&issued, json!({})).await).to_string();
    assert!(text.contains("was deleted"), "{text}");
    ok(world.revoke(&lease(&old)).await);
    assert!(world.is_live(&new).await);
}

#[tokio::test]
async fn the_lease_of_the_old_token_can_be_revoked_during_the_overlap_and_after_the_new_one() {
    for new_first in [false, true] {
        let world = World::with_role("standard").await;
        let old = world.mint("checkout").await;
        let new = world.replace("checkout", json!("1h")).await;
        let leases = if new_first { [&new, &old] } else { [&old, &new] };
        for (done, minted) in leases.into_iter().enumerate() {
            ok(world.revoke(&lease(minted)).await);
            assert!(!world.is_live(minted).await && world.astra.live() == 1 - done);
        }
        assert!(world.is_clean(), "{:?}", world.storage.keys());
    }
}

#[tokio::test]
async fn a_replaced_token_is_deleted_by_its_client_id() {
    let world = World::with_role("standard").await;
    let (old, new) = (world.mint("a").await, world.replace("a", json!("1h")).await);
    ok(world.ask(Operation::Delete, &format!("orgs/retailOrg/tokens/{}", id(&old)), json!({})).await);
    assert_eq!((live(&world).into_iter().collect::<Vec<_>>(), world.kinds()), (vec![id(&new)], (1, 1, 0)));
    ok(world.revoke(&lease(&old)).await);
    assert_eq!(world.fetched("a").await, text(&new, "token"));
}

#[tokio::test]
async fn a_replacement_of_nothing_is_a_mint_and_a_name_without_replace_stays_taken() {
    let world = World::with_role("standard").await;
    let first = world.replace("a", json!("1h")).await;
    assert!(first.warnings.is_empty());
    let error = refused(world.write("org/token", order("a")).await);
    assert!(error.contains("is taken by the live token") && error.contains("replace=true"), "{error}");
    let mut order = order("a");
    order["replace"] = json!(false);
    refused(world.write("org/token", order).await);
    assert_eq!(world.astra.live(), 1);
}

#[tokio::test]
async fn wrong_replacements_are_refused() {
    let world = World::with_role("standard").await;
    world.mint("a").await;
    let creds = "creds/retailOrg/r_w_user";
    for (operation, path, fields, expected) in [
        (Operation::Update, "org/token", json!({"overlap": "1h"}), "overlap needs replace=true"),
        (Operation::Update, "org/token", json!({"overlap": 0, "replace": false}), "overlap needs replace=true"),
        (Operation::Update, creds, json!({"replace": true}), "logical_name is required"),
        (Operation::Update, creds, json!({"replace": true, "logical_name": ""}), "logical_name must not be empty"),
        (Operation::Read, creds, json!({"replace": true, "logical_name": "a"}), "replace needs a write"),
    ] {
        let mut data = if path == "org/token" { order("a") } else { json!({}) };
        data.as_object_mut().unwrap().extend(super::map(fields));
        let error = refused(world.ask(operation, path, data).await);
        assert!(error.starts_with(expected), "{path}: {error}");
    }
    let negative = world.write("org/token", replacement("a", json!("-1s"))).await;
    assert!(failed(negative).to_string().contains("overlap"));
    assert_eq!(world.astra.live(), 1);
}

#[tokio::test]
async fn a_write_to_creds_replaces_the_token_of_its_name() {
    for mode in ["standard", "sidecar"] {
        let world = World::with_role(mode).await;
        let write = async |more: Value| {
            let mut data = json!({"logical_name": "Nightly", "metadata": {"team": "shop"}});
            data.as_object_mut().unwrap().extend(super::map(more));
            some(world.write("creds/retailOrg/r_w_user", data).await)
        };
        // A label takes no name.
        let label = write(json!({})).await;
        let first = write(json!({"replace": true})).await;
        let second = write(json!({"replace": true})).await;
        assert_eq!(second.whole_data().unwrap()["metadata"]["deletion_time"], "", "agents read this path");
        pass(WINDOW).await;
        eventually(|| live(&world).into_iter().eq([id(&label), id(&second)])).await;
        for minted in [&first, &second, &label] {
            ok(world.revoke(&lease(minted)).await);
        }
        assert!(world.is_clean(), "{mode}");
    }
}

#[tokio::test]
async fn an_overlap_is_at_most_the_rest_of_the_lease() {
    let world = World::with_role("standard").await;
    let old = world.mint("a").await;
    let new = world.replace("a", json!("100h")).await;
    assert!(
        new.warnings[0].contains("overlap of 100h0m0s") && new.warnings[0].contains("was cut to"),
        "{:?}",
        new.warnings
    );
    let record = data(world.read(&format!("orgs/retailOrg/tokens/{}", id(&old)), json!({})).await);
    assert_eq!(record["replaced_until"], record["lease_end"]);
}

#[tokio::test]
async fn a_full_role_can_replace_its_tokens() {
    let world = World::with_role("standard").await;
    world.write_role(json!({"max_tokens": 1})).await;
    let old = world.mint("a").await;
    refused(world.write("org/token", order("b")).await);
    let new = world.replace("a", json!("1h")).await;
    let error = refused(world.write("org/token", order("b")).await);
    assert!(error.contains("live tokens: 2"), "{error}");
    ok(world.revoke(&lease(&old)).await);
    refused(world.write("org/token", order("b")).await);
    // In a new process, too.
    let world = world.after_a_crash();
    let newest = world.replace("a", json!("1h")).await;
    // Only one more token than max_tokens can live.
    for overlap in [json!("1h"), Value::Null] {
        let error = refused(world.write("org/token", replacement("a", overlap)).await);
        let expected = "live tokens: 2, of which newer tokens have replaced 1; revoke a lease or delete a token (see \"vault list \
                        astra/org/tokens\"), wait for the end of an overlap, or raise max_tokens";
        assert!(error.ends_with(expected), "{error}");
    }
    assert_eq!(world.fetched("a").await, text(&newest, "token"));
    ok(world.revoke(&lease(&new)).await);
    let newer = world.replace("a", Value::Null).await;
    world.only(&newer).await;
    refused(world.write("org/token", order("b")).await);
    ok(world.revoke(&lease(&newer)).await);
    world.mint("b").await;
    ok(world.revoke(&lease(&newest)).await);
}

#[tokio::test]
async fn all_tokens_of_a_full_role_can_be_replaced_one_after_the_other() {
    let world = World::with_role("standard").await;
    world.write_role(json!({"max_tokens": 3})).await;
    let names = ["a", "b", "c"];
    for name in names {
        world.mint(name).await;
    }
    for _ in 0..3 {
        for name in names {
            world.replace(name, Value::Null).await;
        }
    }
    pass(WINDOW).await;
    eventually(|| world.astra.live() == 3 && world.tasks.is_empty()).await;
    for name in names {
        refused(world.write("org/token", order("d")).await);
        world.replace(name, Value::Null).await;
    }
}

/// A replaced token that Astra does not delete counts.
#[tokio::test]
async fn a_full_role_does_not_grow_while_astra_deletes_nothing() {
    let world = World::with_role("standard").await;
    world.write_role(json!({"max_tokens": 1})).await;
    world.mint("a").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    world.replace("a", Value::Null).await;
    pass(WINDOW).await;
    eventually(|| world.astra.count("DELETE") > 0 && world.tasks.is_empty()).await;
    let error = refused(world.write("org/token", replacement("a", Value::Null)).await);
    assert!(error.contains("of which newer tokens have replaced 1"), "{error}");
    world.astra.heal();
    pass(Duration::from_secs(31)).await;
    ok(world.tick(false).await);
    eventually(|| world.astra.live() == 1 && world.tasks.is_empty()).await;
    world.replace("a", Value::Null).await;
}

#[tokio::test]
async fn replacements_at_the_same_time_exceed_a_limit_by_one_token() {
    let world = Arc::new(World::with_role("standard").await);
    world.write_role(json!({"max_tokens": 4})).await;
    for name in ["a", "b", "c", "d"] {
        world.mint(name).await;
    }
    let replace = |name: &'static str| {
        let world = world.clone();
        async move { world.write("org/token", replacement(name, json!("1h"))).await.is_ok() }
    };
    let done = futures_util::future::join_all(["a", "b", "c", "d"].map(replace)).await;
    assert_eq!((done.iter().filter(|done| **done).count(), world.astra.live()), (1, 5));
}

/// Another caller replaces the token at the same time. Each token ends, except the last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_replacements_at_once_one_token_is_left() {
    let world = Arc::new(World::with_role("standard").await);
    let mut minted = vec![world.mint("a").await];
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.replace("a", Value::Null).await })
        })
        .collect();
    for caller in callers {
        minted.push(caller.await.unwrap());
    }
    eventually(|| world.tasks.is_empty()).await;
    let world = world.after_a_crash();
    ok(world.tick(false).await);
    eventually(|| world.astra.live() == 1 && world.tasks.is_empty()).await;
    let last = live(&world).pop_first().unwrap();
    let last = minted.iter().find(|minted| id(minted) == last).unwrap();
    assert_eq!(world.fetched("a").await, text(last, "token"));
    assert_eq!(world.kinds(), (1, 1, 0));
    for minted in &minted {
        ok(world.revoke(&lease(minted)).await);
    }
    assert!(world.is_clean());
}

/// The mint fails at Astra: the old token keeps its name and its lease.
#[tokio::test]
async fn a_failed_replacement_changes_nothing() {
    let world = World::with_role("standard").await;
    let old = world.mint("a").await;
    let before = world.storage.entries();
    for answer in [ResponseTemplate::new(403), ResponseTemplate::new(400)] {
        world.astra.answer("POST", answer);
        failed(world.write("org/token", replacement("a", json!("1h"))).await);
        assert!(world.storage.entries() == before && world.is_live(&old).await);
    }
    // Every storage call fails, with and without effect.
    for fault in [HostFault::At, HostFault::AfterEffectAt] {
        for n in 1.. {
            world.storage.inject(fault(n));
            let answer = world.write("org/token", replacement("a", Value::Null)).await;
            world.storage.heal();
            eventually(|| world.tasks.is_empty()).await;
            if answer.is_ok() {
                assert!(n > 8, "{n} storage calls");
                return;
            }
            ok(world.tick(false).await);
            assert_eq!(live(&world).into_iter().collect::<Vec<_>>(), [id(&old)], "call {n}");
            assert_eq!(world.fetched("a").await, text(&old, "token"), "call {n}");
            let record = data(world.read(&format!("orgs/retailOrg/tokens/{}", id(&old)), json!({})).await);
            assert!(record.get("replaced_until").is_none(), "call {n}");
            // The tick repeats the undo if the storage can still store the new token.
            world.until_undone().await;
            ok(world.tick(true).await);
            assert_eq!(world.keys("token/").len(), 1, "call {n}");
        }
    }
}

/// The process is killed at any storage call of a replacement. The next process gives the name back, or completes the
/// replacement, and no token is lost.
#[tokio::test]
async fn a_crash_at_any_call_leaves_the_old_token_or_the_new_one() {
    for overlap in [Value::Null, json!("1h")] {
        for n in 1.. {
            let world = World::with_role("standard").await;
            let old = world.mint("a").await;
            world.storage.inject(HostFault::HangsAt(n));
            let calls = world.storage.calls();
            let (backend, order) = (world.backend.clone(), replacement("a", overlap.clone()));
            let caller =
                tokio::spawn(async move { backend.handle(request(Operation::Update, "org/token", order)).await });
            eventually(|| world.storage.calls() >= calls + n || (caller.is_finished() && world.tasks.is_empty())).await;
            let mut is_over = caller.is_finished() && world.tasks.is_empty();
            if is_over && overlap.is_null() {
                pass(WINDOW).await;
                let is_deleted = || world.tasks.is_empty() && !live(&world).contains(&id(&old));
                eventually(|| world.storage.calls() >= calls + n || is_deleted()).await;
                is_over = is_deleted();
            }
            let (next, saved) = (world.after_a_crash(), world.astra.save());
            // The stopped process ends, and Astra forgets what it did after the stop.
            caller.abort();
            world.storage.heal();
            eventually(|| world.tasks.is_empty()).await;
            world.astra.restore(&saved);
            for _ in 0..2 {
                ok(next.backend.handle(request(Operation::Rollback, "", json!({"immediate": true}))).await);
            }
            let (alive, named) = (live(&next), next.fetched("a").await);
            let is_old = named == text(&old, "token");
            assert!(
                is_old || !overlap.is_null() || !alive.contains(&id(&old)),
                "{overlap}, call {n}: the old token lives on"
            );
            let expected = if is_old || overlap.is_null() { 1 } else { 2 };
            assert_eq!(alive.len(), expected, "{overlap}, call {n}: {alive:?}");
            assert_eq!(
                (next.keys("token/").len(), next.keys("client/").len()),
                (expected, expected),
                "{overlap}, call {n}"
            );
            ok(next.revoke(&lease(&old)).await);
            assert!(!next.is_live(&old).await);
            if is_over {
                assert!(n > 8 && !is_old, "{n} storage calls");
                break;
            }
        }
    }
}

/// The caller hangs up while Astra mints: the new token is deleted, and the old one has its name again.
#[tokio::test]
async fn a_replacement_whose_caller_hangs_up_gives_the_name_back() {
    let world = World::with_role("standard").await;
    let old = world.mint("a").await;
    world.astra.delay("POST", Duration::from_millis(100));
    let (backend, order) = (world.backend.clone(), replacement("a", Value::Null));
    let caller = tokio::spawn(async move { backend.handle(request(Operation::Update, "org/token", order)).await });
    eventually(|| world.astra.live() == 2).await;
    caller.abort();
    eventually(|| world.tasks.is_empty()).await;
    world.only(&old).await;
    assert_eq!(world.fetched("a").await, text(&old, "token"));
    // The retry succeeds.
    let new = world.replace("a", Value::Null).await;
    world.only(&new).await;
}

/// Astra fails while the old token is deleted: the caller has the new token, and a tick deletes the old one.
#[tokio::test]
async fn a_tick_deletes_a_replaced_token_if_astra_fails() {
    let world = World::with_role("standard").await;
    let old = world.mint("a").await;
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    let new = world.replace("a", Value::Null).await;
    pass(WINDOW).await;
    eventually(|| world.astra.count("DELETE") > 0 && world.tasks.is_empty()).await;
    assert!(world.is_live(&old).await && world.is_live(&new).await);
    world.astra.heal();
    pass(Duration::from_secs(31)).await;
    ok(world.tick(false).await);
    world.only(&new).await;
    assert_eq!(world.kinds(), (1, 1, 0));
}

/// A revocation holds the lock of the name until the token is deleted; the replacement then finds a free name.
#[tokio::test]
async fn a_token_that_is_being_revoked_is_not_replaced() {
    let world = Arc::new(World::with_role("standard").await);
    let old = world.mint("a").await;
    world.astra.delay("DELETE", Duration::from_millis(100));
    let revocation = tokio::spawn({
        let (world, lease) = (world.clone(), lease(&old));
        async move { world.revoke(&lease).await }
    });
    eventually(|| world.astra.count("DELETE") == 1).await;
    let new = world.replace("a", json!("1h")).await;
    ok(revocation.await.unwrap());
    world.only(&new).await;
    assert_eq!(world.kinds(), (1, 1, 0));
}

#[tokio::test]
async fn a_token_of_the_go_plugin_is_replaced() {
    let world = World::with_role("standard").await;
    let old = world.mint("a").await;
    let key = format!("client/{ORG}/{}", id(&old));
    let record = world.storage.json(&key).unwrap();
    let of_go = json!({"token_id": record["token_id"], "role_name": "r_w_user", "logical_name": "a"});
    world.stored(&key, of_go).await;
    // The sweep of another process leaves the old token alone until its overlap ends.
    let new = world.replace("a", json!("1h")).await;
    let world = world.after_a_crash();
    ok(world.tick(false).await);
    eventually(|| world.tasks.is_empty()).await;
    assert!(world.is_live(&old).await && world.is_live(&new).await);
    world.end_overlap(&old).await;
    let world = world.after_a_crash();
    ok(world.tick(false).await);
    world.only(&new).await;
    assert_eq!(world.kinds(), (1, 1, 0));
}

/// Leaves what the undo of a replacement leaves if its storage calls take effect late: the copy and the mark.
async fn leave_mark(world: &World, old: &Response) {
    let entry = world.storage.json(&world.token_key()).unwrap();
    world.stored(&format!("token/{}", id(old)), entry).await;
    let key = format!("client/{ORG}/{}", id(old));
    let mut record = world.storage.json(&key).unwrap();
    record["replaced_until"] = json!("2020-01-01T00:00:00Z");
    world.stored(&key, record).await;
}

/// The host gives up on a put of the new token, and the storage makes this put after the undo.
#[tokio::test]
async fn a_put_that_takes_effect_after_the_undo_does_not_lose_the_old_token() {
    let mut late = 0;
    for is_revoked in [false, true] {
        for n in 1.. {
            let world = World::with_role("standard").await;
            let old = world.mint("a").await;
            let (key, entry) = (world.token_key(), world.storage.json(&world.token_key()).unwrap());
            world.storage.fail_nth(n);
            let answer = world.write("org/token", replacement("a", Value::Null)).await;
            world.storage.heal();
            if answer.is_ok() {
                break;
            }
            let new = match &world.keys("wal/")[..] {
                [wal] => world.storage.json(wal).unwrap()["data"]["client_id"].clone(),
                _ => Value::Null,
            };
            if is_revoked {
                ok(world.revoke(&lease(&old)).await);
            }
            let copy = format!("token/{}", id(&old));
            if !new.is_null() {
                late += 1;
                if world.keys("token/").contains(&copy) {
                    let mut entry = entry;
                    entry["clientId"] = new;
                    world.stored(&key, entry).await;
                } else {
                    // The put of the copy has failed, and no put came after it.
                    world.stored(&copy, entry).await;
                }
            }
            world.until_undone().await;
            ok(world.tick(true).await);
            if is_revoked {
                assert!(world.is_clean(), "call {n}: {:?}", world.storage.keys());
                continue;
            }
            assert_eq!(world.fetched("a").await, text(&old, "token"), "call {n}");
            let (tokens, records, _) = world.kinds();
            assert_eq!((tokens, records), (1, 1), "call {n}");
            ok(world.revoke(&lease(&old)).await);
            assert!(world.is_clean(), "call {n}");
        }
    }
    assert!(late >= 4, "{late} late puts");
}

#[tokio::test]
async fn a_mark_that_an_undo_left_is_removed_with_the_copy() {
    let world = World::with_role("standard").await;
    let old = world.mint("a").await;
    leave_mark(&world, &old).await;
    let world = world.after_a_crash();
    ok(world.tick(false).await);
    eventually(|| world.tasks.is_empty()).await;
    assert!(world.is_live(&old).await);
    assert_eq!(world.kinds(), (1, 1, 0));
    let record = data(world.read(&format!("orgs/retailOrg/tokens/{}", id(&old)), json!({})).await);
    assert!(record.get("replaced_until").is_none());
}

/// A tick finds a mark that an undo left, while the next mint replaces the token. The tick neither deletes the old token
/// before its overlap ends, nor removes the mark of the mint.
#[tokio::test]
async fn a_tick_and_a_replacement_at_the_same_time_agree_on_the_end() {
    for n in 1.. {
        let world = World::with_role("standard").await;
        let old = world.mint("a").await;
        leave_mark(&world, &old).await;
        let world = Arc::new(world.after_a_crash());
        let calls = world.storage.calls();
        world.storage.inject(HostFault::HangsAt(n));
        let ticking = tokio::spawn({
            let world = world.clone();
            async move { world.tick(false).await }
        });
        eventually(|| world.storage.calls() >= calls + n || ticking.is_finished()).await;
        let is_over = ticking.is_finished();
        let mut replacing = tokio::spawn({
            let world = world.clone();
            async move { world.replace("a", json!("1h")).await }
        });
        // It may have to wait for the tick.
        let early = tokio::time::timeout(Duration::from_millis(60), &mut replacing).await;
        world.storage.heal();
        let new = if let Ok(done) = early { done.unwrap() } else { replacing.await.unwrap() };
        ok(ticking.await.unwrap());
        eventually(|| world.tasks.is_empty()).await;
        assert!(world.is_live(&old).await && world.is_live(&new).await, "call {n}");
        assert_eq!(world.kinds(), (2, 2, 0), "call {n}");
        world.end_overlap(&old).await;
        let next = world.after_a_crash();
        ok(next.tick(false).await);
        assert!(live(&next).into_iter().eq([id(&new)]), "call {n}");
        if is_over {
            assert!(n > 5, "{n} storage calls");
            break;
        }
    }
}

fn take_back(minted: &Response) {
    minted.undelivered.as_ref().expect("a minted token can be taken back").run();
}

/// The caller hangs up while the answer travels: the new token is deleted, and the old one has its name again.
#[tokio::test]
async fn a_dropped_answer_of_a_replacement_gives_the_name_back() {
    for overlap in [Value::Null, json!("1h")] {
        let world = World::with_role("standard").await;
        let old = world.mint("a").await;
        let new = world.replace("a", overlap.clone()).await;
        // A tick finds the mark before the host drops the answer.
        ok(world.tick(false).await);
        eventually(|| world.tasks.is_empty()).await;
        assert!(world.is_live(&old).await, "{overlap}");
        take_back(&new);
        eventually(|| world.astra.live() == 1 && world.tasks.is_empty()).await;
        world.only(&old).await;
        ok(world.tick(false).await);
        world.only(&old).await;
        assert_eq!(world.fetched("a").await, text(&old, "token"), "{overlap}");
        assert_eq!(world.kinds(), (1, 1, 0), "{overlap}");
        // The retry succeeds.
        let new = world.replace("a", Value::Null).await;
        world.only(&new).await;
    }
}

/// The host drops the answer at the last moment, and the storage is slow or fails.
#[tokio::test]
async fn an_old_token_stays_until_the_undo_of_its_replacement_is_complete() {
    for fault in [HostFault::HangsAt, HostFault::From] {
        for n in 1..20 {
            let world = World::with_role("standard").await;
            let old = world.mint("a").await;
            let new = world.replace("a", Value::Null).await;
            eventually(|| world.tasks.is_empty()).await;
            let calls = world.storage.calls();
            world.storage.inject(fault(n));
            take_back(&new);
            eventually(|| world.storage.calls() >= calls + n || world.tasks.is_empty()).await;
            pass(WINDOW).await;
            let ticking = {
                let backend = world.backend.clone();
                tokio::spawn(async move {
                    backend.handle(request(Operation::Rollback, "", json!({"immediate": false}))).await
                })
            };
            tokio::task::yield_now().await;
            world.storage.heal();
            drop(ticking.await.unwrap());
            eventually(|| world.tasks.is_empty()).await;
            assert!(world.is_live(&old).await, "{:?}", fault(n));
            world.until_undone().await;
            pass(WINDOW).await;
            ok(world.tick(false).await);
            eventually(|| world.tasks.is_empty()).await;
            assert!(world.is_live(&old).await, "{:?}", fault(n));
        }
    }
}

/// In an outage, a tick makes one attempt for each org, and writes one line.
#[tokio::test]
async fn a_tick_tries_one_replaced_token_of_an_org_whose_astra_fails() {
    let (log, _guard) = capture();
    let world = World::with_role("standard").await;
    for n in 0..30 {
        let name = format!("name{n}");
        world.mint(&name).await;
        world.replace(&name, json!("1h")).await;
    }
    for key in world.keys("client/") {
        let mut record = world.storage.json(&key).unwrap();
        if record["replaced_until"].is_string() {
            record["replaced_until"] = json!("2020-01-01T00:00:00Z");
            world.stored(&key, record).await;
        }
    }
    let world = world.after_a_crash();
    for method in ["DELETE", "GET"] {
        world.astra.answer_all(method, ResponseTemplate::new(500));
    }
    let asked = || world.astra.count("DELETE");
    let before = asked();
    let line = "failed to delete replaced tokens, will retry";
    ok(world.tick(false).await);
    let each = asked() - before;
    assert!(each <= 8, "{each} calls of Astra");
    assert_eq!(log.count("ERROR", line), 1);
    let reads = world.storage.calls();
    ok(world.tick(false).await);
    assert!(world.storage.calls() - reads < 20, "{} storage calls in the pause", world.storage.calls() - reads);
    assert_eq!((asked() - before, log.count("ERROR", line)), (each, 1), "in the pause after a failure");
    pass(Duration::from_secs(31)).await;
    let reads = world.storage.calls();
    ok(world.tick(false).await);
    assert!(world.storage.calls() - reads < 40, "{} storage calls", world.storage.calls() - reads);
    assert_eq!((asked() - before, log.count("ERROR", line)), (2 * each, 2));
    assert!(!log.has("ERROR", "failed to delete a replaced token"));
    world.astra.heal();
    pass(Duration::from_secs(31)).await;
    ok(world.tick(false).await);
    eventually(|| world.astra.live() == 30 && world.tasks.is_empty()).await;
}
