//! Runs one fault against one request, and reports the result.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use regex_lite::Regex;
use serde_json::json;

use super::faults::{OTHER, Reach};
use crate::astra::{Astra, AstraFault, Call, Kind, Phase, Redirect, Route};
use crate::bao::Reply;
use crate::world::{Mode, Org, TICK, Token, World};

/// Short, but long enough for all attempts and the pauses between them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Additional time on a busy machine.
const SLACK: Duration = Duration::from_secs(4);

/// Long enough for the undo right after a failure, and too short for the tick, whose minimum age is 55 s.
const AT_ONCE: Duration = Duration::from_secs(6);

/// How a token is deleted.
#[derive(Clone, Copy)]
pub(super) enum Deletion {
    Delete,
    Revoke,
}

/// The result that the caller sees, and the state afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) status: u16,
    /// The error text without the varying parts.
    pub(super) text: String,
    /// How many mints or deletes reached Astra.
    pub(super) calls: Calls,
    pub(super) left: Left,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    None,
    One,
    Several,
    /// The number depends on the fault.
    Differ,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The request succeeded.
    Done,
    /// Nothing was minted.
    Nothing,
    /// A token in Astra, deleted at once.
    UndoneAtOnce,
    /// A token in Astra, deleted by the next tick.
    UndoneByTick,
    /// Token, record and lease are unchanged.
    AsBefore,
    /// The token is gone, but its record and lease are still there. The tick removes the record.
    Record,
}

/// A mount with unused orgs, and the state that it must still clean up.
pub(super) struct FaultMount {
    pub(super) world: World,
    /// The org of tokens that are deleted.
    pub(super) deletion_org: Org,
    /// Another host. The engine must never call it.
    elsewhere: Astra,
    spare: Mutex<VecDeque<Org>>,
    used: Mutex<Vec<Org>>,
    /// Tokens of callers, with their leases.
    leased: Mutex<Vec<Token>>,
    /// Tokens whose record the tick has to remove.
    records: Mutex<Vec<(Org, Token)>>,
    /// Orgs in which the tick must delete a token.
    orphans: Mutex<Vec<Org>>,
    names: AtomicUsize,
}

impl FaultMount {
    pub(super) fn new(world: World) -> Self {
        let mut spare: VecDeque<Org> = world.orgs().to_vec().into();
        let deletion_org = spare.pop_front().expect("an org");
        let mount = Self {
            world,
            deletion_org,
            elsewhere: Astra::builder().seed(1).spawn(),
            spare: Mutex::new(spare),
            used: Mutex::default(),
            leased: Mutex::default(),
            records: Mutex::default(),
            orphans: Mutex::default(),
            names: AtomicUsize::new(0),
        };
        mount.set_up(&mount.deletion_org, Mode::Standard);
        mount
    }

    /// Returns a configured org with a role. No other case uses the org.
    pub(super) fn org(&self, mode: Mode) -> Org {
        let org = self.spare.lock().unwrap().pop_front().expect("an org for each case");
        self.set_up(&org, mode);
        org
    }

    fn set_up(&self, org: &Org, mode: Mode) {
        let mut fields = json!({"caller_mode": mode.name(), "request_timeout": REQUEST_TIMEOUT.as_secs(), "verify_connection": false});
        if let Some(ca) = self.world.ca_pem() {
            fields["ca_cert"] = ca.into();
        }
        self.world.configure(org, &fields);
        self.world.role(org, "reader", 3600, 36000);
        self.used.lock().unwrap().push(org.clone());
    }

    /// Mints in standard mode.
    pub(super) fn token(&self, org: &Org) -> Token {
        self.world.mint(org, "reader", &format!("name-{}", self.names.fetch_add(1, Ordering::Relaxed)))
    }

    /// Replaces the placeholders in a fault with real values.
    pub(super) fn real(&self, kind: &Kind) -> Kind {
        match kind {
            Kind::Redirect { code, to: Redirect::Other(_) } => {
                Kind::Redirect { code: *code, to: Redirect::Other(self.elsewhere.url().into()) }
            }
            _ => kind.clone(),
        }
    }

    /// Mints under a fault.
    pub(super) fn mint_under_fault(&self, kind: &Kind, phase: Phase, reach: Reach) -> Seen {
        let org = self.org(Mode::Sidecar);
        let mut kind = self.real(kind);
        let mut bystanders = Vec::new();
        if let Kind::SetField { value, .. } = &mut kind
            && value == OTHER
        {
            let token = Token::of(self.ask(&org).ok());
            *value = token.client_id.clone().into();
            bystanders.push(token);
        }
        let fault = AstraFault { phase, ..AstraFault::before(kind.clone()) }.org(&org.id);
        let fault = if reach == Reach::Org { fault } else { fault.route(Route::CreateToken) };
        let fault = self.world.fault(if reach == Reach::Once { fault.once() } else { fault });
        let ids: Vec<&str> = bystanders.iter().map(|token| token.client_id.as_str()).collect();
        let late = is_late(&kind).then_some(fault);
        let seen = self.observe_mint_under(&org, &ids, late);
        assert!(self.world.fired(fault) > 0, "the fault did not happen: {kind:?}");
        self.world.clear_fault(fault);
        self.leased.lock().unwrap().extend(bystanders);
        seen
    }

    fn ask(&self, org: &Org) -> Reply {
        self.world.get(&format!("org/token?org_id={}&role_name=reader", org.id))
    }

    /// Asks for a token. Only the tokens in `others` are alive in the org.
    pub(super) fn observe_mint(&self, org: &Org, others: &[&str]) -> Seen {
        self.observe_mint_under(org, others, None)
    }

    fn observe_mint_under(&self, org: &Org, others: &[&str], late: Option<u64>) -> Seen {
        let earlier = self.calls(org, Route::CreateToken).len();
        let started = Instant::now();
        let reply = self.ask(org);
        assert!(started.elapsed() < REQUEST_TIMEOUT + SLACK, "took {:?}\n{reply}", started.elapsed());
        if reply.status == 200 {
            let calls = Calls::of(self.calls(org, Route::CreateToken).len() - earlier);
            let token = Token::of(reply.ok());
            assert!(self.world.is_alive(&token.client_id));
            self.leased.lock().unwrap().push(token);
            return Seen { status: 200, text: String::new(), calls, left: Left::Done };
        }
        self.world.assert_no_secret("the error", &reply.body.to_string());
        if late.is_some() {
            self.world.wait_for(AT_ONCE, |astra| astra.live(&org.id).len() > others.len());
        }
        let posts = self.calls(org, Route::CreateToken).split_off(earlier);
        let unclear = posts.iter().take(posts.len().saturating_sub(1)).any(|call| call.status != Some(429));
        assert!(!unclear, "the engine minted again although the first outcome was unclear: {}", reply.status);
        let clean = || self.world.alive(org) == others && self.inventory(org) == others;
        let left = if posts.iter().all(|call| call.minted.is_none()) {
            assert!(clean(), "a record without a token\n{reply}");
            Left::Nothing
        } else if holds_within(AT_ONCE, clean) {
            Left::UndoneAtOnce
        } else {
            self.orphans.lock().unwrap().push(org.clone());
            Left::UndoneByTick
        };
        Seen { status: reply.status, text: self.generalised(&reply.errors()), calls: Calls::of(posts.len()), left }
    }

    /// Mints a token, and deletes it under a fault.
    pub(super) fn delete_under_fault(&self, deletion: Deletion, kind: &Kind, phase: Phase, reach: Reach) -> Seen {
        let org = self.org(Mode::Standard);
        let token = self.token(&org);
        let fault = AstraFault { phase, ..AstraFault::before(self.real(kind)) };
        let fault = match reach {
            Reach::Org => fault.org(&org.id),
            Reach::Call | Reach::Once => fault.route(Route::DeleteToken).target(&token.client_id),
        };
        let fault = self.world.fault(if reach == Reach::Once { fault.once() } else { fault });
        let seen = self.observe_deletion(deletion, &org, &token);
        assert!(self.world.fired(fault) > 0, "the fault did not happen: {kind:?}");
        self.world.clear_fault(fault);
        seen
    }

    /// Deletes a token. The delete may fail.
    pub(super) fn observe_deletion(&self, deletion: Deletion, org: &Org, token: &Token) -> Seen {
        let started = Instant::now();
        let reply = match deletion {
            Deletion::Revoke => self.world.revoke(token),
            Deletion::Delete => {
                self.world.delete(&format!("org/token?org_id={}&client_id={}", org.id, token.client_id))
            }
        };
        // If the response is not a proof, the engine also asks for the list.
        assert!(started.elapsed() < 2 * REQUEST_TIMEOUT + SLACK, "took {:?}\n{reply}", started.elapsed());
        self.world.assert_no_secret("the answer", &reply.body.to_string());
        let alive = self.world.is_alive(&token.client_id);
        let known = self.world.fetch(org, token).status == 200;
        let leased = self.world.lease_exists(token);
        self.leased.lock().unwrap().push(token.clone());
        let left = if reply.status < 300 {
            assert!(!alive, "a token is live although its deletion succeeded\n{reply}");
            assert!(
                !known && leased == matches!(deletion, Deletion::Delete),
                "known {known}, leased {leased}\n{reply}"
            );
            Left::Done
        } else {
            assert!(known && leased, "known {known}, leased {leased}\n{reply}");
            if alive {
                Left::AsBefore
            } else {
                self.records.lock().unwrap().push((org.clone(), token.clone()));
                Left::Record
            }
        };
        let deletes = self.calls(org, Route::DeleteToken);
        let calls = Calls::of(deletes.iter().filter(|call| call.path.ends_with(&token.client_id)).count());
        Seen { status: reply.status, text: self.generalised(&reply.errors()), calls, left }
    }

    /// Waits for the tick and revokes the leases. Then checks that nothing is left.
    pub(super) fn assert_cleaned_up(&self) {
        self.world.clear_faults();
        let (records, orphans) = (self.records.lock().unwrap(), self.orphans.lock().unwrap());
        let leased = self.leased.lock().unwrap();
        let handed_out: Vec<&str> = leased.iter().map(|token| token.client_id.as_str()).collect();
        let clean = || {
            orphans.iter().all(|org| self.world.alive(org).iter().all(|id| handed_out.contains(&id.as_str())))
                && records.iter().all(|(org, token)| self.world.fetch(org, token).status != 200)
        };
        let in_time = holds_within(TICK, clean);
        let left: Vec<String> = orphans.iter().flat_map(|org| self.world.alive(org)).collect();
        let known = records.iter().filter(|(org, token)| self.world.fetch(org, token).status == 200).count();
        assert!(
            in_time,
            "{known} records of deleted tokens are left, or one of these live tokens has no caller: {left:?}"
        );
        for token in leased.iter() {
            self.world.revoke(token).ok();
        }
        for org in self.used.lock().unwrap().iter() {
            assert!(self.world.alive(org).is_empty(), "tokens are live after every lease was revoked");
        }
        assert!(self.world.keys("org/tokens").is_empty());
        assert!(self.world.server.keys(&format!("sys/leases/lookup/{}/org/token/", self.world.mount)).is_empty());
        assert_eq!(self.elsewhere.connections(), 0, "a redirect was followed to another host");
    }

    fn calls(&self, org: &Org, route: Route) -> Vec<Call> {
        let of_org = |call: &Call| call.org.as_ref() == Some(&org.id) && call.route == Some(route);
        self.world.requests().into_iter().filter(of_org).collect()
    }

    fn inventory(&self, org: &Org) -> Vec<String> {
        self.world.keys(&format!("org/tokens?org_id={}", org.id))
    }

    /// Returns an error without the host's frame, without ids, and without details that differ within a family of
    /// faults.
    fn generalised(&self, text: &str) -> String {
        static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
            [
                (r"(?s)^.*failed to revoke entry: resp: .*? err: (rpc error: code = \w+ desc = )?", ""),
                (r"(?s)^1 error occurred:\s*\* ", ""),
                (r"\s+$", ""),
                (
                    "(?s)^the outcome of the mint is unknown: failed to mint a token: (.*); if Astra minted a token, the engine \
                     deletes the token as soon as Astra lists the token$",
                    "$1 †",
                ),
                ("^failed to (mint|delete) a token: ", ""),
                (r#"\(\d{3}(: ".*?")?\)"#, "(…)"),
                (r"(cannot be used|broke|cannot be reached): [^;]*;", "$1: …;"),
                (r", after \d+ attempts", ""),
                (r"asks to wait \d+ s", "asks to wait … s"),
                (r#"client id "[A-Za-z]+""#, "client id \"…\""),
            ]
            .map(|(pattern, with)| (Regex::new(pattern).expect("a pattern"), with))
            .into()
        });
        RULES.iter().fold(text.to_owned(), |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned())
    }
}

impl Calls {
    fn of(count: usize) -> Self {
        match count {
            0 => Self::None,
            1 => Self::One,
            _ => Self::Several,
        }
    }
}

/// Whether the operation takes effect after the caller has given up.
pub(super) fn is_late(kind: &Kind) -> bool {
    let limit = u64::try_from(REQUEST_TIMEOUT.as_millis()).unwrap();
    matches!(kind, Kind::HangBeforeHeaders { for_ms: Some(time) } if *time > limit)
}

fn holds_within(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
