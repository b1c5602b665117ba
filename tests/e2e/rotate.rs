//! Rotates root tokens while callers mint.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::astra::{AstraFault, Kind, Route, built_in_id};
use crate::bao::{Reply, wait};
use crate::world::{Mode, Org, TICK, Token, World};

const ROTATIONS: usize = 100;
const CALLERS: usize = 8;

impl World {
    fn rotate(&self, org: &Org) -> Reply {
        self.post("config/rotate-root", &json!({"org_id": org.id}))
    }

    /// Client ids of the live root tokens.
    fn roots(&self, org: &Org) -> BTreeSet<String> {
        let role = built_in_id("Organization Administrator");
        let tokens = self.tokens(&org.id).into_iter();
        tokens.filter(|token| token.live && token.roles == [role]).map(|token| token.client_id).collect()
    }

    /// Checks that there is one root token, that the config shows it, and that the next mint uses it.
    #[track_caller]
    fn check_root(&self, org: &Org) -> String {
        let roots = self.roots(org);
        assert_eq!(roots.len(), 1, "live root tokens: {roots:?}");
        let root = roots.into_iter().next().unwrap_or_default();
        let shown = self.get(&format!("config?org_id={}", org.id)).data()["astra_token"].clone();
        assert_eq!(shown, format!("AstraCS:{}...", &root[..7]));
        let token = self.mint(org, "reader", "probe");
        assert_eq!(self.creator(&token.client_id), root);
        self.revoke(&token).ok();
        root
    }
}

#[test]
fn a_rotation_with_the_cli_prints_no_token() {
    let world = World::new();
    let org = world.configured("shop", Mode::Standard);
    world.role(&org, "reader", 3600, 36000);
    let old = world.mint(&org, "reader", "before");
    let printed = world.server.cli(&["write", &world.at("config/rotate-root"), &format!("org_id={}", org.id)]).ok();
    let root = world.check_root(&org);
    assert!(root != org.client_id && printed.contains(&root), "{printed}");
    world.assert_no_secret("the answer", &printed);
    // The new root token can delete a token that the old root token minted.
    world.revoke(&old).ok();
    assert!(world.alive(&org) == [root.clone()]);
    let description = world.token(&root).and_then(|token| token.description).unwrap_or_default();
    let is_of_mount = description.ends_with(&format!(" mount={}/ root", world.mount));
    assert!(description.starts_with("vault ") && is_of_mount, "{description}");
    // The old root token is deleted, so a write of the old root token fails.
    let back = json!({"org_id": org.id, "astra_token": org.root_token});
    assert!(world.post("config", &back).fails(400).contains("astra_token"));
}

#[test]
fn a_rejected_rotation_names_the_missing_permission() {
    let world = World::new();
    for (action, missing) in [("org-token-write", "org-token-read"), ("org-token-read", "org-token-write")] {
        let org = world.next_org();
        let role = world.create_role(&org.id, "limited", &[action]);
        let limited = crate::astra::Astra::mint(&world, &org.id, &[&role]);
        crate::bao::redact::hide(&limited.token);
        let org = Org { root_token: limited.token, client_id: limited.client_id, ..org };
        world.configure(&org, &json!({"verify_connection": false}));
        let text = world.rotate(&org).fails(403);
        assert!(text.contains(missing), "{text}");
        assert!(world.is_alive(&org.client_id) && world.alive(&org).is_empty());
    }
}

/// Returns the fault for every tenth rotation.
fn trouble(round: usize, root: &str) -> Option<AstraFault> {
    let unavailable = || Kind::status(503, crate::astra::BodyForm::Text);
    Some(match round {
        10 => AstraFault::after(Kind::Reset).route(Route::CreateToken).once(),
        20 => AstraFault::before(unavailable()).route(Route::DeleteToken).target(root).times(4),
        30 => AstraFault::after(unavailable()).route(Route::DeleteToken).target(root).times(4),
        40 => AstraFault::before(Kind::null_401()).route(Route::CurrentOrg).once(),
        50 => AstraFault::before(unavailable()).route(Route::CurrentOrg).times(4),
        60 => AstraFault::before(Kind::HangBeforeHeaders { for_ms: None }).route(Route::CurrentOrg).once(),
        70 => AstraFault::before(unavailable()).route(Route::ListTokens).times(4),
        80 => AstraFault::before(Kind::Reset).route(Route::CreateToken).once(),
        90 => AstraFault::after(Kind::status(500, crate::astra::BodyForm::Text)).route(Route::CreateToken).once(),
        100 => AstraFault::before(Kind::Reset).route(Route::DeleteToken).target(root).once(),
        _ => return None,
    })
}

#[test]
fn no_mint_fails_because_of_a_rotation() {
    let world = World::new();
    let org = world.next_org();
    world.configure(&org, &json!({"logical_name": "shop", "request_timeout": "2s"}));
    world.role(&org, "reader", 3600, 36000);
    // Astra rejects a new token for a moment.
    world.knobs(|knobs| knobs.auth_delay_after_create_ms = 30);
    let (going, done) = (AtomicBool::new(true), AtomicUsize::new(0));
    let (replies, kept) = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (world, org, going, done) = (&world, &org, &going, &done);
                scope.spawn(move || call(world, org, caller, going, done))
            })
            .collect();
        let mut made = BTreeSet::new();
        for round in 1..=ROTATIONS {
            // Waits, so that mints happen between rotations.
            let before = done.load(Ordering::SeqCst);
            rotate_once(&world, &org, round, &mut made);
            wait("a mint between two rotations", Duration::from_secs(20), || {
                (done.load(Ordering::SeqCst) > before).then_some(())
            });
        }
        going.store(false, Ordering::SeqCst);
        assert!(made.len() >= ROTATIONS - 8, "only {} rotations succeeded", made.len());
        let (mut failed, mut kept) = (Vec::new(), Vec::new());
        for caller in callers {
            let (its_failed, its_kept) = caller.join().expect("the caller");
            failed.extend(its_failed);
            kept.extend(its_kept);
        }
        (failed, kept)
    });
    // A fault for a rotation can also affect a mint. But no mint fails because of a missing root token.
    let told: Vec<String> = replies.iter().map(|reply| format!("{} {}", reply.status, reply.errors())).collect();
    assert!(replies.len() <= 3 && replies.iter().all(|reply| reply.status == 502), "{told:?}");

    let mut expected: BTreeSet<String> = kept.iter().map(|token| token.client_id.clone()).collect();
    wait("one root token to be left", TICK, || (world.roots(&org).len() == 1).then_some(()));
    expected.extend(world.roots(&org));
    wait("the mints that failed to be undone", TICK, || {
        (world.alive(&org).into_iter().collect::<BTreeSet<_>>() == expected).then_some(())
    });
    world.check_root(&org);
    for token in &kept {
        world.revoke(token).ok();
    }
    let root = world.check_root(&org);
    assert_eq!(world.alive(&org), [root]);
}

/// Rotates once and checks the answer. Adds the new root token to `made`, if there is one.
fn rotate_once(world: &World, org: &Org, round: usize, made: &mut BTreeSet<String>) {
    let shown = world.get(&format!("config?org_id={}", org.id)).data()["astra_token"].clone();
    let prefix = shown
        .as_str()
        .and_then(|text| text.strip_prefix("AstraCS:")?.strip_suffix("..."))
        .expect("a masked root token");
    let roots = world.roots(org);
    let root = roots.iter().find(|id| id.starts_with(prefix)).expect("the config holds a live root token");
    let fault = trouble(round, root).map(|fault| world.fault(fault));
    let reply = world.rotate(org);
    if let Some(fault) = fault {
        world.clear_fault(fault);
    }
    let warnings = reply.warnings();
    if reply.status == 200 {
        made.insert(reply.data()["client_id"].as_str().expect("a client id").to_owned());
        assert!(warnings.is_empty() || (fault.is_some() && warnings.contains(root.as_str())), "{round}: {warnings}");
    } else {
        assert!(fault.is_some(), "rotation {round}: {reply}");
    }
}

/// Mints and revokes until the rotations are over. Returns failed replies and the remaining tokens.
fn call(world: &World, org: &Org, caller: usize, going: &AtomicBool, done: &AtomicUsize) -> (Vec<Reply>, Vec<Token>) {
    let (mut failed, mut kept, mut round) = (Vec::new(), Vec::new(), 0);
    while going.load(Ordering::SeqCst) {
        round += 1;
        let name = format!("t-{caller}-{round}");
        let order = json!({"org_id": org.id, "role_name": "reader", "logical_name": name});
        let reply = world.post("org/token", &order);
        if reply.status != 200 {
            failed.push(reply);
            continue;
        }
        let token = Token::of(reply.body);
        done.fetch_add(1, Ordering::SeqCst);
        if round % 8 == 0 {
            kept.push(token);
        } else {
            world.revoke(&token).ok();
        }
    }
    (failed, kept)
}
