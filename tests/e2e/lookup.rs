//! `lookup`: a token was found, and its owner is asked for.

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::astra::{Astra, AstraFault, BodyForm, Kind, Route, built_in_id};
use crate::bao::{AUDIT, Options, Server, redact};
use crate::docs::Shell;
use crate::world::{Mode, World};

const PAGE: &str = "docs/security.md";

/// Follows the page that says what to do when a token is found.
#[test]
fn the_owner_of_a_token_in_a_repository_is_found() {
    let world = World::new();
    let org = world.configured("retail", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let login = json!({"policies": ["root"], "display_name": "alice"});
    let login = world.server.post("auth/token/create", &login).ok();
    let alice = world.server.with_token(login["auth"]["client_token"].as_str().expect("a token"));
    let order = json!({"metadata": {"team": "shop", "service": "checkout"}});
    let minted = alice.post(&world.at("creds/retail/reader"), &order).data();
    let text = |member: &str| minted[member].as_str().expect("a text").to_owned();
    redact::hide(text("token"));

    let mut shell = Shell::new(&world.server, &world.mount, world.url());
    shell.set("ORG_ID", &org.id);
    shell.set("CLIENT_ID", text("clientId"));
    shell.set("FOUND", text("token"));
    assert_eq!(shell.run("printf '%s\\n' \"$FOUND\" > found.txt").code, 0);
    let ran = shell.run_sample(PAGE, "a found token");
    for part in
        ["alice", "team:shop", "retail", &format!("{}/orgs/retail/tokens/", world.mount).replace(&world.mount, "astra")]
    {
        assert!(ran[0].stdout.contains(part), "no {part:?} in {}", ran[0].stdout);
    }
    shell.run_sample(PAGE, "a found token is deleted");
    assert!(world.alive(&org).is_empty());

    let portal = Astra::mint(&world, &org.id, &[built_in_id("Organization Administrator")]);
    redact::hide(&portal.token);
    shell.set("CLIENT_ID", &portal.client_id);
    shell.run_sample(PAGE, "an unknown token");
    shell.run_sample(PAGE, "a root token");
}

#[test]
fn a_looked_up_token_is_in_no_answer_and_in_no_log() {
    let env = vec![("DATASTAX_ASTRA_VAULT_LOG_LEVEL".to_owned(), "trace".to_owned())];
    let options = Options { config: AUDIT, log_level: "trace", env, ..Options::default() };
    let server = Arc::new(Server::dev_with(&options));
    let audit = server.audit();
    let world = World::at_mount(&server, "astra");
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let token = world.get("creds/shop/reader").data()["token"].as_str().expect("a token").to_owned();
    redact::hide(token.as_str());
    let digest = token.rsplit_once(':').expect("a digest").1.to_owned();
    let other = format!("{token}0");
    let unknown = format!("AstraCS:abcdefghijklmnopqrstuvwx:{}", "5e".repeat(32));
    let malformed = unknown.replace("AstraCS:", "AstraCS-");
    let mut answers = String::new();
    for (wanted, known, matches) in
        [(&token, true, json!(true)), (&other, true, json!(false)), (&unknown, false, Value::Null)]
    {
        let answer = world.post("lookup", &json!({"token": wanted, "check_astra": true})).data();
        assert_eq!((&answer["known"], &answer["matches"]), (&json!(known), &matches));
        answers += &answer.to_string();
    }
    answers += &world.post("lookup", &json!({"token": malformed})).fails(400);
    world.fault(AstraFault::before(Kind::status(403, BodyForm::Errors)).route(Route::ListTokens).once());
    let failed = world.post("lookup", &json!({"token": unknown, "check_astra": true})).data();
    assert!(failed["errors"]["shop"].as_str().is_some_and(|error| error.contains("403")), "{failed}");
    answers += &failed.to_string();

    let text = fs::read_to_string(audit).expect("the audit log");
    for (what, text) in [("an answer", &answers), ("the audit log", &text), ("the log", &server.log())] {
        world.assert_no_secret(what, text);
        for secret in [&digest, &"5e".repeat(32)] {
            assert!(!text.contains(secret.as_str()), "{what} holds a token that was looked up");
        }
    }
    let entries = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let of_path = entries.filter(|entry| entry["request"]["path"] == "astra/lookup");
    let hashed = of_path.filter_map(|entry| entry.pointer("/request/data/token")?.as_str().map(str::to_owned));
    let hashed: Vec<String> = hashed.collect();
    assert!(hashed.len() >= 5 && hashed.iter().all(|value| value.starts_with("hmac-sha256:")), "{}", hashed.len());
}
