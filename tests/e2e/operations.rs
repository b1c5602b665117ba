//! The transcripts in `docs/operations.md` are what really happens.

use serde_json::json;

use crate::astra::{Astra, Fault, FieldPolicy, Kind, Route};
use crate::bao::redact;
use crate::world::{Org, Token, World};

/// A mount with a token, and what the transcripts have variables for.
struct Scene {
    world: World,
    org: Org,
    token: Token,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let org = world.next_org();
        world.configure(&org, &json!({"logical_name": "retail", "request_timeout": "1s"}));
        world.role(&org, "reader", 3600, 36000);
        let token = world.mint(&org, "reader", "checkout");
        Self { world, org, token }
    }

    /// Runs the commands of a transcript and compares what they print; `…` stands for anything.
    #[track_caller]
    fn plays(&self, name: &str) {
        for (command, expected) in transcript(name) {
            let words = self.words(command);
            let output = self.world.server.cli(&words.iter().map(String::as_str).collect::<Vec<_>>());
            let told = format!("{} {}", output.stdout, output.stderr).replace(&self.world.mount, "astra");
            let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
            let mut rest = told.as_str();
            for part in expected.split('…').map(str::trim).filter(|part| !part.is_empty()) {
                let end = rest.find(part).map(|start| start + part.len());
                assert!(end.is_some(), "{command}: not in its place: {part:?}\n{output}");
                rest = &rest[end.unwrap_or_default()..];
            }
            let fails = expected.starts_with("Error");
            assert_eq!(output.status != 0, fails, "{command}\n{output}");
        }
    }

    /// Returns the words of a command behind the program's name, for this mount and this Astra.
    fn words(&self, command: &str) -> Vec<String> {
        let variables = [
            ("$ORG_ID", &self.org.id),
            ("$ROOT_TOKEN", &self.org.root_token),
            ("$LEASE_ID", &self.token.lease_id),
            ("$CLIENT_ID", &self.token.client_id),
        ];
        let word = |word: &str| match word.strip_prefix("astra") {
            Some(path) if path.is_empty() || path.starts_with('/') => format!("{}{path}", self.world.mount),
            _ => variables.iter().fold(word.to_owned(), |word, (name, value)| word.replace(name, value)),
        };
        command.replace('"', "").split_whitespace().skip(1).map(word).collect()
    }
}

/// Returns the commands of a transcript, each with what it prints on one line.
fn transcript(name: &str) -> Vec<(&'static str, String)> {
    let text = include_str!("../../docs/operations.md");
    let block = text.split_once(&format!("<!-- tested: {name} -->\n```console\n")).expect("the transcript").1;
    let mut commands: Vec<(&str, String)> = Vec::new();
    for line in block.split_once("```").expect("its end").0.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => commands.push((command, String::new())),
            None => {
                let (_, expected) = commands.last_mut().expect("a command first");
                expected.push_str(line.trim());
                expected.push(' ');
            }
        }
    }
    commands
}

#[test]
fn a_role_with_a_limit_gives_no_token_more() {
    Scene::new().plays("a limit is set");
}

#[test]
fn what_needs_no_astra_goes_on_while_it_is_down() {
    let scene = Scene::new();
    scene.world.refuse_connections(true);
    scene.plays("Astra is down");
    assert!(scene.world.lease_exists(&scene.token));
    scene.world.refuse_connections(false);
    scene.plays("Astra is back");
    assert!(scene.world.alive(&scene.org).is_empty());
}

#[test]
fn a_refused_root_token_is_replaced() {
    let mut scene = Scene::new();
    scene.world.delete_token(&scene.org.client_id);
    scene.plays("root token refused");
    let role = crate::astra::built_in_id("Organization Administrator");
    let root = Astra::mint(&scene.world, &scene.org.id, &[role]);
    redact::hide(&root.token);
    scene.org.root_token = root.token;
    scene.plays("root token replaced");
    // The token that the old root token made is revoked with the new one.
    scene.world.revoke(&scene.token).ok();
    assert!(!scene.world.is_alive(&scene.token.client_id));
}

#[test]
fn a_root_token_is_rotated() {
    let scene = Scene::new();
    scene.plays("root token rotated");
    assert!(!scene.world.is_alive(&scene.org.client_id) && !scene.world.is_alive(&scene.token.client_id));
    let alive = scene.world.live(&scene.org.id);
    let is_root = |description: &Option<String>| description.as_ref().is_some_and(|text| text.contains(" root id="));
    let roots = alive.iter().filter(|token| is_root(&token.description) && token.token_expiry.is_none());
    assert_eq!((alive.len(), roots.count()), (2, 1));
}

#[test]
fn a_mount_is_disabled_by_force_while_astra_is_down() {
    let scene = Scene::new();
    scene.world.refuse_connections(true);
    scene.plays("disable with Astra down");
    scene.world.refuse_connections(false);
    // What the text says of it: alive, and with an end of its own.
    let left = scene.world.live(&scene.org.id);
    assert_eq!(left.len(), 1);
    assert!(left[0].token_expiry.is_some());
    assert!(left[0].description.as_ref().is_some_and(|text| text.starts_with("vault mount=")));
}

#[test]
fn a_disable_that_failed_goes_on_when_astra_is_back() {
    let scene = Scene::new();
    scene.world.refuse_connections(true);
    assert!(scene.world.server.delete(&format!("sys/mounts/{}", scene.world.mount)).status >= 400);
    assert_eq!(scene.world.list("configs").status, 404, "the mount answers");
    scene.world.refuse_connections(false);
    scene.plays("disable again");
    assert!(scene.world.alive(&scene.org).is_empty());
}

#[test]
fn what_an_org_does_not_take_is_turned_off() {
    for (field, name) in [("description", "description refused"), ("tokenExpiry", "tokenExpiry refused")] {
        let scene = Scene::new();
        scene.world.knobs(|knobs| match field {
            "description" => knobs.description = FieldPolicy::Refuse,
            _ => knobs.token_expiry = FieldPolicy::Refuse,
        });
        scene.plays(name);
        assert_eq!(scene.world.alive(&scene.org).len(), 2, "{field}");
    }
}

#[test]
fn without_a_description_a_lost_answer_is_told_as_such() {
    let scene = Scene::new();
    let fields = json!({"org_id": scene.org.id, "description": false});
    scene.world.post("config", &fields).ok();
    scene.world.fault(Fault::after(Kind::Reset).route(Route::CreateToken).once());
    scene.plays("lost without description");
    // It is the one case in which a token is left; it dies by itself.
    let left = scene.world.undelivered(&scene.org.id);
    assert_eq!(left.len(), 1);
    assert!(left[0].token_expiry.is_some());
}

#[test]
fn leases_that_were_given_up_are_listed() {
    Scene::new().plays("irrevocable leases");
}
