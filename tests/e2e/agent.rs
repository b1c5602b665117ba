//! Templates, rendered by a real agent.

use std::time::Duration;

use crate::bao::Agent;
use crate::world::{Mode, World};

/// On a busy machine, enough for an agent to render first, or to get its second token.
const SOON: Duration = Duration::from_secs(60);

fn template(path: &str) -> String {
    format!("{{{{ with secret \"{path}\" }}}}{{{{ .Data.clientId }}}} {{{{ .Data.token }}}}{{{{ end }}}}")
}

fn client_id(rendered: &str) -> String {
    rendered.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn templates_of_one_path_share_a_token_in_sidecar_mode() {
    let world = World::new();
    let org = world.configured("shop", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    let path = template(&world.at(&format!("org/token?org_id={}&role_name=reader&logical_name=cart", org.id)));
    let agent = Agent::start(&world.server, &[&path, &path]);
    let [one, two] = [0, 1].map(|place| client_id(&agent.rendered(place, SOON, |text| text.contains("AstraCS:"))));
    assert_eq!(one, two);
    assert!(world.is_alive(&one));
    // The agent reads the path only once.
    assert_eq!(world.minted(), 1);
}

#[test]
fn templates_of_two_roles_get_two_tokens() {
    for mode in [Mode::Standard, Mode::Sidecar] {
        let world = World::new();
        let org = world.configured("shop", mode);
        for role in ["reader", "writer"] {
            world.role(&org, role, 3600, 36000);
        }
        let body = "{{ .Data.clientId }} {{ .Data.roleName }} {{ .Data.metadata.team }} {{ .Data.token }}";
        let template = |path: &str| format!("{{{{ with secret \"{}\" }}}}{body}{{{{ end }}}}", world.at(path));
        let agent = Agent::start(
            &world.server,
            &[&template("creds/shop/reader?metadata=team%3Dblue"), &template("creds/shop/writer?metadata=team%3Dred")],
        );
        let [reader, writer] = [0, 1].map(|place| agent.rendered(place, SOON, |text| text.contains("AstraCS:")));
        assert!(reader.contains(" reader blue ") && writer.contains(" writer red "), "a template got another token");
        let [one, two] = [&reader, &writer].map(|text| client_id(text));
        assert!(one != two && world.is_alive(&one) && world.is_alive(&two));
        assert_eq!(world.minted(), 2);
    }
}

#[test]
fn an_agent_renders_a_token_with_metadata() {
    let world = World::new();
    let org = world.configured("shop", Mode::Sidecar);
    world.role(&org, "reader", 3600, 36000);
    let by_token = world.at(&format!("org/token?org_id={}&role_name=reader&metadata=team%3Dblue", org.id));
    let body = "{{ .Data.metadata.team }} {{ .Data.token }}";
    let agent = Agent::start(&world.server, &[&format!("{{{{ with secret \"{by_token}\" }}}}{body}{{{{ end }}}}")]);
    let text = agent.rendered(0, SOON, |text| text.contains("AstraCS:"));
    assert!(text.starts_with("blue "), "the template lost the metadata");
    assert_eq!(world.minted(), 1);
}

#[test]
fn an_agent_gets_a_new_token_when_the_lease_expires() {
    let world = World::new();
    let org = world.configured("shop", Mode::Sidecar);
    world.role(&org, "reader", 4, 8);
    let path = world.at(&format!("org/token?org_id={}&role_name=reader", org.id));
    let agent = Agent::start(&world.server, &[&template(&path)]);

    let mut seen: Vec<String> = Vec::new();
    for _ in 0..3 {
        let text = agent.rendered(0, SOON, |text| text.contains("AstraCS:") && !seen.contains(&client_id(text)));
        let id = client_id(&text);
        assert!(world.is_alive(&id), "the agent rendered a deleted token");
        seen.push(id);
    }
    assert!(agent.runs());
    drop(agent);
    // One token for each rendering. One more mint may have been on its way.
    assert!(world.minted() <= 4, "{} tokens for 3 renderings", world.minted());
    let limit = Duration::from_secs(40);
    world.wait_for(limit, |astra| astra.live(&org.id).is_empty());
}
