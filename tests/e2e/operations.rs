//! Runs the transcripts of `docs/operations.md`.

use serde_json::json;

use crate::astra::{Astra, Fault, FieldPolicy, Kind, Route};
use crate::bao::redact;
use crate::docs::Shell;
use crate::world::{Org, Token, World};

/// A mount with a token, and the values of the variables in the transcripts.
struct Scene {
    world: World,
    org: Org,
    token: Token,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let org = world.next_org();
        world.configure(&org, &json!({"logical_name": "retail", "request_timeout": "5s"}));
        world.role(&org, "reader", 3600, 36000);
        let token = world.mint(&org, "reader", "checkout");
        Self { world, org, token }
    }

    /// Runs the commands of a transcript and compares their output.
    #[track_caller]
    fn plays(&self, name: &str) {
        self.plays_of("docs/operations.md", name);
    }

    #[track_caller]
    fn plays_of(&self, document: &str, name: &str) {
        let mut shell = Shell::new(&self.world.server, &self.world.mount, self.world.url());
        shell.set("ORG_ID", &self.org.id);
        shell.set("ROOT_TOKEN", &self.org.root_token);
        shell.set("LEASE_ID", &self.token.lease_id);
        shell.set("CLIENT_ID", &self.token.client_id);
        shell.plays(document, name);
    }
}

#[test]
fn a_full_role_refuses_a_mint() {
    Scene::new().plays("a limit is set");
}

#[test]
fn requests_without_a_call_to_astra_work_while_astra_is_down() {
    let scene = Scene::new();
    scene.world.refuse_connections(true);
    scene.plays("Astra is down");
    assert!(scene.world.lease_exists(&scene.token));
    scene.world.refuse_connections(false);
    scene.plays("Astra is back");
    assert!(scene.world.alive(&scene.org).is_empty());
}

#[test]
fn a_rejected_root_token_can_be_replaced() {
    let mut scene = Scene::new();
    scene.world.delete_token(&scene.org.client_id);
    scene.plays("root token refused");
    let role = crate::astra::built_in_id("Organization Administrator");
    let root = Astra::mint(&scene.world, &scene.org.id, &[role]);
    redact::hide(&root.token);
    scene.org.root_token = root.token;
    scene.plays("root token replaced");
    // The old root token minted this token. The new root token can delete it.
    scene.world.revoke(&scene.token).ok();
    assert!(!scene.world.is_alive(&scene.token.client_id));
}

#[test]
fn a_rotation_deletes_the_old_root_token() {
    let scene = Scene::new();
    scene.plays("root token rotated");
    assert!(!scene.world.is_alive(&scene.org.client_id) && !scene.world.is_alive(&scene.token.client_id));
    let alive = scene.world.live(&scene.org.id);
    let is_root = |description: &Option<String>| description.as_ref().is_some_and(|text| text.contains(" root id="));
    let roots = alive.iter().filter(|token| is_root(&token.description) && token.token_expiry.is_none());
    assert_eq!((alive.len(), roots.count()), (2, 1));
}

#[test]
fn a_mount_can_be_disabled_by_force_while_astra_is_down() {
    let scene = Scene::new();
    scene.world.refuse_connections(true);
    scene.plays("disable with Astra down");
    scene.world.refuse_connections(false);
    // As the document says, the token is alive and has an expiry.
    let left = scene.world.live(&scene.org.id);
    assert_eq!(left.len(), 1);
    assert!(left[0].token_expiry.is_some());
    assert!(left[0].description.as_ref().is_some_and(|text| text.starts_with("vault mount=")));
}

#[test]
fn a_failed_disable_can_be_repeated_when_astra_is_back() {
    let scene = Scene::new();
    scene.world.refuse_connections(true);
    assert!(scene.world.server.delete(&format!("sys/mounts/{}", scene.world.mount)).status >= 400);
    assert_eq!(scene.world.list("configs").status, 404, "the mount answers");
    scene.world.refuse_connections(false);
    scene.plays("disable again");
    assert!(scene.world.alive(&scene.org).is_empty());
}

#[test]
fn description_and_expiry_can_be_turned_off_for_an_org() {
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
fn without_a_description_the_error_says_that_a_token_may_stay() {
    let scene = Scene::new();
    let fields = json!({"org_id": scene.org.id, "description": false});
    scene.world.post("config", &fields).ok();
    scene.world.fault(Fault::after(Kind::Reset).route(Route::CreateToken).once());
    scene.plays("lost without description");
    // Without a description, the engine cannot find this token, so the token stays until it expires.
    let left = scene.world.undelivered(&scene.org.id);
    assert_eq!(left.len(), 1);
    assert!(left[0].token_expiry.is_some());
}

#[test]
fn the_error_says_why_a_lease_is_not_revoked() {
    let mut scene = Scene::new();
    scene.world.refuse_connections(true);
    scene.plays("a lease that is not revoked");
    scene.world.refuse_connections(false);
    scene.plays("an org without a config");
    assert!(!scene.world.is_alive(&scene.token.client_id));

    scene.token = scene.world.mint(&scene.org, "reader", "forgotten");
    scene.world.refuse_connections(true);
    assert!(scene.world.revoke(&scene.token).status >= 400);
    scene.plays("a lease is forgotten");
    assert!(!scene.world.lease_exists(&scene.token));
}

#[test]
fn both_caller_modes_work_as_documented() {
    let scene = Scene::new();
    scene.plays_of("docs/caller-modes.md", "standard mode");
    scene.plays_of("docs/caller-modes.md", "sidecar mode");
    assert_eq!(scene.world.alive(&scene.org).len(), 3);
}

#[test]
fn irrevocable_leases_are_listed() {
    Scene::new().plays("irrevocable leases");
}
