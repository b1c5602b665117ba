//! `max_tokens`: a role never has more live tokens than its limit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Secret};
use vault_plugin_sdk::testing::HostFault;
use wiremock::ResponseTemplate;

use super::{ORG, OTHER_ORG, ROLE_ID, World, data, eventually, failed, lease, ok, refused, some, status, text};

fn role(max_tokens: u32) -> Value {
    json!({"max_tokens": max_tokens})
}

fn order(name: &str) -> Value {
    json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": name})
}

impl World {
    /// A mount with the role of the guide and with a limit.
    async fn limited(mode: &str, max_tokens: u32) -> Self {
        let world = Self::with_role(mode).await;
        world.limit(max_tokens).await;
        world
    }

    async fn limit(&self, max_tokens: u32) {
        let change = json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": max_tokens});
        ok(self.ask(Operation::Patch, "role", change).await);
    }

    /// Mints until a mint fails. Returns the number of minted tokens.
    async fn fill(&self, prefix: &str) -> usize {
        for n in 0.. {
            match self.write("org/token", order(&format!("{prefix}{n}"))).await {
                Ok(_) => {}
                Err(error) => {
                    assert!(error.to_string().contains("max_tokens"), "{error}");
                    return n;
                }
            }
        }
        unreachable!("a role without a limit")
    }

    /// Storage calls of a request.
    async fn cost<T>(&self, request: impl Future<Output = T>) -> (T, usize) {
        let before = self.storage.calls();
        let answer = request.await;
        (answer, self.storage.calls() - before)
    }
}

#[tokio::test]
async fn a_mint_above_the_limit_fails_and_the_error_says_what_to_do() {
    let world = World::limited("standard", 2).await;
    let (one, two) = (world.mint("a").await, world.mint("b").await);
    let text_of = refused(world.write("org/token", order("c")).await);
    for part in ["\"r_w_user\"", ORG, "max_tokens is 2, live tokens: 2;", "revoke", "astra/org/tokens"] {
        assert!(text_of.contains(part), "{text_of}");
    }
    assert_eq!((world.astra.count("POST"), world.keys("wal/").len()), (2, 0), "Astra is not asked");

    ok(world.revoke(&lease(&one)).await);
    world.mint("c").await;
    refused(world.write("org/token", order("d")).await);
    let by = json!({"org_id": ORG, "client_id": text(&two, "clientId")});
    ok(world.ask(Operation::Delete, "org/token", by).await);
    world.mint("d").await;
    refused(world.write("org/token", order("e")).await);
    // The limit applies to one role of one org.
    ok(world.write("role", json!({"org_id": ORG, "role_name": "other", "role_id": ROLE_ID})).await);
    some(world.write("org/token", json!({"org_id": ORG, "role_name": "other", "logical_name": "a"})).await);
    assert_eq!(world.keys("live/").len(), 2);
}

#[tokio::test]
async fn only_a_role_with_a_limit_stores_and_shows_the_limit() {
    let world = World::with_role("standard").await;
    let key = format!("role/{ORG}:r_w_user");
    let name = json!({"org_id": ORG, "role_name": "r_w_user"});
    let shown = || async {
        let read = data(world.read("role", name.clone()).await);
        let listed = world.list("roles/", json!({})).await["key_info"]["r_w_user"].clone();
        let stored = world.storage.json(&key).unwrap();
        [read, listed, stored].map(|object| object.get("max_tokens").and_then(Value::as_u64))
    };
    assert_eq!(shown().await, [None; 3]);
    world.limit(7).await;
    assert_eq!(shown().await, [Some(7); 3]);
    world.write_role(json!({"ttl": 60})).await;
    assert_eq!(shown().await, [Some(7); 3], "an update keeps it");
    let removed = json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": null});
    ok(world.ask(Operation::Patch, "role", removed).await);
    assert_eq!(shown().await, [None; 3]);
    for wrong in [json!(-1), json!(100_001), json!("many"), json!(u64::MAX)] {
        let text = refused(world.write("role", json!({"org_id": ORG, "role": "r_w_user", "max_tokens": wrong})).await);
        assert!(text.contains("max_tokens"), "{text}");
    }
    assert_eq!(shown().await, [None; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_callers_get_as_many_tokens_as_the_limit_allows() {
    for mode in ["standard", "sidecar"] {
        let world = Arc::new(World::limited(mode, 5).await);
        world.astra.delay("POST", Duration::from_millis(30));
        let operation = if mode == "sidecar" { Operation::Read } else { Operation::Update };
        let callers: Vec<_> = (0..16)
            .map(|n| {
                let world = world.clone();
                tokio::spawn(async move { world.ask(operation, "org/token", order(&format!("n{n}"))).await })
            })
            .collect();
        let mut minted = 0;
        for caller in callers {
            match caller.await.unwrap() {
                Ok(_) => minted += 1,
                Err(error) => assert!(error.to_string().contains("max_tokens is 5"), "{error}"),
            }
        }
        assert_eq!((minted, world.astra.live(), world.astra.count("POST")), (5, 5, 5), "{mode}");
    }
}

#[tokio::test]
async fn a_slow_mint_blocks_no_other_mint_and_keeps_its_place() {
    let world = Arc::new(World::limited("standard", 2).await);
    world.mint("a").await;
    world.astra.delay("POST", Duration::from_millis(300));
    let slow = tokio::spawn({
        let world = world.clone();
        async move { world.mint("b").await }
    });
    eventually(|| world.astra.count("POST") == 2).await;
    let text = refused(world.write("org/token", order("c")).await);
    assert!(text.contains("live tokens: 1, mints in progress: 1"), "{text}");
    assert!(!slow.is_finished(), "nobody waits for Astra");
    slow.await.unwrap();
    refused(world.write("org/token", order("c")).await);
}

#[tokio::test]
async fn a_failed_mint_frees_its_place_before_the_answer() {
    let world = World::limited("standard", 1).await;
    for status in [400, 401, 429] {
        world.astra.answer_all("POST", ResponseTemplate::new(status));
        failed(world.write("org/token", order("a")).await);
        world.astra.heal();
        let minted = world.mint("b").await;
        ok(world.revoke(&lease(&minted)).await);
    }
    // While the outcome of a mint is unknown, the mint keeps its place.
    world.astra.answer_after("POST", ResponseTemplate::new(500));
    failed(world.write("org/token", order("a")).await);
    world.until_undone().await;
    world.astra.heal();
    assert_eq!(world.fill("c").await, 1);
}

#[tokio::test]
async fn live_tokens_are_counted_when_a_limit_is_set() {
    let world = World::with_role("standard").await;
    let mut leases = Vec::new();
    for name in ["a", "b", "c"] {
        leases.push(lease(&world.mint(name).await));
    }
    world.stored(&format!("client/{OTHER_ORG}/X"), json!({"token_id": "t", "role_name": "r_w_user"})).await;
    world.stored(&format!("client/{ORG}/Y"), json!({"token_id": "t", "role_name": "another"})).await;
    world.limit(5).await;
    assert_eq!(world.fill("d").await, 2);
    // Lower the limit below the number of live tokens, then raise it.
    world.limit(2).await;
    for secret in leases {
        assert!(refused(world.write("org/token", order("z")).await).contains("max_tokens is 2"));
        ok(world.revoke(&secret).await);
    }
    refused(world.write("org/token", order("z")).await);
    world.limit(3).await;
    assert_eq!(world.fill("e").await, 1);
    let world = world.remounted().await;
    refused(world.write("org/token", order("z")).await);
    world.limit(4).await;
    assert_eq!(world.fill("f").await, 1);
}

#[tokio::test]
async fn a_token_being_minted_when_the_limit_is_set_is_counted() {
    let world = Arc::new(World::with_role("standard").await);
    world.astra.delay("POST", Duration::from_millis(200));
    let slow = tokio::spawn({
        let world = world.clone();
        async move { world.mint("a").await }
    });
    eventually(|| world.astra.count("POST") == 1).await;
    world.limit(2).await;
    world.astra.heal();
    slow.await.unwrap();
    assert_eq!(world.fill("b").await, 1);
    let world = Arc::try_unwrap(world).map_err(drop).unwrap().remounted().await;
    refused(world.write("org/token", order("z")).await);
}

#[tokio::test]
async fn a_role_that_is_written_again_counts_the_tokens_of_the_deleted_role() {
    let world = World::limited("standard", 2).await;
    let secret = lease(&world.mint("a").await);
    ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user"})).await);
    assert!(world.keys("live/").is_empty());
    world.write_role(role(2)).await;
    assert_eq!(world.fill("b").await, 1);
    // Without a limit, the engine counts no tokens.
    world.limit(0).await;
    assert!(world.keys("live/").is_empty());
    world.mint("free").await;
    ok(world.revoke(&secret).await);
    assert!(world.keys("live/").is_empty());
    world.limit(3).await;
    assert_eq!(world.fill("c").await, 1);
}

#[tokio::test]
async fn tokens_of_the_go_plugin_are_counted_once_they_are_in_the_inventory() {
    let token = |client_id: &str| {
        json!({"clientId": client_id, "secret": "old", "orgId": ORG, "roleName": "r_w_user", "roles": [ROLE_ID],
            "token": format!("AstraCS:{client_id}:abc"), "generatedOn": "2023-01-01T00:00:00Z", "logicalName": "",
            "metadata": null})
    };
    let world = World::unprepared().await;
    world.write_config("standard").await;
    world.stored("token/OLD1", token("OLD1")).await;
    world.write_role(json!({})).await;
    let change = json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": 3});
    let (code, text) = status(world.ask(Operation::Patch, "role", change).await);
    assert!(code == 503 && text.contains("inventory"), "{text}");
    world.initialize().await;
    world.limit(3).await;
    assert!(world.keys("live/")[0].ends_with("/OLD1"));

    // A token that the Go plugin minted during a downgrade is counted after its renewal, and also in a new process.
    let world = world.remounted().await;
    world.stored("token/OLD2", token("OLD2")).await;
    let internal = json!({"orgId": ORG, "clientId": "OLD2", "roleName": "r_w_user", "tokenId": "OLD2",
        "secret_type": "astra_token"});
    let hour = Duration::from_secs(3600);
    some(world.renew(&Secret::new(hour, hour, super::map(internal)), Value::Null).await);
    assert_eq!(world.fill("a").await, 1);
    // A token that the Go plugin revoked during the downgrade is not counted.
    let world = world.remounted().await;
    vault_plugin_sdk::logical::Storage::delete(&*world.storage, "token/OLD1").await.unwrap();
    assert_eq!(world.fill("b").await, 1);
}

#[tokio::test]
async fn the_cost_of_a_mint_does_not_grow_with_the_number_of_tokens() {
    let world = World::limited("standard", 40).await;
    world.mint("first").await;
    let (second, cost) = world.cost(world.mint("second")).await;
    // One call more than without a limit: see `mints_and_renewals_make_the_fewest_possible_calls_of_the_host`.
    assert_eq!(cost, 7);
    assert_eq!(world.fill("n").await, 38);
    ok(world.revoke(&lease(&second)).await);
    assert_eq!(world.cost(world.mint("last")).await.1, cost);
    let full = || world.cost(world.write("org/token", order("more")));
    let (answer, asked) = full().await;
    refused(answer);
    assert_eq!(asked, 1, "the name in standard mode");

    // A new process lists the tokens once. If the limit is reached, it reads each token once.
    let world = world.remounted().await;
    let full = || world.cost(world.write("org/token", order("more")));
    assert!(full().await.1 > 80);
    let (answer, asked) = full().await;
    refused(answer);
    assert_eq!(asked, 1);
}

/// A process loses its storage at any call of any request, and a new process takes over.
#[tokio::test]
async fn the_count_is_right_after_a_crash_at_any_call() {
    const LIMIT: u32 = 3;
    for change in ["mint", "revoke", "delete", "limit"] {
        for n in 1.. {
            let world = World::limited("standard", LIMIT).await;
            if change == "limit" {
                world.limit(0).await;
            }
            let secret = lease(&world.mint("a").await);
            world.mint("b").await;
            let before = world.storage.calls();
            world.storage.inject(HostFault::From(n));
            let lost = match change {
                "mint" => world.write("org/token", order("c")).await,
                "revoke" => world.revoke(&secret).await,
                "delete" => world.ask(Operation::Delete, "org/token", order("a")).await,
                _ => {
                    let limit = json!({"org_id": ORG, "role_name": "r_w_user", "max_tokens": LIMIT});
                    world.ask(Operation::Patch, "role", limit).await
                }
            };
            let calls = world.storage.calls() - before;
            world.storage.heal();
            let world = World::with(world.storage.clone(), world.astra.clone());
            world.until_undone().await;
            if change == "limit" {
                world.limit(LIMIT).await;
            }
            world.fill("d").await;
            let (live, known) = (world.astra.live(), world.keys("client/").len());
            assert!(live == LIMIT as usize && known == live, "{change} at {n}: {live} live, {known} known");
            if lost.is_ok() && calls < n {
                break;
            }
        }
    }
}

#[tokio::test]
async fn the_deletion_of_a_token_frees_its_place_whichever_call_fails() {
    for kind in [HostFault::At as fn(usize) -> HostFault, HostFault::AfterEffectAt] {
        for n in 1.. {
            let world = World::limited("standard", 1).await;
            let secret = lease(&world.mint("a").await);
            let before = world.storage.calls();
            world.storage.inject(kind(n));
            let mut ended = world.revoke(&secret).await;
            let calls = world.storage.calls() - before;
            world.storage.heal();
            // The host retries in the same process.
            if ended.is_err() {
                ended = world.revoke(&secret).await;
            }
            ok(ended);
            assert_eq!(world.fill("b").await, 1, "at call {n}");
            if calls < n {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_node_that_takes_over_counts_the_tokens_of_the_other_node() {
    let first = World::limited("standard", 4).await;
    let second = World::with(first.storage.clone(), first.astra.clone());
    let a = lease(&first.mint("a").await);
    second.mint("b").await;
    // Both nodes have listed the tokens. The host invalidates each changed key on the standby.
    let change = async |by: &World, told: &World, request: Value| {
        let before = by.storage.entries();
        let answer = by.write("org/token", request).await;
        let after = by.storage.entries();
        let keys = |entries: &[vault_plugin_sdk::logical::Entry]| {
            entries.iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (keys(&before), keys(&after));
        for key in before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)) {
            told.backend.invalidate(key);
        }
        answer
    };
    first.backend.invalidate(&second.keys("live/")[1]);
    some(change(&first, &second, order("c")).await);
    some(change(&second, &first, order("d")).await);
    refused(change(&first, &second, order("e")).await);
    refused(change(&second, &first, order("e")).await);
    // One node deletes a token, and the host invalidates the keys on the other node.
    let before = second.storage.keys();
    ok(second.revoke(&a).await);
    let after = second.storage.keys();
    before.iter().filter(|key| !after.contains(key)).for_each(|key| first.backend.invalidate(key));
    some(change(&first, &second, order("e")).await);
    refused(change(&second, &first, order("f")).await);
    assert_eq!(first.astra.live(), 4);
}

/// An event in the life of a mount.
#[derive(Clone, Debug)]
enum Event {
    Mint,
    Revoke(usize),
    Delete(usize),
    Limit(u32),
    DeleteRole,
    Restart,
    /// The next request has a fault of the host at this call.
    HostFault(usize, bool),
    /// Astra mints the next token and answers with an error.
    Lost,
    Tick,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => Just(Event::Mint),
        2 => any::<usize>().prop_map(Event::Revoke),
        2 => any::<usize>().prop_map(Event::Delete),
        1 => (0..6_u32).prop_map(Event::Limit),
        1 => Just(Event::DeleteRole),
        1 => Just(Event::Restart),
        3 => (1..9_usize, any::<bool>()).prop_map(|(n, has_effect)| Event::HostFault(n, has_effect)),
        1 => Just(Event::Lost),
        1 => Just(Event::Tick),
    ];
    proptest::collection::vec(event, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_sequence_of_events_exceeds_the_limit_or_wastes_a_place(events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(events));
    }
}

async fn history(events: Vec<Event>) {
    let (mut world, mut limit) = (World::limited("standard", 3).await, 3);
    let mut leases: Vec<Secret> = Vec::new();
    for (n, event) in events.into_iter().enumerate() {
        match event {
            Event::Mint => {
                let room = limit == 0 || leases.len() < limit as usize;
                match world.write("org/token", order(&format!("n{n}"))).await {
                    Ok(response) => {
                        assert!(room, "a token beyond the limit of {limit}");
                        leases.push(lease(&response.unwrap()));
                    }
                    // Mints with an unknown outcome keep their places.
                    Err(error) if error.to_string().contains("max_tokens") => {
                        let is_kept = error.to_string().contains("mints in progress");
                        assert!(!room || is_kept, "{error}, and {} live", leases.len());
                    }
                    Err(_) => world.storage.heal(),
                }
            }
            Event::Revoke(one) if !leases.is_empty() => {
                let secret = leases.swap_remove(one % leases.len());
                // The host retries until the request succeeds.
                while world.revoke(&secret).await.is_err() {
                    world.storage.heal();
                }
            }
            Event::Delete(one) if !leases.is_empty() => {
                let secret = &leases[one % leases.len()];
                let by = json!({"org_id": ORG, "client_id": secret.internal_data["clientId"]});
                drop(world.ask(Operation::Delete, "org/token", by).await);
                world.storage.heal();
                let secret = leases.swap_remove(one % leases.len());
                ok(world.revoke(&secret).await);
            }
            Event::Limit(new) => {
                world.storage.heal();
                world.write_role(role(new)).await;
                limit = new;
            }
            Event::DeleteRole => {
                world.storage.heal();
                ok(world.ask(Operation::Delete, "role", json!({"org_id": ORG, "role": "r_w_user"})).await);
                world.write_role(role(limit)).await;
            }
            Event::Restart => world = World::with(world.storage.clone(), world.astra.clone()),
            Event::HostFault(at, true) => world.storage.inject(HostFault::AfterEffectAt(at)),
            Event::HostFault(at, false) => world.storage.inject(HostFault::At(at)),
            Event::Lost => world.astra.answer_after("POST", ResponseTemplate::new(500)),
            Event::Tick => drop(world.tick(true).await),
            Event::Revoke(_) | Event::Delete(_) => {}
        }
    }
    world.storage.heal();
    world.astra.heal();
    world.until_undone().await;
    world.write_role(role(6)).await;
    assert_eq!(world.fill("last").await, 6_usize.saturating_sub(leases.len()));
}
