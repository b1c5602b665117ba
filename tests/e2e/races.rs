//! Requests that meet: they concern the same name, lease or token, or the operator changes their config.
//!
//! Three conditions hold afterwards. The inventory shows each live token in Astra. The inventory shows no deleted
//! token. Every lease of a caller can be revoked.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::astra::{Astra, Org, Route, Seed, built_in_id};
use crate::bao::{Reply, redact, wait};
use crate::world::{Mode, TICK, Token, World};

/// Long enough that requests meet in Astra.
const LATENCY_MS: u64 = 150;

/// A mount with one org and one role.
struct Race {
    world: World,
    org: Org,
}

impl Race {
    fn new(mode: Mode) -> Self {
        let world = World::new();
        let org = world.configured("shop", mode);
        world.role(&org, "reader", 3600, 36000);
        world.knobs(|knobs| knobs.latency_ms = Some((LATENCY_MS, LATENCY_MS)));
        Self { world, org }
    }

    /// Asks for a token with a write.
    fn order(&self, name: &str) -> Reply {
        let body = json!({"org_id": self.org.id, "role_name": "reader", "logical_name": name});
        self.world.post("org/token", &body)
    }

    /// Asks for a token with a read.
    fn read(&self, name: &str) -> Reply {
        self.world.get(&format!("org/token?org_id={}&role_name=reader&logical_name={name}", self.org.id))
    }

    fn as_request<'a>(&'a self, ask: impl FnOnce(&Self) -> Reply + Send + 'a) -> Request<'a> {
        Box::new(move || ask(self))
    }

    fn delete(&self, token: &Token) -> Reply {
        self.world.delete(&format!("org/token?org_id={}&client_id={}", self.org.id, token.client_id))
    }

    /// Eight callers mint three tokens each. When some mints are in progress, calls `change`. Returns the answers.
    fn mint_while(&self, change: impl FnOnce()) -> Vec<Reply> {
        thread::scope(|scope| {
            let callers: Vec<_> = (0..8)
                .map(|caller| {
                    scope.spawn(move || (0..3).map(|n| self.order(&format!("t-{caller}-{n}"))).collect::<Vec<_>>())
                })
                .collect();
            self.world.wait_for(Duration::from_secs(60), |astra| astra.calls(Route::CreateToken) >= 4);
            change();
            callers.into_iter().flat_map(|caller| caller.join().expect("the caller")).collect()
        })
    }

    /// Checks that Astra and the inventory contain exactly the tokens of these callers.
    #[track_caller]
    fn check_inventory(&self, tokens: &[Token], others: &[&Astra]) {
        let mut expected: Vec<_> = tokens.iter().map(|token| token.client_id.clone()).collect();
        expected.sort();
        let alive = || {
            let mut alive = self.world.alive(&self.org);
            alive.extend(others.iter().flat_map(|astra| astra.live(&self.org.id)).map(|token| token.client_id));
            alive.sort();
            alive
        };
        // The tick undoes tokens that could not be undone at once.
        wait("the inventory to agree with Astra", TICK, || {
            let mut known = self.world.keys("org/tokens");
            known.sort();
            (known == expected && alive() == expected).then_some(())
        });
    }

    /// Revokes all leases, and checks that nothing is left.
    #[track_caller]
    fn revoke_all(&self, tokens: &[Token]) {
        for token in tokens {
            self.world.revoke(token).ok();
            assert!(!self.world.is_alive(&token.client_id), "{} is live after its revocation", token.client_id);
        }
        self.check_inventory(&[], &[]);
        self.world.server.delete(&format!("sys/mounts/{}", self.world.mount)).ok();
    }
}

type Request<'a> = Box<dyn FnOnce() -> Reply + Send + 'a>;

/// Starts all requests at the same time.
fn send_together(requests: Vec<Request<'_>>) -> Vec<Reply> {
    let start = &Barrier::new(requests.len());
    thread::scope(|scope| {
        let mut running = Vec::new();
        for request in requests {
            running.push(scope.spawn(move || {
                start.wait();
                request()
            }));
        }
        running.into_iter().map(|request| request.join().expect("the request")).collect()
    })
}

/// Returns the tokens in the answers, and checks that all other answers have one of these statuses.
#[track_caller]
fn tokens(replies: Vec<Reply>, refusals: &[u16]) -> Vec<Token> {
    let mut tokens = Vec::new();
    for reply in replies {
        if reply.status == 200 {
            tokens.push(Token::of(reply.body));
        } else {
            assert!(refusals.contains(&reply.status) && !reply.errors().is_empty(), "{reply}");
        }
    }
    tokens
}

#[test]
fn sixteen_callers_for_one_name_get_one_token_quickly() {
    // Much longer than the server itself needs for sixteen requests.
    const ROUND_TRIP: Duration = Duration::from_secs(2);
    let race = Race::new(Mode::Standard);
    let millis = u64::try_from(ROUND_TRIP.as_millis()).unwrap();
    race.world.knobs(|knobs| knobs.latency_ms = Some((millis, millis)));
    let before = race.world.requests().len();

    let start = Instant::now();
    let replies = send_together((0..16).map(|_| race.as_request(|race| race.order("cart"))).collect());
    let took = start.elapsed();

    let calls: Vec<_> = race.world.requests().into_iter().skip(before).map(|call| call.route).collect();
    assert_eq!(calls, [Some(Route::CreateToken)], "Astra was not called exactly once");
    assert!(took < ROUND_TRIP * 2, "the answers took {took:?}, but two round trips take {:?}", ROUND_TRIP * 2);
    let refusals: Vec<_> = replies.iter().filter(|reply| reply.status != 200).map(Reply::errors).collect();
    let tokens = tokens(replies, &[400]);
    assert_eq!((tokens.len(), refusals.len()), (1, 15));
    for text in refusals {
        assert!(text.contains("\"cart\"") && text.contains(&tokens[0].client_id), "{text}");
    }
    race.world.knobs(|knobs| knobs.latency_ms = None);
    race.check_inventory(&tokens, &[]);
    race.revoke_all(&tokens);
}

#[test]
fn a_renewal_during_a_revocation_does_not_keep_the_token() {
    let race = Race::new(Mode::Standard);
    for round in 0..6 {
        let token = race.world.mint(&race.org, "reader", &format!("round-{round}"));
        let replies = send_together(vec![
            Box::new(|| race.world.revoke(&token)),
            Box::new(|| race.world.renew(&token, 600)),
            Box::new(|| race.world.renew(&token, 0)),
        ]);
        let mut replies = replies.into_iter();
        replies.next().unwrap().ok();
        for renewal in replies {
            assert!(renewal.status == 200 || renewal.status == 400, "{renewal}");
        }
        assert!(!race.world.lease_exists(&token), "the renewal restored the lease");
        race.check_inventory(&[], &[]);
    }
    race.revoke_all(&[]);
}

#[test]
fn a_token_can_be_deleted_and_revoked_at_the_same_time() {
    for mode in [Mode::Standard, Mode::Sidecar] {
        let race = Race::new(mode);
        let mint = |name: String| match mode {
            Mode::Standard => race.world.mint(&race.org, "reader", &name),
            Mode::Sidecar => Token::of(race.read(&name).ok()),
        };
        for round in 0..6 {
            let token = mint(format!("round-{round}"));
            // The rounds vary: who comes first, and whether the host also revokes.
            let mut requests: Vec<Request<'_>> =
                vec![Box::new(|| race.delete(&token)), Box::new(|| race.delete(&token))];
            if round % 3 > 0 {
                requests.insert(0, Box::new(|| race.world.revoke(&token)));
            }
            if round % 3 > 1 {
                requests.swap(0, 2);
            }
            for reply in send_together(requests) {
                let is_refusal = reply.status == 400 && reply.errors().contains("no live token");
                assert!((200..300).contains(&reply.status) || is_refusal, "{reply}");
            }
            assert!(!race.world.is_alive(&token.client_id));
            race.world.revoke(&token).ok();
            race.check_inventory(&[], &[]);
        }
        race.revoke_all(&[]);
    }
}

#[test]
fn a_new_root_token_during_mints_loses_no_token() {
    let race = Race::new(Mode::Standard);
    // `mint` of the simulator, not of the mount.
    let new = Astra::mint(&race.world, &race.org.id, &[built_in_id("Organization Administrator")]).token;
    redact::hide(&new);
    let replies = race.mint_while(|| {
        let change = json!({"org_id": race.org.id, "astra_token": new});
        race.world.post("config", &change).ok();
        assert!(race.world.delete_token(&race.org.client_id), "the old root token did not exist");
    });
    // If the old root token is gone, the mint is repeated with the new root token.
    let tokens = tokens(replies, &[]);
    assert_eq!(tokens.len(), 24);
    race.check_inventory(&tokens, &[]);
    race.revoke_all(&tokens);
}

#[test]
fn a_new_url_during_mints_loses_no_token() {
    let race = Race::new(Mode::Standard);
    let seed = Seed::new().id(&race.org.id).root_token(&race.org.root_token);
    let other = Astra::builder().seed(77_777).org(seed).spawn();
    let point_to = |url: &str| {
        drop(
            race.world
                .post("config", &json!({"org_id": race.org.id, "url": url, "astra_token": race.org.root_token}))
                .ok(),
        )
    };
    let replies = race.mint_while(|| point_to(other.url()));
    let tokens = tokens(replies, &[]);
    assert_eq!(tokens.len(), 24);
    race.check_inventory(&tokens, &[&other]);
    // The config must name the Astra in which a token is revoked.
    let (there, here): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|token| other.token(&token.client_id).is_some());
    assert!(!there.is_empty() && !here.is_empty(), "{} tokens there, {} here", there.len(), here.len());
    for token in &there {
        race.world.revoke(token).ok();
    }
    assert!(other.live(&race.org.id).is_empty());
    point_to(race.world.url());
    race.revoke_all(&here);
}

#[test]
fn a_new_caller_mode_during_mints_loses_no_token() {
    let race = Race::new(Mode::Standard);
    let flipping = AtomicBool::new(true);
    let replies = thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let (race, flipping) = (&race, &flipping);
                scope.spawn(move || {
                    let mut replies = Vec::new();
                    while flipping.load(Ordering::SeqCst) || replies.is_empty() {
                        replies.push(race.read(&format!("t-{reader}-0")));
                    }
                    replies
                })
            })
            .collect();
        let mut replies = race.mint_while(|| {
            for mode in ["sidecar", "standard", "sidecar", "standard"] {
                race.world.post("config", &json!({"org_id": race.org.id, "caller_mode": mode})).ok();
                let minted = race.world.calls(Route::CreateToken);
                race.world.wait_for(Duration::from_secs(60), |astra| {
                    astra.calls(Route::CreateToken) > minted || mode == "standard"
                });
            }
        });
        flipping.store(false, Ordering::SeqCst);
        for reader in readers {
            replies.extend(reader.join().expect("the reader"));
        }
        replies
    });
    // In standard mode a read fetches, without a lease.
    let minted = |reply: &Reply| reply.status != 200 || reply.body["lease_id"] != "";
    let tokens = tokens(replies.into_iter().filter(minted).collect(), &[400]);
    race.check_inventory(&tokens, &[]);
    race.revoke_all(&tokens);
}

#[test]
fn a_role_deleted_during_mints_leaves_every_lease_revocable() {
    let race = Race::new(Mode::Standard);
    let role = format!("role?org_id={}&role_name=reader", race.org.id);
    let tokens = tokens(race.mint_while(|| drop(race.world.delete(&role).ok())), &[400]);
    race.check_inventory(&tokens, &[]);
    race.revoke_all(&tokens);
}

#[test]
fn a_config_cannot_be_deleted_during_a_mint() {
    let race = Race::new(Mode::Standard);
    for round in 0..6 {
        let mints = (0..4).map(|n| race.as_request(move |race| race.order(&format!("t-{round}-{n}"))));
        let config = format!("config?org_id={}", race.org.id);
        let minted = race.world.calls(Route::CreateToken);
        let delete = race.as_request(move |race| {
            if round % 2 == 0 {
                // Deletes while Astra mints the first token. In the other rounds, the delete may come before all mints.
                race.world.wait_for(Duration::from_secs(60), |astra| astra.calls(Route::CreateToken) > minted);
            }
            race.world.delete(&config)
        });
        let mut replies = send_together(std::iter::once(delete).chain(mints).collect());
        let deleted = replies.remove(0);
        let tokens = tokens(replies, &[400]);
        match deleted.status {
            204 => assert!(tokens.is_empty(), "the config was deleted although {} tokens are live", tokens.len()),
            _ => assert!(deleted.errors().contains("org_id"), "{deleted}"),
        }
        let body: Value = json!({"org_id": race.org.id, "astra_token": race.org.root_token, "url": race.world.url()});
        race.world.post("config", &body).ok();
        race.check_inventory(&tokens, &[]);
        for token in &tokens {
            race.world.revoke(token).ok();
        }
    }
    race.revoke_all(&[]);
}
