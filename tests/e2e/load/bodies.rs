//! Bodies of 5 MiB in each direction. They exceed the default limit of gRPC libraries, which is 4 MiB.

use std::collections::BTreeMap;

use serde_json::json;

use crate::world::{Mode, ROLE_ID, World};

const FIVE_MIB: usize = 5 << 20;

/// Vault takes at most 1 MiB for each string of a body, so a large body has many strings.
const TEXT: usize = 64 << 10;
const TEXTS: usize = FIVE_MIB / TEXT + 1;

#[test]
fn a_body_of_5_mib_reaches_the_plugin() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    let large = vec!["x".repeat(TEXT); TEXTS];
    let role = json!({"org_id": org.id, "role_name": "reader", "role_id": ROLE_ID, "ttl": 3600, "max_ttl": 3600, "unknown": large});
    let written = world.post("role", &role).ok();
    assert!(written["warnings"].to_string().contains("unknown"), "no warning names the field");
    let read = world.get(&format!("role?org_id={}&role_name=reader", org.id)).data();
    assert_eq!(read["ttl"], "1h0m0s");

    let pairs: BTreeMap<String, &String> =
        large.iter().enumerate().map(|(number, text)| (number.to_string(), text)).collect();
    let order = json!({"org_id": org.id, "role_name": "reader", "logical_name": "cart", "metadata": pairs});
    let text = world.post("org/token", &order).fails(400);
    assert!(text.contains("metadata") && text.len() < 2000, "{text:.1000}");
    assert!(world.alive(&org).is_empty(), "a refused mint left a token");
    world.mint(&org, "reader", "cart");
}

#[test]
fn an_answer_of_5_mib_reaches_the_caller() {
    const TOKENS: usize = 84;
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    // The largest metadata of a token is 64 KiB.
    let note = "x".repeat(63 << 10);
    for number in 0..TOKENS {
        let body = json!({"org_id": org.id, "role_name": "reader", "logical_name": format!("t-{number}"),
            "metadata": {"note": note}});
        world.post("org/token", &body).ok();
    }
    let listed = world.list("org/tokens").data();
    let details = listed["key_info"].as_object().expect("details");
    assert_eq!(details.len(), TOKENS);
    assert!(listed.to_string().len() > FIVE_MIB, "the answer is smaller than the test needs");
    assert!(details.values().all(|token| token.to_string().contains(&note)), "an entry is incomplete");
}
