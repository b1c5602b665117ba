//! Who has a token, what for, and is it used: with real entities, aliases and servers.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::bao::{Client, Reply, Server, redact, wait};
use crate::servers::on_vault;
use crate::world::{Mode, Org, Token, World};

/// A caller who logged in with an auth method.
struct Login {
    client: Client,
    entity_id: String,
}

/// Logs in. Each call has its own auth mount.
#[track_caller]
fn logged_in(server: &Server, reply: Reply) -> Login {
    let auth = reply.ok()["auth"].clone();
    let token = auth["client_token"].as_str().expect("a token");
    redact::hide(token);
    Login { client: server.with_token(token), entity_id: auth["entity_id"].as_str().unwrap_or_default().to_owned() }
}

fn allow_all(server: &Server) {
    let rules =
        "path \"*\" { capabilities = [\"create\", \"read\", \"update\", \"patch\", \"delete\", \"list\", \"sudo\"] }";
    server.post("sys/policies/acl/owners", &json!({"policy": rules})).ok();
}

/// Returns a user of `userpass`, with an entity that has one more alias.
fn user(server: &Server, mount: &str, name: &str) -> Login {
    allow_all(server);
    server.post(&format!("sys/auth/{mount}"), &json!({"type": "userpass"})).ok();
    let user = json!({"password": "a-password", "token_policies": "owners"});
    server.post(&format!("auth/{mount}/users/{name}"), &user).ok();
    let login = || server.post(&format!("auth/{mount}/login/{name}"), &json!({"password": "a-password"}));
    let entity_id = logged_in(server, login()).entity_id;
    // A second way to log in for the same person.
    let accessor = server.get("sys/auth").data()[format!("{mount}-roles/")]["accessor"].clone();
    if accessor.is_string() {
        let alias = json!({"name": name, "canonical_id": entity_id, "mount_accessor": accessor});
        server.post("identity/entity-alias", &alias).ok();
    }
    logged_in(server, login())
}

/// Logs in with an AppRole, whose tokens are of this type.
fn role(server: &Server, mount: &str, token_type: &str) -> Login {
    allow_all(server);
    server.post(&format!("sys/auth/{mount}"), &json!({"type": "approle"})).ok();
    let settings = json!({"token_policies": "owners", "token_type": token_type, "token_ttl": "1h"});
    server.post(&format!("auth/{mount}/role/app"), &settings).ok();
    let id = server.get(&format!("auth/{mount}/role/app/role-id")).data()["role_id"].clone();
    let secret = server.post(&format!("auth/{mount}/role/app/secret-id"), &Value::Null).data()["secret_id"].clone();
    redact::hide(secret.as_str().expect("a secret id"));
    logged_in(server, server.post(&format!("auth/{mount}/login"), &json!({"role_id": id, "secret_id": secret})))
}

/// The display name of a caller.
fn own_name(client: &Client) -> String {
    let shown = client.get("auth/token/lookup-self").data();
    shown["display_name"].as_str().expect("a display name").to_owned()
}

/// A mount with an org `shop` and the role `reader`.
fn shop() -> (World, Org) {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    (world, org)
}

#[test]
fn defaults_come_from_the_entity_of_the_caller() {
    let (world, org) = shop();
    let server = &world.server;
    let mint = |client: &Client, name: &str| {
        client.post(&world.at("creds/shop/reader"), &json!({"logical_name": name, "metadata": {"ticket": "T1"}}))
    };
    let settings = json!({"required_metadata": ["ticket", "owner"], "default_metadata": {"owner": "{{identity.entity.name}}",
        "team": "{{identity.entity.metadata.team}}", "by": "{{display_name}}", "entity": "{{identity.entity.id}}"}});
    world.post("orgs/shop/roles/reader", &settings).ok();

    // The alias of another auth mount belongs to the same person.
    server.post("sys/auth/owners-people-roles", &json!({"type": "userpass"})).ok();
    let ann = user(server, "owners-people", "ann");
    let app = role(server, "owners-app", "service");
    let batch = role(server, "owners-batch", "batch");
    for (login, name) in [(&ann, "Ann Li"), (&app, "app"), (&batch, "batch-app")] {
        assert!(!login.entity_id.is_empty());
        let entity = format!("identity/entity/id/{}", login.entity_id);
        server.post(&entity, &json!({"name": name})).ok();
        let text = mint(&login.client, "early").fails(400);
        assert!(text.contains("metadata key \"team\"") && text.contains(&login.entity_id), "{text}");
        server.post(&entity, &json!({"name": name, "metadata": {"team": "blue"}})).ok();
        let token = Token::of(mint(&login.client, "cart").ok());
        let shown = world.get(&format!("orgs/shop/tokens/{}", token.client_id)).data();
        let pairs = &shown["metadata"];
        assert_eq!((&pairs["owner"], &pairs["team"], &pairs["ticket"]), (&json!(name), &json!("blue"), &json!("T1")));
        assert_eq!((&pairs["entity"], &pairs["by"]), (&json!(login.entity_id), &shown["display_name"]));
        assert_eq!(shown["entity_id"], login.entity_id.as_str());
        let description = world.token(&token.client_id).and_then(|token| token.description).expect("a description");
        assert!(description.contains(&format!(" role=reader owner={name} name=cart by=")), "{description}");
        let by_entity = world.keys(&format!("orgs/shop/tokens?created_by={}", login.entity_id));
        assert_eq!(by_entity, std::slice::from_ref(&token.client_id));
        world.revoke(&token).ok();
    }

    // The second login of a person has the same entity.
    let accounts = json!({"password": "a-password", "token_policies": "owners"});
    server.post("auth/owners-people-roles/users/ann", &accounts).ok();
    let login = server.post("auth/owners-people-roles/login/ann", &json!({"password": "a-password"}));
    let second = logged_in(server, login);
    assert_eq!(second.entity_id, ann.entity_id);
    assert_eq!(Token::of(mint(&second.client, "second").ok()).data["metadata"]["owner"], "Ann Li");

    // Callers without an entity.
    let orphan = server.post("auth/token/create", &json!({"policies": ["owners"], "display_name": "ci"})).ok();
    let orphan = server.with_token(orphan["auth"]["client_token"].as_str().expect("a token"));
    let alive = world.alive(&org);
    for client in [&***server, &orphan] {
        let text = mint(client, "none").fails(400);
        assert!(text.contains("this caller has none"), "{text}");
    }
    let text = ann.client.post(&world.at("creds/shop/reader"), &json!({"metadata": {"ticket": "T1", "owner": "eve"}}));
    assert!(text.fails(400).contains("metadata must not have the key \"owner\""));
    let text = ann.client.get(&world.at("creds/shop/reader")).fails(400);
    assert!(text.contains("metadata must have the key \"ticket\""), "{text}");
    assert_eq!(world.alive(&org), alive);

    // A display name needs no entity.
    world.post("orgs/shop/roles/reader", &json!({"default_metadata": {"owner": "{{display_name}}"}})).ok();
    for client in [&***server, &orphan] {
        let name = own_name(client);
        assert_eq!(Token::of(mint(client, "named").ok()).data["metadata"]["owner"], name);
    }
}

#[test]
fn filters_select_tokens_in_a_query() {
    let (world, org) = shop();
    world.role(&org, "writer", 3600, 36000);
    let mint = |role: &str, name: &str, pairs: Value| {
        let body = json!({"org_id": org.id, "role_name": role, "logical_name": name, "metadata": pairs});
        Token::of(world.post("org/token", &body).ok()).client_id
    };
    let cart = mint("reader", "cart", json!({"team": "blue", "app": "cart"}));
    let till = mint("reader", "till", json!({"team": "blue"}));
    let jobs = mint("writer", "jobs", json!({"team": "red"}));
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
        ids.sort();
        ids
    };
    for (query, found) in [
        ("role=reader", sorted(&[&cart, &till])),
        ("metadata=team%3Dblue", sorted(&[&cart, &till])),
        ("metadata=team%3Dblue&metadata=app%3Dcart", sorted(&[&cart])),
        (&*format!("created_by={}&role=writer", own_name(&world.server)), sorted(&[&jobs])),
        ("older_than=0s&unused_for=0s", sorted(&[&cart, &till, &jobs])),
    ] {
        assert_eq!(world.keys(&format!("orgs/shop/tokens?{query}")), found, "{query}");
        assert_eq!(world.keys(&format!("org/tokens?org_id={}&{query}", org.id)), found, "{query}");
    }
    for query in ["older_than=1h", "unused_for=30d", "created_by=nobody", "role=none"] {
        world.list(&format!("orgs/shop/tokens?{query}")).fails(404);
    }
    for (query, field) in
        [("older_than=soon", "older_than"), ("metadata=team", "metadata"), ("created_by=", "created_by")]
    {
        let text = world.list(&format!("orgs/shop/tokens?{query}")).fails(400);
        assert!(text.contains(field), "{text}");
    }
    // The commands of the help.
    let path = world.at("orgs/shop/tokens");
    let listed = world.server.cli(&["read", "-format=json", &path, "list=true", "role=writer", "limit=100"]).json();
    assert_eq!(listed["data"]["keys"], json!([jobs]));
}

/// The uses of a token, as its record shows them.
fn uses(client: &Client, path: &str) -> (Value, Value, Value) {
    let shown = client.get(path).data();
    (shown["use_count"].clone(), shown["last_used_by"].clone(), shown["last_used_at"].clone())
}

#[test]
fn uses_are_shown_at_once_and_survive_a_reload_and_a_restart() {
    let server = Arc::new(Server::raft());
    let world = World::at_mount(&server, "astra");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    let path = world.at(&format!("orgs/shop/tokens/{}", token.client_id));
    assert_eq!(uses(&server, &path), (json!(0), Value::Null, Value::Null));
    let ann = user(&server, "people", "ann");
    let read = world.at(&format!("org/token?org_id={}&client_id={}", org.id, token.client_id));
    ann.client.get(&read).ok();
    world.renew(&token, 60).ok();
    let seen = uses(&server, &path);
    assert_eq!((&seen.0, &seen.1), (&json!(2), &json!("people-ann")));
    server.reload("astra");
    assert_eq!(uses(&server, &path), seen, "after a reload");
    ann.client.get(&read).ok();
    assert_eq!(uses(&server, &path).0, json!(3));
    server.seal();
    server.unseal();
    assert_eq!(uses(&server, &path).0, json!(3), "after a seal");
    ann.client.get(&read).ok();
    server.restart();
    assert_eq!(uses(&server, &path).0, json!(4), "after a restart");
    world.assert_no_secret("the record", &server.get(&path).data().to_string());
}

#[test]
fn the_active_node_knows_the_uses_of_a_standby() {
    let cluster = crate::bao::cluster::Cluster::start();
    let active = cluster.active_node();
    let world = World::at_mount(&active, "astra");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    let record = world.at(&format!("orgs/shop/tokens/{}", token.client_id));
    let read = world.at(&format!("org/token?org_id={}&client_id={}", org.id, token.client_id));
    let mut counted = 0;
    for standby in cluster.standbys() {
        // The standby has the token as soon as its storage has it.
        wait("the token at the standby", std::time::Duration::from_secs(30), || {
            (standby.get(&read).status == 200).then_some(())
        });
        let (count, by, _) = uses(&active, &record);
        assert!(count.as_u64().unwrap() > counted, "{count}");
        assert_eq!(by, json!("root"));
        counted = count.as_u64().unwrap();
        standby.get(&read).ok();
        if on_vault("reads of standbys") {
            counted += 1;
        } else {
            // The standby answers the other reads of this hour, also if it cannot forward, and shows them.
            standby.without_forwarding().get(&read).ok();
            assert!(uses(&standby.without_forwarding(), &record).0.as_u64().unwrap() >= 2);
        }
        assert_eq!(uses(&active, &record).0, json!(counted));
    }
}
