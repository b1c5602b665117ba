//! Roles with a limit on the number of their live tokens, on a real server.

use std::sync::{Arc, Barrier};
use std::thread;

use serde_json::json;

use crate::bao::Server;
use crate::world::{Mode, Org, Token, World};

fn limit(world: &World, org: &Org, max_tokens: u32) {
    world.patch("role", &json!({"org_id": org.id, "role_name": "reader", "max_tokens": max_tokens})).ok();
}

#[test]
fn racing_callers_get_as_many_tokens_as_the_role_may_have() {
    let world = World::new();
    let org = world.configured("agents", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    limit(&world, &org, 5);
    world.knobs(|knobs| knobs.latency_ms = Some((50, 50)));
    let ask = || world.get(&format!("org/token?org_id={}&role_name=reader", org.id));
    let together = Barrier::new(16);
    let replies: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    ask()
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("a caller")).collect()
    });
    let (minted, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    assert_eq!((minted.len(), world.alive(&org).len()), (5, 5));
    for reply in refused {
        let text = reply.fails(400);
        assert!(text.contains("max_tokens is 5") && text.contains("org/tokens"), "{text}");
    }
    // The end of a lease makes room.
    let one = Token::of(minted.into_iter().next().expect("a token").ok());
    world.revoke(&one).ok();
    ask().ok();
    ask().fails(400);
}

#[test]
fn the_count_outlives_kills_and_restarts() {
    let server = Arc::new(Server::raft());
    let world = World::at_mount(&server, "astra");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let first = world.mint(&org, "reader", "before");
    limit(&world, &org, 3);
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
