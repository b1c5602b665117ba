//! The services of the host, as an engine gets them from a real server.

use plugin_host::plugin::example;
use serde_json::{Value, json};

use crate::bao::{Product, Server, sha256};

const NAME: &str = "host-services";

/// Returns a server with the engine that asks for services.
fn server() -> Server {
    let server = Server::dev();
    let file = server.plugin_dir().join(NAME);
    std::fs::copy(example(NAME), &file).expect("copy the engine");
    let entry = json!({"sha256": sha256(&file), "command": NAME});
    server.post(&format!("sys/plugins/catalog/secret/{NAME}"), &entry).ok();
    server.enable_plugin("services", NAME);
    server
}

fn ask(server: &Server, service: &str, target: &str) -> Value {
    server.post(&format!("services/services/{service}"), &json!({"target": target})).data()
}

#[test]
fn an_engine_learns_the_identity_of_its_callers() {
    let server = server();
    server.post("sys/auth/userpass", &json!({"type": "userpass"})).ok();
    let auth = server.get("sys/auth").data();
    let entity = json!({"name": "bob", "metadata": {"team": "shop"}});
    let id = server.post("identity/entity", &entity).data()["id"].as_str().expect("an id").to_owned();
    let alias = json!({"name": "b", "canonical_id": id, "mount_accessor": auth["userpass/"]["accessor"]});
    server.post("identity/entity-alias", &alias).ok();
    let group = json!({"name": "devs", "metadata": {"floor": "2"}, "member_entity_ids": [id]});
    server.post("identity/group", &group).ok();

    let shown = json!({"name": "bob", "metadata": {"team": "shop"}, "aliases": [["b", "userpass"]]});
    assert_eq!(ask(&server, "entity", &id), json!({"told": shown}));
    assert_eq!(ask(&server, "groups", &id), json!({"told": [["devs", {"floor": "2"}]]}));
    assert_eq!(ask(&server, "entity", "unknown"), json!({"told": null}));
    assert_eq!(ask(&server, "groups", "unknown"), json!({"told": []}));
}

#[test]
fn a_service_that_the_server_lacks_is_unsupported() {
    let server = server();
    let policy = json!({"policy": "length = 12\nrule \"charset\" { charset = \"abc\" }"});
    server.http("PUT", "sys/policies/password/short", &policy).ok();
    let password = ask(&server, "password", "short")["told"].as_str().map(str::len);
    assert_eq!(password, Some(12));
    assert_eq!(ask(&server, "password", "unknown"), json!({"failed": "failed to generate password"}));
    let status = server.get("sys/health").ok();
    assert_eq!(ask(&server, "version", "")["told"], status["version"]);
    assert_eq!(ask(&server, "cluster_id", "")["told"], status["cluster_id"]);
    for (service, told) in [("local_mount", false), ("tainted", false), ("caching_disabled", false), ("writable", true)]
    {
        assert_eq!(ask(&server, service, ""), json!({"told": told}), "{service}");
    }

    let lacks = |what: &str| json!({"unsupported": what});
    let done = json!({"told": null});
    let answers = ["wrapping", "identity_token", "rotation_job", "rotation_end", "event", "observation", "transaction"]
        .map(|service| ask(&server, service, ""));
    let (wrapping, identity) = (lacks("response wrapping"), lacks("identity tokens"));
    match Product::of_host() {
        Product::OpenBao => {
            let jobs = lacks("rotation jobs");
            let wanted = [wrapping, identity, jobs.clone(), jobs, lacks("events"), lacks("observations"), done];
            assert_eq!(answers, wanted);
        }
        // Vault without Enterprise accepts the calls that it can ignore.
        Product::Vault => {
            let none = json!({"told": "no transactions"});
            let wanted = [wrapping, identity, lacks("rotation jobs"), done.clone(), done.clone(), done, none];
            assert_eq!(answers, wanted);
        }
    }
}
