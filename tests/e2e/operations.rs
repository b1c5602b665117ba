//! Runs the samples of `docs/operations.md`.

use serde_json::json;

use crate::astra::{Astra, AstraFault, FieldPolicy, Kind, Route};
use crate::bao::redact;
use crate::docs::Shell;
use crate::world::{Org, Token, World};

/// A mount with a token, and the values of the variables in the samples.
struct SampleMount {
    world: World,
    org: Org,
    token: Token,
}

impl SampleMount {
    fn new() -> Self {
        let world = World::new();
        let org = world.next_org();
        world.configure(&org, &json!({"logical_name": "retail", "request_timeout": "5s"}));
        world.role(&org, "reader", 3600, 36000);
        let token = world.mint(&org, "reader", "checkout");
        Self { world, org, token }
    }

    /// Runs the commands of a sample and compares their output.
    #[track_caller]
    fn run_sample(&self, name: &str) {
        self.run_sample_of("docs/operations.md", name);
    }

    #[track_caller]
    fn run_sample_of(&self, document: &str, name: &str) {
        let mut shell = Shell::new(&self.world.server, &self.world.mount, self.world.url());
        shell.set("ORG_ID", &self.org.id);
        shell.set("ROOT_TOKEN", &self.org.root_token);
        shell.set("LEASE_ID", &self.token.lease_id);
        shell.set("CLIENT_ID", &self.token.client_id);
        shell.run_sample(document, name);
    }
}

#[test]
fn a_full_role_refuses_a_mint() {
    SampleMount::new().run_sample("a limit is set");
}

#[test]
fn requests_without_a_call_to_astra_work_while_astra_is_down() {
    let mount = SampleMount::new();
    mount.world.refuse_connections(true);
    mount.run_sample("Astra is down");
    assert!(mount.world.lease_exists(&mount.token));
    mount.world.refuse_connections(false);
    mount.run_sample("Astra is back");
    assert!(mount.world.alive(&mount.org).is_empty());
}

#[test]
fn a_rejected_root_token_can_be_replaced() {
    let mut mount = SampleMount::new();
    mount.world.delete_token(&mount.org.client_id);
    mount.run_sample("root token rejected");
    let role = crate::astra::built_in_id("Organization Administrator");
    let root = Astra::mint(&mount.world, &mount.org.id, &[role]);
    redact::hide(&root.token);
    mount.org.root_token = root.token;
    mount.run_sample("root token replaced");
    // The old root token minted this token. The new root token can delete it.
    mount.world.revoke(&mount.token).ok();
    assert!(!mount.world.is_alive(&mount.token.client_id));
}

#[test]
fn a_rotation_deletes_the_old_root_token() {
    let mount = SampleMount::new();
    mount.run_sample("root token rotated");
    assert!(!mount.world.is_alive(&mount.org.client_id) && !mount.world.is_alive(&mount.token.client_id));
    let alive = mount.world.live(&mount.org.id);
    let is_root = |description: &Option<String>| description.as_ref().is_some_and(|text| text.ends_with("/ root"));
    let roots = alive.iter().filter(|token| is_root(&token.description) && token.token_expiry.is_none());
    assert_eq!((alive.len(), roots.count()), (2, 1));
}

#[test]
fn a_mount_can_be_disabled_by_force_while_astra_is_down() {
    let mount = SampleMount::new();
    mount.world.refuse_connections(true);
    mount.run_sample("disable with Astra down");
    mount.world.refuse_connections(false);
    // As the document says, the token is alive and has an expiry.
    let left = mount.world.live(&mount.org.id);
    assert_eq!(left.len(), 1);
    assert!(left[0].token_expiry.is_some());
    assert!(left[0].description.as_ref().is_some_and(|text| text.starts_with("vault ")));
}

#[test]
fn a_failed_disable_can_be_repeated_when_astra_is_back() {
    let mount = SampleMount::new();
    mount.world.refuse_connections(true);
    assert!(mount.world.server.delete(&format!("sys/mounts/{}", mount.world.mount)).status >= 400);
    assert_eq!(mount.world.list("configs").status, 404, "the mount still answers");
    mount.world.refuse_connections(false);
    mount.run_sample("disable again");
    assert!(mount.world.alive(&mount.org).is_empty());
}

#[test]
fn description_and_expiry_can_be_turned_off_for_an_org() {
    for (field, name) in [("description", "description rejected"), ("tokenExpiry", "tokenExpiry rejected")] {
        let mount = SampleMount::new();
        mount.world.knobs(|knobs| match field {
            "description" => knobs.description = FieldPolicy::Reject,
            _ => knobs.token_expiry = FieldPolicy::Reject,
        });
        mount.run_sample(name);
        assert_eq!(mount.world.alive(&mount.org).len(), 2, "{field}");
    }
}

#[test]
fn without_a_description_the_error_says_that_a_token_may_stay() {
    let mount = SampleMount::new();
    let fields = json!({"org_id": mount.org.id, "description": false});
    mount.world.post("config", &fields).ok();
    mount.world.fault(AstraFault::after(Kind::Reset).route(Route::CreateToken).once());
    mount.run_sample("lost without description");
    // Without a description, the engine cannot find this token, so the token stays until it expires.
    let left = mount.world.undelivered(&mount.org.id);
    assert_eq!(left.len(), 1);
    assert!(left[0].token_expiry.is_some());
}

#[test]
fn the_error_says_why_a_lease_is_not_revoked() {
    let mut mount = SampleMount::new();
    mount.world.refuse_connections(true);
    mount.run_sample("a lease that is not revoked");
    mount.world.refuse_connections(false);
    mount.run_sample("an org without a config");
    assert!(!mount.world.is_alive(&mount.token.client_id));

    mount.token = mount.world.mint(&mount.org, "reader", "forgotten");
    mount.world.refuse_connections(true);
    assert!(mount.world.revoke(&mount.token).status >= 400);
    mount.run_sample("a lease is forgotten");
    assert!(!mount.world.lease_exists(&mount.token));
}

#[test]
fn both_caller_modes_work_as_documented() {
    let mount = SampleMount::new();
    mount.run_sample_of("docs/caller-modes.md", "standard mode");
    mount.run_sample_of("docs/caller-modes.md", "sidecar mode");
    assert_eq!(mount.world.alive(&mount.org).len(), 3);
}

#[test]
fn irrevocable_leases_are_listed() {
    SampleMount::new().run_sample("irrevocable leases");
}
