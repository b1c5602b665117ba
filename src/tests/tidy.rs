//! `orgs/:org/tidy`: the differences between Astra and the inventory.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Entry, Operation, Response, Secret, Storage as _};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage};
use wiremock::ResponseTemplate;

use super::astra::{ROOT_ROLE, Root};
use super::{ORG, ROOT, World, eventually, failed, lease, ok, order, refused, request, some, status, text};

const TIDY: &str = "orgs/retailOrg/tidy";

/// The requests for Astra's list.
const LISTS: &str = "GET /v2/clientIdSecrets";

/// The instance of all worlds without another UUID.
fn instance() -> String {
    use sha2::{Digest as _, Sha256};
    format!("{:.12x}", Sha256::digest("6a4c2d1e-0000-4000-8000-000000000000"))
}

/// A description of this instance.
fn ours(marker: u32) -> String {
    format!("vault {}/{marker:032x} mount=astra/ role=r name=n by=b", instance())
}

/// The answer of a tidy: the client ids of each kind, the number of deleted tokens, and the warnings.
#[derive(Debug, PartialEq)]
struct Tidied {
    unknown: Vec<String>,
    missing: Vec<String>,
    foreign: Vec<String>,
    without_expiry: Vec<String>,
    deleted: u64,
    warnings: Vec<String>,
}

impl Tidied {
    fn of(response: Response) -> Self {
        let data = Value::Object(response.whole_data().expect("there is data"));
        let ids = |kind: &str| {
            let ids: Vec<String> = serde_json::from_value(data[kind]["client_ids"].clone()).expect("client ids");
            assert_eq!(data[kind]["count"], ids.len(), "{kind}");
            assert!(ids.is_sorted(), "{kind}");
            ids
        };
        Self {
            unknown: ids("unknown"),
            missing: ids("missing"),
            foreign: ids("foreign"),
            without_expiry: ids("without_expiry"),
            deleted: data["deleted"].as_u64().expect("a number"),
            warnings: response.warnings,
        }
    }
}

impl World {
    async fn dry_run(&self) -> Tidied {
        Tidied::of(some(self.write(TIDY, json!({"safety_buffer": 0})).await))
    }

    async fn tidy(&self) -> Tidied {
        Tidied::of(some(self.write(TIDY, json!({"safety_buffer": 0, "dry_run": false})).await))
    }

    async fn minted(&self, name: &str) -> (String, Secret) {
        let minted = self.mint(name).await;
        (text(&minted, "clientId"), lease(&minted))
    }

    /// A token that a read mints.
    async fn minted_by_read(&self) -> (String, Secret) {
        let minted = some(self.read("creds/retailOrg/r_w_user", Value::Null).await);
        (text(&minted, "clientId"), lease(&minted))
    }

    /// A token in Astra that the engine did not mint.
    fn portal_token(&self, id: &str, description: &str) {
        let token = json!({"roles": ["r"], "description": description, "tokenExpiry": "2099-01-01T00:00:00Z"});
        self.astra.state().live.insert(id.to_owned(), token);
    }

    /// Removes everything that the mount has stored of a token.
    async fn forgotten(&self, id: &str) {
        for key in self.storage.keys() {
            let entry = self.storage.json(&key).unwrap_or_default();
            if key.starts_with("token/") && entry["clientId"] == id || key.ends_with(&format!("/{id}")) {
                self.storage.delete(&key).await.unwrap();
            }
        }
    }

    fn in_astra(&self) -> Vec<String> {
        self.astra.state().live.keys().cloned().collect()
    }

    fn in_vault(&self) -> Vec<String> {
        self.keys("client/").iter().filter_map(|key| key.rsplit_once('/')).map(|(_, id)| id.to_owned()).collect()
    }

    /// A second config of the same organization.
    async fn write_second(&self, root: &str) {
        let config =
            json!({"org_id": "second", "astra_token": root, "url": self.astra.url(), "verify_connection": false});
        ok(self.write("config", config).await);
    }

    /// All stored entries, as JSON. They hold secrets.
    fn everything(&self) -> Vec<Option<Value>> {
        self.storage.keys().iter().map(|key| self.storage.json(key)).collect()
    }

    /// A copy of the storage in another process: a server that was restored from a backup.
    fn backup(&self) -> Self {
        Self::with(Arc::new(MemoryStorage::holding(self.storage.entries())), self.astra.clone())
    }
}

/// A mount with a token of each kind. Returns the client ids of the known, the unknown and the missing tokens.
async fn mixed() -> (World, [[String; 2]; 3]) {
    let world = World::with_role("standard").await;
    let known = [world.minted("known").await.0, world.minted_by_read().await.0];
    let unknown = [world.minted("unknown").await.0, world.minted_by_read().await.0];
    let missing = [world.minted("missing").await.0, world.minted_by_read().await.0];
    for id in &unknown {
        world.forgotten(id).await;
    }
    for id in &missing {
        world.astra.state().live.remove(id);
    }
    world.portal_token("portal", "made in the portal");
    world.portal_token("other-mount", &ours(1).replace(&instance(), "0123456789ab"));
    world.portal_token("cut-off", &ours(2)[..30]);
    (world, [known, unknown, missing])
}

#[tokio::test]
async fn a_dry_run_shows_each_kind_of_token_and_deletes_nothing() {
    let (world, [known, unknown, missing]) = mixed().await;
    let (astra, vault) = (world.in_astra(), world.everything());
    let tidied = world.dry_run().await;
    assert_eq!((&tidied.unknown[..], &tidied.missing[..]), (&unknown[..], &missing[..]));
    assert_eq!(tidied.foreign, ["cut-off", "other-mount", "portal"]);
    assert_eq!((tidied.without_expiry, tidied.deleted), (vec![], 0));
    assert_eq!(tidied.warnings.len(), 1);
    assert!(tidied.warnings[0].contains("restored from a backup") && tidied.warnings[0].contains(&instance()));
    assert!((world.in_astra(), world.everything()) == (astra, vault));
    assert!(known.iter().all(|id| world.in_astra().contains(id)));
    // The defaults: a dry run, and two hours. The unknown tokens are old in Astra, the records are young.
    let tidied = Tidied::of(some(world.write(TIDY, json!({})).await));
    assert_eq!((&tidied.unknown[..], &tidied.missing[..]), (&unknown[..], &[][..]));
    assert!(tidied.warnings[1].contains("safety_buffer") && tidied.warnings[1].ends_with(": 2"));
}

#[tokio::test]
async fn a_tidy_deletes_unknown_tokens_in_astra_and_missing_tokens_in_vault() {
    let (world, [known, unknown, missing]) = mixed().await;
    let tidied = world.tidy().await;
    assert_eq!((&tidied.unknown[..], &tidied.missing[..], tidied.deleted), (&unknown[..], &missing[..], 4));
    assert_eq!(tidied.warnings, [""; 0]);
    let mut left = ["cut-off", "other-mount", "portal"].map(str::to_owned).to_vec();
    left.extend(known.clone());
    left.sort();
    assert_eq!((world.in_astra(), &world.in_vault()[..]), (left, &known[..]));
    assert_eq!((world.keys("token/").len(), world.keys("wal/").len()), (2, 0));
    assert_eq!(world.astra.count("DELETE"), unknown.len(), "a missing token is not deleted in Astra");
    let again = world.tidy().await;
    assert_eq!((again.unknown.len(), again.missing.len(), again.deleted), (0, 0, 0));
    // The name of a missing token is free.
    world.mint("missing").await;
}

#[tokio::test]
async fn the_leases_of_deleted_tokens_can_be_revoked() {
    let world = World::with_role("standard").await;
    let (unknown, missing) = (world.minted("unknown").await, world.minted("missing").await);
    world.forgotten(&unknown.0).await;
    world.astra.state().live.remove(&missing.0);
    assert_eq!(world.tidy().await.deleted, 2);
    for (_, lease) in [unknown, missing] {
        ok(world.revoke(&lease).await);
    }
    assert!(world.is_clean());
}

#[tokio::test]
async fn tokens_and_records_younger_than_the_safety_buffer_are_left_alone() {
    let (world, [_, unknown, missing]) = mixed().await;
    let hours = |hours: i64| Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(hours)).unwrap().to_string();
    let times = [json!(hours(1)), json!(hours(4))];
    for (id, time) in unknown.iter().zip(times.clone()) {
        world.astra.state().live.get_mut(id).unwrap()["generatedOn"] = time;
    }
    for (id, time) in missing.iter().zip(times) {
        let key = format!("client/{ORG}/{id}");
        let mut record = world.storage.json(&key).unwrap();
        record["created_at"] = time;
        world.stored(&key, record).await;
    }
    for (safety_buffer, young) in [("30m", 0), ("2h", 2), ("3h", 2), ("5h", 4)] {
        let tidied = Tidied::of(some(world.write(TIDY, json!({"safety_buffer": safety_buffer})).await));
        assert_eq!(tidied.unknown.len() + tidied.missing.len(), 4 - young, "{safety_buffer}");
        assert_eq!(tidied.warnings.iter().any(|text| text.contains("safety_buffer")), young > 0, "{safety_buffer}");
    }
    // A token without a usable time may be young.
    world.astra.state().live.get_mut(&unknown[1]).unwrap()["generatedOn"] = json!("yesterday");
    let tidied = Tidied::of(some(world.write(TIDY, json!({"dry_run": false})).await));
    assert_eq!((tidied.unknown, tidied.missing, tidied.deleted), (vec![], vec![missing[1].clone()], 1));
}

#[tokio::test]
async fn tokens_without_an_expiry_are_shown() {
    let world = World::with_role("standard").await;
    world.minted("expires").await;
    ok(world.write("config", json!({"org_id": ORG, "token_expiry": false})).await);
    let [known, unknown] = [world.minted("known").await.0, world.minted("unknown").await.0];
    world.forgotten(&unknown).await;
    world.astra.state().live.insert("portal".into(), json!({"description": "x"}));
    // The new root token does not expire either, but it is the root token.
    some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
    let tidied = world.dry_run().await;
    assert_eq!(
        (tidied.without_expiry, tidied.unknown, tidied.foreign.len()),
        (vec![known, unknown.clone()], vec![unknown], 1)
    );
}

#[tokio::test]
async fn a_list_that_cannot_be_used_deletes_nothing() {
    let list = |clients: Value| ResponseTemplate::new(200).set_body_json(json!({ "clients": clients }));
    let (world, _) = mixed().await;
    let (astra, vault) = (world.in_astra(), world.everything());
    for (answer, expected) in [
        (list(json!([])), 502),
        (list(json!([{"clientId": "a"}, {"description": "b"}])), 502),
        (ResponseTemplate::new(200).set_body_string("{\"clients\": [{\"clientId\": \"a\"}"), 502),
        (ResponseTemplate::new(200), 502),
        (ResponseTemplate::new(401), 403),
        (ResponseTemplate::new(500), 502),
    ] {
        world.astra.answer_all("GET", answer);
        let (code, error) =
            status(world.write(TIDY, json!({"safety_buffer": 0, "dry_run": false, "force": true})).await);
        assert_eq!(code, expected, "{error}");
        world.astra.heal();
    }
    super::astra::other_org(&world.astra);
    let world = World::with(world.storage.clone(), world.astra.clone());
    let (_, error) = status(world.write(TIDY, json!({"safety_buffer": 0, "dry_run": false, "force": true})).await);
    assert!(error.contains("belongs to organization"), "{error}");
    assert!((world.in_astra(), world.everything()) == (astra, vault));
}

#[tokio::test]
async fn a_tidy_of_most_of_the_inventory_needs_force() {
    for (known, missing, is_refused) in [(0, 2, false), (3, 3, false), (2, 3, true), (0, 3, true)] {
        let world = World::with_role("sidecar").await;
        for _ in 0..known {
            world.minted_by_read().await;
        }
        for _ in 0..missing {
            let (id, _) = world.minted_by_read().await;
            world.astra.state().live.remove(&id);
        }
        let unknown = world.minted_by_read().await.0;
        world.forgotten(&unknown).await;
        let dry = world.dry_run().await;
        assert_eq!(dry.warnings.iter().any(|text| text.contains("force=true")), is_refused, "{:?}", dry.warnings);
        let wanted = json!({"safety_buffer": 0, "dry_run": false});
        if is_refused {
            let error = refused(world.write(TIDY, wanted).await);
            assert!(error.contains("3 of the") && error.contains("force=true"), "{error}");
            assert!(world.in_astra().contains(&unknown) && world.in_vault().len() == known + missing);
        }
        let forced = json!({"safety_buffer": 0, "dry_run": false, "force": true});
        assert_eq!(Tidied::of(some(world.write(TIDY, forced).await)).deleted as usize, missing + 1);
        assert_eq!((world.in_astra().len(), world.in_vault().len()), (known, known));
    }
}

/// Two configs of one organization, each with a root token that the engine made.
#[tokio::test]
async fn the_root_tokens_of_configs_are_known() {
    let world = World::with_role("standard").await;
    let root =
        Root { token: "AstraCS:Second:aa".into(), roles: json!([ROOT_ROLE]), description: json!(""), refused: 0 };
    world.astra.state().roots.insert("Second".to_owned(), root);
    world.write_second("AstraCS:Second:aa").await;
    for org in [ORG, "second"] {
        some(world.write("config/rotate-root", json!({"org_id": org})).await);
    }
    let roots = world.astra.roots();
    for path in [TIDY, "orgs/second/tidy"] {
        let tidied = Tidied::of(some(world.write(path, json!({"safety_buffer": 0, "dry_run": false})).await));
        assert_eq!((tidied.unknown.len(), tidied.foreign.len(), tidied.deleted), (0, 0, 0));
    }
    assert_eq!((world.astra.roots(), roots.len()), (roots, 2));
}

/// The tokens of two configs of one organization, and those of a config that was deleted with force.
#[tokio::test]
async fn tokens_of_another_config_of_the_organization_are_known() {
    for with_config in [true, false] {
        let world = World::with_role("standard").await;
        let (id, _) = world.minted("a").await;
        world.write_second(ROOT).await;
        if !with_config {
            ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
        }
        let wanted = json!({"safety_buffer": 0, "dry_run": false});
        let tidied = Tidied::of(some(world.write("orgs/second/tidy", wanted).await));
        assert_eq!((tidied.unknown.len(), tidied.missing.len(), tidied.foreign.len(), tidied.deleted), (0, 0, 0, 0));
        assert_eq!(world.in_astra(), [id]);
    }
}

#[tokio::test]
async fn a_token_in_the_write_ahead_log_is_known() {
    let world = World::with_role("standard").await;
    let (id, _) = world.minted("a").await;
    world.astra.answer_after("DELETE", ResponseTemplate::new(500));
    for method in ["DELETE", "GET"] {
        world.astra.answer_all(method, ResponseTemplate::new(500));
    }
    failed(world.ask(Operation::Delete, "org/token", order("a")).await);
    world.astra.heal();
    world.portal_token(&id, &ours(1));
    world.storage.delete(&format!("client/{ORG}/{id}")).await.unwrap();
    assert_eq!(world.keys("wal/").len(), 1);
    assert_eq!(world.dry_run().await.unknown, [""; 0]);
}

/// Records of the Go plugin's tokens have no marker, and members of an entry can be empty.
#[tokio::test]
async fn an_empty_text_in_the_write_ahead_log_hides_no_missing_token() {
    let world = World::with_role("standard").await;
    let (id, _) = world.minted("a").await;
    let key = format!("client/{ORG}/{id}");
    let mut record = world.storage.json(&key).unwrap();
    record.as_object_mut().unwrap().retain(|member, _| member != "marker");
    world.stored(&key, record).await;
    world.astra.state().live.clear();
    let data = json!({"org_id": "another", "client_id": "x", "token_id": "x", "role_name": "", "timeout_seconds": 30});
    let entry = json!({"type": "token-delete", "data": data, "created_at": Timestamp::now().as_second()});
    world.stored("wal/entry", entry).await;
    assert_eq!(world.dry_run().await.missing, [id]);
}

/// The storage fails for the second of two tokens. The deletion of the first token must leave a trace.
#[tokio::test]
async fn a_failure_of_the_storage_after_a_deletion_loses_no_log_line() {
    let mut failed_after_a_deletion = 0;
    for n in 1.. {
        let world = World::with_role("standard").await;
        for name in ["a", "b"] {
            let (id, _) = world.minted(name).await;
            world.astra.state().live.remove(&id);
        }
        let (capture, _guard) = super::logs::capture();
        let before = world.storage.calls();
        world.storage.inject(HostFault::From(n));
        let answer = world.write(TIDY, json!({"safety_buffer": 0, "dry_run": false})).await;
        let is_past = world.storage.calls() - before < n;
        world.storage.heal();
        let deleted = capture.count("INFO", "deleted a token in Vault");
        let told = capture.count("INFO", &format!("deleted={deleted}"));
        assert_eq!(told, usize::from(deleted > 0), "{n}: deleted {deleted}");
        failed_after_a_deletion += usize::from(answer.is_err() && deleted > 0);
        if is_past {
            break;
        }
    }
    assert!(failed_after_a_deletion > 0);
}

/// The host cancels a request after 90 seconds, and some organizations have long lists.
#[tokio::test]
async fn a_missing_token_is_deleted_after_two_lists_of_one_or_of_two_requests() {
    let world = World::with_role("standard").await;
    world.minted("kept").await;
    let lists = async |world: &World, dry_run: bool| {
        let before = world.astra.count(LISTS);
        let answer = world.write(TIDY, json!({"safety_buffer": 0, "dry_run": dry_run, "force": true})).await;
        (world.astra.count(LISTS) - before, Tidied::of(some(answer)).deleted)
    };
    let lose = async |world: &World, name: &str| {
        let (id, _) = world.minted(name).await;
        world.astra.state().live.remove(&id);
    };
    lose(&world, "a").await;
    assert_eq!(lists(&world, false).await, (2, 1));
    lose(&world, "b").await;
    assert_eq!(lists(&world, true).await, (1, 0));
    assert_eq!(lists(&world, false).await, (1, 1), "the dry run has made the first list");
    // A list that was made with another root token does not count.
    lose(&world, "c").await;
    assert_eq!(lists(&world, true).await, (1, 0));
    some(world.write("config/rotate-root", json!({"org_id": ORG})).await);
    assert_eq!(lists(&world, false).await, (2, 1));
    // Neither does an old list.
    lose(&world, "d").await;
    assert_eq!(lists(&world, true).await, (1, 0));
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3601)).await;
    tokio::time::resume();
    assert_eq!(lists(&world, false).await, (2, 1));
    assert_eq!(world.in_vault().len(), 1);
}

#[tokio::test]
async fn after_a_slow_list_a_tidy_leaves_missing_tokens_for_the_next_tidy() {
    let world = Arc::new(World::with_role("standard").await);
    ok(world.write("config", json!({"org_id": ORG, "request_timeout": "5m"})).await);
    let kept = [world.minted("kept").await.0, world.minted("also kept").await.0];
    let [unknown, missing] = [world.minted("unknown").await.0, world.minted("missing").await.0];
    world.forgotten(&unknown).await;
    world.astra.state().live.remove(&missing);
    let slow_tidy = async || {
        let asked = world.astra.count(LISTS);
        world.astra.delay("GET", Duration::from_millis(300));
        let backend = world.backend.clone();
        let wanted = json!({"safety_buffer": 0, "dry_run": false});
        let tidy = tokio::spawn(async move { backend.handle(request(Operation::Update, TIDY, wanted)).await });
        eventually(|| world.astra.count(LISTS) > asked).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(50)).await;
        tokio::time::resume();
        let tidied = Tidied::of(some(tidy.await.unwrap()));
        (world.astra.count(LISTS) - asked, tidied)
    };
    let (lists, tidied) = slow_tidy().await;
    assert_eq!((lists, tidied.deleted, world.in_vault().len()), (1, 1, 3), "{tidied:?}");
    assert!(tidied.warnings.iter().any(|warning| warning.contains("not deleted: 1;")), "{tidied:?}");
    let (lists, tidied) = slow_tidy().await;
    assert_eq!((lists, tidied.deleted, tidied.warnings.len()), (1, 1, 0), "{tidied:?}");
    assert_eq!((world.in_vault(), world.in_astra()), (kept.to_vec(), kept.to_vec()));
}

#[tokio::test]
async fn a_mint_in_progress_is_neither_unknown_nor_missing() {
    let world = Arc::new(World::with_role("standard").await);
    let caller = world.minting("a", Duration::from_millis(200)).await;
    let tidied = world.tidy().await;
    assert_eq!((tidied.unknown.len(), tidied.missing.len(), tidied.deleted), (0, 0, 0));
    let minted = some(caller.await.unwrap());
    assert_eq!(
        (world.in_astra(), world.in_vault()),
        (vec![text(&minted, "clientId")], vec![text(&minted, "clientId")])
    );
}

/// Another change at each call of the storage that a tidy makes, and a tidy at each call that another change makes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tidy_beside_other_changes_deletes_no_live_token() {
    const REVOKE: &str = "";
    let tidy = (Operation::Update, TIDY, json!({"safety_buffer": 0, "dry_run": false}));
    for (other, minted, ended) in [
        ((Operation::Update, "org/token", order("fresh")), 1, None),
        ((Operation::Read, "creds/retailOrg/r_w_user", Value::Null), 1, None),
        ((Operation::Delete, "org/token", order("taken")), 0, Some(0)),
        ((Operation::Revoke, REVOKE, Value::Null), 0, Some(1)),
        ((Operation::Update, "config/rotate-root", json!({"org_id": ORG})), 0, None),
    ] {
        for (first, second) in [(&tidy, &other), (&other, &tidy)] {
            for n in 1.. {
                let world = Arc::new(World::with_role("standard").await);
                let taken = [world.minted("taken").await, world.minted_by_read().await];
                let (unknown, _) = world.minted("unknown").await;
                world.forgotten(&unknown).await;
                let before = world.storage.calls();
                world.storage.inject(HostFault::HangsAt(n));
                let ask = |(operation, path, data): &(Operation, &'static str, Value)| {
                    let (backend, request) = (world.backend.clone(), request(*operation, path, data.clone()));
                    let request = if *path == REVOKE {
                        super::lease_request(*operation, &taken[1].1, Value::Null)
                    } else {
                        request
                    };
                    tokio::spawn(async move { backend.handle(request).await })
                };
                let one = ask(first);
                eventually(|| one.is_finished() || world.storage.calls() - before >= n).await;
                let is_past = one.is_finished() && world.storage.calls() - before < n;
                let mut two = ask(second);
                let early = tokio::time::timeout(Duration::from_millis(20), &mut two).await;
                world.storage.heal();
                ok(one.await.unwrap());
                ok(match early {
                    Ok(two) => two.unwrap(),
                    Err(_) => two.await.unwrap(),
                });
                let context = format!("{} beside {} at {n}", second.1, first.1);
                assert_eq!(world.in_astra(), world.in_vault(), "{context}");
                assert_eq!(world.in_astra().len(), 2 + minted - usize::from(ended.is_some()), "{context}");
                for (index, (id, _)) in taken.iter().enumerate() {
                    assert_eq!(world.in_astra().contains(id), ended != Some(index), "{context}");
                }
                assert_eq!(world.astra.roots().len(), 1, "{context}");
                if is_past {
                    break;
                }
            }
        }
    }
}

/// The storage fails at each call of a tidy, before or after the effect of the call, or the process ends there.
#[tokio::test]
async fn a_failure_at_any_call_of_the_storage_loses_no_known_token() {
    for fault in [HostFault::At, HostFault::From, HostFault::HangsAt] {
        for n in 1.. {
            let world = World::with_role("standard").await;
            let known = [world.minted("known").await.0, world.minted_by_read().await.0];
            let [unknown, missing] = [world.minted("unknown").await.0, world.minted("missing").await.0];
            world.forgotten(&unknown).await;
            world.astra.state().live.remove(&missing);
            let before = world.storage.calls();
            world.storage.inject(fault(n));
            let (backend, wanted) = (world.backend.clone(), json!({"safety_buffer": 0, "dry_run": false}));
            let tidy = tokio::spawn(async move { backend.handle(request(Operation::Update, TIDY, wanted)).await });
            eventually(|| tidy.is_finished() || world.storage.calls() - before >= n).await;
            let is_past = world.storage.calls() - before < n;
            if matches!(fault(n), HostFault::HangsAt(_)) {
                tidy.abort();
            } else if let Err(error) = tidy.await.unwrap() {
                assert!(!error.to_string().is_empty());
            }
            let next = World::with(Arc::new(MemoryStorage::holding(world.storage.entries())), world.astra.clone());
            // The deletions that the first process has begun reach Astra late.
            world.storage.heal();
            eventually(|| world.tasks.is_empty()).await;
            ok(next.tick(true).await);
            next.tidy().await;
            assert_eq!((next.in_astra(), next.in_vault()), (known.to_vec(), known.to_vec()), "{:?}", fault(n));
            assert_eq!((next.keys("token/").len(), next.dry_run().await.unknown.len()), (2, 0), "{:?}", fault(n));
            if is_past {
                break;
            }
        }
    }
}

#[tokio::test]
async fn only_one_tidy_of_an_org_runs_at_a_time() {
    let (world, _) = mixed().await;
    world.astra.delay("GET", Duration::from_millis(300));
    let (backend, asked) = (world.backend.clone(), world.astra.count("GET"));
    let first = tokio::spawn(async move { backend.handle(request(Operation::Update, TIDY, json!({}))).await });
    eventually(|| world.astra.count("GET") > asked).await;
    let error = refused(world.write(TIDY, json!({})).await);
    assert!(error.contains("is running"), "{error}");
    some(first.await.unwrap());
    some(world.write(TIDY, json!({})).await);
}

#[tokio::test]
async fn a_caller_who_hangs_up_ends_the_tidy_after_the_deletions_that_have_begun() {
    let world = World::with_role("sidecar").await;
    for n in 0..40 {
        world.portal_token(&format!("lost-{n}"), &ours(n));
    }
    for _ in 0..8 {
        world.astra.delay("DELETE", Duration::from_millis(100));
    }
    let (backend, wanted) = (world.backend.clone(), json!({"dry_run": false}));
    let caller = tokio::spawn(async move { backend.handle(request(Operation::Update, TIDY, wanted)).await });
    eventually(|| world.astra.count("DELETE") == 8).await;
    caller.abort();
    drop(caller.await);
    eventually(|| world.tasks.is_empty()).await;
    assert_eq!((world.astra.count("DELETE"), world.in_astra().len(), world.keys("wal/").len()), (8, 32, 0));
    assert_eq!(world.tidy().await.deleted, 32);
}

#[tokio::test]
async fn failures_of_astra_end_a_tidy() {
    let world = World::with_role("sidecar").await;
    for n in 0..40 {
        world.portal_token(&format!("lost-{n:02}"), &ours(n));
    }
    world.astra.answer_all("DELETE", ResponseTemplate::new(403));
    let (code, error) = status(world.write(TIDY, json!({"dry_run": false})).await);
    assert_eq!(code, 403, "{error}");
    assert_eq!(world.in_astra().len(), 40);
    let asked = world.astra.count("DELETE");
    assert!(asked < 20, "{asked} deletions were tried");
    world.astra.heal();
    world.astra.answer("DELETE", ResponseTemplate::new(403));
    let tidied = world.tidy().await;
    assert_eq!((tidied.unknown.len(), tidied.deleted, world.in_astra().len()), (40, 39, 1));
    assert!(tidied.warnings[0].contains("not deleted: 1;"), "{:?}", tidied.warnings);
    assert_eq!(world.keys("wal/"), [""; 0]);
}

#[tokio::test]
async fn an_answer_shows_the_first_thousand_client_ids_of_each_kind() {
    let world = World::with_role("sidecar").await;
    for n in (0..2500).rev() {
        world.portal_token(&format!("portal-{n:04}"), "made in the portal");
    }
    let data = super::data(world.write(TIDY, json!({})).await);
    let ids = data["foreign"]["client_ids"].as_array().unwrap();
    assert_eq!((&data["foreign"]["count"], ids.len()), (&json!(2500), 1000));
    assert_eq!((&ids[0], &ids[999]), (&json!("portal-0000"), &json!("portal-0999")));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_left_alone() {
    let world = World::with_role("standard").await;
    let (id, _) = world.minted("a").await;
    world.astra.state().live.remove(&id);
    let key = format!("client/{ORG}/{id}");
    world.storage.put(Entry::new(key.clone(), "no JSON")).await.unwrap();
    let tidied = world.tidy().await;
    assert_eq!((tidied.missing.len(), tidied.deleted), (0, 0));
    assert!(tidied.warnings[0].contains(&key), "{:?}", tidied.warnings);
}

/// Two mounts of two servers on one org.
#[tokio::test]
async fn a_tidy_leaves_the_tokens_of_another_server_alone() {
    let one = World::with_role("standard").await;
    let two = World::of_mount(Some("another mount"), Arc::default(), one.astra.clone());
    two.initialize().await;
    two.write_config("standard").await;
    two.write_role(json!({})).await;
    let (of_one, _) = one.minted("a").await;
    let (of_two, _) = two.minted("a").await;
    let lost = two.minted("lost").await.0;
    two.forgotten(&lost).await;
    let tidied = one.tidy().await;
    assert_eq!((tidied.unknown.len(), tidied.foreign, tidied.deleted), (0, vec![of_two.clone(), lost.clone()], 0));
    let tidied = two.tidy().await;
    assert_eq!((tidied.unknown, tidied.foreign, tidied.deleted), (vec![lost], vec![of_one.clone()], 1));
    assert_eq!(one.in_astra(), [of_one, of_two]);
}

/// A server was restored from a backup. The original server is gone.
#[tokio::test]
async fn a_tidy_cleans_up_after_a_restored_backup() {
    let original = World::with_role("standard").await;
    let kept = original.minted("kept").await.0;
    let (revoked, lease) = original.minted("revoked").await;
    let restored = original.backup();
    ok(original.revoke(&lease).await);
    let since = [original.minted("since").await.0, original.minted_by_read().await.0];
    let dry = restored.dry_run().await;
    assert_eq!((&dry.unknown[..], &dry.missing[..]), (&since[..], &[revoked][..]));
    assert!(dry.warnings[0].contains("restored from a backup"), "{:?}", dry.warnings);
    assert_eq!(restored.tidy().await.deleted, 3);
    assert_eq!((restored.in_astra(), restored.in_vault()), (vec![kept.clone()], vec![kept]));
    // The host of the restored server still has the lease of the revoked token.
    ok(restored.revoke(&lease).await);
}

#[tokio::test]
async fn a_tidy_of_an_org_that_does_not_exist_is_refused() {
    let world = World::with_role("standard").await;
    let error = refused(world.write("orgs/none/tidy", json!({})).await);
    assert!(error.contains("none"), "{error}");
    for (field, value) in [("dry_run", "maybe"), ("safety_buffer", "soon"), ("safety_buffer", "-1s"), ("force", "x")] {
        let error = refused(world.write(TIDY, json!({ field: value })).await);
        assert!(error.contains(field), "{error}");
    }
}

/// The variable of a script is not set.
#[tokio::test]
async fn an_empty_field_deletes_nothing() {
    let (world, [_, unknown, _]) = mixed().await;
    for field in ["dry_run", "safety_buffer", "force"] {
        for empty in [json!(""), Value::Null] {
            let error = refused(world.write(TIDY, json!({ field: empty })).await);
            assert!(error.contains(field) && error.contains("empty"), "{error}");
        }
    }
    assert!(unknown.iter().all(|id| world.in_astra().contains(id)));
}

#[tokio::test]
async fn a_tidy_waits_for_the_inventory() {
    let world = World::unprepared().await;
    world.write_config("standard").await;
    let (code, error) = status(world.write(TIDY, json!({})).await);
    assert_eq!((code, error.contains("still being built")), (503, true), "{error}");
}
