//! Static roles: tokens that a schedule replaces, as a user and an agent see them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bao::{Agent, redact};
use crate::world::{Mode, Org, World};

/// Longer than the shortest period, on a busy machine.
const SOON: Duration = Duration::from_secs(150);

/// A mount with the static role `ci` of the org `shop`.
fn shop(settings: &Value) -> (World, Org) {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    world.post("orgs/shop/static-roles/ci", settings).ok();
    (world, org)
}

fn read(world: &World) -> Value {
    let token = world.get("static-creds/shop/ci").data();
    redact::hide(token["token"].as_str().expect("a token"));
    token
}

fn text(answer: &Value, member: &str) -> String {
    answer[member].as_str().expect("a text").to_owned()
}

#[test]
fn a_rotation_leaves_the_old_token_alive_and_a_deletion_none() {
    let (world, org) =
        shop(&json!({"role": "reader", "rotation_period": "1h", "overlap": "10m", "metadata": "owner=ci"}));
    let first = read(&world);
    assert!(world.is_alive(&text(&first, "clientId")));
    world.server.cli(&["write", &world.at("orgs/shop/static-roles/ci"), "rotate=true"]).ok();
    let second = read(&world);
    assert_eq!(second["previous_client_id"], first["clientId"]);
    assert!(["clientId", "previous_client_id"].iter().all(|member| world.is_alive(&text(&second, member))));
    assert!(second["ttl"].as_i64().is_some_and(|ttl| (3500..=3600).contains(&ttl)), "{}", second["ttl"]);

    let record = world.get(&format!("orgs/shop/tokens/{}", text(&second, "clientId"))).data();
    assert_eq!((&record["kind"], &record["static_role"]), (&json!("static"), &json!("ci")));
    let shown = world.get("orgs/shop/static-roles/ci").data();
    world.assert_no_secret("the static role", &shown.to_string());
    world.assert_no_secret("the record", &record.to_string());
    assert!(world.delete(&format!("role?org_id={}&role_name=reader", org.id)).fails(400).contains("\"ci\""));

    // A restart and a new process change nothing.
    world.delete("orgs/shop/static-roles/ci").ok();
    assert!(world.alive(&org).is_empty() && world.get("static-creds/shop/ci").status == 404);
    assert_eq!(world.list("orgs/shop/tokens").status, 404);
}

#[test]
fn an_agent_renders_a_static_role_across_three_rotations_without_a_gap() {
    let (world, org) = shop(&json!({"role": "reader", "rotation_period": "1m", "overlap": "30s"}));
    let path = world.at("static-creds/shop/ci");
    let template =
        format!("{{{{ with secret \"{path}\" }}}}{{{{ .Data.clientId }}}} {{{{ .Data.token }}}}{{{{ end }}}}");
    let agent = Agent::start(&world.server, &[&template]);
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..4 {
        let rendered = agent.rendered(0, SOON, |text| {
            let Some((id, _)) = text.split_once(" AstraCS:") else { return false };
            assert!(world.is_alive(id), "the rendered token is not live");
            !seen.iter().any(|other| other == id)
        });
        seen.push(rendered.split(' ').next().unwrap_or_default().to_owned());
    }
    assert!(agent.runs());
    drop(agent);
    // The current token, and perhaps the one before.
    assert!(world.alive(&org).len() <= 2, "{:?}", world.alive(&org));
}
