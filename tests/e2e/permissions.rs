//! The permissions that a root token needs in Astra: the table in `docs/security.md`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::astra::{Astra, AstraFault, Call, Kind, Route};
use crate::bao::redact;
use crate::world::{Org, Token, World};

/// The permission of the role's tokens.
const OF_ROLE: &str = "db-cql";

const SOON: Duration = Duration::from_secs(30);

/// An org whose root token has some permissions, and the permission of the role.
struct LimitedOrg {
    world: World,
    org: Org,
    /// Minted while the root token still had all permissions.
    tokens: [Token; 2],
}

impl LimitedOrg {
    fn new(permissions: &BTreeSet<&str>) -> Self {
        let world = World::new();
        let org = world.next_org();
        world.configure(&org, &json!({"logical_name": "shop", "request_timeout": "2s"}));
        let role = world.create_role(&org.id, "reader", &[OF_ROLE]);
        let body = json!({"org_id": org.id, "role_name": "reader", "role_id": role});
        world.post("role", &body).ok();
        let tokens = [(), ()].map(|()| Token::of(world.get("creds/shop/reader").ok()));

        let actions: Vec<&str> = permissions.iter().copied().chain([OF_ROLE]).collect();
        let root = Astra::mint(&world, &org.id, &[&world.create_role(&org.id, "root", &actions)]);
        redact::hide(&root.token);
        world.post("config", &json!({"org_id": org.id, "astra_token": root.token})).ok();
        Self { world, org, tokens }
    }

    /// Runs the function of a row, and returns whether it succeeded.
    fn can(&self, function: &str) -> bool {
        let Self { world, org, tokens } = self;
        match function {
            "mint a token" => world.get("creds/shop/reader").status == 200,
            "delete a token, or revoke its lease" => {
                let [one, other] = tokens;
                let deleted = world.delete(&format!("org/token?org_id={}&client_id={}", org.id, one.client_id));
                let (deleted, revoked) = (deleted.status < 300, world.revoke(other).status < 300);
                assert_eq!(deleted, revoked);
                deleted && !tokens.iter().any(|token| world.is_alive(&token.client_id))
            }
            "find a token whose answer was lost, and delete it" => {
                let before = world.alive(org);
                world.fault(AstraFault::after(Kind::Reset).route(Route::CreateToken).once());
                if world.get("creds/shop/reader").status != 502 {
                    return false;
                }
                let is_rejected = |call: &Call| call.route == Some(Route::ListTokens) && call.status == Some(403);
                let is_gone = |astra: &Astra| astra.live(&org.id).len() == before.len();
                world.wait_for(SOON, |astra| is_gone(astra) || astra.requests().iter().any(is_rejected));
                is_gone(world)
            }
            "`config/rotate-root`" => world.post("config/rotate-root", &json!({"org_id": org.id})).status == 200,
            "learn when the root token expires" => !world.get("orgs/shop").data()["root_created_at"].is_null(),
            "`orgs/:org/tidy` as a dry run, and for missing tokens" => {
                if world.post("orgs/shop/tidy", &json!({})).status != 200 {
                    return false;
                }
                assert!(world.delete_token(&tokens[0].client_id));
                self.tidies_one("missing")
            }
            "`orgs/:org/tidy` for unknown tokens, with `dry_run=false`" => {
                let status = world.get("status").ok();
                let instance = status["data"]["instance"].as_str().expect("an instance");
                let description = format!("vault {instance}/{:032x} mount=x/", 7);
                let unknown = world.portal(&org.id, Some(&description), None);
                self.tidies_one("unknown") && !world.is_alive(&unknown.client_id)
            }
            "`lookup` with `check_astra=true`" => {
                let wanted = json!({"client_id": "abcdefghijklmnopqrstuvwx", "check_astra": true});
                world.post("lookup", &wanted).ok()["data"]["errors"] == json!({})
            }
            other => panic!("no test tries {other:?}, which is in the table"),
        }
    }
}

impl LimitedOrg {
    /// Whether a tidy deletes the one token of this kind.
    fn tidies_one(&self, kind: &str) -> bool {
        let answer = self.world.post("orgs/shop/tidy", &json!({"safety_buffer": 0, "dry_run": false}));
        answer.status == 200 && {
            let tidied = &answer.data();
            assert_eq!(tidied[kind]["count"], 1, "{tidied}");
            tidied["deleted"] == 1
        }
    }
}

/// Returns the rows: function and required permissions.
fn table() -> Vec<(&'static str, BTreeSet<&'static str>)> {
    let text = include_str!("../../docs/security.md");
    let rows = text.split_once("<!-- tested: permissions -->\n").expect("the table").1.lines().skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0], cells[1].split(',').map(|name| name.trim().trim_matches('`')).collect())
    });
    rows.collect()
}

#[test]
fn a_root_token_needs_exactly_the_documented_permissions() {
    let table = table();
    assert_eq!(table.len(), 8);
    std::thread::scope(|scope| {
        for (function, permissions) in &table {
            scope.spawn(move || {
                assert!(LimitedOrg::new(permissions).can(function), "{function} fails with {permissions:?}");
                for one in permissions {
                    let others: BTreeSet<&str> = permissions.iter().copied().filter(|name| name != one).collect();
                    assert!(!LimitedOrg::new(&others).can(function), "{function} succeeds without {one}");
                }
            });
        }
    });
}
