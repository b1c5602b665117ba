//! The commands of the README do what it says.

use std::sync::Arc;

use crate::astra::Astra;
use crate::bao::{PLUGIN, Server, redact, sha256};
use crate::world::{ROLE_ID, World};

#[test]
fn six_commands_make_a_token() {
    let readme = include_str!("../../README.md");
    let block = readme.split_once("<!-- tested: six commands -->\n```sh\n").expect("the commands").1;
    let lines: Vec<&str> = block.split_once("```").expect("their end").0.lines().collect();
    assert_eq!(lines.len(), 6);

    let server = Arc::new(Server::dev());
    let world = World::with_astra(&server, "astra", Astra::builder().orgs(1));
    let org = world.next_org();
    let digest = sha256(&server.plugin_dir().join(PLUGIN));
    let mut lease = String::new();
    for line in lines {
        let variables =
            [("$SHA256", &digest), ("$ORG_ID", &org.id), ("$ROOT_TOKEN", &org.root_token), ("$LEASE_ID", &lease)];
        let words = line.replace("$ROLE_ID", ROLE_ID).replace('"', "");
        let words = variables.iter().fold(words, |text, (name, value)| text.replace(name, value));
        let mut words: Vec<&str> = words.split_whitespace().skip(1).collect();
        let url = format!("url={}", world.url());
        if words.contains(&"astra/config") {
            // The one thing that differs from what a reader types: where Astra is.
            words.push(&url);
        }
        let output = server.cli(&words);
        if words.contains(&"astra/org/token") {
            let table = output.table();
            let value = |name: &str| table.iter().find(|(key, _)| key == name).expect("a row of it").1.clone();
            redact::hide(value("token"));
            assert_eq!(world.alive(&org), [value("clientId")]);
            lease = value("lease_id");
        } else {
            output.ok();
        }
    }
    assert_eq!(world.minted(), 1);
    world.wait_for(std::time::Duration::from_secs(30), |astra| astra.live(&org.id).is_empty());
}
