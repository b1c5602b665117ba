//! The setup of the storm: one Astra with four orgs, and a server with two mounts of the plugin.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::astra::{Astra, DeleteSuccess, TokenView, UnknownId, built_in_id};
use crate::bao::{Server, wait};
use crate::world::{Mode, Org, ROLE_ID, World};

/// The mount whose leases are sometimes revoked all at once.
const SQUALL: &str = "squall";

/// The role with long leases.
pub(super) const STEADY: &str = "steady";

/// The role whose leases expire during the storm.
pub(super) const BRIEF: &str = "brief";

/// An org in a mount.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) mount: String,
    pub(super) org: Org,
    pub(super) mode: Mode,
    /// Number of the org.
    number: usize,
    /// Whether callers rotate the root token of the org. Its first root token is then soon dead.
    pub(super) rotates: bool,
}

impl Place {
    /// Returns a body for the config. The settings vary, but have no effect on tokens.
    pub(super) fn config(&self, url: &str, variant: u8) -> Value {
        let mut body = self.change(variant);
        body["astra_token"] = json!(self.org.root_token);
        body["url"] = json!(if variant & 1 == 0 { url.to_owned() } else { format!("{url}/v2/") });
        body
    }

    /// Returns a body for a change of the config that keeps the root token.
    pub(super) fn change(&self, variant: u8) -> Value {
        json!({
            "org_id": self.org.id,
            "request_timeout": if variant & 2 == 0 { "1s" } else { "2s" },
            "token_expiry": variant & 4 == 0,
            "logical_name": self.logical_name(),
            "caller_mode": self.mode.name(),
            "verify_connection": variant & 8 == 0,
        })
    }

    /// Returns the name of the org in paths.
    pub(super) fn logical_name(&self) -> String {
        format!("org-{}", self.number)
    }

    /// Returns a body for a role.
    pub(super) fn role(&self, name: &str, ttl: u32, max_ttl: u32) -> Value {
        json!({"org_id": self.org.id, "role_name": name, "role_id": ROLE_ID, "ttl": ttl, "max_ttl": max_ttl})
    }
}

pub(super) struct Storm {
    pub(super) server: Arc<Server>,
    pub(super) world: World,
    pub(super) places: Vec<Place>,
    /// The ids of the mounts, which begin the keys of their entries in the storage of the server.
    uuids: Vec<String>,
}

pub(super) fn is_root(token: &TokenView) -> bool {
    token.roles == [built_in_id("Organization Administrator")]
}

impl Storm {
    /// Sets up configs and roles before the faults. The generator chooses the variants of Astra's behaviour.
    pub(super) fn new(server: Server, rng: &mut fastrand::Rng) -> Self {
        let server = Arc::new(server);
        server.enable("storm");
        server.enable(SQUALL);
        let successes =
            [DeleteSuccess::NoContent, DeleteSuccess::OkEmpty, DeleteSuccess::OkJson, DeleteSuccess::Accepted];
        let unknown = [
            UnknownId::NotFoundErrors,
            UnknownId::NotFoundText,
            UnknownId::BadRequestString,
            UnknownId::NoContent,
            UnknownId::ServerErrorString,
        ];
        let astra = Astra::builder().orgs(4).knobs(|knobs| {
            // With this latency, clients that hang up early interrupt running requests.
            knobs.latency_ms = Some((2, 30));
            knobs.delete_success = successes[rng.usize(..successes.len())];
            knobs.unknown_id = unknown[rng.usize(..unknown.len())];
            knobs.list_shuffle = rng.bool();
            knobs.chunked = rng.bool();
            knobs.max_requests_per_connection = rng.bool().then_some(7);
        });
        let world = World::with_astra(&server, "storm", astra);
        let modes = [Mode::Standard, Mode::Standard, Mode::Sidecar, Mode::Standard];
        let place = |mount: &str, number: usize| Place {
            mount: mount.into(),
            org: world.orgs()[number].clone(),
            mode: modes[number],
            number,
            rotates: number == 3,
        };
        let places: Vec<Place> =
            vec![place("storm", 0), place("storm", 1), place("storm", 2), place("storm", 3), place(SQUALL, 0)];
        for place in &places {
            server.post(&format!("{}/config", place.mount), &place.config(world.url(), 0)).ok();
            server.post(&format!("{}/role", place.mount), &place.role(STEADY, 3600, 36000)).ok();
            server.post(&format!("{}/role", place.mount), &place.role(BRIEF, 4, 8)).ok();
        }
        let uuid = |mount: &str| server.get(&format!("sys/mounts/{mount}")).data()["uuid"].as_str().map(str::to_owned);
        let uuids = ["storm", SQUALL].iter().map(|mount| uuid(mount).expect("the id of a mount")).collect();
        let storm = Self { server, world, places, uuids };
        storm.write_static_roles();
        storm
    }

    /// Returns the mount whose leases may be revoked all at once.
    pub(super) fn squall(&self) -> &str {
        SQUALL
    }

    fn mounts(&self) -> [&str; 2] {
        [&self.world.mount, SQUALL]
    }

    pub(super) fn mints_by_read(&self, org_id: &str) -> bool {
        self.places.iter().any(|place| place.org.id == org_id && place.mode == Mode::Sidecar)
    }

    /// Returns the client ids of live tokens in Astra, without root tokens.
    pub(super) fn alive(&self) -> BTreeSet<String> {
        let minted = self.world.orgs().iter().flat_map(|org| self.world.live(&org.id));
        minted.filter(|token| !is_root(token)).map(|token| token.client_id).collect()
    }

    /// Returns the client ids of live root tokens that no config holds. If a config holds a dead root token, returns the
    /// part of the client id that the config shows.
    pub(super) fn spare_roots(&self) -> Vec<String> {
        let mut spare = Vec::new();
        for place in self.places.iter().filter(|place| place.rotates) {
            let config = self.server.get(&format!("{}/config?org_id={}", place.mount, place.org.id)).data();
            let shown = config["astra_token"].as_str().and_then(|text| text.strip_prefix("AstraCS:"));
            let held = shown.expect("a masked root token").trim_end_matches('.').to_owned();
            let live = self.world.tokens(&place.org.id).into_iter().filter(|token| token.live && is_root(token));
            let (kept, others): (Vec<_>, Vec<_>) =
                live.map(|token| token.client_id).partition(|id| id.starts_with(&held));
            spare.extend(others);
            spare.extend(kept.is_empty().then_some(held));
        }
        spare
    }

    /// Returns the keys of the entries in the write-ahead logs.
    pub(super) fn wal_entries(&self) -> Vec<String> {
        self.uuids.iter().flat_map(|uuid| self.server.keys(&format!("sys/raw/logical/{uuid}/wal/"))).collect()
    }

    /// Waits until all mounts answer. A request that meets a plugin which was just killed fails.
    pub(super) fn until_reachable(&self) {
        for mount in self.mounts() {
            let answers =
                || [200, 404].contains(&self.server.list(&format!("{mount}/org/tokens")).status).then_some(());
            wait("the mount to answer", Duration::from_secs(30), answers);
        }
    }

    /// Returns the client ids in Vault's inventory.
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.mounts().iter().flat_map(|mount| self.server.keys(&format!("{mount}/org/tokens"))).collect()
    }

    /// Returns the logical name of a token in Vault's inventory.
    pub(super) fn name_of(&self, client_id: &str) -> String {
        let shown = |mount: &&str| {
            let list = self.server.list(&format!("{mount}/org/tokens"));
            list.body["data"]["key_info"][client_id]["logical_name"].as_str().map(str::to_owned)
        };
        self.mounts().iter().find_map(shown).unwrap_or_default()
    }

    /// Returns the irrevocable leases, and why the host gave them up.
    pub(super) fn irrevocable(&self) -> Vec<String> {
        let listed = self.server.get("sys/leases?type=irrevocable&include_child_namespaces=true&limit=none").data();
        let leases = listed["leases"].as_array().cloned().unwrap_or_default();
        let count = listed["lease_count"].as_u64().expect("a count of leases");
        assert_eq!(leases.len() as u64, count, "{listed}");
        leases.iter().map(ToString::to_string).collect()
    }

    /// Returns the number of leases.
    pub(super) fn leases(&self) -> usize {
        let folder = |mount: &&str| self.server.keys(&format!("sys/leases/lookup/{mount}/org/token/")).len();
        self.mounts().iter().map(folder).sum()
    }

    /// Revokes every lease.
    pub(super) fn revoke_all(&self, limit: Duration) {
        for mount in self.mounts() {
            self.server.post(&format!("sys/leases/revoke-prefix/{mount}/org/token"), &json!({"sync": false})).ok();
        }
        wait("all leases to be revoked", limit, || {
            assert_eq!(self.irrevocable(), [""; 0], "some leases became irrevocable");
            (self.leases() == 0).then_some(())
        });
    }
}
