//! The policies in `docs/examples/policies`: each policy permits exactly the requests that it describes.
//!
//! The table has a row for every path and operation of the engine in the server's OpenAPI document. So a new operation
//! needs a decision.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::astra::{Astra, Route};
use crate::bao::Reply;
use crate::creds::{caller, rule, tricks, try_all};
use crate::openapi;
use crate::servers::on_vault;
use crate::world::{Mode, Org, ROLE_ID, Token, World};

use self::Who::{Auditor, Monitoring, Operator, OrgTeam, RoleAdmin, Workload};

/// The user of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Operator,
    RoleAdmin,
    Workload,
    Auditor,
    OrgTeam,
    Monitoring,
}

impl Who {
    const ALL: [Self; 6] = [Operator, RoleAdmin, Workload, Auditor, OrgTeam, Monitoring];

    /// Returns the policy, for a mount at `astra/`.
    fn policy(self) -> &'static str {
        match self {
            Operator => include_str!("../../docs/examples/policies/operator.hcl"),
            RoleAdmin => include_str!("../../docs/examples/policies/role-admin.hcl"),
            Workload => include_str!("../../docs/examples/policies/workload.hcl"),
            Auditor => include_str!("../../docs/examples/policies/auditor.hcl"),
            OrgTeam => include_str!("../../docs/examples/policies/org-team.hcl"),
            Monitoring => include_str!("../../docs/examples/monitoring/policy.hcl"),
        }
    }
}

/// A mount at `astra/`, as in the policies.
struct PolicyMount {
    world: World,
    /// The org with the logical name `shop`, with the roles `reader` and `admin`.
    shop: Org,
    /// An org that a request may delete.
    spare: Org,
}

impl PolicyMount {
    fn new() -> Self {
        let world = World::named("astra", Astra::builder().orgs(3));
        let shop = world.configured("shop", Mode::Standard);
        for role in ["reader", "admin"] {
            world.role(&shop, role, 3600, 36000);
        }
        world.post("orgs/shop/static-roles/ci", &json!({"role": "reader", "rotation_period": "24h"})).ok();
        let spare = world.configured("spare", Mode::Sidecar);
        Self { world, shop, spare }
    }

    /// Restores everything that a request may have deleted.
    fn repair(&self) {
        self.world.configure(&self.spare, &json!({"logical_name": "spare"}));
        self.world.role(&self.spare, "reader", 3600, 36000);
    }

    /// Returns a new token of the role `reader` with its own lease.
    fn token(&self) -> Token {
        Token::of(self.world.get("creds/shop/reader").ok())
    }

    /// Returns path and body for writing a config.
    fn config(&self, org_id: &str) -> (String, Value) {
        let body = json!({
            "org_id": org_id, "astra_token": self.spare.root_token, "url": self.world.url(), "verify_connection": false,
        });
        ("astra/config".into(), body)
    }

    /// Returns path and body for writing a role.
    fn role(&self, name: &str) -> (String, Value) {
        ("astra/role".into(), json!({"org_id": self.spare.id, "role_name": name, "role_id": ROLE_ID}))
    }

    /// Returns path and body of a request for a new lease.
    fn lease(&self, path: &str) -> (String, Value) {
        (path.into(), json!({"lease_id": self.token().lease_id}))
    }
}

/// A request, and the users who may send it.
struct Row {
    method: &'static str,
    /// The path in the OpenAPI document, or below `sys/`.
    path: &'static str,
    /// The required capability.
    capability: &'static str,
    who: &'static [Who],
    /// Returns path and body of a request that succeeds. An empty path stands for the path of the row.
    request: fn(&PolicyMount) -> (String, Value),
}

fn row(
    method: &'static str,
    path: &'static str,
    capability: &'static str,
    who: &'static [Who],
    request: fn(&PolicyMount) -> (String, Value),
) -> Row {
    Row { method, path, capability, who, request }
}

/// All paths and operations of the engine.
fn engine() -> Vec<Row> {
    vec![
        row("POST", "config", "create", &[Operator], |mount| mount.config("new")),
        row("POST", "config", "update", &[Operator], |mount| mount.config(&mount.spare.id)),
        row("PATCH", "config", "patch", &[Operator], |mount| mount.config(&mount.spare.id)),
        row("GET", "config", "read", &[Operator, Auditor], |mount| (query("config", &mount.spare), Value::Null)),
        row("DELETE", "config", "delete", &[Operator], |mount| {
            (query("config", &mount.spare) + "&force=true", Value::Null)
        }),
        row("POST", "config/rotate-root", "update", &[Operator], |mount| {
            ("astra/config/rotate-root".into(), json!({"org_id": mount.shop.id}))
        }),
        row("LIST", "configs", "list", &[Operator, RoleAdmin, Auditor], |_| ("astra/configs".into(), Value::Null)),
        row("POST", "role", "create", &[RoleAdmin], |mount| mount.role("new")),
        row("POST", "role", "update", &[RoleAdmin], |mount| mount.role("reader")),
        row("PATCH", "role", "patch", &[RoleAdmin], |mount| mount.role("reader")),
        row("GET", "role", "read", &[RoleAdmin, Auditor], |mount| {
            (query("role", &mount.spare) + "&role_name=reader", Value::Null)
        }),
        row("DELETE", "role", "delete", &[RoleAdmin], |mount| {
            (query("role", &mount.spare) + "&role_name=reader", Value::Null)
        }),
        row("LIST", "roles", "list", &[Operator, RoleAdmin, Auditor], |_| ("astra/roles".into(), Value::Null)),
        row("POST", "roles/sync", "update", &[RoleAdmin], |mount| {
            ("astra/roles/sync".into(), json!({"org_id": mount.shop.id}))
        }),
        row("POST", "org/token", "update", &[], |mount| {
            ("astra/org/token".into(), json!({"org_id": mount.shop.id, "role_name": "reader", "logical_name": "x"}))
        }),
        row("GET", "org/token", "read", &[], |mount| (query("org/token", &mount.shop), Value::Null)),
        row("DELETE", "org/token", "delete", &[Operator], |mount| {
            let token = mount.token();
            (query("org/token", &mount.shop) + "&client_id=" + &token.client_id, Value::Null)
        }),
        row("LIST", "org/tokens", "list", &[Operator, Auditor], |mount| {
            mount.token();
            ("astra/org/tokens".into(), Value::Null)
        }),
        row("POST", "lookup", "update", &[Operator, Auditor], |_| {
            ("astra/lookup".into(), json!({"client_id": "unknown", "check_astra": true}))
        }),
        row("GET", "creds/{org}/{role}", "read", &[Workload, OrgTeam], |_| {
            ("astra/creds/shop/reader".into(), Value::Null)
        }),
        row("POST", "creds/{org}/{role}", "update", &[Workload, OrgTeam], |_| {
            ("astra/creds/shop/reader".into(), json!({"ttl": 60}))
        }),
        row("GET", "status", "read", &[Operator, Auditor, Monitoring], |_| ("astra/status".into(), Value::Null)),
        row("GET", "metrics", "read", &[Monitoring], |_| ("astra/metrics".into(), Value::Null)),
    ]
}

/// The paths below `orgs`.
fn orgs() -> Vec<Row> {
    let update = |_: &PolicyMount| ("astra/orgs/shop".into(), json!({"request_timeout": 20}));
    let role = |_: &PolicyMount| ("astra/orgs/shop/roles/reader".into(), json!({"ttl": 60}));
    let static_role = |_: &PolicyMount| ("astra/orgs/shop/static-roles/ci".into(), json!({"rotation_period": 7200}));
    vec![
        row("LIST", "orgs", "list", &[Operator], |_| ("astra/orgs".into(), Value::Null)),
        row("POST", "orgs/{org}", "create", &[], |mount| ("astra/orgs/new".into(), mount.config("new").1)),
        row("POST", "orgs/{org}", "update", &[OrgTeam], update),
        row("PATCH", "orgs/{org}", "patch", &[OrgTeam], update),
        row("GET", "orgs/{org}", "read", &[OrgTeam], |_| ("astra/orgs/shop".into(), Value::Null)),
        row("DELETE", "orgs/{org}", "delete", &[], |_| ("astra/orgs/spare?force=true".into(), Value::Null)),
        row("POST", "orgs/{org}/rotate-root", "update", &[Operator, OrgTeam], |_| {
            ("astra/orgs/shop/rotate-root".into(), json!({}))
        }),
        row("POST", "orgs/{org}/sync-roles", "update", &[OrgTeam], |_| {
            ("astra/orgs/shop/sync-roles".into(), json!({}))
        }),
        row("POST", "orgs/{org}/tidy", "update", &[Operator, OrgTeam], |_| ("astra/orgs/shop/tidy".into(), json!({}))),
        row("LIST", "orgs/{org}/roles", "list", &[OrgTeam], |_| ("astra/orgs/shop/roles".into(), Value::Null)),
        row("POST", "orgs/{org}/roles/{role_name}", "create", &[OrgTeam], |_| {
            ("astra/orgs/shop/roles/new".into(), json!({"role_id": ROLE_ID}))
        }),
        row("POST", "orgs/{org}/roles/{role_name}", "update", &[OrgTeam], role),
        row("PATCH", "orgs/{org}/roles/{role_name}", "patch", &[OrgTeam], role),
        row("GET", "orgs/{org}/roles/{role_name}", "read", &[OrgTeam], |_| {
            ("astra/orgs/shop/roles/reader".into(), Value::Null)
        }),
        row("DELETE", "orgs/{org}/roles/{role_name}", "delete", &[OrgTeam], |_| {
            ("astra/orgs/shop/roles/new".into(), Value::Null)
        }),
        row("LIST", "orgs/{org}/static-roles", "list", &[OrgTeam], |_| {
            ("astra/orgs/shop/static-roles".into(), Value::Null)
        }),
        row("POST", "orgs/{org}/static-roles/{name}", "create", &[OrgTeam], |_| {
            ("astra/orgs/shop/static-roles/new".into(), json!({"role": "reader", "rotation_period": "1h"}))
        }),
        row("POST", "orgs/{org}/static-roles/{name}", "update", &[OrgTeam], static_role),
        row("PATCH", "orgs/{org}/static-roles/{name}", "patch", &[OrgTeam], static_role),
        row("GET", "orgs/{org}/static-roles/{name}", "read", &[OrgTeam], |_| {
            ("astra/orgs/shop/static-roles/ci".into(), Value::Null)
        }),
        row("DELETE", "orgs/{org}/static-roles/{name}", "delete", &[OrgTeam], |_| {
            ("astra/orgs/shop/static-roles/new".into(), Value::Null)
        }),
        row("GET", "static-creds/{org}/{name}", "read", &[OrgTeam], |_| {
            ("astra/static-creds/shop/ci".into(), Value::Null)
        }),
        row("LIST", "orgs/{org}/tokens", "list", &[OrgTeam], |mount| {
            mount.token();
            ("astra/orgs/shop/tokens".into(), Value::Null)
        }),
        row("GET", "orgs/{org}/tokens/{client_id}", "read", &[OrgTeam], |mount| {
            (format!("astra/orgs/shop/tokens/{}", mount.token().client_id), Value::Null)
        }),
        row("DELETE", "orgs/{org}/tokens/{client_id}", "delete", &[Operator, OrgTeam], |mount| {
            (format!("astra/orgs/shop/tokens/{}", mount.token().client_id), Value::Null)
        }),
    ]
}

/// The parts of a path in the OpenAPI document, and their values in requests.
const PARTS: [(&str, &str); 5] =
    [("{name}", "ci"), ("{org}", "shop"), ("{role}", "reader"), ("{role_name}", "reader"), ("{client_id}", "none")];

/// Returns the path of a request for a path in the OpenAPI document.
fn filled(path: &str) -> String {
    PARTS.iter().fold(path.to_owned(), |path, (part, value)| path.replace(part, value))
}

/// The server's own paths that concern the engine, and some paths that no policy permits.
fn server() -> Vec<Row> {
    vec![
        row("POST", "sys/leases/lookup", "update", &[Operator, Workload, Auditor], |mount| {
            mount.lease("sys/leases/lookup")
        }),
        row("POST", "sys/leases/renew", "update", &[Workload], |mount| mount.lease("sys/leases/renew")),
        row("POST", "sys/leases/revoke", "update", &[Operator, Workload], |mount| mount.lease("sys/leases/revoke")),
        // The CLI has the id of the lease in the path.
        row("POST", "sys/leases/revoke/astra/creds/shop/reader/*", "update", &[Operator, Workload], |mount| {
            (format!("sys/leases/revoke/{}", mount.token().lease_id), Value::Null)
        }),
        row("POST", "sys/leases/revoke/astra/*", "update", &[Operator], |mount| {
            let other = Token::of(mount.world.get("creds/shop/admin").ok());
            (format!("sys/leases/revoke/{}", other.lease_id), Value::Null)
        }),
        row("LIST", "sys/leases/lookup/astra/*", "list", &[Operator, Auditor], |mount| {
            mount.token();
            ("sys/leases/lookup/astra/creds/shop/reader".into(), Value::Null)
        }),
        row("POST", "sys/leases/revoke-prefix/astra/*", "update", &[Operator], |_| {
            ("sys/leases/revoke-prefix/astra/creds/shop/reader".into(), Value::Null)
        }),
        row("POST", "sys/leases/revoke-force/astra/*", "update", &[Operator], |_| {
            ("sys/leases/revoke-force/astra/creds/shop/reader".into(), Value::Null)
        }),
        row("GET", "sys/leases", "read", &[Operator, Auditor], |_| ("sys/leases?type=irrevocable".into(), Value::Null)),
        nobody("LIST", "sys/leases/lookup/other/"),
        nobody("POST", "sys/leases/revoke-prefix/other/creds"),
        nobody("POST", "sys/leases/tidy"),
        nobody("GET", "sys/mounts"),
        nobody("POST", "sys/mounts/astra/tune"),
        nobody("DELETE", "sys/mounts/astra"),
        nobody("GET", "sys/policies/acl/root"),
        nobody("POST", "sys/policies/acl/other"),
        nobody("GET", "sys/raw/core/mounts"),
        nobody("POST", "sys/plugins/reload/backend"),
        nobody("GET", "sys/audit"),
        nobody("POST", "auth/token/create"),
        nobody("POST", "sys/wrapping/wrap"),
    ]
}

fn nobody(method: &'static str, path: &'static str) -> Row {
    row(method, path, "", &[], |_| (String::new(), Value::Null))
}

fn query(path: &str, org: &Org) -> String {
    format!("astra/{path}?org_id={}", org.id)
}

#[test]
fn each_policy_allows_its_requests_and_no_others() {
    let mount = PolicyMount::new();
    let (engine, server): (Vec<Row>, _) = (engine().into_iter().chain(orgs()).collect(), server());
    every_operation_has_a_row(&mount.world, &engine);
    let mut faults = Vec::new();
    for who in Who::ALL {
        let caller = caller(&mount.world, who.policy());
        let mut note =
            |what: &str, reply: &Reply| faults.push(format!("{who:?}: {what}: {} {}", reply.status, reply.body));
        for row in engine.iter().chain(&server) {
            mount.repair();
            let (path, body) = (row.request)(&mount);
            let path = if path.is_empty() { row.path.to_owned() } else { path };
            let reply = caller.http(row.method, &path, &body);
            let right = if row.who.contains(&who) { reply.status < 300 } else { is_refusal(&reply) };
            if !right {
                note(&format!("{} {path} ({})", row.method, row.capability), &reply);
            }
        }
        // Methods that are not operations of a path, or that are other names of an operation.
        for path in engine.iter().map(|row| row.path).collect::<BTreeSet<_>>() {
            for method in ["GET", "LIST", "SCAN", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
                let declared = if method == "PUT" { "POST" } else { method };
                if engine.iter().any(|row| row.path == path && row.method == declared && row.who.contains(&who)) {
                    continue;
                }
                let path = format!("astra/{}", filled(path));
                // The server reads the body of a patch before it checks policies.
                let body = if method == "PATCH" { json!({}) } else { Value::Null };
                let reply = caller.http(method, &path, &body);
                let unknown = method == "SCAN" && on_vault("scan");
                if !(if unknown { reply.status == 405 } else { is_refusal(&reply) }) {
                    note(&format!("{method} {path}"), &reply);
                }
            }
        }
        every_capability_is_needed(who, engine.iter().chain(&server));
    }
    assert!(faults.is_empty(), "{} cases\n{}", faults.len(), faults.join("\n"));
}

/// Whether the server refused a request because no policy permits it.
fn is_refusal(reply: &Reply) -> bool {
    reply.status == 403 && (reply.body.is_null() || reply.errors().contains("permission denied"))
}

/// Compares the table with the server's list of the engine's operations.
#[track_caller]
fn every_operation_has_a_row(world: &World, rows: &[Row]) {
    let document = openapi::document(world);
    let declared: BTreeSet<(String, &str)> = openapi::operations(&document)
        .into_iter()
        .map(|(path, method, operation)| {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let is_list = parameters.into_iter().any(|parameter| parameter["name"] == "list");
            let method = match method {
                "get" if is_list => "LIST",
                "get" => "GET",
                "post" => "POST",
                "patch" => "PATCH",
                "delete" => "DELETE",
                other => panic!("{other}"),
            };
            (path, method)
        })
        .collect();
    let in_table: BTreeSet<(String, &str)> = rows.iter().map(|row| (row.path.to_owned(), row.method)).collect();
    assert_eq!(in_table, declared, "the table (left) does not have the operations of the engine (right)");
}

/// Whether a path has the segments of a policy's path, in which `+` stands for any segment.
fn has_segments(path: &str, of_policy: &str) -> bool {
    let (path, of_policy): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), of_policy.split('/').collect());
    path.len() == of_policy.len()
        && path.iter().zip(of_policy).all(|(segment, wanted)| wanted == "+" || wanted == *segment)
}

/// Checks that each line and capability of a policy is needed by a request in the table.
#[track_caller]
fn every_capability_is_needed<'a>(who: Who, rows: impl Iterator<Item = &'a Row> + Clone) {
    for stanza in who.policy().split("\npath \"").skip(1) {
        let (path, rest) = stanza.split_once('"').expect("a path");
        let list = rest.split_once('[').and_then(|(_, rest)| rest.split_once(']')).expect("capabilities").0;
        for capability in list.split(',').map(|word| word.trim().trim_matches('"')) {
            let needs = |row: &Row| {
                let of_row = match row.path {
                    path if path.starts_with("sys/") => path.to_owned(),
                    path => format!("astra/{}", filled(path)),
                };
                let is_same = of_row == path || path.contains("/+/") && has_segments(&of_row, path);
                let is_covered = path.strip_suffix("/*").map_or(is_same, |folder| {
                    of_row == path || of_row.rsplit_once('/').is_some_and(|(of_row, _)| of_row == folder)
                });
                is_covered && row.who.contains(&who) && (row.capability == capability || capability == "sudo")
            };
            assert!(
                rows.clone().any(needs),
                "{who:?} has {capability:?} on {path:?}, but no request in the table needs it"
            );
        }
    }
}

#[test]
fn no_spelling_of_a_path_bypasses_the_workload_policy() {
    let world = World::new();
    let org = world.configured("shop", Mode::Sidecar);
    for role in ["reader", "admin"] {
        world.role(&org, role, 3600, 36000);
    }
    let policy = Workload.policy().replace("\"astra/", &format!("\"{}/", world.mount));
    let all = r#""create", "read", "update", "patch", "delete", "list", "sudo""#;
    let denied = [world.at("creds/shop/admin"), world.at("org/*")].map(|path| rule(&path, r#""deny""#));
    // The policy of a workload, and a policy that permits everything except one spelling of one role.
    for policy in [policy, rule("*", all) + &denied.concat()] {
        let minted = world.calls(Route::CreateToken);
        let caller = caller(&world, &policy);
        for path in tricks(&world, &org) {
            let leases = try_all(&caller, &path);
            assert!(leases.is_empty(), "{path} got {leases:?} despite\n{policy}");
        }
        assert_eq!(world.calls(Route::CreateToken), minted, "{policy}");
        // Only the role is refused, not every request.
        assert_eq!(caller.get(&world.at("creds/shop/reader")).data()["roleName"], "reader");
    }
}

#[test]
fn a_policy_can_limit_parameters_of_creds_but_not_of_org_token() {
    let world = World::new();
    let org = world.configured("shop", Mode::Sidecar);
    for role in ["reader", "admin"] {
        world.role(&org, role, 3600, 36000);
    }
    let narrow = |path: &str, parameters: &str| {
        let at = world.at(path);
        format!("path \"{at}\" {{\n  capabilities = [\"read\", \"update\"]\n  {parameters}\n}}\n")
    };
    let careful = caller(&world, &narrow("creds/shop/reader", "allowed_parameters = { \"logical_name\" = [] }"));
    let creds = world.at("creds/shop/reader");
    for (name, value) in [("ttl", "9h"), ("metadata", "a=b"), ("TTL", "9h")] {
        assert_eq!(careful.get(&format!("{creds}?{name}={value}")).status, 403, "{name}");
        assert_eq!(careful.post(&creds, &json!({name: value})).status, 403, "{name}");
    }
    assert_eq!(careful.get(&creds).status, 200);
    assert_eq!(careful.post(&creds, &json!({"logical_name": "x"})).status, 200);

    // A role has many spellings on this path, as the documentation warns.
    let denied = "denied_parameters = { \"role_name\" = [\"admin\"] }";
    let careless = caller(&world, &narrow("org/token", denied));
    let ask = |query: &str| careless.get(&world.at(&format!("org/token?org_id={}&{query}", org.id)));
    assert_eq!(ask("role_name=admin").status, 403);
    assert_eq!(ask("role=admin").data()["roleName"], "admin");
    assert_eq!(ask("role_name=Admin").data()["roleName"], "admin");
}
