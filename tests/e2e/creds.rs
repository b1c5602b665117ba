//! `creds/:org/:role`: who can get which token, and which leases are revoked together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::astra::{AstraFault, Kind, Route};
use crate::bao::{Client, wait};
use crate::world::{Mode, Org, Token, World};

/// Long enough for the server to revoke expired leases on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// A mount with the org `shop`, which has the roles `reader` and `admin`.
fn shop(mode: Mode) -> (World, Org) {
    let world = World::new();
    let org = world.configured("shop", mode);
    for role in ["reader", "admin"] {
        world.role(&org, role, 3600, 36000);
    }
    (world, org)
}

/// Returns a caller with only this policy, not even the default policy.
pub(crate) fn caller(world: &World, policy: &str) -> Client {
    static POLICIES: AtomicUsize = AtomicUsize::new(0);
    let name = format!("{}-{}", world.mount, POLICIES.fetch_add(1, Ordering::Relaxed));
    world.server.post(&format!("sys/policies/acl/{name}"), &json!({"policy": policy})).ok();
    let body = json!({"policies": [name], "no_default_policy": true});
    let login = world.server.post("auth/token/create", &body).ok();
    world.server.with_token(login["auth"]["client_token"].as_str().expect("a token"))
}

pub(crate) fn rule(path: &str, capabilities: &str) -> String {
    format!("path \"{path}\" {{ capabilities = [{capabilities}] }}\n")
}

const ALL: &str = r#""create", "read", "update", "patch", "delete", "list""#;

#[track_caller]
fn mint(world: &World, path: &str) -> Token {
    Token::of(world.get(path).ok())
}

#[test]
fn reads_and_writes_mint_in_both_caller_modes() {
    for mode in [Mode::Standard, Mode::Sidecar] {
        let (world, org) = shop(mode);
        let path = world.at("creds/shop/reader");
        let read = world.server.cli(&["read", "-format=json", &path]).json();
        let args = ["write", "-format=json", &path, "ttl=60", "logical_name=Cart", "metadata=team=blue"];
        let written = world.server.cli(&args).json();
        world.server.cli(&["write", "-force", &path]).ok();
        assert_eq!((&read["lease_duration"], &written["lease_duration"]), (&json!(3600), &json!(60)));
        for answer in [&read, &written] {
            assert_eq!((&answer["data"]["orgId"], &answer["data"]["roleName"]), (&json!(org.id), &json!("reader")));
            assert_eq!(answer["renewable"], true);
            let lease = answer["lease_id"].as_str().unwrap();
            assert!(lease.starts_with(&format!("{path}/")) && !lease.contains("org/token"), "{lease}");
        }
        assert_eq!(written["data"]["logicalName"], "cart");
        assert_eq!(written["data"]["metadata"], json!({"team": "blue", "deletion_time": ""}));
        assert_eq!(read["data"]["metadata"], Value::Null);

        // These tokens are listed, renewed and revoked like all other tokens.
        let mut listed = world.keys("org/tokens");
        listed.sort();
        assert_eq!((listed.len(), listed), (3, world.alive(&org)));
        let token = Token::of(written);
        let renewed = world.renew(&token, 0).ok();
        assert_eq!((&renewed["lease_duration"], &renewed["data"]["metadata"]), (&json!(3600), &token.data["metadata"]));
        world.revoke(&token).ok();
        assert!(!world.is_alive(&token.client_id));
        assert_eq!(world.keys("org/tokens").len(), 2);
    }
}

#[test]
fn a_prefix_revocation_deletes_the_tokens_of_one_role_only() {
    let (world, org) = shop(Mode::Standard);
    let other = world.configured("shop2", Mode::Sidecar);
    world.role(&org, "reader2", 3600, 36000);
    world.role(&other, "reader", 3600, 36000);
    let mut gone = [mint(&world, "creds/shop/reader"), mint(&world, "creds/shop/reader")].map(|token| token.client_id);
    let kept = ["creds/shop/reader2", "creds/shop/admin", "creds/shop2/reader"].map(|path| mint(&world, path));
    let named = world.mint(&org, "reader", "named");

    let prefix = world.at("creds/shop/reader");
    assert_eq!(world.server.keys(&format!("sys/leases/lookup/{prefix}")).len(), 2);
    world.server.cli(&["lease", "revoke", "-sync", "-prefix", &prefix]).ok();
    gone.sort();
    assert!(gone.iter().all(|id| !world.is_alive(id)), "a token of the role is still live");
    for token in kept.iter().chain([&named]) {
        assert!(world.is_alive(&token.client_id) && world.lease_exists(token), "{}", token.lease_id);
    }
}

#[test]
fn expired_leases_and_lost_answers_leave_no_token() {
    let (world, org) = shop(Mode::Sidecar);
    world.configure(&org, &json!({"request_timeout": "1s"}));
    world.fault(AstraFault::after(Kind::Reset).route(Route::CreateToken).once());
    world.get("creds/shop/reader").fails(502);
    wait("the lost token to be gone", SOON, || world.alive(&org).is_empty().then_some(()));
    assert_eq!((world.minted(), world.keys("org/tokens").len()), (1, 0));

    let token = Token::of(world.post("creds/shop/reader", &json!({"ttl": "2s"})).ok());
    wait("the token to be gone", SOON, || (!world.is_alive(&token.client_id)).then_some(()));
    wait("the lease to be gone", SOON, || (!world.lease_exists(&token)).then_some(()));
    assert!(world.keys("org/tokens").is_empty());
}

#[test]
fn a_renamed_org_keeps_its_leases() {
    let (world, org) = shop(Mode::Standard);
    let [one, two] = [(), ()].map(|()| mint(&world, "creds/shop/reader"));
    world.patch("config", &json!({"org_id": org.id, "logical_name": "store"})).ok();
    let new_path = world.at("creds/store/reader");
    for path in ["creds/shop/reader".to_owned(), format!("creds/{}/reader", org.id)] {
        let text = world.get(&path).fails(400);
        assert!(text.contains(&format!("\"{new_path}\"")), "{text}");
    }
    assert_eq!(world.renew(&one, 0).ok()["lease_duration"], 3600);
    world.revoke(&one).ok();
    let later = mint(&world, "creds/store/reader");
    assert!(later.lease_id.starts_with(&format!("{new_path}/")));
    world.server.cli(&["lease", "revoke", "-sync", "-prefix", &world.at("creds/shop/reader")]).ok();
    assert!(!world.is_alive(&two.client_id) && world.is_alive(&later.client_id));
    assert_eq!(world.keys("org/tokens"), [later.client_id]);
}

/// Spellings of paths in the mount with which an attacker may try to reach `creds/shop/admin`, as sent to the server.
const TRICKS: [&str; 59] = [
    // Letter case, and letters that are only equal in one case.
    "creds/shop/Admin",
    "creds/SHOP/admin",
    "Creds/shop/admin",
    "creds/shop/ADM%C4%B0N",
    "creds/shop/adm%C4%B1n",
    "creds/%C5%BFhop/admin",
    // Similar letters, wide letters and invisible characters.
    "creds/sh%D0%BEp/admin",
    "creds/shop/%EF%BD%81dmin",
    "creds/shop/admin%E2%80%8B",
    "creds/shop/%EF%BB%BFadmin",
    "creds/shop/%E2%80%AEnimda",
    // Percent signs.
    "creds/shop/%61dmin",
    "creds/sho%70/admin",
    "%63reds/shop/admin",
    "creds%2Fshop%2Fadmin",
    "creds%2fshop/admin",
    "creds/shop%2Fadmin",
    "creds/shop%252Fadmin",
    "creds/shop/%2561dmin",
    "creds/shop/%c0%afadmin",
    // Slashes and dots.
    "creds//shop/admin",
    "creds/shop//admin",
    "/creds/shop/admin",
    "creds/shop/admin/",
    "creds/shop/admin//",
    "creds/shop/admin%2F",
    "creds/shop\\admin",
    "creds/shop%5Cadmin",
    "creds/./shop/admin",
    "creds/shop/%2e/admin",
    "creds/shop/admin/.",
    "creds/shop/reader/../admin",
    "creds/shop/reader/%2e%2e/admin",
    "creds/shop/reader%2F..%2Fadmin",
    "creds/shop/reader/..%2fadmin",
    "creds/shop/reader%2f%2e%2e%2fadmin",
    "org/../creds/shop/admin",
    "creds/shop/admin.",
    "creds/shop/admin..",
    "creds/shop/admin%2e",
    "creds/shop./admin",
    // Spaces, ends of lines and ends of texts.
    "creds/shop/admin%20",
    "creds/shop/%20admin",
    "creds/shop%20/admin",
    "creds/shop/admin%09",
    "creds/shop/admin%0a",
    "creds/shop/admin%0d%0a",
    "creds/shop/admin%00",
    "creds/shop/admin%00reader",
    "creds/shop/reader%00admin",
    // Characters with a special meaning in policies, queries or other servers.
    "creds/+/admin",
    "creds/shop/*",
    "creds/shop/adm*",
    "creds/shop/admin;a=b",
    "creds/shop/admin%3Fa=b",
    "creds/shop/admin%23",
    "creds/shop/admin?a=b",
    "creds/shop/admin?list=true",
    "creds/shop/admin?help=1",
];

/// All paths with which an attacker may try to reach `creds/shop/admin`, as sent after `/v1/`.
pub(crate) fn tricks(world: &World, org: &Org) -> Vec<String> {
    let (id, upper) = (&org.id, org.id.to_uppercase());
    let mount = &world.mount;
    let mut tricks: Vec<String> = TRICKS.map(|path| format!("{mount}/{path}")).into();
    tricks.extend([
        format!("{mount}/creds/{id}/admin"),
        format!("{mount}/creds/{upper}/admin"),
        format!("{mount}/creds/{id}/Admin"),
        format!("{mount}/creds/shop/admin?org={id}&role=admin"),
        format!("{mount}/creds/{id}/admin?org=shop&role=admin"),
        format!("{mount}//creds/shop/admin"),
        format!("{}/creds/shop/admin", mount.to_uppercase()),
        format!("sys/../{mount}/creds/shop/admin"),
        format!("%2e%2e/v1/{mount}/creds/shop/admin"),
    ]);
    tricks
}

/// Tries a path with every method, and returns the resulting leases.
pub(crate) fn try_all(caller: &Client, path: &str) -> Vec<String> {
    let body = json!({"org": "shop", "role": "admin", "role_name": "admin"});
    let ways =
        [("GET", Value::Null), ("LIST", Value::Null), ("POST", Value::Null), ("POST", body.clone()), ("PUT", body)];
    let lease = |(method, body): (&str, Value)| {
        let answer = caller.send_raw_path(method, path, &body);
        answer.body["lease_id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned)
    };
    ways.into_iter().filter_map(lease).collect()
}

#[test]
fn no_spelling_of_a_path_bypasses_a_policy() {
    let (world, org) = shop(Mode::Sidecar);
    world.role(&org, "admin2", 3600, 36000);
    let at = |path: &str| world.at(path);
    let policies = [
        rule(&at("creds/shop/reader"), r#""read", "update""#),
        rule(&at("creds/shop/reader*"), ALL),
        rule(&at("creds/*"), ALL) + &rule(&at("creds/shop/admin"), r#""deny""#),
        rule(&at("creds/+/+"), ALL) + &rule(&at("creds/shop/admin"), r#""deny""#),
        rule(&at("*"), ALL) + &rule(&at("org/token"), r#""deny""#) + &rule(&at("creds/shop/admin*"), r#""deny""#),
        rule(&at(&format!("creds/{}/*", org.id)), ALL),
    ];
    for policy in policies {
        let caller = caller(&world, &policy);
        for path in tricks(&world, &org) {
            let leases = try_all(&caller, &path);
            assert!(leases.is_empty(), "{path} got {leases:?} despite\n{policy}");
        }
        assert_eq!(world.calls(Route::CreateToken), 0, "{policy}");
    }
}

#[test]
fn parameters_cannot_change_the_role_that_the_path_names() {
    let (world, org) = shop(Mode::Sidecar);
    let right = world.at("creds/shop/admin");
    // Some tricks are the real path, for policies, too.
    for path in tricks(&world, &org) {
        for lease in try_all(&world.server, &path) {
            assert!(lease.starts_with(&format!("{right}/")), "{path} got {lease}");
        }
    }
    let leases = world.server.keys(&format!("sys/leases/lookup/{right}")).len();
    assert!(leases > 0 && leases == world.alive(&org).len(), "{leases} leases");

    let minted = world.minted();
    let caller = caller(&world, &rule(&world.at("creds/shop/reader"), r#""read", "update""#));
    let body = json!({"org": "nobody", "role": "admin", "role_name": "admin", "org_id": "x"});
    let answers = [
        caller.get(&world.at("creds/shop/reader")),
        caller.get(&world.at("creds/shop/reader?role=admin&role_name=admin&org=nobody")),
        caller.post(&world.at("creds/shop/reader"), &body),
    ];
    for answer in answers {
        assert_eq!(answer.data()["roleName"], "reader");
    }
    assert_eq!(world.minted(), minted + 3);
    for path in ["creds/shop/admin".to_owned(), format!("org/token?org_id={}&role_name=reader", org.id)] {
        caller.get(&world.at(&path)).fails(403);
    }
    assert_eq!(world.minted(), minted + 3);
}
