//! When, by whom and how often a token was used.

use vault_plugin_sdk::logical::ReplicationState;
use vault_plugin_sdk::testing::HostFault;

use super::*;

impl World {
    /// Reads a token by its name.
    async fn use_token(&self, name: &str) {
        some(self.read("org/token", order(name)).await);
    }

    /// The record of a token, as a read shows it: last use, last reader, number of uses.
    async fn use_of(&self, client_id: &str) -> (Value, Value, Value) {
        let shown = data(self.read(&format!("orgs/retailOrg/tokens/{client_id}"), Value::Null).await);
        let listed = self.list("org/tokens/", json!({"org_id": ORG})).await["key_info"][client_id].clone();
        assert_eq!(shown, listed);
        (shown["last_used_at"].clone(), shown["last_used_by"].clone(), shown["use_count"].clone())
    }

    /// The count in the stored record.
    fn written(&self, client_id: &str) -> Option<u64> {
        let record = self.storage.json(&format!("client/{ORG}/{client_id}"))?;
        Some(record.get("use_count").map_or(0, |count| count.as_u64().unwrap()))
    }
}

/// Lets this much time pass for the engine.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// A mount with a named token that was read twice, an hour ago.
async fn world_with_due_uses() -> (World, String) {
    let world = World::with_role("standard").await;
    let client = text(&world.mint("a").await, "clientId");
    // The first pass over the records is not of interest.
    ok(world.tick(false).await);
    for _ in 0..2 {
        world.use_token("a").await;
    }
    pass(3600).await;
    (world, client)
}

#[tokio::test]
async fn reads_and_renewals_are_uses_and_neither_writes() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    let client = text(&minted, "clientId");
    assert_eq!(world.use_of(&client).await, (Value::Null, Value::Null, json!(0)), "a mint is no use");
    let writes = world.storage.writes();
    world.use_token("a").await;
    some(world.read("org/token", json!({"org_id": ORG, "client_id": client})).await);
    let (at, by, count) = world.use_of(&client).await;
    assert_eq!((by, count), (json!("token-bob"), json!(2)));
    let at: jiff::Timestamp = at.as_str().unwrap().parse().unwrap();
    assert!((jiff::Timestamp::now().as_second() - at.as_second()).abs() < 60);

    let eve = request(Operation::Read, "org/token", order("a")).caller(Caller::new("eve"));
    some(world.backend.handle(eve).await);
    some(world.renew(&lease(&minted), Value::Null).await);
    let (_, by, count) = world.use_of(&client).await;
    assert_eq!((by, count), (json!("eve"), json!(4)), "the host does not say who renews");
    // A failed read and a read from a snapshot are no uses.
    refused(world.read("org/token", order("b")).await);
    some(world.backend.handle(request(Operation::Read, "org/token", order("a")).from_snapshot("6c1f")).await);
    assert_eq!(world.use_of(&client).await.2, json!(4));
    assert_eq!(world.storage.writes(), writes);
}

#[tokio::test]
async fn a_token_that_a_read_minted_is_used_by_renewals() {
    let world = World::with_role("sidecar").await;
    let minted = some(world.read("org/token", order("label")).await);
    let client = text(&minted, "clientId");
    assert_eq!(world.use_of(&client).await, (Value::Null, Value::Null, json!(0)));
    some(world.renew(&lease(&minted), Value::Null).await);
    let (at, by, count) = world.use_of(&client).await;
    assert!(at.is_string());
    assert_eq!((by, count), (Value::Null, json!(1)));
}

#[tokio::test]
async fn a_tick_writes_the_uses_once_an_hour() {
    let world = World::with_role("standard").await;
    let clients = [text(&world.mint("a").await, "clientId"), text(&world.mint("b").await, "clientId")];
    ok(world.tick(false).await);
    let writes = world.storage.writes();
    for minute in 0..125 {
        world.use_token("a").await;
        if minute == 30 {
            world.use_token("b").await;
        }
        ok(world.tick(false).await);
        pass(60).await;
    }
    assert_eq!(world.storage.writes() - writes, 3, "token a at the minutes 60 and 121, token b at minute 90");
    assert_eq!(clients.each_ref().map(|client| world.written(client)), [Some(122), Some(1)]);
    assert_eq!(world.use_of(&clients[0]).await.2, json!(125));
    // A tick makes no call for uses that are not due.
    let calls = world.storage.calls();
    ok(world.tick(false).await);
    let idle = world.storage.calls() - calls;
    world.use_token("a").await;
    let calls = world.storage.calls();
    ok(world.tick(false).await);
    assert_eq!(world.storage.calls() - calls, idle);
}

#[tokio::test]
async fn the_end_of_a_mount_writes_all_uses() {
    let world = World::with_role("standard").await;
    let client = text(&world.mint("a").await, "clientId");
    world.use_token("a").await;
    let before = world.use_of(&client).await;
    world.backend.cleanup().await;
    assert_eq!(world.written(&client), Some(1));
    let writes = world.storage.writes();
    world.backend.cleanup().await;
    assert_eq!(world.storage.writes(), writes, "the host cleans up twice");
    let world = world.remounted().await;
    assert_eq!(world.use_of(&client).await, before);
    world.use_token("a").await;
    assert_eq!(world.use_of(&client).await.2, json!(2));
}

#[tokio::test]
async fn the_end_of_a_mount_does_not_wait_for_a_storage_that_hangs() {
    let (world, _) = world_with_due_uses().await;
    world.storage.inject(HostFault::HangsAt(1));
    tokio::time::pause();
    let begin = tokio::time::Instant::now();
    world.backend.cleanup().await;
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_storage_that_fails_loses_no_use_and_counts_none_twice() {
    for nth in 1..20 {
        for fault in [HostFault::At(nth), HostFault::AfterEffectAt(nth), HostFault::ReadOnlyFrom(nth)] {
            let (world, client) = world_with_due_uses().await;
            world.storage.inject(fault);
            drop(world.tick(false).await);
            world.storage.heal();
            assert_eq!(world.use_of(&client).await.2, json!(2), "{fault:?}");
            world.use_token("a").await;
            assert_eq!(world.use_of(&client).await.2, json!(3), "{fault:?}");
            pass(3600).await;
            ok(world.tick(false).await);
            assert_eq!(world.written(&client), Some(3), "{fault:?}");
            assert_eq!(world.use_of(&client).await.2, json!(3), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_write_never_brings_back_the_record_of_a_deleted_token() {
    for nth in 1..20 {
        let (world, client) = world_with_due_uses().await;
        world.storage.inject(HostFault::HangsAt(nth));
        let backend = world.backend.clone();
        let ticking = tokio::spawn(async move { backend.handle(request(Operation::Rollback, "", Value::Null)).await });
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let backend = world.backend.clone();
        let by = json!({"org_id": ORG, "client_id": client});
        let mut deleting =
            tokio::spawn(async move { backend.handle(request(Operation::Delete, "org/token", by)).await });
        // Without a lock, the deletion ends while the write waits.
        let deleted = tokio::time::timeout(Duration::from_millis(200), &mut deleting).await;
        world.storage.heal();
        if deleted.is_err() {
            drop(deleting.await.unwrap());
        }
        drop(ticking.await.unwrap());
        ok(world.tick(false).await);
        world.until_undone().await;
        assert_eq!((world.written(&client), world.astra.live()), (None, 0), "call {nth}");
    }
}

#[tokio::test]
async fn a_deletion_waits_for_a_slow_write_of_the_record() {
    let (world, client) = world_with_due_uses().await;
    let writes = world.storage.writes();
    // A slow call takes effect at its end.
    world.storage.inject(HostFault::Slow(Duration::from_millis(300)));
    let backend = world.backend.clone();
    let ticking = tokio::spawn(async move { backend.handle(request(Operation::Rollback, "", Value::Null)).await });
    eventually(|| world.storage.writes() > writes).await;
    world.storage.heal();
    ok(world.ask(Operation::Delete, "org/token", json!({"org_id": ORG, "client_id": client})).await);
    ok(ticking.await.unwrap());
    assert_eq!((world.written(&client), world.astra.live()), (None, 0));
}

#[tokio::test]
async fn a_tick_does_not_wait_for_a_token_that_astra_is_slow_to_delete() {
    let (world, client) = world_with_due_uses().await;
    let other = text(&world.mint("b").await, "clientId");
    world.use_token("b").await;
    pass(3600).await;
    world.astra.delay("DELETE", Duration::from_secs(3));
    let backend = world.backend.clone();
    let by = json!({"org_id": ORG, "client_id": client});
    let deleting = tokio::spawn(async move { backend.handle(request(Operation::Delete, "org/token", by)).await });
    eventually(|| world.astra.count("DELETE") == 1).await;
    ok(world.tick(false).await);
    assert!(!deleting.is_finished());
    assert_eq!((world.written(&client), world.written(&other)), (Some(0), Some(1)));
    ok(deleting.await.unwrap());
    ok(world.tick(false).await);
    assert_eq!(world.written(&client), None);
}

#[tokio::test]
async fn ticks_on_a_storage_that_hangs_do_not_pile_up_writes() {
    let mut hung = 0;
    for nth in 1..12 {
        let (world, client) = world_with_due_uses().await;
        world.storage.inject(HostFault::HangsAt(nth));
        let tick = || {
            let backend = world.backend.clone();
            tokio::spawn(async move { backend.handle(request(Operation::Rollback, "", Value::Null)).await })
        };
        let first = tick();
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        // If the sweep hangs, the next tick waits for the sweep.
        if first.is_finished() || tokio::time::timeout(Duration::from_millis(200), tick()).await.is_err() {
            world.storage.heal();
            continue;
        }
        hung += 1;
        let mut costs = Vec::new();
        for _ in 0..3 {
            let before = world.storage.calls();
            ok(tick().await.unwrap());
            costs.push(world.storage.calls() - before);
        }
        world.storage.heal();
        ok(first.await.unwrap());
        assert_eq!(world.written(&client), Some(2));
        let before = world.storage.calls();
        ok(world.tick(false).await);
        assert_eq!(costs, [world.storage.calls() - before; 3], "call {nth}");
    }
    assert!(hung > 1, "the write of the uses never hung");
}

#[tokio::test]
async fn a_damaged_record_keeps_no_other_record_from_its_uses() {
    let world = World::with_role("standard").await;
    let mut clients = Vec::new();
    for name in ["a", "b", "c"] {
        clients.push(text(&world.mint(name).await, "clientId"));
        world.use_token(name).await;
    }
    world.stored(&format!("client/{ORG}/{}", clients[1]), json!("damaged")).await;
    pass(3600).await;
    ok(world.tick(false).await);
    assert_eq!([world.written(&clients[0]), world.written(&clients[2])], [Some(1), Some(1)]);
    assert_eq!(world.storage.json(&format!("client/{ORG}/{}", clients[1])), Some(json!("damaged")));
}

#[tokio::test]
async fn a_renewal_that_moves_the_end_of_a_lease_keeps_the_uses() {
    let world = World::with_role("standard").await;
    let minted = world.mint("a").await;
    let client = text(&minted, "clientId");
    world.use_token("a").await;
    pass(3600).await;
    ok(world.tick(false).await);
    world.write_role(json!({"ttl": "3600", "max_ttl": "720000"})).await;
    some(world.renew(&lease(&minted), Value::Null).await);
    assert_eq!((world.written(&client), world.use_of(&client).await.2), (Some(1), json!(2)));
}

/// A new process with the storage of another, on a standby.
async fn standby_of(active: &World) -> World {
    let standby = World::with(active.storage.clone(), active.astra.clone());
    standby.system.set_state(ReplicationState::PERFORMANCE_STANDBY);
    standby.initialize().await;
    eventually(|| standby.system.calls() > 0).await;
    // The background task notes the state of the node after the call.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    standby
}

#[tokio::test]
async fn a_standby_forwards_one_read_of_a_token_in_an_hour_and_keeps_the_others() {
    let active = World::with_role("standard").await;
    let client = text(&active.mint("a").await, "clientId");
    let standby = standby_of(&active).await;
    for hour in 1..=3 {
        let error = failed(standby.read("org/token", order("a")).await);
        assert!(matches!(error, Error::ReadOnly), "{error}");
        // The host repeats the request at the active node.
        active.use_token("a").await;
        let calls = standby.system.calls();
        for _ in 0..2 {
            standby.use_token("a").await;
        }
        assert_eq!(standby.system.calls(), calls);
        assert_eq!(active.use_of(&client).await.2, json!(hour));
        pass(3600).await;
        ok(active.tick(false).await);
        // The uses that only the standby saw, and the written ones.
        assert_eq!(standby.use_of(&client).await.2, json!(3 * hour));
    }
    let writes = active.storage.writes();
    ok(standby.tick(false).await);
    standby.backend.cleanup().await;
    assert_eq!(active.storage.writes(), writes, "a standby writes nothing");
}

#[tokio::test]
async fn a_standby_that_becomes_active_writes_what_it_saw() {
    let active = World::with_role("standard").await;
    let client = text(&active.mint("a").await, "clientId");
    let standby = standby_of(&active).await;
    failed(standby.read("org/token", order("a")).await);
    standby.use_token("a").await;
    standby.system.set_state(ReplicationState::PRIMARY);
    pass(3600).await;
    // Not forwarded: there is no other active node.
    standby.use_token("a").await;
    ok(standby.tick(false).await);
    assert_eq!(standby.written(&client), Some(2));
}
