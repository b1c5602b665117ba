//! No log, list, error or help text contains a secret.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::astra::{AstraFault, BodyForm, Kind, Route};
use crate::bao::{Options, Server};
use crate::openapi;
use crate::world::{Mode, ROLE_ID, Token, World};

/// A server that logs at the most detailed level, and so does its plugin.
fn trace_logging_server() -> Arc<Server> {
    let env = vec![("DATASTAX_ASTRA_VAULT_LOG_LEVEL".to_owned(), "trace".to_owned())];
    Arc::new(Server::dev_with(&Options { log_level: "trace", env, ..Options::default() }))
}

#[test]
fn a_log_at_trace_level_holds_no_secret() {
    let server = trace_logging_server();
    let world = World::at_mount(&server, "astra");
    let org = world.configured("shop", Mode::Standard);
    let sidecar = world.configured("agents", Mode::Sidecar);
    for org in [&org, &sidecar] {
        world.role(org, "reader", 3600, 36000);
    }
    let mut secrets: Vec<String> = Vec::new();
    let mut keep = |reply: Value| secrets.push(reply["data"]["token"].as_str().expect("a token").to_owned());

    let token = world.mint(&org, "reader", "cart");
    keep(world.fetch(&org, &token).ok());
    let ask = || world.get(&format!("org/token?org_id={}&role_name=reader", sidecar.id));
    keep(ask().ok());
    keep(world.get(&format!("org/token?org_id={}&role_name=reader&metadata=team%3Dblue", sidecar.id)).ok());
    keep(world.get("creds/shop/reader").ok());
    world.post("roles/sync", &json!({})).ok();
    world.post("config/rotate-root", &json!({"org_id": sidecar.id})).ok();
    world.renew(&token, 60).ok();
    world.list("org/tokens").ok();

    // Errors often contain details. Each of these bodies quotes the request or the response.
    world.fault(AstraFault::before(Kind::status(400, BodyForm::Text)).route(Route::CreateToken).once());
    ask().fails(400);
    world.fault(AstraFault::after(Kind::status(500, BodyForm::Errors)).route(Route::CreateToken).once());
    ask().fails(502);
    world.fault(
        AstraFault::after(Kind::Malformed(crate::astra::Malformed::TrailingGarbage)).route(Route::CreateToken).once(),
    );
    ask().fails(502);
    world.post("config", &json!({"org_id": org.id, "astra_token": format!("{}x:y", org.root_token)}));
    world.revoke(&token).ok();
    world.delete(&format!("org/token?org_id={}&client_id={}", org.id, token.client_id));
    server.reload("astra");
    world.mint(&org, "reader", "after");

    let log = server.log();
    // Checks that the log is complete, so that the search for secrets is meaningful.
    for wanted in ["created token", "revoked token", &token.client_id, "[TRACE]"] {
        assert!(log.contains(wanted), "the log does not contain {wanted:?}\n{}", server.log_tail());
    }
    world.assert_no_secret("the log", &log);
    for secret in secrets {
        assert!(!log.contains(&secret), "the log holds a token from an answer");
    }
}

/// Returns every path in the engine's OpenAPI document, with values in place of parameters.
fn paths(world: &World) -> Vec<String> {
    let document = openapi::document(world);
    let with_values = |path: String| path.replace(['{', '}'], "");
    let paths: BTreeSet<String> =
        openapi::operations(&document).into_iter().map(|(path, ..)| with_values(path)).collect();
    assert!(paths.len() > 8, "{paths:?}");
    paths.into_iter().collect()
}

#[test]
fn every_path_has_help_without_secrets() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    world.mint(&org, "reader", "cart");

    for path in paths(&world).iter().map(|path| world.at(path)).chain([format!("{}/", world.mount)]) {
        let reply = world.server.get(&format!("{path}?help=1"));
        let body = reply.ok();
        let text = body["help"].as_str().or_else(|| body["data"]["help"].as_str()).unwrap_or_default().to_owned();
        assert!(text.len() > 40, "{path} has no help");
        world.assert_no_secret("the help", &body.to_string());
        world.server.cli(&["path-help", &path]).ok();
    }
    assert_eq!(world.minted(), 1);
}

#[test]
fn the_openapi_document_holds_no_secret() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    world.mint(&org, "reader", "cart");

    let document = world.server.get("sys/internal/specs/openapi").ok();
    let names: Vec<&String> = document["paths"].as_object().expect("paths").keys().collect();
    assert!(names.iter().any(|name| name.starts_with(&format!("/{}/", world.mount))), "{names:?}");
    world.assert_no_secret("the document", &document.to_string());
}

#[test]
fn the_examples_in_the_help_work() {
    let world = World::new();
    let org = world.next_org();
    // The only difference from a reader's input is the URL of Astra.
    world.configure(&org, &json!({}));
    // The examples of the mount create a config and a role. After a rotation, `$ROOT_TOKEN` is deleted.
    let (last, others): (Vec<_>, Vec<_>) = paths(&world).into_iter().partition(|path| path.ends_with("rotate-root"));
    for path in [String::new()].into_iter().chain(others).chain(last) {
        let help = world.server.cli(&["path-help", &world.at(&path)]).ok();
        let examples: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("vault ")).collect();
        // The CLI cannot show metrics. The tests of the monitoring examples run curl.
        assert!(!examples.is_empty() || path == "metrics", "{path} has no examples");
        // The CLI fails if a list is empty.
        if path.ends_with("/static-roles") {
            world.post("orgs/retail/static-roles/first", &json!({"role": "reader", "rotation_period": "30d"})).ok();
        }
        for example in examples {
            // An example can delete the token that it names.
            let client_id = match example.contains("$CLIENT_ID") {
                true => Token::of(world.get("creds/retail/reader").ok()).client_id,
                false => String::new(),
            };
            let line = example.replace("<mount>", &world.mount).replace("$ORG_ID", &org.id);
            let line = line.replace("$ROOT_TOKEN", &org.root_token).replace("$ROLE_ID", ROLE_ID);
            let line = line.replace("$CLIENT_ID", &client_id);
            world.server.cli(&line.split_whitespace().collect::<Vec<_>>()).ok();
        }
    }
}
