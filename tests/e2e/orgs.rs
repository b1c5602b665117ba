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

    // The inventory spans the orgs, or shows one.
    assert_eq!(world.keys("org/tokens").len(), 3);
    assert_eq!(world.keys(&format!("org/tokens?org_id={}", orgs[1].id)), world.alive(&orgs[1]));
    // The same names in another org are another token.
    let query = |id: &str| format!("org/token?org_id={id}&role_name=reader&logical_name=cart");
    let [one, two, _] = orgs.each_ref().map(|org| world.get(&query(&org.id)).data()["clientId"].clone());
    assert_ne!(one, two);
}

#[test]
fn caller_modes_are_per_org() {
    let world = World::new();
    let (standard, sidecar) = (world.configured("direct", Mode::Standard), world.configured("agents", Mode::Sidecar));
    for org in [&standard, &sidecar] {
        world.role(org, "reader", 3600, 36000);
    }
    let body = |id: &str| json!({"org_id": id, "role_name": "reader", "logical_name": "cart"});
    let query = |id: &str| format!("org/token?org_id={id}&role_name=reader&logical_name=cart");

    // Where a write mints, a read only fetches.
    assert!([400, 404].contains(&world.get(&query(&standard.id)).status));
    assert!(world.alive(&standard).is_empty());
    let minted = world.post("org/token", &body(&standard.id)).data();
    let fetched = world.get(&query(&standard.id)).ok();
    assert_eq!(fetched["data"]["clientId"], minted["clientId"]);
    assert_eq!(fetched["data"]["token"], minted["token"]);
    assert_eq!(fetched["lease_id"], "");
    let text = world.post("org/token", &body(&standard.id)).fails(400);
    assert!(text.contains("logical_name") || text.contains("cart"), "{text}");

    // Where a read mints, a write is refused and the label need not be unique.
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
fn a_config_with_live_tokens_is_deleted_only_by_force() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");

    world.delete(&format!("config?org_id={}", org.id)).fails(400);
    assert_eq!(world.keys("configs"), [org.id.as_str()]);
    world.revoke(&token).ok();
    world.delete(&format!("config?org_id={}", org.id)).ok();
    assert!(world.keys("configs").is_empty());

    world.configure(&org, &json!({}));
    world.role(&org, "reader", 3600, 36000);
    world.mint(&org, "reader", "cart");
    world.delete(&format!("config?org_id={}&force=true", org.id)).ok();
    assert!(world.keys("configs").is_empty());
}

#[test]
fn a_root_token_of_another_org_is_refused() {
    let world = World::new();
    let (one, two) = (world.next_org(), world.next_org());
    let body = json!({"org_id": one.id, "astra_token": two.root_token, "url": world.url()});
    let text = world.post("config", &body).fails(400);
    assert!(text.contains("org_id") || text.contains("astra_token"), "{text}");
    assert!(!text.contains(&two.root_token));
    assert!(world.keys("configs").is_empty());

    let mut unchecked = body;
    unchecked["verify_connection"] = json!(false);
    world.post("config", &unchecked).ok();
    assert_eq!(world.keys("configs"), [one.id.as_str()]);
}

#[test]
fn a_logical_name_belongs_to_one_org() {
    let world = World::new();
    let (one, two) = (world.next_org(), world.next_org());
    world.configure(&one, &json!({"logical_name": "shop"}));
    let body = json!({"org_id": two.id, "astra_token": two.root_token, "url": world.url(), "logical_name": "shop"});
    let text = world.post("config", &body).fails(400);
    assert!(text.contains("logical_name"), "{text}");
    assert_eq!(world.get("config?logical_name=shop").data()["org_id"], one.id.as_str());
    assert_eq!(world.keys("configs"), [one.id.as_str()]);

    // A name that was given up is free.
    world.patch("config", &json!({"org_id": one.id, "logical_name": "old-shop"})).ok();
    world.post("config", &body).ok();
    assert_eq!(world.get("config?logical_name=shop").data()["org_id"], two.id.as_str());
}

#[test]
fn an_update_changes_only_the_fields_given() {
    let world = World::new();
    let org = world.configured("shop", Mode::Sidecar);
    let before = world.get(&format!("config?org_id={}", org.id)).data();
    for method in ["POST", "PATCH"] {
        let body = json!({"org_id": org.id, "request_timeout": "11s"});
        world.server.http(method, &world.at("config"), &body).ok();
        let mut after = world.get(&format!("config?org_id={}", org.id)).data();
        assert_ne!(after["request_timeout"], before["request_timeout"]);
        after["request_timeout"] = before["request_timeout"].clone();
        assert_eq!(after, before);
        world.post("config", &json!({"org_id": org.id, "request_timeout": "30s"})).ok();
    }
}

#[test]
fn roles_of_one_name_live_in_several_orgs() {
    let world = World::new();
    let (one, two) = (world.configured("one", Mode::Standard), world.configured("two", Mode::Standard));
    world.role(&one, "Reader", 60, 600);
    world.role(&two, "reader", 120, 1200);
    world.role(&two, "writer", 120, 1200);

    let mut names = world.keys("roles");
    names.sort();
    assert_eq!(names, ["reader", "writer"]);
    assert_eq!(world.keys(&format!("roles?org_id={}", one.id)), ["reader"]);
    let info = world.list("roles").data()["key_info"]["reader"].to_string();
    assert!(info.contains(&one.id) && info.contains(&two.id), "{info}");
    assert_eq!(world.get(&format!("role?org_id={}&role=reader", one.id)).data()["ttl"], "1m0s");
    assert_eq!(world.get(&format!("role?org_id={}&role_name=READER", two.id)).data()["ttl"], "2m0s");

    world.delete(&format!("role?org_id={}&role=reader", one.id)).ok();
    world.get(&format!("role?org_id={}&role=reader", one.id)).fails(400);
    assert_eq!(world.get(&format!("role?org_id={}&role=reader", two.id)).data()["ttl"], "2m0s");
}

#[test]
fn another_root_token_leaves_tokens_revocable() {
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
fn the_inventory_tells_whose_a_token_is_and_no_secret() {
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

    // Pages.
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
