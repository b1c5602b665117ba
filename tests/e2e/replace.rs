//! `replace=true`: a program gets its next token under the same name, without a gap.

use serde_json::{Value, json};

use crate::bao::redact;
use crate::docs::Shell;
use crate::world::{Mode, Token, World};

const PAGE: &str = "docs/caller-modes.md";

#[test]
fn a_named_token_is_replaced_without_a_gap() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let old = world.mint(&org, "reader", "shop");
    let mut shell = Shell::new(&world.server, &world.mount, world.url());
    shell.set("ORG_ID", &org.id);
    shell.set("LEASE_ID", &old.lease_id);
    let ran = shell.run_sample(PAGE, "a named token is replaced");
    redact::hide(ran[0].row("token"));
    // The sample revokes the old lease during the overlap.
    assert_eq!(world.alive(&org), [ran[0].row("clientId")]);

    let write = |more: &Value| {
        let mut body = json!({"org_id": org.id, "role_name": "reader", "logical_name": "shop", "replace": true});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        Token::of(world.post("org/token", &body).ok())
    };
    let first = write(&json!({}));
    crate::bao::wait("the old token to be deleted", std::time::Duration::from_secs(20), || {
        (world.alive(&org) == [first.client_id.as_str()]).then_some(())
    });
    let second = write(&json!({"overlap": "5m"}));
    let mut both = [first.client_id.as_str(), second.client_id.as_str()];
    both.sort_unstable();
    let mut alive = world.alive(&org);
    alive.sort_unstable();
    assert_eq!(alive, both);
    let fetch = |query: &str| world.get(&format!("org/token?org_id={}&{query}", org.id)).data()["clientId"].clone();
    assert_eq!(fetch("role_name=reader&logical_name=shop"), second.client_id.as_str());
    assert_eq!(fetch(&format!("client_id={}", first.client_id)), first.client_id.as_str());
    let renewed = world.renew(&first, 3600).ok();
    assert!(renewed["lease_duration"].as_u64().is_some_and(|left| left <= 300), "{renewed}");
    for token in [&second, &first] {
        world.revoke(token).ok();
        assert!(!world.is_alive(&token.client_id));
    }
    // The leases of replaced tokens are still there, and their revocation succeeds.
    let prefix = format!("sys/leases/revoke-prefix/{}", world.at("org/token"));
    world.server.post(&prefix, &json!({"sync": true})).ok();
    world.wait_for_no_lease();
    assert!(world.alive(&org).is_empty());
}
