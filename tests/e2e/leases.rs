//! The effects of a lease on its token.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::astra::{AstraFault, BodyForm, Kind, Route};
use crate::bao::wait;
use crate::world::{Mode, Token, World};

/// Long enough for the server to revoke expired leases on a busy machine.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn lease_lookup_and_list_show_a_lease() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");

    let found = world.server.post("sys/leases/lookup", &json!({"lease_id": token.lease_id})).data();
    assert_eq!(found["id"], token.lease_id.as_str());
    assert_eq!(found["renewable"], true);
    let ttl = found["ttl"].as_i64().unwrap();
    assert!((3500..=3600).contains(&ttl), "{ttl}");

    let folder = format!("{}/org/token/", world.mount);
    let listed = world.server.keys(&format!("sys/leases/lookup/{folder}"));
    assert_eq!(listed, [token.lease_id.strip_prefix(&folder).expect("a lease of the token path")]);
}

#[test]
fn a_renewal_stops_at_the_max_ttl_of_the_role() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 60, 600);
    let token = world.mint(&org, "reader", "cart");

    assert_eq!(world.renew(&token, 0).ok()["lease_duration"], 60);
    assert_eq!(world.renew(&token, 120).ok()["lease_duration"], 120);
    let reply = world.renew(&token, 86400);
    let granted = reply.body["lease_duration"].as_i64().unwrap_or_default();
    assert!((500..=600).contains(&granted), "{reply}");
    // The renewal kept the data for the revocation.
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());
}

#[test]
fn the_max_ttl_of_the_mount_limits_lease_and_token() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    world.server.post(&format!("sys/mounts/{}/tune", world.mount), &json!({"max_lease_ttl": "300s"})).ok();
    let body = json!({"org_id": org.id, "role_name": "reader", "logical_name": "cart", "ttl": "2h"});
    let reply = world.post("org/token", &body);
    assert!(reply.warnings().contains("was cut to 5m0s"), "{reply}");
    let lease = reply.ok();
    assert_eq!(lease["lease_duration"], 300, "the engine did not limit the TTL to the max TTL of the mount");
    let token = Token::of(lease);
    assert_expires_after_its_lease(&world, &token, 300);
    // A higher limit later does not extend a lease beyond the expiry in Astra.
    world.server.post(&format!("sys/mounts/{}/tune", world.mount), &json!({"max_lease_ttl": "100h"})).ok();
    world.role(&org, "reader", 3600, 360_000);
    let granted = world.renew(&token, 360_000).body["lease_duration"].as_i64().unwrap_or_default();
    assert!(
        (3800..=3900).contains(&granted),
        "{granted}: expected 300 s and one hour, because the token expires in Astra an hour after its lease"
    );
    world.revoke(&token).ok();
}

#[test]
fn a_lower_max_ttl_applies_at_the_next_renewal() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    assert_expires_after_its_lease(&world, &token, 36000);
    world.role(&org, "reader", 60, 600);
    let granted = world.renew(&token, 7200).body["lease_duration"].as_i64().unwrap_or_default();
    assert!((500..=600).contains(&granted), "{granted}");
    world.server.post(&format!("sys/mounts/{}/tune", world.mount), &json!({"max_lease_ttl": "120s"})).ok();
    let granted = world.renew(&token, 7200).body["lease_duration"].as_i64().unwrap_or_default();
    assert!((60..=120).contains(&granted), "{granted}");
    world.revoke(&token).ok();
}

/// Checks that the token expires in Astra an hour after the longest lease, and that the inventory shows the lease's
/// end.
#[track_caller]
fn assert_expires_after_its_lease(world: &World, token: &Token, max_ttl: i64) {
    let expiry = world.token(&token.client_id).and_then(|token| token.token_expiry).expect("an expiry");
    let left = expiry.duration_since(Timestamp::now()).as_secs();
    assert!((max_ttl + 3500..=max_ttl + 3600).contains(&left), "{left}");
    let info = world.list("org/tokens").data()["key_info"][&token.client_id].take();
    let end: Timestamp = info["lease_end"].as_str().and_then(|text| text.parse().ok()).expect("a time");
    assert_eq!(expiry.duration_since(end).as_secs(), 3600);
}

#[test]
fn revocation_deletes_the_token_in_astra_and_in_vault() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let (kept, gone) = (world.mint(&org, "reader", "kept"), world.mint(&org, "reader", "gone"));

    world.revoke(&gone).ok();
    assert_eq!(world.alive(&org), [kept.client_id.as_str()]);
    assert_eq!(world.keys("org/tokens"), [kept.client_id.as_str()]);
    assert!([400, 404].contains(&world.fetch(&org, &gone).status));
    assert!(!world.lease_exists(&gone));
    // The name can be used again.
    world.mint(&org, "reader", "gone");
}

#[test]
fn the_token_of_an_expired_lease_is_deleted() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 2, 4);
    let token = world.mint(&org, "reader", "cart");
    assert_eq!(world.alive(&org), [token.client_id.as_str()]);

    wait("the token to be gone in Astra", SOON, || world.alive(&org).is_empty().then_some(()));
    wait("the lease to be gone", SOON, || (!world.lease_exists(&token)).then_some(()));
    assert!(world.keys("org/tokens").is_empty());
}

#[test]
fn the_lease_of_a_deleted_token_can_be_revoked() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");

    assert!(world.delete_token(&token.client_id));
    world.revoke(&token).ok();
    assert!(world.keys("org/tokens").is_empty());
    assert!(!world.lease_exists(&token));
}

#[test]
fn revoking_a_vault_token_revokes_its_leases() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let login = world.server.post("auth/token/create", &json!({"policies": ["root"], "ttl": "1h"})).ok();
    let caller = world.server.with_token(login["auth"]["client_token"].as_str().unwrap());

    let body = json!({"org_id": org.id, "role_name": "reader", "logical_name": "cart"});
    caller.post(&world.at("org/token"), &body).ok();
    assert_eq!(world.alive(&org).len(), 1);
    caller.post("auth/token/revoke-self", &json!({})).ok();
    wait("the token to be gone in Astra", SOON, || world.alive(&org).is_empty().then_some(()));
}

#[test]
fn disabling_a_mount_deletes_all_its_tokens() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    for name in ["one", "two", "three"] {
        world.mint(&org, "reader", name);
    }
    assert_eq!(world.alive(&org).len(), 3);

    world.server.delete(&format!("sys/mounts/{}", world.mount)).ok();
    assert!(world.alive(&org).is_empty());
    assert!(world.server.keys(&format!("sys/leases/lookup/{}/", world.mount)).is_empty());
}

#[test]
fn a_forced_revocation_removes_leases_while_astra_is_down() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");

    world.refuse_connections(true);
    let reply = world.revoke(&token);
    assert!(reply.status >= 400, "{reply}");
    assert!(world.lease_exists(&token));

    let prefix = format!("{}/org/token", world.mount);
    world.server.cli(&["lease", "revoke", "-force", "-prefix", &prefix]).ok();
    assert!(!world.lease_exists(&token));
    world.server.delete(&format!("sys/mounts/{}", world.mount)).ok();
}

#[test]
fn a_failed_revocation_is_reported_and_can_be_repeated() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.mint(&org, "reader", "cart");
    let fault = world.fault(AstraFault::before(Kind::ProxyNotFound { html: true }).route(Route::DeleteToken).once());
    // A proxy's page does not prove that the token is gone.
    let reply = world.revoke(&token);
    assert_eq!(world.fired(fault), 1);
    assert!(reply.status >= 400, "{reply}");
    assert_eq!(world.alive(&org), [token.client_id.as_str()]);
    assert!(world.lease_exists(&token));
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());

    let token = world.mint(&org, "reader", "cart");
    world.fault(AstraFault::before(Kind::status(403, BodyForm::Errors)).route(Route::DeleteToken));
    let text = world.revoke(&token).errors();
    assert!(text.contains("403"), "{text}");
    assert_eq!(world.alive(&org).len(), 1);
    world.clear_faults();
    world.revoke(&token).ok();
    assert!(world.alive(&org).is_empty());
}
