//! `creds/:org/:role`.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Error, Operation, ReplicationState};
use wiremock::ResponseTemplate;

use super::request;
use super::{ORG, OTHER_ORG, ROLE_ID, ROOT, World, data, eventually, failed, lease, ok, refused, some, text};

const READER: &str = "creds/retailOrg/r_w_user";

impl World {
    /// Writes a config without verification, and a role.
    async fn write_org(&self, id: &str, logical_name: &str) {
        ok(self.write("config", self.unverified(id, logical_name)).await);
        ok(self.write("role", json!({"org_id": id, "role_name": "reader", "role_id": ROLE_ID})).await);
    }

    /// Stores an org as an older version did.
    async fn stored_org(&self, id: &str, logical_name: &str) {
        let config = json!({"astra_token": ROOT, "url": self.astra.url(), "org_id": id, "logical_name": logical_name,
            "caller_mode": 1});
        self.stored(&format!("config/{id}"), config).await;
        self.backend.invalidate(&format!("config/{id}"));
        ok(self.write("role", json!({"org_id": id, "role_name": "reader", "role_id": ROLE_ID})).await);
    }

    fn unverified(&self, id: &str, logical_name: &str) -> Value {
        json!({"org_id": id, "astra_token": ROOT, "url": self.astra.url(), "logical_name": logical_name,
            "verify_connection": false})
    }

    async fn rename(&self, logical_name: &str) {
        ok(self.ask(Operation::Patch, "config", json!({"org_id": ORG, "logical_name": logical_name})).await);
    }

    /// Returns the error of a read and of a write at a path that does not mint.
    async fn no_creds(&self, path: &str) -> String {
        let before = self.astra.count("POST");
        let why = refused(self.read(path, Value::Null).await);
        assert_eq!(refused(self.write(path, Value::Null).await), why);
        assert_eq!(self.astra.count("POST"), before, "{path:?} minted");
        why
    }
}

#[tokio::test]
async fn reads_and_writes_mint_in_every_caller_mode() {
    for mode in ["standard", "sidecar"] {
        let world = World::with_role(mode).await;
        for (n, operation) in [Operation::Read, Operation::Update].into_iter().enumerate() {
            let asked = json!({"logical_name": "Cart", "metadata": ["team=a"], "ttl": "60"});
            let minted = some(world.ask(operation, READER, asked).await);
            let client_id = text(&minted, "clientId");
            let shown = json!({"clientId": client_id, "generatedOn": "2022-09-21T17:48:15.260897295Z",
                "logicalName": "cart", "metadata": {"deletion_time": "", "team": "a"}, "orgId": ORG,
                "roleName": "r_w_user", "token": text(&minted, "token")});
            assert!(json!(minted.data) == shown, "the answer has another shape");
            let secret = lease(&minted);
            assert_eq!((secret.ttl.as_secs(), secret.max_ttl.as_secs(), secret.renewable), (60, 36000, true));
            assert!(minted.warnings.is_empty(), "{:?}", minted.warnings);

            // A label reserves no name, and a renewal restores a response that the host lost.
            assert!(world.keys("token/").contains(&format!("token/{client_id}")));
            assert!(json!(some(world.renew(&secret, Value::Null).await).data) == shown, "renewal shows something else");
            let record = world.list("org/tokens/", Value::Null).await["key_info"][&client_id].clone();
            assert_eq!((&record["logical_name"], &record["display_name"]), (&json!("cart"), &json!("token-bob")));
            assert_eq!(world.astra.live(), n + 1);
        }
        let plain = some(world.read(READER, Value::Null).await);
        let shown = plain.whole_data().unwrap();
        assert_eq!((&shown["metadata"], &shown["logicalName"]), (&Value::Null, &json!("")));
        assert_eq!(lease(&plain).ttl.as_secs(), 3600);
        ok(world.revoke(&lease(&plain)).await);
        assert_eq!((world.astra.live(), world.keys("token/").len(), world.keys("client/").len()), (2, 2, 2));
    }
}

#[tokio::test]
async fn fields_are_checked_and_the_path_names_the_role() {
    let world = World::with_role("standard").await;
    let why = refused(world.write(READER, json!({"metadata": {"deletion_time": "x"}})).await);
    assert!(why.starts_with("metadata"), "{why}");
    assert!(refused(world.write(READER, json!({"logical_name": "a/b"})).await).starts_with("logical_name"));
    assert!(refused(world.write(READER, json!({"ttl": "-1"})).await).contains("ttl"));
    assert_eq!(world.astra.count("POST"), 0);

    ok(world.write("role", json!({"org_id": ORG, "role_name": "admin", "role_id": "admin-id"})).await);
    let body = json!({"org": "other", "role": "admin", "org_id": OTHER_ORG, "role_name": "admin", "ttl": "100h"});
    let minted = some(world.write(READER, body).await);
    assert_eq!((text(&minted, "roleName").as_str(), text(&minted, "orgId").as_str()), ("r_w_user", ORG));
    let remarks = minted.warnings.join("\n");
    for remark in ["[org role]", "[org_id role_name]", "cut to 10h0m0s"] {
        assert!(remarks.contains(remark), "{remark}: {remarks}");
    }
}

#[tokio::test]
async fn a_role_has_exactly_one_path() {
    let world = World::with_role("sidecar").await;
    for path in [
        &format!("creds/{ORG}/r_w_user"),
        "creds/RETAILORG/r_w_user",
        "creds/retailorg/r_w_user",
        "creds/retailOrg/R_W_User",
        &format!("creds/{}/R_W_USER", ORG.to_uppercase()),
    ] {
        let why = world.no_creds(path).await;
        assert!(why.contains("\"astra/creds/retailOrg/r_w_user\""), "{path}: {why}");
    }
    // The lower case of the Kelvin sign is a k.
    ok(world.write("role", json!({"org_id": ORG, "role_name": "k", "role_id": ROLE_ID})).await);
    assert!(world.no_creds("creds/retailOrg/\u{212a}").await.contains("\"astra/creds/retailOrg/k\""));
    for path in [
        "creds/retailOrg/r_w_user.",
        "creds/retailOrg/r_w_user ",
        "creds/retailOrg/ r_w_user",
        "creds/retailOrg/r_w_user\0",
        "creds/retailOrg/r_w_user\n",
        "creds/retailOrg/..",
        "creds/retailOrg/%72_w_user",
        "creds/retailOrg/r_w_\u{fe4d}user",
        "creds/retailOrg/r\u{ff3f}w_user",
        "creds/retailOrg./r_w_user",
        "creds/retailOrg /r_w_user",
        "creds/../r_w_user",
        "creds/retail%4frg/r_w_user",
        "creds/ret\u{0430}ilOrg/r_w_user",
        &format!("creds/{}/r_w_user", "x".repeat(100_000)),
        &format!("creds/retailOrg/{}", "x".repeat(100_000)),
    ] {
        let why = world.no_creds(path).await;
        assert!(why.len() < 1000 && !why.contains(['\0', '\n']), "{path}: {why}");
    }
    for path in [
        "creds",
        "creds/",
        "creds/retailOrg",
        "creds/retailOrg/",
        "creds//r_w_user",
        "creds//retailOrg/r_w_user",
        "creds/retailOrg//r_w_user",
        "creds/retailOrg/r_w_user/",
        "creds/retailOrg/r_w_user/x",
        "/creds/retailOrg/r_w_user",
        "Creds/retailOrg/r_w_user",
    ] {
        assert!(matches!(failed(world.read(path, Value::Null).await), Error::UnsupportedPath), "{path}");
    }
    for operation in [Operation::Create, Operation::List, Operation::Patch, Operation::Delete] {
        let error = failed(world.ask(operation, READER, Value::Null).await);
        assert!(matches!(error, Error::UnsupportedOperation), "{operation:?}");
    }
    assert_eq!(world.astra.count("POST"), 0);
    some(world.read(READER, Value::Null).await);
}

#[tokio::test]
async fn an_org_whose_name_does_not_fit_into_a_path_is_named_by_its_id() {
    let world = World::with_role("standard").await;
    let by_id = format!("creds/{ORG}/r_w_user");
    for name in ["", "our shop", "shöp", "shop.", ".shop", "50%", "a+b", "*"] {
        world.rename(name).await;
        assert_eq!(text(&some(world.read(&by_id, Value::Null).await), "orgId"), ORG, "{name:?}");
        if !name.is_empty() {
            assert!(world.no_creds(&format!("creds/{name}/r_w_user")).await.contains(&by_id), "{name:?}");
        }
    }
    world.rename("shop.eu-1").await;
    some(world.read("creds/shop.eu-1/r_w_user", Value::Null).await);
    assert!(world.no_creds(&by_id).await.contains("creds/shop.eu-1/r_w_user"));

    world.write_org("an org", "").await;
    assert!(world.no_creds("creds/an org/reader").await.contains("give the organization a logical_name"));
    ok(world.write("role", json!({"org_id": ORG, "role_name": "db admin", "role_id": ROLE_ID})).await);
    let why = world.no_creds("creds/shop.eu-1/db admin").await;
    assert!(why.starts_with("role ") && why.contains("astra/org/token"), "{why}");
}

#[tokio::test]
async fn errors_for_missing_orgs_and_roles_say_what_to_do() {
    let world = World::with_role("standard").await;
    let why = world.no_creds("creds/nobody/r_w_user").await;
    assert!(why.contains("\"nobody\"") && why.contains("vault list astra/configs"), "{why}");
    let why = world.no_creds("creds/retailOrg/nothing").await;
    assert!(why.contains("\"nothing\"") && why.contains("vault write astra/role"), "{why}");
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG})).await);
    assert!(world.no_creds(READER).await.contains("vault write astra/config"));
}

#[tokio::test]
async fn a_renamed_org_mints_at_its_new_path_and_keeps_its_leases() {
    let world = World::with_role("standard").await;
    let minted = lease(&some(world.read(READER, Value::Null).await));
    world.rename("store").await;
    assert!(world.no_creds(READER).await.contains("\"astra/creds/store/r_w_user\""));
    let later = lease(&some(world.read("creds/store/r_w_user", Value::Null).await));
    let world = world.remounted().await;
    assert!(world.no_creds(READER).await.contains("\"astra/creds/store/r_w_user\""));
    some(world.renew(&minted, Value::Null).await);
    for lease in [minted, later] {
        ok(world.revoke(&lease).await);
    }
    assert_eq!(world.astra.live(), 0);

    // The old name is free. If another org gets the name, the name means that org.
    world.write_org(OTHER_ORG, "retailOrg").await;
    super::astra::other_org(&world.astra);
    assert_eq!(text(&some(world.read("creds/retailOrg/reader", Value::Null).await), "orgId"), OTHER_ORG);
    world.rename("").await;
    assert!(world.no_creds("creds/store/r_w_user").await.contains(&format!("\"astra/creds/{ORG}/r_w_user\"")));
    assert_eq!(world.keys("token/").len(), 1);
}

#[tokio::test]
async fn a_logical_name_cannot_be_the_id_of_another_org() {
    let world = World::with_role("standard").await;
    ok(world.write("config", world.unverified(OTHER_ORG, "")).await);
    for operation in [Operation::Update, Operation::Patch] {
        let change = json!({"org_id": ORG, "logical_name": OTHER_ORG});
        let why = refused(world.ask(operation, "config", change).await);
        assert!(why.starts_with("logical_name") && why.contains("already names the organization with org_id"), "{why}");
    }
    // An org_id cannot be the logical name of another org either.
    let why = refused(world.write("config", world.unverified("retailOrg", "")).await);
    assert!(why.starts_with("org_id") && why.contains(ORG), "{why}");
    assert_eq!(world.list("configs/", Value::Null).await["keys"], json!([OTHER_ORG, ORG]));
    // The logical name of an org can be its own id.
    world.rename(ORG).await;
    some(world.read(&format!("creds/{ORG}/r_w_user"), Value::Null).await);
}

#[tokio::test]
async fn a_name_of_two_orgs_never_mints() {
    let world = World::new().await;
    world.stored_org("org-a", "org-b").await;
    world.stored_org("org-b", "shop").await;
    world.stored_org("org-c", "twins").await;
    world.stored_org("org-d", "twins").await;
    for name in ["org-b", "twins"] {
        let why = world.no_creds(&format!("creds/{name}/reader")).await;
        assert!(why.contains("several organizations"), "{why}");
    }
    // Their other names do not mint either, because each org has only one path.
    for (name, path) in [("org-a", "creds/org-b/reader"), ("org-c", "creds/twins/reader"), ("TWINS", "")] {
        assert!(world.no_creds(&format!("creds/{name}/reader")).await.contains(path), "{name}");
    }
    world.astra.change("orgId", json!("org-b"));
    assert_eq!(text(&some(world.read("creds/shop/reader", Value::Null).await), "orgId"), "org-b");

    // After one org is renamed, the name of the other org is unique again.
    ok(world.ask(Operation::Patch, "config", json!({"org_id": "org-d", "logical_name": "solo"})).await);
    for (name, id) in [("twins", "org-c"), ("solo", "org-d")] {
        world.astra.change("orgId", json!(id));
        assert_eq!(text(&some(world.read(&format!("creds/{name}/reader"), Value::Null).await), "orgId"), id);
    }
}

#[tokio::test]
async fn a_standby_forwards_before_any_call_and_a_snapshot_never_mints() {
    let world = World::with_role("sidecar").await;
    let snapshot = request(Operation::Read, READER, Value::Null).from_snapshot("6c1f");
    assert!(refused(world.backend.handle(snapshot).await).contains("snapshot"));
    world.system.set_state(ReplicationState::PERFORMANCE_STANDBY);
    let calls = world.storage.calls();
    for path in [READER, "creds/nobody/nothing"] {
        for operation in [Operation::Read, Operation::Update] {
            let error = failed(world.ask(operation, path, Value::Null).await);
            assert!(matches!(error, Error::ReadOnly), "{error}");
        }
    }
    assert_eq!((world.storage.calls(), world.astra.count("POST")), (calls, 0));
}

#[tokio::test]
async fn an_unfinished_mint_is_undone_and_a_token_without_a_lease_is_swept() {
    let world = World::with_role("standard").await;
    // Astra mints a token, and the answer is lost.
    world.astra.answer_after("POST", ResponseTemplate::new(200).set_body_string("{"));
    failed(world.read(READER, Value::Null).await);
    world.astra.heal();
    eventually(|| world.astra.live() == 0 && world.unfinished().is_empty()).await;

    let client_id = text(&some(world.read(READER, Value::Null).await), "clientId");
    let fetched = data(world.read("org/token", json!({"org_id": ORG, "client_id": client_id})).await);
    assert_eq!(fetched["roleName"], "r_w_user");
    let key = format!("client/{ORG}/{client_id}");
    let mut record = world.storage.json(&key).unwrap();
    record["expires_at"] = json!("2020-01-01T00:00:00Z");
    world.stored(&key, record).await;
    // A new process starts with a pass over all tokens.
    let world = world.remounted().await;
    ok(world.ask(Operation::Rollback, "", Value::Null).await);
    assert_eq!((world.astra.live(), world.keys("token/").len(), world.keys("client/").len()), (0, 0, 0));
}
