//! The metadata that a role requires, and the metadata that a role sets.

use vault_plugin_sdk::logical::Entity;
use vault_plugin_sdk::testing::HostFault;

use super::*;

const MINTS: [(&str, &str); 3] =
    [("standard", "org/token"), ("sidecar", "org/token"), ("standard", "creds/retailOrg/r_w_user")];

fn bob() -> Entity {
    let mut entity = Entity::default();
    (entity.id, entity.name) = ("entity-1".into(), "bob".into());
    entity.metadata.insert("team".into(), "shop".into());
    entity
}

impl World {
    async fn with_settings(mode: &str, settings: Value) -> Self {
        let world = Self::with_role(mode).await;
        world.system.set_entity(bob());
        world.write_role(settings).await;
        world
    }

    /// Mints in the caller mode `mode` at a path.
    async fn mint_at(&self, (mode, path): (&str, &str), name: &str, pairs: Value, caller: Caller) -> Answer {
        let mut data = if path == "org/token" { order(name) } else { json!({"logical_name": name}) };
        if !pairs.is_null() {
            data["metadata"] = pairs;
        }
        let operation = if mode == "standard" { Operation::Update } else { Operation::Read };
        self.backend.handle(request(operation, path, data).caller(caller)).await
    }
}

/// The metadata in an answer. Where a read mints, it has an empty `deletion_time`.
fn pairs_of(response: &Response) -> Value {
    let mut pairs = response.whole_data().unwrap()["metadata"].clone();
    if let Some(pairs) = pairs.as_object_mut() {
        pairs.remove("deletion_time");
    }
    pairs
}

fn bob_calls() -> Caller {
    Caller::new("token-bob").entity_id("entity-1")
}

#[tokio::test]
async fn a_role_shows_its_metadata_settings_and_takes_them_back() {
    let world = World::with_role("standard").await;
    let role = json!({"org_id": ORG, "role_name": "r_w_user"});
    let without = data(world.read("role", role.clone()).await);
    assert!(without.get("required_metadata").is_none() && without.get("default_metadata").is_none());
    world.write_role(json!({"required_metadata": "ticket, app,ticket", "default_metadata": ["owner={{display_name}}", "env=prod"]})).await;
    let path = "orgs/retailOrg/roles/r_w_user";
    let shown = data(world.read("role", role.clone()).await);
    let below = data(world.read(path, Value::Null).await);
    for shown in [&shown, &below] {
        assert_eq!(shown["required_metadata"], json!(["ticket", "app"]));
        assert_eq!(shown["default_metadata"], json!({"owner": "{{display_name}}", "env": "prod"}));
    }
    let listed = world.list("orgs/retailOrg/roles/", json!({})).await;
    assert_eq!(listed["key_info"]["r_w_user"]["default_metadata"]["env"], "prod");
    // Terraform writes back what it has read.
    assert!(ok(world.write(path, below.clone()).await).is_none());
    assert_eq!(data(world.read(path, Value::Null).await), below);
    // A patch changes single pairs.
    let patch = json!({"default_metadata": {"env": null, "team": "shop"}});
    ok(world.ask(Operation::Patch, path, patch).await);
    let patched = data(world.read(path, Value::Null).await);
    assert_eq!(patched["default_metadata"], json!({"owner": "{{display_name}}", "team": "shop"}));
    assert_eq!(patched["required_metadata"], json!(["ticket", "app"]));
    // Both can be removed.
    ok(world.write(path, json!({"required_metadata": "", "default_metadata": {}})).await);
    assert_eq!(data(world.read("role", role).await), without);
    let stored = world.storage.json(&format!("role/{ORG}:r_w_user")).unwrap();
    assert!(stored.get("required_metadata").is_none() && stored.get("default_metadata").is_none());
}

#[tokio::test]
async fn a_setting_that_no_mint_can_meet_is_refused() {
    let world = World::with_role("standard").await;
    let before = world.storage.json(&format!("role/{ORG}:r_w_user"));
    for (settings, text) in [
        (json!({"required_metadata": "a,,b"}), "required_metadata must not have an empty key"),
        (json!({"required_metadata": ["deletion_time"]}), "required_metadata must not have the key \"deletion_time\""),
        (json!({"required_metadata": ["x".repeat(70_000)]}), "required_metadata must not have more than 64 KiB"),
        (json!({"default_metadata": "deletion_time=x"}), "default_metadata must not have the key \"deletion_time\""),
        (json!({"default_metadata": "owner="}), "default_metadata must not have an empty value (key \"owner\")"),
        (json!({"default_metadata": {"": "x"}}), "default_metadata must not have an empty key"),
        (json!({"default_metadata": "owner"}), "default_metadata"),
        (json!({"default_metadata": {"a": "x".repeat(70_000)}}), "default_metadata must not have more than 64 KiB"),
        (json!({"default_metadata": "o={{identity.entity.nme}}"}), "unknown template \"{{identity.entity.nme}}\""),
        (json!({"default_metadata": "o={{identity.groups.ids}}"}), "(key \"o\")"),
        (json!({"default_metadata": "o={{display_name"}), "default_metadata has a \"{{\""),
    ] {
        let mut role = json!({"org_id": ORG, "role_name": "r_w_user"});
        role.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let error = refused(world.write("role", role).await);
        assert!(error.contains(text), "{error}");
        let error = refused(world.ask(Operation::Patch, "orgs/retailOrg/roles/r_w_user", settings).await);
        assert!(error.contains(text), "{error}");
    }
    assert_eq!(world.storage.json(&format!("role/{ORG}:r_w_user")), before);
}

#[tokio::test]
async fn a_mint_without_a_required_key_is_refused_before_any_change() {
    for at in MINTS {
        let world = World::with_settings(at.0, json!({"required_metadata": "ticket,app"})).await;
        let writes = world.storage.writes();
        for (pairs, key) in [
            (Value::Null, "ticket"),
            (json!({}), "ticket"),
            (json!({"ticket": "T1"}), "app"),
            (json!({"ticket": "", "app": "cart"}), "ticket"),
            (json!({"Ticket": "T1", "app": "cart"}), "ticket"),
        ] {
            let error = refused(world.mint_at(at, "a", pairs, bob_calls()).await);
            assert!(error.starts_with(&format!("metadata must have the key {key:?}")), "{error}");
        }
        assert_eq!((world.storage.writes(), world.astra.count("POST")), (writes, 0));
        let pairs = json!({"ticket": "T1", "app": "cart", "more": "x"});
        let minted = some(world.mint_at(at, "a", pairs.clone(), bob_calls()).await);
        assert_eq!(pairs_of(&minted), pairs);
    }
}

#[tokio::test]
async fn defaults_are_filled_in_from_the_callers_identity() {
    let defaults = json!({"owner": "{{identity.entity.name}}", "team": "{{identity.entity.metadata.team}}",
        "by": "{{display_name}} ({{identity.entity.id}})", "env": "prod"});
    let filled = json!({"owner": "bob", "team": "shop", "by": "token-bob (entity-1)", "env": "prod", "app": "cart"});
    for at in MINTS {
        let settings = json!({"default_metadata": defaults, "required_metadata": "owner,env,app"});
        let world = World::with_settings(at.0, settings).await;
        let minted = some(world.mint_at(at, "a", json!({"app": "cart"}), bob_calls()).await);
        assert_eq!(pairs_of(&minted), filled);
        let client = text(&minted, "clientId");
        let record = data(world.read(&format!("orgs/retailOrg/tokens/{client}"), Value::Null).await);
        assert_eq!(record["metadata"], filled);
        // A key that has a default is not the caller's.
        for key in ["owner", "env"] {
            let error = refused(world.mint_at(at, "b", json!({"app": "cart", key: "eve"}), bob_calls()).await);
            assert!(error.starts_with(&format!("metadata must not have the key {key:?}")), "{error}");
        }
        let error = refused(world.mint_at(at, "b", Value::Null, bob_calls()).await);
        assert!(error.contains("\"app\""), "{error}");
        assert_eq!(world.astra.count("POST"), 1);
    }
}

#[tokio::test]
async fn a_caller_without_the_identity_of_a_template_gets_no_token() {
    let entity = |name: &str| {
        let mut entity = bob();
        entity.id = "entity-2".into();
        entity.name = name.into();
        entity.metadata.clear();
        entity
    };
    for (template, caller, text) in [
        ("{{identity.entity.id}}", Caller::new("root"), "this caller has none"),
        ("{{identity.entity.name}}", Caller::new("root"), "this caller has none"),
        // The host does not know the entity any more.
        ("{{identity.entity.name}}", Caller::new("x").entity_id("entity-9"), "this caller has none"),
        ("{{identity.entity.metadata.team}}", Caller::new("x").entity_id("entity-2"), "metadata key \"team\""),
        ("{{identity.entity.name}}", Caller::new("x").entity_id("entity-2"), "name of the caller's entity"),
        ("{{display_name}}", Caller::new(""), "display name of the caller"),
    ] {
        for at in MINTS {
            let world = World::with_settings(at.0, json!({"default_metadata": {"owner": template}})).await;
            world.system.set_entity(entity(""));
            let writes = world.storage.writes();
            let error = refused(world.mint_at(at, "a", Value::Null, caller.clone()).await);
            assert!(error.contains(text) && error.contains("r_w_user"), "{error}");
            assert_eq!((world.storage.writes(), world.astra.count("POST")), (writes, 0));
        }
    }
    // A root token has a display name.
    let world = World::with_settings("standard", json!({"default_metadata": {"owner": "{{display_name}}"}})).await;
    let minted = some(world.mint_at(MINTS[0], "a", Value::Null, Caller::new("root")).await);
    assert_eq!(pairs_of(&minted), json!({"owner": "root"}));
}

#[tokio::test]
async fn a_value_of_the_identity_that_is_empty_does_not_satisfy_a_requirement() {
    let settings =
        json!({"default_metadata": {"team": "{{identity.entity.metadata.team}}"}, "required_metadata": "team"});
    let world = World::with_settings("standard", settings).await;
    let mut empty = bob();
    empty.metadata.insert("team".into(), String::new());
    world.system.set_entity(empty);
    let error = refused(world.mint_at(MINTS[0], "a", Value::Null, bob_calls()).await);
    assert!(error.starts_with("metadata must have the key \"team\""), "{error}");
    // The whole metadata is limited, with the values of the identity.
    let mut large = bob();
    large.metadata.insert("team".into(), "x".repeat(70_000));
    world.system.set_entity(large);
    let error = refused(world.mint_at(MINTS[0], "a", Value::Null, bob_calls()).await);
    assert!(error.contains("64 KiB"), "{error}");
}

#[tokio::test]
async fn the_host_is_asked_only_if_a_template_needs_the_entity() {
    for (defaults, calls) in [
        (json!({}), 0),
        (json!({"env": "prod", "owner": "{{display_name}}"}), 0),
        (json!({"a": "{{identity.entity.id}}", "b": "{{identity.entity.name}}"}), 1),
    ] {
        let world = World::with_settings("standard", json!({})).await;
        let cost = async |name: &str| {
            let before = (world.system.calls(), world.storage.calls());
            some(world.mint_at(MINTS[0], name, Value::Null, bob_calls()).await);
            (world.system.calls() - before.0, world.storage.calls() - before.1)
        };
        // The first mint fills the caches.
        cost("a").await;
        let without = cost("b").await;
        world.write_role(json!({"default_metadata": defaults})).await;
        cost("c").await;
        let with = cost("d").await;
        assert_eq!((with.0 - without.0, with.1), (calls, without.1), "{defaults}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_tell_the_entity_fails_the_mint_before_any_change() {
    for at in MINTS {
        let world =
            World::with_settings(at.0, json!({"default_metadata": {"owner": "{{identity.entity.name}}"}})).await;
        for fault in 1..10 {
            let writes = world.storage.writes();
            world.system.inject(HostFault::At(fault));
            let minted = world.mint_at(at, &format!("n{fault}"), Value::Null, bob_calls()).await;
            world.system.heal();
            if let Err(error) = minted {
                assert!(matches!(error, Error::Internal { .. }), "{error}");
                world.until_undone().await;
            } else if fault > 5 {
                break;
            }
            assert!(world.storage.writes() >= writes);
        }
        assert_eq!(world.astra.live(), world.keys("token/").len());
    }
}

#[tokio::test]
async fn a_role_of_a_newer_version_with_an_unknown_template_mints_no_token() {
    let world = World::with_role("standard").await;
    let key = format!("role/{ORG}:r_w_user");
    let mut role = world.storage.json(&key).unwrap();
    role["default_metadata"] = json!({"owner": "{{identity.groups.names}}"});
    world.stored(&key, role).await;
    world.backend.invalidate(&key);
    let error = refused(world.mint_at(MINTS[0], "a", Value::Null, bob_calls()).await);
    assert!(error.contains("unknown template") && error.contains("r_w_user"), "{error}");
    assert_eq!(world.astra.count("POST"), 0);
}

#[tokio::test]
async fn the_description_in_astra_names_the_owner() {
    let described = async |settings: Value, name: &str, pairs: Value| {
        let world = World::with_settings("standard", settings).await;
        some(world.mint_at(MINTS[0], name, pairs, bob_calls()).await);
        let asked = world.astra.state().live.values().next().unwrap()["description"].as_str().unwrap().to_owned();
        asked.split_once(' ').unwrap().1.split_once(' ').unwrap().1.to_owned()
    };
    let plain = described(json!({}), "a", Value::Null).await;
    assert_eq!(plain, "mount=astra/ role=r_w_user name=a by=token-bob");
    let given = described(json!({}), "a", json!({"owner": "eve"})).await;
    assert_eq!(given, "mount=astra/ role=r_w_user owner=eve name=a by=token-bob");
    let owner = json!({"default_metadata": {"owner": "{{identity.entity.name}}"}});
    // A caller chooses the name, which can neither hide the owner nor come before the owner.
    for name in ["x".repeat(255), format!("{} owner=eve", "x".repeat(10))] {
        let long = described(owner.clone(), &name, Value::Null).await;
        assert!(long.starts_with("mount=astra/ role=r_w_user owner=bob name=x"), "{long}");
    }
    let long = described(json!({}), "a", json!({"owner": "é".repeat(1000)})).await;
    assert!(long.ends_with(" name=a by=token-bob") && long.is_ascii(), "{long}");
}

#[tokio::test]
async fn a_thousand_roles_with_default_metadata_cost_a_mint_no_call() {
    let world = World::with_role("standard").await;
    let cost = async |role: &str| {
        let before = (world.storage.calls(), world.system.calls());
        let response = some(world.read(&format!("creds/retailOrg/{role}"), json!({})).await);
        (world.storage.calls() - before.0, world.system.calls() - before.1, pairs_of(&response))
    };
    world.read("creds/retailOrg/r_w_user", json!({})).await.unwrap();
    let (calls, asked, _) = cost("r_w_user").await;
    for n in 0..1000 {
        let role = json!({"org_id": ORG, "role_name": format!("role{n}"), "role_id": "r", "default_metadata": ["owner={{display_name}}", "env=prod"]});
        ok(world.write("role", role).await);
    }
    // The first mint after a write reads the role.
    cost("role500").await;
    let (with_defaults, asked_with_defaults, pairs) = cost("role500").await;
    assert_eq!(pairs["env"], "prod");
    assert_eq!((with_defaults, asked_with_defaults), (calls, asked));
}
