//! The plugin is killed again and again under load. No answered request is lost.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::{show, size};
use crate::astra::Astra;
use crate::bao::{Server, wait};
use crate::world::{Mode, Org, Token, World};

const CALLERS: usize = 8;

/// The answered requests.
#[derive(Default)]
struct Answered {
    minted: Vec<Token>,
    revoked: BTreeSet<String>,
    /// Client ids whose revocation was not answered with success. The token may be live or deleted.
    unclear: BTreeSet<String>,
}

/// Mints, and revokes each second token, until the end.
fn call(world: &World, org: &Org, caller: usize, over: &AtomicBool, answered: &Mutex<Answered>) {
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let body = json!({"org_id": org.id, "role_name": "reader", "logical_name": format!("t-{caller}-{number}")});
        let reply = world.post("org/token", &body);
        if reply.status != 200 {
            continue;
        }
        let token = Token::of(reply.ok());
        let revoked = (number % 2 == 0).then(|| world.revoke(&token).status);
        let mut answered = answered.lock().expect("no caller panicked");
        match revoked {
            Some(200 | 204) => drop(answered.revoked.insert(token.client_id.clone())),
            Some(_) => drop(answered.unclear.insert(token.client_id.clone())),
            None => {}
        }
        answered.minted.push(token);
    }
}

#[test]
fn no_answered_request_is_lost_when_the_plugin_is_killed_under_load() {
    let kills = size(8, 60);
    let server = Arc::new(Server::dev());
    server.enable("astra");
    let world = World::with_astra(&server, "astra", Astra::builder().orgs(1));
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let (over, answered) = (AtomicBool::new(false), Mutex::new(Answered::default()));
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (world, org, over, answered) = (&world, &org, &over, &answered);
            scope.spawn(move || call(world, org, caller, over, answered));
        }
        // The load meets each new process before the next kill.
        let meet_load = || {
            let count = || answered.lock().expect("no caller panicked").minted.len();
            let so_far = count();
            wait("mints after a kill", Duration::from_secs(60), || (count() >= so_far + 2 * CALLERS).then_some(()));
        };
        for kill in 0..kills {
            meet_load();
            assert!(server.kill_plugins_unnoticed() > 0, "no plugin ran at kill {kill}");
        }
        meet_load();
        over.store(true, Ordering::Relaxed);
    });

    let answered = answered.into_inner().expect("no caller panicked");
    let inventory: BTreeSet<String> = world.keys("org/tokens").into_iter().collect();
    let clear = |token: &&Token| !answered.unclear.contains(&token.client_id);
    let mut lost = Vec::new();
    for token in answered.minted.iter().filter(clear) {
        let id = &token.client_id;
        let (is_revoked, is_alive, is_listed) =
            (answered.revoked.contains(id), world.is_alive(id), inventory.contains(id));
        if is_revoked == is_alive || is_revoked == is_listed {
            lost.push(format!("{id}: revoked {is_revoked}, live in Astra {is_alive}, in the inventory {is_listed}"));
        }
    }
    let (minted, revoked) = (answered.minted.len(), answered.revoked.len());
    let unclear = answered.unclear.len();
    show(&format!("{kills} kills: {minted} mints and {revoked} revocations answered, {unclear} revocations failed"));
    assert!(lost.is_empty(), "of {minted} mints and {revoked} revocations: {lost:#?}");
    assert!(revoked > 0 && minted > revoked + unclear, "{minted} mints, {revoked} revocations");
}
