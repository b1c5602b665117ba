//! A team that manages one organization below `orgs/:org`: its policy, and tools that write and read objects by path.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::astra::{Astra, Route};
use crate::bao::{Server, redact};
use crate::creds::{caller, rule, tricks};
use crate::docs::Shell;
use crate::world::{Mode, Org, ROLE_ID, Token, World};

const TEAM: &str = include_str!("../../docs/examples/policies/org-team.hcl");

/// Returns the paths with which an attacker may try to reach a path below `orgs/shop`, as sent after `/v1/`.
fn tricks_below_orgs(world: &World, org: &Org) -> Vec<String> {
    let mut found = Vec::new();
    for path in tricks(world, org) {
        let path = path.replace("creds", "orgs").replace("%63reds", "%6frgs").replace("Creds", "Orgs");
        for object in ["roles", "tokens", "static-roles", "rotate-root", "sync-roles", "tidy"] {
            found.push(path.replace("admin", object));
        }
        found.push(path.replace("/shop/", "/shop/roles/").replace("%2Fshop%2F", "%2Fshop%2Froles%2F"));
        found.push(path.replace("/admin", ""));
    }
    found.sort();
    found.dedup();
    found
}

/// Returns everything that the team of another organization could change.
fn state(world: &World, org: &Org) -> Value {
    json!([
        world.get(&format!("config?org_id={}", org.id)).data(),
        world.get(&format!("role?org_id={}&role_name=admin", org.id)).data(),
        world.list("orgs/shop/roles").data(),
        world.list("orgs/shop/tokens").data(),
    ])
}

#[test]
fn no_spelling_of_a_path_bypasses_the_policy_of_another_team() {
    let world = World::new();
    let shop = world.configured("shop", Mode::Sidecar);
    let mine = world.configured("mine", Mode::Sidecar);
    for (org, role) in [(&shop, "admin"), (&shop, "reader"), (&mine, "reader")] {
        world.role(org, role, 3600, 36000);
    }
    Token::of(world.get("creds/shop/reader").ok());
    let before = state(&world, &shop);
    let created = world.calls(Route::CreateToken);

    let team = TEAM.replace("\"astra/", &format!("\"{}/", world.mount)).replace("/shop", "/mine");
    let at = |path: &str| world.at(path);
    let all = r#""create", "read", "update", "patch", "delete", "list""#;
    let denied = [
        "orgs",
        "orgs/shop",
        "orgs/shop/*",
        "config",
        "config/*",
        "configs",
        "role",
        "roles",
        "roles/*",
        "org/*",
        "creds/shop/*",
    ];
    let denied: String = denied.iter().map(|path| rule(&at(path), r#""deny""#)).collect();
    let body = json!({"org": "shop", "org_id": shop.id, "role_name": "admin", "role_id": ROLE_ID, "ttl": 60,
        "request_timeout": 11, "force": true, "dry_run": false});
    for policy in [team, rule(&at("*"), all) + &denied] {
        let caller = caller(&world, &policy);
        for path in tricks_below_orgs(&world, &shop) {
            for method in ["GET", "LIST", "POST", "PUT", "PATCH", "DELETE"] {
                let reply = caller.send_raw_path(method, &path, if method == "GET" { &Value::Null } else { &body });
                let shown = reply.body["data"].to_string();
                assert!(
                    reply.status >= 300 || !shown.contains(&shop.id),
                    "{method} {path}: {}\n{policy}",
                    reply.status
                );
            }
        }
        assert_eq!(state(&world, &shop), before, "{policy}");
    }
    assert_eq!(world.calls(Route::CreateToken), created);
}

/// What Terraform's `vault_generic_endpoint` does with `ignore_absent_fields`: it writes the object, reads it, and plans a
/// change if a member that it wrote has another value.
#[test]
fn a_tool_that_reads_back_what_it_wrote_finds_no_difference() {
    let world = World::new();
    let org = world.next_org();
    let config = json!({"org_id": org.id, "url": world.url(), "logical_name": "retail", "caller_mode": "sidecar",
        "request_timeout": 20, "description": true, "token_expiry": true, "ca_cert": ""});
    let mut first = config.clone();
    first["astra_token"] = json!(org.root_token);
    world.post("orgs/retail", &first).ok();
    let role = json!({"role_id": ROLE_ID, "ttl": 3600, "max_ttl": 86400, "max_tokens": 7});
    world.post("orgs/retail/roles/reader", &role).ok();

    for (path, written) in [("orgs/retail", config), ("orgs/retail/roles/reader", role)] {
        let read = world.get(path).data();
        for (member, value) in written.as_object().expect("an object") {
            assert_eq!(&read[member], value, "{path} {member}");
        }
        // All that a read shows can be written back, by both ways of a write, and changes nothing.
        for reply in [world.post(path, &read), world.patch(path, &read)] {
            assert_eq!(reply.warnings(), "", "{path}");
            reply.ok();
            assert_eq!(world.get(path).data(), read, "{path}");
        }
    }
    // An object that somebody else deleted is missing, not an error. So the tool creates it again.
    world.delete("orgs/retail/roles/reader").ok();
    assert_eq!(world.get("orgs/retail/roles/reader").status, 404);
    assert_eq!(world.delete("orgs/retail/roles/reader").status, 204);
    assert_eq!(world.list("orgs/retail/roles").status, 404);
}

/// A client id that is not in the inventory can belong to a token of another mount, or to the root token.
#[test]
fn only_tokens_of_the_inventory_can_be_deleted_by_path() {
    let world = World::new();
    let org = world.configured("shop", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    let other = world.configured("other", Mode::Sidecar);
    world.role(&other, "reader", 3600, 36000);
    let foreign = Token::of(world.get("creds/other/reader").ok());
    for client_id in [&org.client_id, &foreign.client_id, &"none".to_owned()] {
        assert_eq!(world.delete(&format!("orgs/shop/tokens/{client_id}")).status, 204);
        assert_eq!(world.get(&format!("orgs/shop/tokens/{client_id}")).status, 404);
    }
    assert_eq!(world.calls(Route::DeleteToken), 0);
    assert!(world.is_alive(&foreign.client_id));

    let token = Token::of(world.get("creds/shop/reader").ok());
    let record = world.get(&format!("orgs/shop/tokens/{}", token.client_id)).data();
    assert_eq!((&record["role_name"], &record["org_id"]), (&json!("reader"), &json!(org.id)));
    world.assert_no_secret("the record", &record.to_string());
    assert_eq!(world.delete(&format!("orgs/shop/tokens/{}", token.client_id)).status, 204);
    assert!(!world.is_alive(&token.client_id));
}

/// Follows the page as an operator, and then as a member of the team.
#[test]
fn the_page_gives_a_team_its_organization() {
    const PAGE: &str = "docs/teams.md";
    let server = Arc::new(Server::dev());
    let world = World::with_astra(&server, "astra", Astra::builder().orgs(2));
    server.enable("astra");
    let (org, other) = (world.next_org(), world.next_org());
    let other =
        json!({"org_id": other.id, "astra_token": other.root_token, "logical_name": "wholesale", "url": world.url()});
    world.post("config", &other).ok();

    let mut shell = Shell::new(&server, "astra", world.url());
    shell.set("EXAMPLES", concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples"));
    for (name, value) in
        [("ORG_ID", org.id.as_str()), ("ROOT_TOKEN", &org.root_token), ("ROLE_ID", ROLE_ID), ("PASSWORD", "opensesame")]
    {
        shell.set(name, value);
    }
    shell.run_sample(PAGE, "team, operator");
    shell.run_sample(PAGE, "team, login");
    let login = server.post("auth/userpass/login/ann", &json!({"password": "opensesame"})).ok();
    let member = server.with_token(login["auth"]["client_token"].as_str().expect("a token"));
    let mut shell = Shell::new(&member, "astra", world.url());
    shell.set("ORG_ID", &org.id);
    shell.set("ROLE_ID", ROLE_ID);
    shell.mask(login["auth"]["entity_id"].as_str().expect("an entity"), "entity id");

    let minted = shell.run_sample(PAGE, "team, role").remove(1);
    redact::hide(minted.row("token"));
    let client_id = minted.row("clientId");
    assert!(world.is_alive(&client_id) && minted.stdout.contains("ann"));
    shell.run_sample(PAGE, "team, closed");
    shell.set("CLIENT_ID", &client_id);
    let listed = shell.run_sample(PAGE, "team, unused").remove(0);
    assert!(listed.stdout.contains(&client_id) && listed.stdout.contains("report"));
    shell.run_sample(PAGE, "team, delete");
    assert!(!world.is_alive(&client_id));
}
