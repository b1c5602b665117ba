//! Several Astra organizations in one mount.

use serde_json::json;

use crate::astra::{Astra, built_in_id};
use crate::bao::redact;
use crate::world::{Mode, World};

#[test]
fn each_org_mints_with_its_own_root_token() {
    let world = World::new();
    let orgs = ["retail", "wholesale", "internal"].map(|name| world.configured(name, Mode::Standard));
    for org in &orgs {
        world.role(org, "reader", 3600, 36000);
        let token = world.mint(org, "reader", "cart");
        assert_eq!(world.alive(org), [token.client_id.as_str()]);
        assert_eq!(world.creator(&token.client_id), org.client_id);
        assert_eq!(token.data["orgId"], org.id.as_str());
    }
    let mut configs = world.keys("configs");
    configs.sort();
    let mut ids = orgs.each_ref().map(|org| org.id.clone());
    ids.sort();
    assert_eq!(configs, ids);

    // The list contains the tokens of all orgs, or of one org.
    assert_eq!(world.keys("org/tokens").len(), 3);
    assert_eq!(world.keys(&format!("org/tokens?org_id={}", orgs[1].id)), world.alive(&orgs[1]));
    // The same names in another org belong to another token.
    let query = |id: &str| format!("org/token?org_id={id}&role_name=reader&logical_name=cart");
    let [one, two, _] = orgs.each_ref().map(|org| world.get(&query(&org.id)).data()["clientId"].clone());
    assert_ne!(one, two);
}

#[test]
fn each_org_has_its_own_caller_mode() {
    let world = World::new();
    let (standard, sidecar) = (world.configured("direct", Mode::Standard), world.configured("agents", Mode::Sidecar));
    for org in [&standard, &sidecar] {
        world.role(org, "reader", 3600, 36000);
    }
    let body = |id: &str| json!({"org_id": id, "role_name": "reader", "logical_name": "cart"});
    let query = |id: &str| format!("org/token?org_id={id}&role_name=reader&logical_name=cart");

    // In standard mode, a read only fetches.
    assert!([400, 404].contains(&world.get(&query(&standard.id)).status));
    assert!(world.alive(&standard).is_empty());
    let minted = world.post("org/token", &body(&standard.id)).data();
    let fetched = world.get(&query(&standard.id)).ok();
    assert_eq!(fetched["data"]["clientId"], minted["clientId"]);
    assert_eq!(fetched["data"]["token"], minted["token"]);
    assert_eq!(fetched["lease_id"], "");
    let text = world.post("org/token", &body(&standard.id)).fails(400);
    assert!(text.contains("logical_name") || text.contains("cart"), "{text}");

    // In sidecar mode, a write is refused, and logical names need not be unique.
    let text = world.post("org/token", &body(&sidecar.id)).fails(400);
    assert!(text.contains("read"), "{text}");
    assert!(world.alive(&sidecar).is_empty());
    let (one, two) = (world.get(&query(&sidecar.id)).ok(), world.get(&query(&sidecar.id)).ok());
    assert_ne!(one["data"]["clientId"], two["data"]["clientId"]);
    assert_eq!(one["renewable"], true);
    assert_eq!(world.alive(&sidecar).len(), 2);
    let by_id = format!("org/token?org_id={}&client_id={}", sidecar.id, one["data"]["clientId"].as_str().unwrap());
    let text = world.get(&by_id).fails(400);
    assert!(text.contains("client_id"), "{text}");
}

#[test]
fn tokens_can_be_revoked_after_a_change_of_the_root_token() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let before = world.mint(&org, "reader", "before");

    let root = Astra::mint(&world, &org.id, &[built_in_id("Organization Administrator")]);
    redact::hide(&root.token);
    world.post("config", &json!({"org_id": org.id, "astra_token": root.token})).ok();
    assert!(world.delete_token(&org.client_id));

    let after = world.mint(&org, "reader", "after");
    assert_eq!(world.creator(&after.client_id), root.client_id);
    world.renew(&before, 60).ok();
    world.revoke(&before).ok();
    world.revoke(&after).ok();
    assert!(!world.is_alive(&before.client_id) && !world.is_alive(&after.client_id));
    let shown = world.get(&format!("config?org_id={}", org.id)).data();
    assert_eq!(shown["astra_token"], format!("AstraCS:{}...", &root.client_id[..7]));
}

#[test]
fn the_inventory_shows_the_caller_of_a_token_and_no_secret() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let body = json!({"org_id": org.id, "role_name": "reader", "logical_name": "Cart", "metadata": {"team": "blue"}});
    let login = json!({"policies": ["root"], "display_name": "alice"});
    let login = world.server.post("auth/token/create", &login).ok();
    let alice = world.server.with_token(login["auth"]["client_token"].as_str().unwrap());
    let minted = alice.post(&world.at("org/token"), &body).data();
    let id = minted["clientId"].as_str().unwrap();

    let listed = world.list("org/tokens").data();
    let info = listed["key_info"][id].to_string();
    for part in [org.id.as_str(), "reader", "cart", "blue", "alice"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    world.assert_no_secret("the inventory", &listed.to_string());

    // Lists by pages.
    for name in ["two", "three"] {
        world.mint(&org, "reader", name);
    }
    let all = world.keys("org/tokens");
    let mut paged: Vec<String> = Vec::new();
    for _ in 0..all.len() {
        let after = paged.last().cloned().unwrap_or_default();
        let page = world.keys(&format!("org/tokens?limit=1&after={after}"));
        assert_eq!(page.len(), 1);
        paged.extend(page);
    }
    assert_eq!(paged, all);
}
