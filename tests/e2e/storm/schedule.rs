//! Work on a schedule in the storm: the rotations of static roles, and the planned rotations of a root token.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::setup::{Place, STEADY, Storm, is_root};

/// The static role of each place.
const STATIC: &str = "ci";

impl Place {
    /// Returns the path of the static role.
    pub(super) fn static_role(&self) -> String {
        format!("{}/orgs/{}/static-roles/{STATIC}", self.mount, self.logical_name())
    }

    /// Returns the path of the current token of the static role.
    pub(super) fn static_creds(&self) -> String {
        format!("{}/static-creds/{}/{STATIC}", self.mount, self.logical_name())
    }
}

impl Storm {
    /// Makes the static roles, before the faults. Each is rotated every minute, and at random.
    pub(super) fn write_static_roles(&self) {
        for place in &self.places {
            let settings = json!({"role": STEADY, "rotation_period": "1m", "overlap": "10s"});
            self.server.post(&place.static_role(), &settings).ok();
        }
    }

    /// Returns the dead current tokens of the static roles, and their tokens in the inventory that are neither the current
    /// token nor the previous one. A static role without a token is a difference, too.
    pub(super) fn wrong_static_tokens(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for place in &self.places {
            // The inventory comes first. After a later rotation, a token in this list is the previous token.
            let path = format!("{}/orgs/{}/tokens", place.mount, place.logical_name());
            let listed = self.server.list(&path).body["data"]["key_info"].clone();
            let role = self.server.get(&place.static_role()).body["data"].clone();
            let current = role["client_id"].as_str().unwrap_or_default();
            if !self.world.is_alive(current) {
                wrong.push(format!("{} {current}", place.static_role()));
            }
            let is_other = |(id, record): &(&String, &Value)| {
                record["static_role"] == STATIC && *id != current && role["previous_client_id"] != id.as_str()
            };
            wrong.extend(listed.as_object().into_iter().flatten().filter(is_other).map(|(id, _)| id.clone()));
        }
        wrong
    }

    /// Deletes the static roles.
    pub(super) fn delete_static_roles(&self) {
        for place in &self.places {
            self.server.delete(&place.static_role()).ok();
        }
    }

    /// Lets the root token that callers rotate expire soon. Returns the write with which the engine learns this. The next tick
    /// then rotates the root token.
    pub(super) fn age_root(&self) -> Value {
        let place = self.rotating_place();
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        for root in self.world.live(&place.org.id).iter().filter(|token| is_root(token)) {
            self.world.date_token(&root.client_id, days(-80), days(5));
        }
        json!({"org_id": place.org.id, "rotation_period": "8760h", "verify_connection": true})
    }

    /// Returns the place whose root token callers rotate.
    pub(super) fn rotating_place(&self) -> &Place {
        self.places.iter().find(|place| place.rotates).expect("a place with rotations")
    }

    /// Returns how often the tick has rotated a root token.
    pub(super) fn planned_rotations(&self) -> usize {
        self.server.log().matches("rotated root token on schedule").count()
    }
}
