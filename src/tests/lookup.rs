//! `lookup`: the owner of a token that somebody found.

use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{Operation, Response, Storage as _};
use wiremock::ResponseTemplate;

use super::astra::{Astra, ROOT_ROLE};
use super::{ORG, OTHER_ORG, ROLE_ID, ROOT, World, data, lease, ok, order, refused, some, status, text};

const ROOT_ID: &str = "ONqZCOAAAAAAAAAAAAAAAAe";

impl World {
    async fn look_up(&self, wanted: Value) -> Value {
        data(self.write("lookup", wanted).await)
    }

    /// A token of each kind: with a name, and without a name.
    async fn with_tokens() -> (Self, [Response; 2]) {
        let world = Self::with_role("standard").await;
        let named = world.mint("checkout").await;
        let unnamed = some(world.read("creds/retailOrg/r_w_user", json!({"metadata": "team=shop"})).await);
        (world, [named, unnamed])
    }

    /// Another org with its own Astra, whose root token is `AstraCS:other:root`.
    async fn with_other_org(&self) -> Arc<Astra> {
        let other = Arc::new(Astra::start(OTHER_ORG).await);
        {
            let mut state = other.state();
            let root = state.roots.remove(ROOT_ID).expect("a root token");
            state
                .roots
                .insert("other".to_owned(), super::astra::Root { token: "AstraCS:other:root".to_owned(), ..root });
        }
        let config = json!({"org_id": OTHER_ORG, "astra_token": "AstraCS:other:root", "url": other.url()});
        ok(self.write("config", config).await);
        other
    }
}

#[tokio::test]
async fn a_known_token_is_found_with_its_owner_and_with_the_path_that_deletes_it() {
    let (world, minted) = World::with_tokens().await;
    for minted in minted {
        let (client, token) = (text(&minted, "clientId"), text(&minted, "token"));
        let path = format!("orgs/retailOrg/tokens/{client}");
        let mut expected = data(world.read(&path, Value::Null).await);
        let members = expected.as_object_mut().unwrap();
        members.insert("known".into(), json!(true));
        members.insert("client_id".into(), json!(client));
        members.insert("org".into(), json!("retailOrg"));
        members.insert("paths".into(), json!({"delete": format!("astra/{path}")}));
        assert_eq!(world.look_up(json!({"client_id": client})).await, expected);
        for org in [json!({}), json!({"org": "retailOrg"}), json!({"org": ORG, "check_astra": true})] {
            for (token, matches) in [(token.clone(), true), (format!(" {token}\n"), true), (format!("{token}0"), false)]
            {
                let mut wanted = org.clone();
                wanted["token"] = json!(token);
                expected["matches"] = json!(matches);
                assert_eq!(world.look_up(wanted).await, expected);
            }
        }
        ok(world.ask(Operation::Delete, &path, Value::Null).await);
        assert_eq!(world.look_up(json!({"token": token})).await, json!({"known": false}));
        ok(world.revoke(&lease(&minted)).await);
    }
}

#[tokio::test]
async fn a_text_that_is_no_token_is_refused_and_not_repeated() {
    let world = World::with_role("standard").await;
    let long = format!("AstraCS:secretid:{}", "secret".repeat(1000));
    for token in [
        "secret",
        "AstraCS:",
        "AstraCS:secret",
        "AstraCS::secret",
        "AstraCS:secret:",
        "AstraCS:secret:a:b",
        "astracs:secret:a",
        "AstraCS:secret id:secret",
        "AstraCS:secret\n:a",
        "AstraCS:secret/id:secret",
        "AstraCS:..:secret",
        &long,
    ] {
        let error = refused(world.write("lookup", json!({"token": token})).await);
        assert!(error.starts_with("token must have the form") && !error.contains("secret"), "{error}");
    }
    for (wanted, expected) in [
        (json!({}), "token or client_id is required"),
        (json!({"token": ""}), "token or client_id is required"),
        (json!({"token": "AstraCS:a:secret", "client_id": "a"}), "token cannot be used with client_id"),
        (json!({"client_id": "AstraCS:a:secret"}), "client_id must be the part between the colons"),
        (json!({"client_id": "a", "org": "nope"}), "org \"nope\" is not the logical_name"),
    ] {
        let error = refused(world.write("lookup", wanted).await);
        assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
    }
    assert_eq!(world.look_up(json!({"token": "AstraCS:secret:secret"})).await, json!({"known": false}));
}

#[tokio::test]
async fn a_root_token_is_found_with_the_path_that_replaces_it() {
    let world = World::with_role("standard").await;
    let _other = world.with_other_org().await;
    let expected = |matches: bool| {
        json!({"known": true, "client_id": ROOT_ID, "org": "retailOrg", "org_id": ORG, "root_of": ["retailOrg"],
            "paths": {"update": "astra/orgs/retailOrg/rotate-root"}, "matches": matches})
    };
    assert_eq!(world.look_up(json!({"token": ROOT})).await, expected(true));
    assert_eq!(world.look_up(json!({"token": format!("{ROOT}0"), "check_astra": true})).await, expected(false));
    assert_eq!(world.look_up(json!({"token": ROOT, "org": OTHER_ORG})).await, json!({"known": false}));
    ok(world.write("orgs/retailOrg/rotate-root", json!({})).await);
    assert_eq!(world.look_up(json!({"token": ROOT})).await, json!({"known": false}));
    let root = world.look_up(json!({"token": world.astra.root()})).await;
    assert_eq!((&root["root_of"], &root["matches"]), (&json!(["retailOrg"]), &json!(true)));
}

#[tokio::test]
async fn an_unknown_token_is_looked_for_in_the_lists_of_astra() {
    let world = World::with_role("standard").await;
    let other = world.with_other_org().await;
    let portal = json!({"roles": [ROLE_ID, ROOT_ROLE], "description": "made by hand, not AstraCS:x:y"});
    other.state().live.insert("portal".to_owned(), portal);
    let found =
        json!({"org": OTHER_ORG, "roles": [ROLE_ID, ROOT_ROLE], "description": "made by hand, not AstraCS:..."});
    let wanted = json!({"token": "AstraCS:portal:digest", "check_astra": true});
    assert_eq!(world.look_up(wanted.clone()).await, json!({"known": false, "in_astra": [found], "errors": {}}));
    let of_org = json!({"client_id": "portal", "check_astra": true, "org": "retailOrg"});
    assert_eq!(world.look_up(of_org).await, json!({"known": false, "in_astra": [], "errors": {}}));

    // A list that cannot be read is not a no.
    world.stored("config/damaged", json!({"astra_token": 1})).await;
    world.backend.invalidate("config/damaged");
    world.astra.answer_all("GET", ResponseTemplate::new(403));
    let answer = world.look_up(wanted.clone()).await;
    assert_eq!((&answer["known"], &answer["in_astra"]), (&json!(false), &json!([found])));
    let errors = answer["errors"].as_object().unwrap();
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["damaged", "retailOrg"]);
    assert!(errors["retailOrg"].as_str().unwrap().contains("403"), "{errors:?}");
    world.astra.heal();
    // A list without a single token is not a no either.
    for member in [json!([]), json!([{"clientId": null}])] {
        let list = ResponseTemplate::new(200).set_body_json(json!({"clients": member}));
        world.astra.answer("GET", list);
        let answer = world.look_up(json!({"client_id": "nope", "check_astra": true, "org": ORG})).await;
        assert!(answer["errors"]["retailOrg"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn a_lookup_on_a_standby_writes_nothing() {
    let (world, [named, _]) = World::with_tokens().await;
    world.storage.set_read_only(true);
    world.system.set_state(vault_plugin_sdk::logical::ReplicationState::PERFORMANCE_STANDBY);
    let writes = world.storage.writes();
    assert_eq!(world.look_up(json!({"token": text(&named, "token")})).await["matches"], true);
    assert_eq!(world.look_up(json!({"client_id": "nope", "check_astra": true})).await["errors"], json!({}));
    assert_eq!(world.storage.writes(), writes);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_of_a_known_token() {
    let (world, minted) = World::with_tokens().await;
    for minted in minted {
        let client = text(&minted, "clientId");
        world.stored(&format!("client/{ORG}/{client}"), json!("damaged")).await;
        let answer = some(world.write("lookup", json!({"client_id": client})).await);
        assert!(answer.warnings[0].contains("cannot be read"), "{:?}", answer.warnings);
        assert_eq!(answer.whole_data().unwrap()["known"], true);
    }
}

/// The tokens of an org whose config was deleted with force can be deleted in Vault only.
#[tokio::test]
async fn the_token_of_an_org_without_a_config_is_known() {
    let (world, [named, _]) = World::with_tokens().await;
    ok(world.ask(Operation::Delete, "config", json!({"org_id": ORG, "force": true})).await);
    let client = text(&named, "clientId");
    for org in [json!({}), json!({"org": ORG})] {
        let mut wanted = json!({"client_id": client});
        wanted.as_object_mut().unwrap().extend(super::map(org));
        let answer = world.look_up(wanted).await;
        let path = format!("astra/org/token?org_id={ORG}&client_id={client}&force=true");
        assert_eq!((&answer["org"], &answer["paths"]), (&json!(ORG), &json!({"delete": path})));
    }
}

#[tokio::test]
async fn no_answer_is_unknown_before_the_inventory_is_complete() {
    let world = World::with_role("standard").await;
    world.storage.delete("client-index").await.unwrap();
    world.backend.invalidate("client-index");
    let (code, text) = status(world.write("lookup", json!({"client_id": "nope"})).await);
    assert!(code == 503 && text.contains("still being built"), "{code} {text}");
}

/// The calls of the storage for a token among this many orgs with tokens.
#[tokio::test]
async fn a_lookup_among_many_orgs_lists_nothing_and_reads_one_entry_per_org() {
    let others = 3_000;
    let (world, minted) = World::with_tokens().await;
    for n in 0..others {
        let config =
            json!({"astra_token": format!("AstraCS:root{n}:x"), "url": world.astra.url(), "org_id": format!("org{n}")});
        world.stored(&format!("config/org{n}"), config).await;
        world.stored(&format!("client/org{n}/other{n}"), json!({"token_id": format!("other{n}")})).await;
    }
    let world = World::with(world.storage.clone(), world.astra.clone());
    let cost = async |wanted: Value| {
        let before = (world.storage.calls(), world.storage.lists());
        let answer = world.look_up(wanted).await;
        (answer["known"] == true, world.storage.calls() - before.0, world.storage.lists() - before.1)
    };
    let id = |n: usize| text(&minted[n], "clientId");
    // The first look-up of a process reads the names of the orgs.
    world.look_up(json!({"client_id": "nope"})).await;
    let unnamed = cost(json!({"client_id": id(1)})).await;
    assert!(unnamed.0 && unnamed.1 <= 6 && unnamed.2 == 0, "{unnamed:?}");
    let of_org = cost(json!({"client_id": id(0), "org": "retailOrg"})).await;
    assert!(of_org.0 && of_org.1 <= 4 && of_org.2 == 0, "{of_org:?}");
    let named = cost(json!({"client_id": id(0)})).await;
    assert!(named.0 && named.1 <= others + 6 && named.2 == 0, "{named:?}");
    let root = cost(json!({"client_id": "root7"})).await;
    assert!(root.0 && root.1 <= others + 6 && root.2 == 0, "{root:?}");
    println!("storage calls with {others} other orgs: {unnamed:?} {of_org:?} {named:?} {root:?}");
}

#[tokio::test]
async fn a_named_token_is_found_among_the_orders_of_one_name() {
    let (world, [named, _]) = World::with_tokens().await;
    ok(world.revoke(&lease(&named)).await);
    let again = some(world.write("org/token", order("checkout")).await);
    assert_eq!(world.look_up(json!({"token": text(&named, "token")})).await, json!({"known": false}));
    assert_eq!(world.look_up(json!({"token": text(&again, "token")})).await["logical_name"], "checkout");
}
