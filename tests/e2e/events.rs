//! The plugin's log: one line for each change, with the name of the caller.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::astra::{AstraFault, BodyForm, Kind, Route};
use crate::bao::{Client, Options, Reply, Server, wait};
use crate::takeover::raw;
use crate::world::{Org, ROLE_ID, TICK, Token, World};

/// A server whose log is JSON.
fn server() -> Arc<Server> {
    let env = ["VAULT_LOG_FORMAT", "BAO_LOG_FORMAT"].map(|name| (name.to_owned(), "json".to_owned())).into();
    Arc::new(Server::dev_with(&Options { env, ..Options::default() }))
}

/// Returns a caller with a name and an identity entity.
fn bob(server: &Server) -> Client {
    server.post("sys/auth/userpass", &json!({"type": "userpass"})).ok();
    let rules =
        "path \"*\" { capabilities = [\"create\", \"read\", \"update\", \"patch\", \"delete\", \"list\", \"sudo\"] }";
    server.post("sys/policies/acl/all", &json!({"policy": rules})).ok();
    server.post("auth/userpass/users/bob", &json!({"password": "a-password", "token_policies": "all"})).ok();
    let login = server.post("auth/userpass/login/bob", &json!({"password": "a-password"})).ok();
    server.with_token(login["auth"]["client_token"].as_str().expect("a token"))
}

/// Returns the plugin's lines above debug level. Values that differ between two runs are masked.
fn events(world: &World, org: &Org, names: &[(String, &str)]) -> Vec<String> {
    let log = world.server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_plugin = lines.filter(|line| {
        let is_debug = matches!(line["@level"].as_str(), Some("debug" | "trace"));
        // The server's own lines about the plugin's process have the same module, but no mount.
        !is_debug && line["mount"] == "astra/"
    });
    of_plugin.map(|line| event(line, world, org, names)).collect()
}

fn event(mut line: Value, world: &World, org: &Org, names: &[(String, &str)]) -> String {
    let fields = line.as_object_mut().expect("an object");
    let mut take =
        |name: &str| fields.remove(name).and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_default();
    let (level, message) = (take("@level"), take("@message"));
    for name in ["@module", "@timestamp", "timestamp", "backend_uuid", "request_id"] {
        take(name);
    }
    let mut text = format!("{level} {message}");
    for (name, value) in fields {
        text.push_str(&format!("\n    {name}={value}"));
    }
    let url = world.url();
    let known = [(org.id.as_str(), "<org>"), (url, "<url>")];
    let known = known.into_iter().chain(names.iter().map(|(value, name)| (value.as_str(), *name)));
    let text = known.fold(text, |text, (value, name)| text.replace(value, name));
    // The number of attempts depends on timing.
    let attempts = regex_lite::Regex::new("after [0-9]+ attempts").expect("a pattern");
    attempts.replace_all(&text, "after <some> attempts").into_owned()
}

#[test]
fn each_change_is_logged_once_with_its_caller() {
    let server = server();
    let bob = bob(&server);
    let entity = bob.get("auth/token/lookup-self").data()["entity_id"].as_str().expect("an entity").to_owned();
    let world = World::at_mount(&server, "astra");
    let org = world.next_org();
    let at = |path: &str| world.at(path);
    let token_of = |reply: Reply| Token::of(reply.ok());

    let config = json!({"org_id": org.id, "astra_token": org.root_token, "url": world.url(), "logical_name": "shop"});
    bob.post(&at("config"), &config).ok();
    bob.patch(&at("config"), &json!({"org_id": org.id, "request_timeout": "2s"})).ok();
    let role = json!({"org_id": org.id, "role_name": "reader", "role_id": ROLE_ID, "ttl": 3600, "max_ttl": 36000});
    bob.post(&at("role"), &role).ok();
    bob.patch(&at("role"), &json!({"org_id": org.id, "role_name": "reader", "max_tokens": 9})).ok();
    let order = |name: &str| json!({"org_id": org.id, "role_name": "reader", "logical_name": name});
    let one = token_of(bob.post(&at("org/token"), &order("one")));
    bob.get(&at(&format!("org/token?org_id={}&client_id={}", org.id, one.client_id))).ok();
    bob.post("sys/leases/renew", &json!({"lease_id": one.lease_id})).ok();
    bob.post("sys/leases/revoke", &json!({"lease_id": one.lease_id, "sync": true})).ok();
    let two = token_of(bob.post(&at("org/token"), &order("two")));
    bob.delete(&at(&format!("org/token?org_id={}&client_id={}", org.id, two.client_id))).ok();

    // A token whose answer is lost.
    world.fault(AstraFault::after(Kind::status(500, BodyForm::Errors)).route(Route::CreateToken).once());
    bob.post(&at("org/token"), &order("lost")).fails(502);
    let minted = world.tokens(&org.id).into_iter().filter(|token| token.creator.is_some()).map(|token| token.client_id);
    let lost = minted.into_iter().find(|id| ![&one.client_id, &two.client_id].contains(&id));
    let seen = |message: &str| server.log().contains(message).then_some(());
    wait("the undo", TICK, || seen("rolled back token"));

    // Token three: its delete takes effect, but Astra's answer is an error. Token four: no lease will revoke it.
    let three = token_of(bob.post(&at("org/token"), &order("three")));
    let four = token_of(bob.post(&at("org/token"), &order("four")));
    overdue(&world, &org, &four);
    world.fault(
        AstraFault::after(Kind::status(500, BodyForm::Errors)).route(Route::DeleteToken).target(&three.client_id),
    );
    world.fault(AstraFault::before(Kind::status(503, BodyForm::Errors)).route(Route::ListTokens));
    let reply = bob.delete(&at(&format!("org/token?org_id={}&client_id={}", org.id, three.client_id)));
    assert!(reply.status >= 500, "{reply}");
    world.clear_faults();
    // A new process checks all records again.
    server.reload("astra");
    wait("the tick", TICK, || seen("finished the deletion of a token").and(seen("deleted a token without a lease")));
    bob.delete(&at(&format!("role?org_id={}&role_name=reader", org.id))).ok();
    bob.delete(&at(&format!("config?org_id={}", org.id))).ok();
    // The server writes its log after the answer.
    wait("the last event", TICK, || seen("deleted config"));

    let names = [
        (one.client_id, "<token one>"),
        (two.client_id, "<token two>"),
        (lost.expect("the lost token"), "<token lost>"),
        (three.client_id, "<token three>"),
        (four.client_id, "<token four>"),
        (entity, "<entity>"),
    ];
    let mut events = events(&world, &org, &names);
    // The order within a tick is not fixed, and there may be one tick or two.
    let tick: Vec<usize> = (0..events.len()).filter(|&at| events[at].contains("operation=\"rollback\"")).collect();
    assert_eq!(tick.len(), 2);
    events[tick[0]..=tick[1]].sort();
    insta::assert_snapshot!("events", events.join("\n"));
    world.assert_no_secret("the log", &server.log());
}

/// Changes the record of a token so that its lease must have expired.
fn overdue(world: &World, org: &Org, token: &Token) {
    let mount = world.server.get(&format!("sys/mounts/{}", world.mount)).data();
    let uuid = mount["uuid"].as_str().expect("the id of the mount");
    let key = raw(uuid, &format!("client/{}/{}", org.id, token.client_id));
    let record = world.server.get(&key).data();
    let mut record: Value = serde_json::from_str(record["value"].as_str().expect("a value")).expect("JSON");
    record["expires_at"] = "2020-01-01T00:00:00Z".into();
    world.server.post(&key, &json!({"value": record.to_string()})).ok();
}
