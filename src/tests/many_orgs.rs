//! Mounts with many orgs: the storage calls of a request do not grow with the number of orgs.

use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Storage as _};
use vault_plugin_sdk::testing::HostFault;

use super::{ORG, ROLE_ID, ROOT, World, data, failed, ok, refused, some, text};

/// The most storage calls of a mint right after a config write.
const MINT: usize = 8;

/// The most storage calls of a config write after another config write.
const CONFIG_WRITE: usize = 6;

/// The `org_id` of org number `n`.
fn nth(n: usize) -> String {
    format!("org-{n:05}")
}

impl World {
    /// A mount with a config and a role for `ORG`, and with this many other orgs, in a new process.
    pub(super) async fn with_orgs(others: usize) -> Self {
        Self::with_roots(others, |_| ROOT.to_owned()).await
    }

    /// The same, with these root tokens in the other configs.
    async fn with_roots(others: usize, root: impl Fn(usize) -> String) -> Self {
        let world = Self::with_role("standard").await;
        for n in 0..others {
            let mut config = world.config_no(n);
            config["astra_token"] = json!(root(n));
            world.stored(&format!("config/{}", nth(n)), config).await;
        }
        // The background work of an initialized mount would make storage calls at any time.
        Self::with(world.storage.clone(), world.astra.clone())
    }

    /// The stored config of org number `n`.
    fn config_no(&self, n: usize) -> Value {
        json!({"astra_token": ROOT, "url": self.astra.url(), "org_id": nth(n), "logical_name": format!("name{n}"),
            "caller_mode": 1, "astra_org_id": ORG})
    }

    async fn mint_creds(&self) -> usize {
        let before = self.storage.calls();
        some(self.read("creds/retailOrg/r_w_user", Value::Null).await);
        self.storage.calls() - before
    }

    async fn rename_org(&self, org: &str, name: &str) -> usize {
        let before = self.storage.calls();
        ok(self.write("config", json!({"org_id": org, "logical_name": name})).await);
        self.storage.calls() - before
    }

    /// Returns the `org_id` of the config with this logical name, as a read of the config shows it.
    async fn org_named(&self, name: &str) -> Option<String> {
        let answer = self.read("config", json!({"logical_name": name})).await;
        if answer.is_err() {
            let text = refused(answer);
            assert!(text.contains("no config with logical_name"), "{text}");
            return None;
        }
        data(answer)["org_id"].as_str().map(str::to_owned)
    }
}

#[tokio::test]
async fn a_mint_and_a_config_write_cost_the_same_with_any_number_of_orgs() {
    for others in [10, 1_000, 5_000] {
        let world = World::with_roots(others, |n| format!("AstraCS:root{n}:0123")).await;
        world.mint_creds().await;
        world.rename_org(&nth(1), "one").await;
        let mint = world.mint_creds().await;
        let write = world.rename_org(&nth(2), "two").await;
        let next = world.rename_org(&nth(3), "three").await;
        println!("{others} other orgs: mint after a config write {mint}, config writes {write} and {next}");
        assert!(mint <= MINT, "{others} other orgs: a mint after a config write makes {mint} storage calls");
        for calls in [write, next] {
            assert!(calls <= CONFIG_WRITE, "{others} other orgs: a config write makes {calls} storage calls");
        }
        // All orgs are of one organization.
        let before = world.storage.calls();
        let root = json!({"org_id": nth(4), "astra_token": "AstraCS:another:root", "url": world.astra.url(),
            "verify_connection": false});
        ok(world.write("config", root).await);
        let new_root = world.storage.calls() - before;
        assert!(new_root <= CONFIG_WRITE, "{others} other orgs: a new root token makes {new_root} storage calls");
        ok(world.write("config/rotate-root", json!({"org_id": ORG})).await);
        let mint = world.mint_creds().await;
        assert!(mint <= MINT, "{others} other orgs: a mint after a rotation makes {mint} storage calls");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_read_once_for_64_concurrent_callers() {
    let others = 2_000;
    let world = Arc::new(World::with_orgs(others).await);
    let mint_at_once = || async {
        let before = world.storage.calls();
        let callers: Vec<_> = (0..64)
            .map(|_| {
                let world = world.clone();
                tokio::spawn(async move { some(world.read("creds/retailOrg/r_w_user", Value::Null).await) })
            })
            .collect();
        for caller in callers {
            caller.await.expect("the caller does not panic");
        }
        world.storage.calls() - before
    };
    let first = mint_at_once().await;
    assert!(first <= 64 * MINT + others + 2, "64 first mints make {first} storage calls");
    world.rename_org(&nth(1), "one").await;
    let next = mint_at_once().await;
    println!("64 mints at once: {first} storage calls in a new process, {next} after a config write");
    assert!(next <= 64 * MINT, "64 mints after a config write make {next} storage calls");
}

#[tokio::test]
async fn building_the_directory_keeps_the_cached_configs() {
    let world = World::with_orgs(2_000).await;
    data(world.read("config", json!({"org_id": ORG})).await);
    assert!(world.org_named("name5").await.is_some());
    let before = world.storage.calls();
    data(world.read("config", json!({"org_id": ORG})).await);
    assert_eq!(world.storage.calls() - before, 0, "the build of the directory evicted a config");
}

#[tokio::test]
async fn a_config_that_another_node_changed_is_read_alone() {
    let world = World::with_orgs(100).await;
    assert_eq!(world.org_named("name5").await, Some(nth(5)));
    let mut other = world.config_no(5);
    other["logical_name"] = json!("moved");
    world.stored(&format!("config/{}", nth(5)), other).await;
    world.backend.invalidate(&format!("config/{}", nth(5)));
    let before = world.storage.calls();
    assert_eq!(world.org_named("moved").await, Some(nth(5)));
    assert!(world.storage.calls() - before <= 2, "{} storage calls", world.storage.calls() - before);
    assert_eq!(world.org_named("name5").await, None);

    world.storage.delete(&format!("config/{}", nth(6))).await.expect("deletes");
    world.backend.invalidate(&format!("config/{}", nth(6)));
    let before = world.storage.calls();
    assert_eq!(world.org_named("name6").await, None);
    assert!(world.storage.calls() - before <= 1);
}

#[tokio::test]
async fn an_invalidated_folder_drops_every_cache() {
    for key in ["", "config/", "client/"] {
        let world = World::with_orgs(3).await;
        assert_eq!(world.org_named("name1").await, Some(nth(1)));
        world.list("configs/", Value::Null).await;
        ok(world.ask(Operation::List, "org/tokens/", Value::Null).await);
        // Another node restores an older state: other names, and an inventory that is not complete.
        let mut other = world.config_no(1);
        other["logical_name"] = json!("restored");
        world.stored(&format!("config/{}", nth(1)), other).await;
        world.storage.delete("client-index").await.expect("deletes");
        world.backend.invalidate(key);
        assert_eq!(world.org_named("restored").await, Some(nth(1)), "{key:?}");
        assert_eq!(world.org_named("name1").await, None, "{key:?}");
        let listed = ok(world.ask(Operation::List, "org/tokens/", Value::Null).await).expect("there is a warning");
        assert!(listed.warnings.iter().any(|warning| warning.contains("still being built")), "{key:?}");
    }
}

/// The n-th storage call of a config write fails, with or without effect. Afterwards, the names are those of the
/// stored configs.
#[tokio::test]
async fn the_directory_follows_the_storage_after_a_failed_write() {
    for fault in [HostFault::At, HostFault::AfterEffectAt] {
        for n in 1..=6 {
            let world = World::with_orgs(2).await;
            assert_eq!(world.org_named("name1").await, Some(nth(1)));
            world.storage.inject(fault(n));
            let answer = world.write("config", json!({"org_id": nth(1), "logical_name": "renamed"})).await;
            world.storage.heal();
            if answer.is_err() {
                failed(answer);
            }
            let stored = world.storage.json(&format!("config/{}", nth(1))).expect("the config is stored");
            let stored = stored["logical_name"].as_str().expect("a text").to_owned();
            for name in ["name1", "renamed"] {
                let expected = (stored == name).then(|| nth(1));
                assert_eq!(world.org_named(name).await, expected, "{:?}, {name}", fault(n));
            }
        }
    }
}

/// Another node changes a config while the directory is read: the directory does not keep the older names.
#[tokio::test]
async fn an_invalidation_during_a_read_of_the_directory_is_not_lost() {
    let mut n = 1;
    loop {
        let world = Arc::new(World::with_orgs(3).await);
        world.storage.inject(HostFault::HangsAt(n));
        let before = world.storage.calls();
        let reader = tokio::spawn({
            let world = world.clone();
            async move { world.org_named("name1").await }
        });
        super::eventually(|| reader.is_finished() || world.storage.calls() - before >= n).await;
        if reader.is_finished() {
            assert!(n > 4, "a build of the directory makes {n} storage calls");
            break;
        }
        let mut other = world.config_no(1);
        other["logical_name"] = json!("moved");
        world.stored(&format!("config/{}", nth(1)), other).await;
        world.backend.invalidate(&format!("config/{}", nth(1)));
        world.storage.heal();
        reader.await.expect("does not panic");
        assert_eq!(world.org_named("moved").await, Some(nth(1)), "call {n}");
        assert_eq!(world.org_named("name1").await, None, "call {n}");
        n += 1;
    }
}

#[tokio::test]
async fn a_new_a_renamed_and_a_deleted_org_are_found_by_their_names_at_once() {
    let world = World::with_orgs(3).await;
    assert_eq!(world.org_named("name1").await, Some(nth(1)));
    let new = json!({"org_id": "fresh", "astra_token": ROOT, "url": world.astra.url(), "logical_name": "new",
        "verify_connection": false});
    ok(world.write("config", new).await);
    assert_eq!(world.org_named("new").await.as_deref(), Some("fresh"));
    world.rename_org("fresh", "newer").await;
    assert_eq!((world.org_named("new").await, world.org_named("newer").await.as_deref()), (None, Some("fresh")));
    let taken = refused(world.write("config", json!({"org_id": nth(1), "logical_name": "newer"})).await);
    assert!(taken.contains("fresh"), "{taken}");
    ok(world.ask(Operation::Delete, "config", json!({"org_id": "fresh"})).await);
    assert_eq!(world.org_named("newer").await, None);
    world.rename_org(&nth(1), "newer").await;
    assert_eq!(world.org_named("newer").await, Some(nth(1)));
    ok(world.write("role", json!({"org_id": nth(1), "role_name": "reader", "role_id": ROLE_ID})).await);
    let minted = some(world.read("creds/newer/reader", Value::Null).await);
    assert_eq!(text(&minted, "orgId"), nth(1));
}

impl World {
    /// A mount with another org without tokens, and with this many WAL entries of `ORG`.
    async fn with_log(entries: usize) -> Self {
        let world = Self::with_orgs(1).await;
        world.mint_creds().await;
        for n in 0..entries {
            let data = json!({"org_id": ORG, "role_name": "r_w_user", "marker": format!("m{n}"), "described": true,
                "timeout_seconds": 30});
            let entry = json!({"type": "token-mint", "data": data, "created_at": jiff::Timestamp::now().as_second()});
            world.stored(&format!("wal/{n}"), entry).await;
        }
        world
    }

    fn deleting(&self) -> tokio::task::JoinHandle<vault_plugin_sdk::logical::Answer> {
        let (backend, delete) =
            (self.backend.clone(), super::request(Operation::Delete, "config", json!({"org_id": nth(0)})));
        tokio::spawn(async move { backend.handle(delete).await })
    }
}

/// Each storage call of the deletion hangs once.
#[tokio::test]
async fn no_storage_call_of_a_config_deletion_stops_the_mints_of_another_org() {
    for n in 1.. {
        let world = World::with_log(3).await;
        let before = world.storage.calls();
        world.storage.inject(HostFault::HangsAt(n));
        let delete = world.deleting();
        super::eventually(|| delete.is_finished() || world.storage.calls() - before >= n).await;
        if delete.is_finished() {
            assert!(n > 6, "a deletion of a config makes {n} storage calls");
            ok(delete.await.expect("does not panic"));
            return;
        }
        let mint = world.mint_creds();
        let minted = tokio::time::timeout(std::time::Duration::from_secs(5), mint).await;
        assert!(minted.is_ok(), "a mint of another org waits for storage call {n} of the deletion");
        world.storage.heal();
        ok(delete.await.expect("does not panic"));
        assert!(world.keys(&format!("config/{}", nth(0))).is_empty());
    }
}

/// Prints how long the slowest mint of another org takes during a deletion of a config, and without one. Only the test
/// above has a bar, because times depend on the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_is_deleted_beside_mints_of_another_org() {
    let world = World::with_log(2_000).await;
    world.storage.inject(HostFault::Slow(std::time::Duration::from_millis(1)));
    let timed = || async {
        let start = std::time::Instant::now();
        world.mint_creds().await;
        start.elapsed()
    };
    let mut usual = std::time::Duration::ZERO;
    for _ in 0..20 {
        usual = usual.max(timed().await);
    }
    let delete = world.deleting();
    let mut slowest = std::time::Duration::ZERO;
    while !delete.is_finished() {
        slowest = slowest.max(timed().await);
    }
    ok(delete.await.expect("does not panic"));
    println!("slowest mint of another org: {usual:?} usually, {slowest:?} during a deletion of a config");
}

#[tokio::test]
async fn a_config_with_an_unfinished_mint_is_not_deleted() {
    let world = World::with_log(300).await;
    for kind in ["token-mint", "root-rotate"] {
        let data = json!({"org_id": nth(0), "marker": "m", "timeout_seconds": 30});
        world.stored("wal/own", json!({"type": kind, "data": data, "created_at": 0})).await;
        let (code, text) = super::status(world.deleting().await.expect("does not panic"));
        assert!(code == 503 && text.contains("unfinished"), "{code} {text}");
    }
    world.storage.delete("wal/own").await.expect("deletes");
    ok(world.deleting().await.expect("does not panic"));
}

/// The mint passed its first steps before the deletion began. It finds no config when it stores its token.
#[tokio::test]
async fn a_mint_that_a_forced_deletion_overtakes_is_undone() {
    let world = World::with_role("standard").await;
    let caller = world.minting("one", std::time::Duration::from_millis(200)).await;
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    let error = failed(caller.await.expect("does not panic")).to_string();
    assert!(error.contains("was deleted during the mint"), "{error}");
    assert_eq!((world.astra.live(), world.keys("token/").len(), world.keys("client/").len()), (0, 0, 0));
}

/// The table "Many organizations" and the table of calls in the document have the bars of these tests.
#[tokio::test]
async fn the_document_about_performance_has_the_counts_of_the_tests() {
    let document = include_str!("../../docs/performance.md");
    for row in [
        format!("| `creds` mint right after a config write or a rotation | {MINT} |"),
        format!("| the same, for each of 64 concurrent callers | {MINT} |"),
        format!("| config write after another config write | {CONFIG_WRITE} |"),
    ] {
        assert!(document.contains(&row), "the document has no row {row:?}");
    }
    let row = document.lines().find(|line| line.starts_with("| revoke | ours |")).expect("a row for a revocation");
    let documented: usize = row.split('|').nth(3).and_then(|calls| calls.trim().parse().ok()).expect("a count");
    let world = World::with_orgs(10).await;
    let cost = || (world.storage.calls(), world.storage.writes());
    let named = world.mint("a").await;
    let before = cost();
    ok(world.revoke(&super::lease(&named)).await);
    let calls = cost().0 - before.0;
    assert!(calls <= documented, "a revocation makes {calls} storage calls, and the document says {documented}");
    for (mode, path, data) in
        [("standard", "creds/retailOrg/r_w_user", Value::Null), ("sidecar", "org/token", super::order("label"))]
    {
        world.write_config(mode).await;
        // The first mint also fills the caches.
        some(world.read(path, data.clone()).await);
        let start = cost();
        let minted = some(world.read(path, data).await);
        let middle = cost();
        ok(world.revoke(&super::lease(&minted)).await);
        let end = cost();
        for row in [
            format!("| `creds` or sidecar mint | {} | {} |", middle.0 - start.0, middle.1 - start.1),
            format!("| `creds` or sidecar revocation | {} | {} |", end.0 - middle.0, end.1 - middle.1),
        ] {
            assert!(document.contains(&row), "the document has no row {row:?}");
        }
    }
}
