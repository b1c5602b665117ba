//! The path that names org and role, for policies and templates.

use serde_json::json;

use crate::world::{Mode, World};

#[test]
fn a_read_and_a_write_mint_in_either_caller_mode() {
    let world = World::new();
    for (name, mode) in [("direct", Mode::Standard), ("agents", Mode::Sidecar)] {
        let org = world.configured(name, mode);
        world.role(&org, "reader", 60, 600);
        let read = world.get(&format!("creds/{name}/reader")).ok();
        let written = world.post(&format!("creds/{name}/reader"), &json!({"ttl": "30s", "logical_name": "cart"})).ok();
        for (reply, ttl) in [(&read, 60), (&written, 30)] {
            let lease = reply["lease_id"].as_str().unwrap();
            assert!(lease.starts_with(&format!("{}/creds/{name}/reader/", world.mount)), "{lease}");
            assert_eq!(reply["lease_duration"], ttl);
            assert_eq!(reply["renewable"], true);
            assert_eq!(reply["data"]["orgId"], org.id.as_str());
        }
        assert_eq!(written["data"]["logicalName"], "cart");
        assert_eq!(world.alive(&org).len(), 2);
        for reply in [&read, &written] {
            world.server.post("sys/leases/revoke", &json!({"lease_id": reply["lease_id"], "sync": true})).ok();
        }
        assert!(world.alive(&org).is_empty());
    }
}

#[test]
fn a_credential_has_one_spelling() {
    let world = World::new();
    let named = world.configured("shop", Mode::Sidecar);
    world.role(&named, "reader", 60, 600);
    let nameless = world.next_org();
    world.configure(&nameless, &json!({"caller_mode": "sidecar"}));
    world.role(&nameless, "reader", 60, 600);

    for other in [format!("creds/{}/reader", named.id), "creds/Shop/reader".into(), "creds/shop/Reader".into()] {
        let text = world.get(&other).fails(400);
        assert!(text.contains("creds/shop/reader"), "{other}: {text}");
    }
    assert!(world.alive(&named).is_empty());
    world.get("creds/shop/reader").ok();
    world.get(&format!("creds/{}/reader", nameless.id)).ok();
    assert_eq!(world.alive(&named).len(), 1);
    assert_eq!(world.alive(&nameless).len(), 1);
}

#[test]
fn a_policy_can_allow_one_role_of_one_org() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 60, 600);
    world.role(&org, "writer", 60, 600);
    let rules = format!("path \"{}/creds/shop/reader\" {{ capabilities = [\"read\"] }}", world.mount);
    let policy = format!("{}-reader", world.mount);
    world.server.post(&format!("sys/policies/acl/{policy}"), &json!({"policy": rules})).ok();
    let login = world.server.post("auth/token/create", &json!({"policies": [policy]})).ok();
    let caller = world.server.with_token(login["auth"]["client_token"].as_str().unwrap());

    caller.get(&world.at("creds/shop/reader")).ok();
    for path in ["creds/shop/writer", "creds/shop/READER", "creds/Shop/reader", "creds/shop/reader/", "configs"] {
        caller.get(&world.at(path)).fails(403);
    }
    caller.get(&world.at(&format!("creds/{}/reader", org.id))).fails(403);
    world.server.with_token("").get(&world.at("creds/shop/reader")).fails(403);
    assert_eq!(world.alive(&org).len(), 1);
}
