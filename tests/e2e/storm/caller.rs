//! A caller and its requests.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::ledger::{Handed, Ledger, Scope};
use super::setup::{BRIEF, Place, STEADY, Storm};
use crate::bao::Reply;
use crate::world::Mode;

/// In a third of the requests, the client hangs up after this number of milliseconds.
const PATIENCE_MS: std::ops::RangeInclusive<u64> = 5..=80;

/// How many names in each org several callers compete for.
const CONTENDED: usize = 4;

pub(super) struct Caller<'a> {
    pub(super) storm: &'a Storm,
    pub(super) ledger: &'a Ledger,
    pub(super) rng: fastrand::Rng,
    /// Number of this caller.
    pub(super) number: usize,
    /// How many names this caller has invented.
    pub(super) names: usize,
}

impl Caller<'_> {
    /// Sends requests until the end.
    pub(super) fn run(mut self, end: Instant) {
        while Instant::now() < end {
            match self.rng.u32(..1000) {
                0..230 => self.mint_by_write(false),
                230..330 => self.mint_by_write(true),
                330..470 => self.mint_by_read(),
                470..520 => self.read_by_client_id(),
                520..555 => self.read_by_name(),
                555..575 => self.read_static(),
                575..590 => self.look_up(),
                590..618 => self.list(),
                618..630 => self.tidy(),
                630..640 => self.rotate(),
                640..642 => self.plan_rotation(),
                642..652 => self.rotate_static(),
                652..658 => self.change_static(),
                658..730 => self.renew(),
                730..810 => self.revoke(true),
                810..880 => self.revoke(false),
                880..920 => self.delete_by_client_id(),
                920..965 => self.delete_by_name(),
                965..980 => self.write_role(),
                980..994 => self.write_config(),
                _ => self.revoke_prefix(),
            }
        }
    }

    fn mint_by_write(&mut self, contended: bool) {
        let place = self.place(Mode::Standard);
        let role = if self.rng.u8(..8) == 0 { BRIEF } else { STEADY };
        let name = if contended { self.contended() } else { self.fresh_name() };
        let body = json!({
            "org_id": place.org.id, "role_name": role, "logical_name": name, "metadata": {"caller": self.number.to_string()},
        });
        let what = if contended { "mint contended" } else { "mint" };
        self.mint(what, "POST", format!("{}/org/token", place.mount), &body, &place, role, &name);
    }

    fn mint_by_read(&mut self) {
        let place = self.place(Mode::Sidecar);
        let role = if self.rng.u8(..8) == 0 { BRIEF } else { STEADY };
        let name = self.fresh_name();
        let path = format!("{}/org/token?org_id={}&role_name={role}&logical_name={name}", place.mount, place.org.id);
        self.mint("mint by read", "GET", path, &Value::Null, &place, role, &name);
    }

    #[expect(clippy::too_many_arguments, reason = "both ways to mint differ in all of them")]
    fn mint(
        &mut self,
        what: &'static str,
        method: &str,
        path: String,
        body: &Value,
        place: &Place,
        role: &'static str,
        name: &str,
    ) {
        let asked = Instant::now();
        let Some(reply) = self.ask(what, method, &path, body) else { return self.ledger.give_up(name) };
        if reply.status != 200 {
            return;
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let data = &reply.body["data"];
        self.ledger.add_token(Handed {
            client_id: text(&data["clientId"]),
            lease_id: text(&reply.body["lease_id"]),
            token: text(&data["token"]),
            mount: place.mount.clone(),
            org_id: place.org.id.clone(),
            role,
            name: name.to_owned(),
            brief: role == BRIEF,
            asked,
            answered: Instant::now(),
        });
    }

    fn read_by_client_id(&mut self) {
        let Some(token) = self.standard_token() else { return };
        let path = format!("{}/org/token?org_id={}&client_id={}", token.mount, token.org_id, token.client_id);
        let Some(reply) = self.ask("read", "GET", &path, &Value::Null) else { return };
        if reply.status == 200 && reply.body["data"]["token"] != token.token.as_str() {
            self.ledger.add_fault(format!("the read of {} returned another token", token.client_id));
        }
    }

    fn read_by_name(&mut self) {
        let place = self.place(Mode::Standard);
        let (name, org) = (self.contended(), &place.org.id);
        let path = format!("{}/org/token?org_id={org}&role_name={STEADY}&logical_name={name}", place.mount);
        self.ask("read by name", "GET", &path, &Value::Null);
    }

    fn list(&mut self) {
        let place = self.any_place();
        let path = match self.rng.u8(..5) {
            0 => format!("{}/configs", place.mount),
            1 => format!("{}/roles", place.mount),
            2 => format!("{}/org/tokens?org_id={}", place.mount, place.org.id),
            3 => format!("{}/org/tokens?limit=10", place.mount),
            _ => format!("{}/org/tokens", place.mount),
        };
        self.ask("list", "LIST", &path, &Value::Null);
    }

    fn renew(&mut self) {
        let Some(token) = self.ledger.pick(&mut self.rng) else { return };
        // A brief lease is renewed without an increment, so that the lease still expires during the storm.
        let increment = if self.rng.bool() || token.brief { 0 } else { self.rng.u32(3000..4000) };
        self.ask("renew", "POST", "sys/leases/renew", &json!({"lease_id": token.lease_id, "increment": increment}));
    }

    fn revoke(&mut self, sync: bool) {
        let Some(token) = self.ledger.pick(&mut self.rng) else { return };
        let asked = Instant::now();
        let body = json!({"lease_id": token.lease_id, "sync": sync});
        let what = if sync { "revoke" } else { "revoke later" };
        let reply = self.ask(what, "POST", "sys/leases/revoke", &body);
        self.record_end(Scope::Token(token.client_id), asked, reply);
    }

    fn delete_by_client_id(&mut self) {
        let Some(token) = self.ledger.pick(&mut self.rng) else { return };
        let asked = Instant::now();
        let path = format!("{}/org/token?org_id={}&client_id={}", token.mount, token.org_id, token.client_id);
        let reply = self.ask("delete", "DELETE", &path, &Value::Null);
        self.record_end(Scope::Token(token.client_id), asked, reply);
    }

    fn delete_by_name(&mut self) {
        let (place, name) = (self.place(Mode::Standard), self.contended());
        let asked = Instant::now();
        let (mount, org_id) = (place.mount, place.org.id);
        let path = format!("{mount}/org/token?org_id={org_id}&role_name={STEADY}&logical_name={name}");
        let reply = self.ask("delete by name", "DELETE", &path, &Value::Null);
        self.record_end(Scope::Named { org_id, mount, role: STEADY, name }, asked, reply);
    }

    fn write_role(&mut self) {
        let place = self.any_place();
        let body = if self.rng.u8(..4) == 0 {
            place.role(BRIEF, self.rng.u32(3..6), 8)
        } else {
            place.role(STEADY, self.rng.u32(3000..4000), 36000)
        };
        self.ask("write role", "POST", &format!("{}/role", place.mount), &body);
    }

    fn write_config(&mut self) {
        let place = self.any_place();
        let variant = self.rng.u8(..16);
        let body = if place.rotates { place.change(variant) } else { place.config(self.storm.world.url(), variant) };
        self.ask("write config", "POST", &format!("{}/config", place.mount), &body);
    }

    fn rotate(&mut self) {
        let place = self.storm.rotating_place();
        self.ask("rotate", "POST", &format!("{}/config/rotate-root", place.mount), &json!({"org_id": place.org.id}));
    }

    fn plan_rotation(&mut self) {
        let body = self.storm.age_root();
        self.ask("plan rotation", "POST", &format!("{}/config", self.storm.rotating_place().mount), &body);
    }

    fn read_static(&mut self) {
        let place = self.any_place();
        let Some(reply) = self.ask("read static", "GET", &place.static_creds(), &Value::Null) else { return };
        if reply.status != 200 {
            return;
        }
        let data = &reply.body["data"];
        let text = |member: &str| data[member].as_str().unwrap_or_default().to_owned();
        // A replaced token stays live for the overlap.
        if !self.storm.world.is_alive(&text("clientId")) {
            self.ledger.add_fault(format!("the current token {} of a static role is not live", text("clientId")));
        }
        self.ledger.add_read(text("clientId"), text("token"));
    }

    fn rotate_static(&mut self) {
        let path = self.any_place().static_role();
        self.ask("rotate static", "POST", &path, &json!({"rotate": true}));
    }

    fn change_static(&mut self) {
        let (path, period) = (self.any_place().static_role(), self.rng.u32(60..90));
        self.ask("write static", "POST", &path, &json!({"rotation_period": period}));
    }

    fn look_up(&mut self) {
        let Some(token) = self.ledger.pick(&mut self.rng) else { return };
        let body = if self.rng.bool() { json!({"token": token.token}) } else { json!({"client_id": token.client_id}) };
        let Some(reply) = self.ask("lookup", "POST", &format!("{}/lookup", token.mount), &body) else { return };
        let data = &reply.body["data"];
        if reply.status == 200 && data["known"] == true && data["role_name"] != token.role {
            self.ledger.add_fault(format!("the look-up of {} found another token", token.client_id));
        }
    }

    fn any_place(&mut self) -> Place {
        self.rng.choice(&self.storm.places).expect("places").clone()
    }

    fn tidy(&mut self) {
        let place = self.any_place();
        let buffer = *self.rng.choice(&["0", "1s", "2h"]).expect("a choice");
        let (what, dry_run) = if self.rng.u8(..3) == 0 { ("tidy dry", true) } else { ("tidy", false) };
        let body = json!({"safety_buffer": buffer, "dry_run": dry_run});
        self.ask(what, "POST", &format!("{}/orgs/{}/tidy", place.mount, place.logical_name()), &body);
    }

    fn revoke_prefix(&mut self) {
        let (mount, sync) = (self.storm.squall().to_owned(), self.rng.bool());
        let asked = Instant::now();
        let path = format!("sys/leases/revoke-prefix/{mount}/org/token");
        let what = if sync { "revoke prefix" } else { "revoke prefix later" };
        let reply = self.ask(what, "POST", &path, &json!({"sync": sync}));
        self.record_end(Scope::Mount(mount), asked, reply);
    }

    /// Sends a request. Returns `None` if the client hung up, because the result is then unknown.
    fn ask(&mut self, what: &'static str, method: &str, path: &str, body: &Value) -> Option<Reply> {
        let server = &self.storm.server;
        if self.rng.u8(..3) == 0 {
            let patience = Duration::from_millis(self.rng.u64(PATIENCE_MS));
            let early = server.hang_up(method, path, body, patience);
            self.ledger.count(what, if early { "hung up" } else { "unread" });
            return None;
        }
        let reply = server.http(method, path, body);
        self.ledger.count(what, reply.status.to_string());
        if reply.errors().contains("AstraCS:") || reply.warnings().contains("AstraCS:") {
            self.ledger.add_fault(format!("the error text of {what:?} holds a token"));
        }
        Some(reply)
    }

    fn record_end(&self, scope: Scope, asked: Instant, reply: Option<Reply>) {
        let confirmed = reply.is_some_and(|reply| (200..300).contains(&reply.status));
        self.ledger.end(scope, asked, confirmed);
    }

    fn place(&mut self, mode: Mode) -> Place {
        let places: Vec<&Place> = self.storm.places.iter().filter(|place| place.mode == mode).collect();
        (*self.rng.choice(places).expect("a place of each mode")).clone()
    }

    fn standard_token(&mut self) -> Option<Handed> {
        self.ledger.pick(&mut self.rng).filter(|token| !self.storm.mints_by_read(&token.org_id))
    }

    fn contended(&mut self) -> String {
        format!("wanted-{}", self.rng.usize(..CONTENDED))
    }

    fn fresh_name(&mut self) -> String {
        self.names += 1;
        format!("own-{}-{}", self.number, self.names)
    }
}
