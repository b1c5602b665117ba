//! A root token that expires, as an operator sees it.

use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::astra::{Astra, Seed};
use crate::bao::{redact, wait};
use crate::docs::Shell;
use crate::world::{Org, TICK, World};

/// A mount whose root token was generated and expires at these times, counted from now.
struct Dated {
    world: World,
    org: Org,
}

impl Dated {
    /// The name of the mount is as long as `astra` in the samples, because the CLI wraps lines.
    fn new(mount: &str, generated: SignedDuration, expires: SignedDuration) -> Self {
        let root = format!("AstraCS:ABcDeFgHiJkLmNoPqRsTuVwX:{}", "0d".repeat(32));
        redact::hide(&root);
        let world = World::named(mount, Astra::builder().org(Seed::new().root_token(root)));
        let org = world.next_org();
        assert!(world.date_token(&org.client_id, generated, expires));
        world.configure(&org, &json!({"logical_name": "retail"}));
        world.role(&org, "reader", 3600, 36000);
        Self { world, org }
    }

    fn run_sample(&self, name: &str) {
        let mut shell = Shell::new(&self.world.server, &self.world.mount, self.world.url());
        shell.set("ORG_ID", &self.org.id);
        shell.set("CLIENT_ID", &self.org.client_id);
        shell.run_sample("docs/operations.md", name);
    }

    fn shown(&self) -> Value {
        self.world.get("orgs/retail").data().clone()
    }
}

fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

#[test]
fn an_operator_is_told_that_a_root_token_expires() {
    let dated = Dated::new("root1", days(-80), days(10) - SignedDuration::from_hours(1));
    dated.run_sample("root token expires");
    assert!(!dated.world.is_alive(&dated.org.client_id));
    let roots = dated.world.live(&dated.org.id);
    let left = roots[0].token_expiry.expect("the new root token expires").duration_since(jiff::Timestamp::now());
    assert!(roots.len() == 1 && days(89) < left && left <= days(90), "{left}");
    dated.world.mint(&dated.org, "reader", "after");
}

#[test]
fn a_rotation_can_be_planned() {
    let dated = Dated::new("root2", days(-1), days(3650));
    dated.run_sample("root token rotated on a schedule");
    assert!(dated.world.is_alive(&dated.org.client_id));
}

#[test]
fn the_server_rotates_a_root_token_before_it_expires() {
    let dated = Dated::new("root3", days(-85), days(5));
    dated.world.post("config", &json!({"org_id": dated.org.id, "rotation_period": "8760h"})).ok();
    wait("the rotation", TICK, || (!dated.world.is_alive(&dated.org.client_id)).then_some(()));
    let shown = dated.shown();
    assert!(shown["last_rotated_at"].is_string() && shown["root_expires_at"].is_string(), "{shown}");
    let roots = dated.world.live(&dated.org.id);
    assert!(roots.len() == 1 && roots[0].description.as_ref().is_some_and(|text| text.ends_with("/ root")));
    dated.world.mint(&dated.org, "reader", "after");
}
