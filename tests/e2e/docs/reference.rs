//! `docs/api.md`: compares the lists of operations and parameters with the declarations of the paths, and captures the
//! samples.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::slice::from_ref;
use std::time::Duration;

use serde_json::{Value, json};

use super::sample::{API, Call, Recorder};
use crate::astra::{Astra, Seed};
use crate::bao::{redact, wait};
use crate::openapi::{document, fields, operations};
use crate::world::{ROLE_ID, World};

const ORG: &str = "6f9a2c1e-7d34-4b8a-9c55-0e1f2a3b4c5d";
const OTHER: &str = "b1d0c3e2-5a46-4f7b-8e69-1f2e3d4c5b6a";

/// Parameters that only some operations of a path require, so the path does not declare them as required: path, method,
/// parameter.
const DEMANDED: [(&str, &str, &str); 8] = [
    ("config", "post", "org_id"),
    ("config", "patch", "org_id"),
    ("config", "delete", "org_id"),
    ("config/rotate-root", "post", "org_id"),
    ("role", "patch", "org_id"),
    ("role", "patch", "role_name"),
    ("org/token", "post", "role_name"),
    ("org/token", "post", "logical_name"),
];

const VERBS: [(&str, &str, &str); 5] = [
    ("get", "read", "GET"),
    ("post", "write", "POST"),
    ("patch", "patch", "PATCH"),
    ("delete", "delete", "DELETE"),
    ("list", "list", "LIST"),
];

/// A parameter: its declaration, the operations that accept it, and the operations that require it.
struct Parameter {
    schema: Value,
    description: String,
    takes: Vec<&'static str>,
    demands: Vec<&'static str>,
}

#[test]
fn the_reference_matches_the_paths_and_the_answers() {
    let root = Seed::new().id(ORG).root_token(format!("AstraCS:ABcDeFgHiJkLmNoPqRsTuVwX:{}", "0a".repeat(32)));
    let orgs = [root, Seed::new().id(OTHER)];
    let astra = orgs.into_iter().fold(Astra::builder(), |astra, org| astra.org(org));
    let mut recorder = Recorder::new(World::with(astra));
    declarations(&mut recorder);
    assert_required_parameters(&recorder.world);
    configs(&mut recorder);
    roles(&mut recorder);
    named_tokens(&mut recorder);
    sidecar_and_creds(&mut recorder);
    paths_of_one_org(&mut recorder);
    lookups(&mut recorder);
    config_deletion(&mut recorder);
    recorder.compare();
}

/// Captures the operations and parameters of each path.
fn declarations(recorder: &mut Recorder) {
    let document = document(&recorder.world);
    let operations = operations(&document);
    let paths: BTreeSet<&String> = operations.iter().map(|(path, ..)| path).collect();
    let headings: Vec<String> = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md"))
        .expect("the reference")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("<!-- declared: ")?.strip_suffix(" -->")?.to_owned()))
        .collect();
    let known: BTreeSet<String> = paths.iter().map(|path| (*path).clone()).collect();
    assert_eq!(BTreeSet::from_iter(headings), known, "the paths in {API} (left), and those of the engine");
    for path in paths {
        let mut rows = String::from("| operation | method | path | what it does |\n| --- | --- | --- | --- |\n");
        let mut parameters: BTreeMap<String, Parameter> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        let item = &document["paths"][format!("/{}/{path}", recorder.world.mount)];
        for (name, verb) in path_parameters(item) {
            order.push(name.clone());
            parameters.insert(name, verb);
        }
        for (_, method, operation) in operations.iter().filter(|(of, ..)| of == path) {
            let is_list = operation["parameters"].as_array().into_iter().flatten().any(|field| field["name"] == "list");
            let method = if is_list { "list" } else { method };
            let (_, verb, http) = VERBS.into_iter().find(|(name, ..)| *name == method).expect("a known method");
            let summary = operation["summary"].as_str().expect("a summary");
            let shown = path.replace('{', ":").replace('}', "");
            let _ = writeln!(rows, "| {verb} | `{http}` | `astra/{shown}` | {summary} |");
            for (name, declaration, schema) in fields(operation).into_iter().filter(|(name, ..)| *name != "list") {
                if !order.iter().any(|known| known == name) {
                    order.push(name.to_owned());
                }
                let parameter = parameters.entry(name.to_owned()).or_insert_with(|| Parameter {
                    schema: schema.clone(),
                    description: declaration["description"].as_str().expect("a description").to_owned(),
                    takes: Vec::new(),
                    demands: Vec::new(),
                });
                parameter.takes.push(verb);
                let body = operation["requestBody"]["content"].as_object().into_iter().flat_map(|media| media.values());
                let required = body.flat_map(|media| media["schema"]["required"].as_array().into_iter().flatten());
                let declared = declaration["required"] == true || required.into_iter().any(|field| field == name);
                if declared || DEMANDED.contains(&(path.as_str(), method, name)) {
                    parameter.demands.push(verb);
                }
            }
        }
        let verbs = rows.lines().count() - 2;
        if !order.is_empty() {
            rows.push_str("\nParameters:\n\n");
        }
        for name in order {
            rows.push_str(&parameters[&name].shown(&name, verbs));
        }
        recorder.put(format!("declared: {path}"), rows);
    }
}

/// Returns the parameters in the path itself.
fn path_parameters(item: &Value) -> Vec<(String, Parameter)> {
    let of_path = item["parameters"].as_array().into_iter().flatten();
    of_path
        .map(|field| {
            let parameter = Parameter {
                schema: field["schema"].clone(),
                description: field["description"].as_str().expect("a description").to_owned(),
                takes: vec!["path"],
                demands: vec!["path"],
            };
            (field["name"].as_str().expect("a name").to_owned(), parameter)
        })
        .collect()
}

impl Parameter {
    fn shown(&self, name: &str, verbs: usize) -> String {
        let Self { schema, description, takes, demands } = self;
        let kind = match (schema["type"].as_str(), schema["format"].as_str()) {
            (Some("integer"), Some("seconds")) => "duration",
            (Some("object"), Some("kvpairs")) => "key=value pairs",
            (Some("integer"), _) => "integer",
            (Some("boolean"), _) => "bool",
            (Some("string"), _) => "string",
            (Some("array"), _) => "list",
            other => panic!("no name for the type {other:?}"),
        };
        let default = match (&schema["default"], kind) {
            _ if !demands.is_empty() => "<required>".to_owned(),
            (Value::Null, _) => "none".to_owned(),
            (Value::String(text), _) => format!("\"{text}\""),
            (value, "duration") => format!("{value}s"),
            (value, _) => value.to_string(),
        };
        // Markdown would hide text that looks like a tag.
        let mut text = format!("- `{name}` `({kind}: {default})`: {}", description.replace('<', "\\<"));
        if let Some(allowed) = schema["enum"].as_array() {
            let allowed: Vec<String> =
                allowed.iter().map(|value| format!("`{}`", value.as_str().unwrap_or("?"))).collect();
            let _ = write!(text, " One of {}.", allowed.join(", "));
        }
        match (takes.as_slice(), takes.len() < verbs) {
            (["path"], _) => text.push_str(" Part of the path."),
            (_, true) => _ = write!(text, " Accepted by {}.", takes.join(", ")),
            _ => {}
        }
        if !demands.is_empty() && demands.len() < takes.len() {
            let _ = write!(text, " Required by {}.", demands.join(", "));
        }
        text.push('\n');
        text
    }
}

/// Checks each required parameter: a request without it fails, and the error names the parameter.
fn assert_required_parameters(world: &World) {
    world.configure(&world.orgs()[1], &json!({}));
    for (path, method, field) in DEMANDED {
        let mut body = json!({"org_id": OTHER, "role_name": "none", "logical_name": "none"});
        body.as_object_mut().expect("an object").remove(field);
        let text = match method {
            "post" => world.post(path, &body).fails(400),
            "patch" => world.patch(path, &body).fails(400),
            _ => world.delete(path).fails(400),
        };
        assert!(text.contains(field) && text.contains("required"), "{method} {path}: {text}");
    }
    world.delete(&format!("config?org_id={OTHER}")).ok();
}

/// Captures the state of the mount.
fn status(recorder: &mut Recorder) {
    let shown = recorder.world.get("status").data();
    for member in ["commit", "instance"] {
        recorder.mask(shown[member].as_str().expect("a text"), member);
    }
    recorder.twice("status read", &Call("read", "status", &[]));
    recorder.error_table(
        "status",
        &[
            ("of an organization without a config", Call("read", "status", &[("org_id", json!(OTHER))])),
            (
                "with a `limit` above 100 and `check`",
                Call("read", "status", &[("check", json!(true)), ("limit", json!(500))]),
            ),
        ],
    );
}

/// Captures the paths of configs. Keeps the config of the first organization.
fn configs(recorder: &mut Recorder) {
    let (root, other) = (recorder.world.orgs()[0].clone(), recorder.world.orgs()[1].clone());
    recorder.mask(&root.root_token, "root token");
    recorder.mask(&other.root_token, "root token");
    recorder.error_table("configs", &[("without a config", Call("list", "configs", &[]))]);
    recorder.error_table("roles/sync", &[("without a config", Call("write", "roles/sync", &[]))]);
    let org = ("org_id", json!(ORG));
    let token = ("astra_token", json!(root.root_token));
    recorder.twice(
        "config write",
        &Call("write", "config", &[org.clone(), token.clone(), ("logical_name", json!("retail"))]),
    );
    recorder.twice("config read", &Call("read", "config", from_ref(&org)));
    recorder.twice("config patch", &Call("patch", "config", &[org.clone(), ("request_timeout", json!("20s"))]));
    recorder.twice("configs list", &Call("list", "configs", &[]));
    recorder.twice("config/rotate-root write", &Call("write", "config/rotate-root", from_ref(&org)));
    status(recorder);

    let theirs = ("org_id", json!(OTHER));
    config_errors(recorder);
    recorder.error_table(
        "config/rotate-root",
        &[("without a config", Call("write", "config/rotate-root", from_ref(&theirs)))],
    );
    recorder.world.refuse_connections(true);
    let call = Call("write", "config", &[org.clone(), ("verify_connection", json!(true))]);
    recorder.error_table("config", &[("while Astra is down", call)]);
    recorder.error_table(
        "config/rotate-root",
        &[("while Astra is down", Call("write", "config/rotate-root", from_ref(&org)))],
    );
    recorder.world.refuse_connections(false);
}

fn write<'a>(parameters: &'a [(&'a str, Value)]) -> Call<'a> {
    Call("write", "config", parameters)
}

/// Captures the errors of writes and reads of a config. Only the first organization has a config.
fn config_errors(recorder: &mut Recorder) {
    let [root, other] = [0, 1].map(|which| recorder.world.orgs()[which].root_token.clone());
    let unknown = format!("AstraCS:{}:{}", "abcdefghijklmnopqrstuvwx", "0".repeat(64));
    redact::hide(&unknown);
    let (org, theirs) = (("org_id", json!(ORG)), ("org_id", json!(OTHER)));
    let token = |token: &str| ("astra_token", json!(token));
    recorder.error_table(
        "config",
        &[
            ("without `org_id`", write(&[token(&root)])),
            ("without `astra_token`, of a new config", write(from_ref(&theirs))),
            ("with a malformed `astra_token`", write(&[theirs.clone(), token("AstraCS:abc")])),
            ("with an `astra_token` that Astra rejects", write(&[theirs.clone(), token(&unknown)])),
            ("with a root token of another organization", write(&[org.clone(), token(&other)])),
            (
                "with a `logical_name` of another organization",
                write(&[theirs.clone(), token(&other), ("logical_name", json!("retail"))]),
            ),
            ("with an unknown `caller_mode`", write(&[org.clone(), ("caller_mode", json!("agent"))])),
            ("with a `request_timeout` above the maximum", write(&[org.clone(), ("request_timeout", json!("1h"))])),
            (
                "of a config that does not exist",
                Call("patch", "config", &[theirs.clone(), ("description", json!(false))]),
            ),
            ("of a config that does not exist", Call("read", "config", from_ref(&theirs))),
            ("by an unknown `logical_name`", Call("read", "config", &[("logical_name", json!("wholesale"))])),
        ],
    );
}

/// Captures the paths of roles. Keeps the role `reader`.
fn roles(recorder: &mut Recorder) {
    let org = ("org_id", json!(ORG));
    recorder.error_table("roles", &[("without a role", Call("list", "roles", &[]))]);
    let reader = [org.clone(), ("role_name", json!("reader"))];
    let times = [("role_id", json!(ROLE_ID)), ("ttl", json!("1h")), ("max_ttl", json!("24h"))];
    let write: Vec<(&str, Value)> = reader.iter().chain(&times).cloned().collect();
    recorder.twice("role write", &Call("write", "role", &write));
    recorder.twice("role read", &Call("read", "role", &reader));
    recorder.twice("role patch", &Call("patch", "role", &[org.clone(), reader[1].clone(), ("max_tokens", json!(100))]));
    recorder.twice("roles list", &Call("list", "roles", from_ref(&org)));
    let detailed = "vault list -detailed astra/roles";
    let (_, told) = recorder.tell(detailed);
    recorder.put("seen: roles list detailed".into(), format!("```console\n$ {detailed}\n{told}```\n"));
    let role = |name: &str| [org.clone(), ("role_name", json!(name))];
    recorder.error_table(
        "role",
        &[
            ("without `role_name`", Call("write", "role", from_ref(&org))),
            ("without `role_id`, of a new role", Call("write", "role", &role("writer"))),
            (
                "with a negative `max_tokens`",
                Call("write", "role", &[org.clone(), role("reader")[1].clone(), ("max_tokens", json!(-1))]),
            ),
            (
                "with a negative `ttl`",
                Call("write", "role", &[org.clone(), role("reader")[1].clone(), ("ttl", json!("-1h"))]),
            ),
            ("with a `/` in the name", Call("write", "role", &role("a/b"))),
            ("of a role that does not exist", Call("patch", "role", &role("writer"))),
            ("of a role that does not exist", Call("read", "role", &role("writer"))),
        ],
    );
    let made = role("writer");
    let id = ("role_id", json!(ROLE_ID));
    let make = json!({"org_id": ORG, "role_name": "writer", "role_id": id.1});
    recorder.world.post("role", &make).ok();
    recorder.twice("role delete", &Call("delete", "role", &made));
    // The second call finds the roles of the first call.
    recorder.twice("roles/sync write", &Call("write", "roles/sync", from_ref(&org)));
    for name in recorder.world.keys("roles").into_iter().filter(|name| name != "reader") {
        recorder.world.delete(&format!("role?org_id={ORG}&role_name={name}")).ok();
    }
    recorder.world.refuse_connections(true);
    recorder.error_table(
        "roles/sync",
        &[
            ("with a negative `limit`", Call("write", "roles/sync", &[("limit", "-1".into())])),
            ("with `org_id` and `limit`", Call("write", "roles/sync", &[org.clone(), ("limit", "16".into())])),
            ("while Astra is down", Call("write", "roles/sync", from_ref(&org))),
        ],
    );
    recorder.world.refuse_connections(false);
}

fn of_name(name: &str) -> [(&'static str, Value); 3] {
    [("org_id", json!(ORG)), ("role_name", json!("reader")), ("logical_name", json!(name))]
}

/// Captures named tokens and their leases. Keeps no token.
fn named_tokens(recorder: &mut Recorder) {
    let org = ("org_id", json!(ORG));
    recorder.error_table("org/tokens", &[("without a token", Call("list", "org/tokens", &[]))]);
    let order = of_name("checkout");
    let mut write = order.to_vec();
    write.push(("metadata", json!({"owner": "ann", "team": "shop"})));
    let minted = recorder.sample("org/token write", &Call("write", "org/token", &write), |recorder| {
        recorder.world.delete(&format!("org/token?org_id={ORG}&role_name=reader&logical_name=checkout")).ok();
    });
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let (client, lease) = (text(&minted["data"]["clientId"]), text(&minted["lease_id"]));
    recorder.twice("org/token read", &Call("read", "org/token", &[org.clone(), ("client_id", json!(client))]));
    recorder.twice("org/tokens list", &Call("list", "org/tokens", &[org.clone(), ("limit", json!(10))]));
    let lease = [("lease_id", json!(lease))];
    recorder.twice("lease lookup", &Call("write", "sys/leases/lookup", &lease));
    recorder.twice("lease renew", &Call("write", "sys/leases/renew", &[lease[0].clone(), ("increment", json!("2h"))]));
    recorder.error_table("config", &[("with live tokens", Call("delete", "config", from_ref(&org)))]);

    let nobody = ("client_id", json!("abcdefghijklmnopqrstuvwx"));
    let role = |name: &str, label: &str| [org.clone(), ("role_name", json!(name)), ("logical_name", json!(label))];
    recorder.error_table(
        "org/token",
        &[
            ("with the `logical_name` of a live token", Call("write", "org/token", &of_name("checkout"))),
            ("without `logical_name`", Call("write", "org/token", &of_name("billing")[..2])),
            ("for a role that does not exist", Call("write", "org/token", &role("writer", "billing"))),
            (
                "for an organization without a config",
                Call(
                    "write",
                    "org/token",
                    &[("org_id", json!(OTHER)), role("reader", "a")[1].clone(), role("reader", "a")[2].clone()],
                ),
            ),
            ("of an unknown `client_id`", Call("read", "org/token", &[org.clone(), nobody.clone()])),
            ("of unknown names", Call("read", "org/token", &of_name("billing"))),
            ("without a `client_id` or names", Call("read", "org/token", from_ref(&org))),
            ("of an unknown `client_id`", Call("delete", "org/token", &[org.clone(), nobody])),
        ],
    );
    recorder
        .error_table("org/tokens", &[("with a negative `limit`", Call("list", "org/tokens", &[("limit", json!(-1))]))]);
    recorder.world.patch("role", &json!({"org_id": ORG, "role_name": "reader", "max_tokens": 1})).ok();
    recorder.error_table("org/token", &[("for a role that is full", Call("write", "org/token", &of_name("billing")))]);
    recorder.world.patch("role", &json!({"org_id": ORG, "role_name": "reader", "max_tokens": 0})).ok();
    recorder.world.refuse_connections(true);
    recorder.error_table("org/token", &[("while Astra is down", Call("write", "org/token", &of_name("billing")))]);
    recorder.world.refuse_connections(false);
    let mut replacement = order.to_vec();
    replacement.push(("replace", json!(true)));
    let live = recorder.world.live(ORG).len();
    recorder.twice("org/token write, replace", &Call("write", "org/token", &replacement));
    // The engine deletes a replaced token some seconds after the answer. Later lists must not depend on the time.
    wait("the replaced tokens to be deleted", Duration::from_secs(60), || {
        (recorder.world.live(ORG).len() == live).then_some(())
    });
    recorder.sample("org/token delete", &Call("delete", "org/token", &order), |recorder| {
        recorder
            .world
            .post("org/token", &json!({"org_id": ORG, "role_name": "reader", "logical_name": "checkout"}))
            .ok();
    });
}

/// Captures the mints by a read.
fn sidecar_and_creds(recorder: &mut Recorder) {
    let creds = "creds/retail/reader";
    let minted = recorder.twice("creds read", &Call("read", creds, &[]));
    let label = [("logical_name", json!("nightly")), ("ttl", json!("10m"))];
    recorder.twice("creds write", &Call("write", creds, &label));
    let lease = [("lease_id", minted["lease_id"].clone()), ("sync", json!(true))];
    recorder.twice("lease revoke", &Call("write", "sys/leases/revoke", &lease));
    recorder.error_table(
        "creds/{org}/{role}",
        &[
            ("by `org_id`, of an organization with a logical name", Call("read", &format!("creds/{ORG}/reader"), &[])),
            ("with capital letters in the role", Call("read", "creds/retail/Reader", &[])),
            ("of an unknown organization", Call("read", "creds/wholesale/reader", &[])),
            ("of a role that does not exist", Call("read", "creds/retail/writer", &[])),
        ],
    );
    recorder.world.post("config", &json!({"org_id": ORG, "caller_mode": "sidecar"})).ok();
    recorder.twice("org/token read, sidecar", &Call("read", "org/token", &of_name("nightly")));
    let client = [("org_id", json!(ORG)), ("client_id", json!("abcdefghijklmnopqrstuvwx"))];
    recorder.error_table(
        "org/token",
        &[
            ("in sidecar mode", Call("write", "org/token", &of_name("billing"))),
            ("of a `client_id` in sidecar mode", Call("read", "org/token", &client)),
        ],
    );
}

/// Captures the paths below `orgs`. Keeps the role `reader` and its tokens.
fn paths_of_one_org(recorder: &mut Recorder) {
    let other = recorder.world.orgs()[1].clone();
    recorder.twice("orgs list", &Call("list", "orgs", &[]));
    let config = [("org_id", json!(OTHER)), ("astra_token", json!(other.root_token))];
    recorder.twice("orgs/{org} write", &Call("write", "orgs/wholesale", &config));
    recorder.twice("orgs/{org} read", &Call("read", "orgs/retail", &[]));
    recorder.twice("orgs/{org} patch", &Call("patch", "orgs/retail", &[("request_timeout", json!(20))]));
    recorder.error_table(
        "orgs/{org}",
        &[
            ("by `org_id`, of an organization with a logical name", Call("read", &format!("orgs/{ORG}"), &[])),
            ("of an unknown organization", Call("read", "orgs/none", &[])),
            ("without `org_id`, of a new config", Call("write", "orgs/none", &config[1..])),
            ("with the `org_id` of another config", Call("write", "orgs/none", &config)),
            ("with another `org_id`", Call("write", "orgs/retail", &config[..1])),
        ],
    );
    recorder.twice("orgs/{org}/rotate-root write", &Call("write", "orgs/wholesale/rotate-root", &[]));
    recorder.twice("orgs/{org}/tidy write", &Call("write", "orgs/wholesale/tidy", &[]));
    recorder.error_table(
        "orgs/{org}/tidy",
        &[
            ("of an unknown organization", Call("write", "orgs/none/tidy", &[])),
            (
                "with an unreadable `safety_buffer`",
                Call("write", "orgs/wholesale/tidy", &[("safety_buffer", json!("soon"))]),
            ),
        ],
    );
    recorder.world.delete(&format!("config?org_id={OTHER}")).ok();
    recorder.world.patch("orgs/retail/roles/reader", &json!({"ttl": 7200})).ok();
    recorder.twice("orgs/{org}/roles list", &Call("list", "orgs/retail/roles", &[]));
    let (role, settings) = ("orgs/retail/roles/writer", [("role_id", json!(ROLE_ID)), ("ttl", json!("2h"))]);
    recorder.twice("orgs/{org}/roles write", &Call("write", role, &settings));
    recorder.twice("orgs/{org}/roles read", &Call("read", role, &[]));
    recorder.error_table(
        "orgs/{org}/roles/{role_name}",
        &[
            ("with capital letters", Call("read", "orgs/retail/roles/Writer", &[])),
            ("of a role that does not exist", Call("read", "orgs/retail/roles/none", &[])),
            ("of an unknown organization", Call("write", "orgs/none/roles/writer", &settings)),
        ],
    );
    recorder.twice("orgs/{org}/roles delete", &Call("delete", role, &[]));
    static_roles(recorder);
    let minted = recorder.world.get("creds/retail/reader?metadata=team=billing").data();
    let token = format!("orgs/retail/tokens/{}", minted["clientId"].as_str().expect("a client id"));
    recorder.learn(&minted.to_string());
    recorder
        .twice("orgs/{org}/tokens list", &Call("list", "orgs/retail/tokens", &[("metadata", json!("team=billing"))]));
    recorder.twice("orgs/{org}/tokens read", &Call("read", &token, &[]));
    recorder.twice("orgs/{org}/tokens delete", &Call("delete", &token, &[]));
}

/// Captures a static role and its token.
fn static_roles(recorder: &mut Recorder) {
    let path = "orgs/retail/static-roles/ci";
    let settings = [("role", json!("reader")), ("rotation_period", json!("24h")), ("overlap", json!("1h"))];
    recorder.twice("orgs/{org}/static-roles write", &Call("write", path, &settings));
    let token = recorder.world.get("static-creds/retail/ci").data();
    recorder.learn(&token.to_string());
    recorder.twice("orgs/{org}/static-roles list", &Call("list", "orgs/retail/static-roles", &[]));
    recorder.twice("orgs/{org}/static-roles read", &Call("read", path, &[]));
    recorder.twice("static-creds read", &Call("read", "static-creds/retail/ci", &[]));
    recorder.error_table(
        "orgs/{org}/static-roles/{name}",
        &[
            ("without `role`, of a new static role", Call("write", "orgs/retail/static-roles/new", &settings[1..])),
            ("with a short `rotation_period`", Call("write", path, &[("rotation_period", json!("30s"))])),
            ("with a long `overlap`", Call("write", path, &[("overlap", json!("13h"))])),
            ("with capital letters", Call("read", "orgs/retail/static-roles/CI", &[])),
        ],
    );
    recorder.twice("orgs/{org}/static-roles delete", &Call("delete", path, &[]));
}

/// Captures the look-ups of a known and of an unknown token.
fn lookups(recorder: &mut Recorder) {
    let minted = recorder.world.get("creds/retail/reader?metadata=team=shop").data();
    recorder.learn(&minted.to_string());
    recorder.twice("lookup write", &Call("write", "lookup", &[("client_id", minted["clientId"].clone())]));
    let unknown = [("client_id", json!("abcdefghijklmnopqrstuvwx")), ("check_astra", json!(true))];
    recorder.twice("lookup write, unknown", &Call("write", "lookup", &unknown));
    recorder.error_table(
        "lookup",
        &[
            ("without a token", Call("write", "lookup", &[])),
            ("of a text that is not a token", Call("write", "lookup", &[("token", json!("shop"))])),
            ("in an unknown organization", Call("write", "lookup", &[unknown[0].clone(), ("org", json!("wholesale"))])),
        ],
    );
}

/// Captures the deletion of a config with live tokens.
fn config_deletion(recorder: &mut Recorder) {
    let call = [("org_id", json!(ORG)), ("force", json!(true))];
    recorder.twice("config delete", &Call("delete", "config", &call));
}
