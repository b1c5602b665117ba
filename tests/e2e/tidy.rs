//! `orgs/:org/tidy` on a real server: a restored backup, and tokens that only Astra or only the inventory has.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::astra::{Astra, AstraFault, Kind, Route};
use crate::bao::{Server, wait};
use crate::docs::Shell;
use crate::world::{Mode, Org, Token, World};

const PAGE: &str = "docs/tidy.md";

fn tidy(world: &World, fields: &Value) -> Value {
    let mut body = json!({"safety_buffer": 0});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    world.post("orgs/retail/tidy", &body).ok()["data"].clone()
}

fn ids(tidied: &Value, kind: &str) -> Vec<String> {
    serde_json::from_value(tidied[kind]["client_ids"].clone()).unwrap()
}

fn mint(world: &World) -> Token {
    Token::of(world.get("creds/retail/reader").ok())
}

fn configured(world: &World) -> Org {
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    org
}

/// Follows the page: a restored backup, and an inventory of which most is missing.
#[test]
fn the_page_cleans_up_after_a_restored_backup() {
    let server = Arc::new(Server::raft());
    let world = World::at_mount(&server, "astra");
    let org = configured(&world);
    let mut shell = Shell::new(&server, "astra", world.url());
    shell.set("ORG_ID", &org.id);
    let kept = world.mint(&org, "reader", "cart");
    let revoked = world.mint(&org, "reader", "checkout");
    shell.run_sample("docs/operations.md", "backup");
    world.revoke(&revoked).ok();
    let since = world.mint(&org, "reader", "billing");
    shell.run_sample("docs/operations.md", "restore");
    wait("the older state to be back", Duration::from_secs(60), || {
        let reply = server.try_http("LIST", &world.at("org/tokens"), &Value::Null).ok()?;
        reply.body["data"]["keys"].to_string().contains(&revoked.client_id).then_some(())
    });

    for (token, name) in [(&kept, "kept"), (&revoked, "missing"), (&since, "unknown")] {
        shell.mask(&token.client_id, &format!("client id of the {name} token"));
    }
    shell.mask(&instance(&world, &since), "instance");
    let ran = shell.run_sample(PAGE, "tidy, compare").remove(0);
    assert!(ran.row("unknown").contains(&since.client_id) && ran.row("missing").contains(&revoked.client_id));
    assert!(world.is_alive(&since.client_id));
    let ran = shell.run_sample(PAGE, "tidy, delete").remove(0);
    assert_eq!(ran.row("deleted"), "2");
    shell.run_sample(PAGE, "tidy, compare again");
    assert_eq!((world.alive(&org), world.keys("org/tokens")), (vec![kept.client_id.clone()], vec![kept.client_id]));
    for lease in [&revoked, &since] {
        world.revoke(lease);
    }

    for _ in 0..3 {
        let token = mint(&world);
        assert!(world.delete_token(&token.client_id));
    }
    shell.run_sample(PAGE, "tidy, refused");
    assert_eq!(world.keys("org/tokens").len(), 4);
    let forced = tidy(&world, &json!({"dry_run": false, "force": true}));
    assert_eq!((&forced["deleted"], world.keys("org/tokens").len()), (&json!(3), 1));
    world.assert_no_secret("the log", &server.log());
}

/// Returns the instance in the description of a token.
fn instance(world: &World, token: &Token) -> String {
    let description = world.token(&token.client_id).and_then(|token| token.description).expect("a description");
    description["vault ".len()..].split('/').next().expect("an instance").to_owned()
}

#[test]
fn only_tokens_of_this_mount_are_unknown() {
    let world = World::new();
    let org = configured(&world);
    let token = mint(&world);
    // A token in the portal, a description of this mount that was cut off, and a token of another server.
    let ours = instance(&world, &token);
    let cut_off = world.portal(&org.id, Some(&format!("vault {ours}/0123")), None);
    let other = world.portal(&org.id, Some("vault 0123456789ab/00000000000000000000000000000000 mount=astra/"), None);
    let portal = world.portal(&org.id, None, None);
    let lost = world.portal(&org.id, Some(&format!("vault {ours}/{:032x} mount=x/", 7)), None);
    let tidied = tidy(&world, &json!({"dry_run": false}));
    let mut foreign = vec![cut_off.client_id, other.client_id, portal.client_id];
    foreign.sort();
    assert_eq!((ids(&tidied, "unknown"), ids(&tidied, "foreign")), (vec![lost.client_id.clone()], foreign.clone()));
    assert_eq!((&tidied["deleted"], ids(&tidied, "without_expiry")), (&json!(1), vec![lost.client_id.clone()]));
    assert!(!world.is_alive(&lost.client_id) && world.is_alive(&token.client_id));
    assert!(foreign.iter().all(|id| world.is_alive(id)) && world.is_alive(&org.client_id));
}

#[test]
fn an_astra_that_cuts_descriptions_off_loses_no_token_to_a_tidy() {
    for longest in [10, 30, 100] {
        let world = World::with(Astra::builder().knobs(|knobs| {
            knobs.description_cut = true;
            knobs.description_max = Some(longest);
        }));
        let org = configured(&world);
        let tokens = [world.mint(&org, "reader", "cart"), mint(&world)];
        world.post("orgs/retail/rotate-root", &json!({})).ok();
        let tidied = tidy(&world, &json!({"dry_run": false}));
        assert_eq!((ids(&tidied, "unknown"), &tidied["deleted"]), (vec![], &json!(0)), "{longest}");
        assert!(tokens.iter().all(|token| world.is_alive(&token.client_id)));
        assert_eq!(world.alive(&org).len(), 3, "with the new root token");
    }
}

#[test]
fn a_hang_up_ends_a_tidy() {
    let world = World::new();
    let org = configured(&world);
    let ours = instance(&world, &mint(&world));
    for marker in 0..30 {
        world.portal(&org.id, Some(&format!("vault {ours}/{marker:032x} x")), None);
    }
    let slow = world.fault(AstraFault::before(Kind::Latency { min_ms: 400, max_ms: 400 }).route(Route::DeleteToken));
    let body = json!({"safety_buffer": 0, "dry_run": false});
    let deletions = || world.calls(Route::DeleteToken);
    world.server.hang_up("POST", &world.at("orgs/retail/tidy"), &body, Duration::from_millis(700));
    wait("the deletions that have begun", Duration::from_secs(20), || {
        (deletions() > 0 && world.tokens(&org.id).iter().filter(|token| !token.live).count() as u64 == deletions())
            .then_some(())
    });
    assert!(deletions() < 30, "{}", deletions());
    world.clear_fault(slow);
    let left = 30 - deletions();
    // A second tidy is refused until the first one has ended.
    let tidied = wait("the next tidy", Duration::from_secs(20), || {
        let reply = world.post("orgs/retail/tidy", &body);
        (reply.status == 200).then(|| reply.ok()["data"].clone())
    });
    assert_eq!(
        (&tidied["deleted"], world.tokens(&org.id).iter().filter(|token| token.live).count()),
        (&json!(left), 2)
    );
}
