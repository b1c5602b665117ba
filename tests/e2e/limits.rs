//! Roles with a limit on the number of their live tokens, on a real server.

use std::sync::Arc;

use serde_json::json;

use crate::bao::Server;
use crate::world::{Mode, Org, World};

fn set_limit(world: &World, org: &Org, max_tokens: u32) {
    world.patch("role", &json!({"org_id": org.id, "role_name": "reader", "max_tokens": max_tokens})).ok();
}

#[test]
fn the_token_count_survives_kills_and_restarts() {
    let server = Arc::new(Server::raft());
    let world = World::at_mount(&server, "astra");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let first = world.mint(&org, "reader", "before");
    set_limit(&world, &org, 3);
    world.mint(&org, "reader", "after");
    let order = |name: &str| json!({"org_id": org.id, "role_name": "reader", "logical_name": name});

    server.kill_plugins();
    world.mint(&org, "reader", "killed");
    let text = world.post("org/token", &order("more")).fails(400);
    assert!(text.contains("live tokens: 3"), "{text}");
    server.restart();
    world.post("org/token", &order("more")).fails(400);
    world.revoke(&first).ok();
    server.kill_plugins();
    world.mint(&org, "reader", "more");
    world.post("org/token", &order("most")).fails(400);
    let read = world.get(&format!("role?org_id={}&role_name=reader", org.id)).data();
    assert_eq!(read["max_tokens"], 3);
}
