//! The callers' knowledge: their tokens, and the tokens that they have revoked or deleted.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::{self, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::setup::Storm;

/// How long a request with an unknown result may still take effect.
const LINGERS: Duration = Duration::from_secs(20);

/// A token that a caller got. No `Debug`, because it contains the secret.
#[derive(Clone)]
pub(super) struct Handed {
    pub(super) client_id: String,
    pub(super) lease_id: String,
    pub(super) token: String,
    pub(super) mount: String,
    pub(super) org_id: String,
    pub(super) role: &'static str,
    pub(super) name: String,
    /// Whether its lease expires before the storm is evaluated.
    pub(super) brief: bool,
    pub(super) asked: Instant,
    pub(super) answered: Instant,
}

/// The tokens that a request deletes.
#[derive(Clone)]
pub(super) enum Scope {
    /// The token of this client id.
    Token(String),
    /// The token with this name.
    Named { org_id: String, mount: String, role: &'static str, name: String },
    /// Every token of this mount.
    Mount(String),
}

impl Scope {
    fn covers(&self, token: &Handed) -> bool {
        match self {
            Self::Token(client_id) => *client_id == token.client_id,
            Self::Named { org_id, mount, role, name } => {
                (org_id, mount, *role, name) == (&token.org_id, &token.mount, token.role, &token.name)
            }
            Self::Mount(mount) => *mount == token.mount,
        }
    }
}

/// A request that deletes tokens.
struct Ending {
    scope: Scope,
    asked: Instant,
    /// The time after which the request has no effect.
    over: Instant,
    /// Whether the server confirmed the request.
    confirmed: bool,
}

impl Ending {
    /// Whether this request may have deleted the token.
    fn may_have_met(&self, token: &Handed) -> bool {
        self.scope.covers(token) && (matches!(self.scope, Scope::Token(_)) || token.asked < self.over)
    }

    /// Whether this request must have deleted the token. Only one live token has a name, so a delete by name deletes
    /// any older token with the name.
    fn has_met(&self, token: &Handed) -> bool {
        self.confirmed && self.scope.covers(token) && token.answered < self.asked
    }
}

#[derive(Default)]
pub(super) struct Ledger {
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    handed: Vec<Handed>,
    endings: Vec<Ending>,
    /// The client ids and the tokens that reads of static roles returned.
    reads: Vec<(String, String)>,
    /// Names of tokens whose callers hung up before the answer.
    given_up: HashSet<String>,
    /// How often each operation had which result.
    tally: BTreeMap<(&'static str, String), u64>,
    /// Answers that callers must not get.
    faults: Vec<String>,
}

impl Ledger {
    pub(super) fn add_token(&self, token: Handed) {
        self.book().handed.push(token);
    }

    /// Records the current token of a static role. Its rotation deletes it, so it is not expected to live.
    pub(super) fn add_read(&self, client_id: String, token: String) {
        self.book().reads.push((client_id, token));
    }

    pub(super) fn give_up(&self, name: &str) {
        self.book().given_up.insert(name.to_owned());
    }

    /// Returns the names of the tokens whose callers hung up before the answer.
    pub(super) fn given_up(&self) -> HashSet<String> {
        self.book().given_up.clone()
    }

    /// Records a request that deletes tokens, after it has finished. `confirmed` means that the server confirmed it.
    pub(super) fn end(&self, scope: Scope, asked: Instant, confirmed: bool) {
        let over = if confirmed { Instant::now() } else { Instant::now() + LINGERS };
        self.book().endings.push(Ending { scope, asked, over, confirmed });
    }

    pub(super) fn count(&self, what: &'static str, end: impl Into<String>) {
        *self.book().tally.entry((what, end.into())).or_default() += 1;
    }

    pub(super) fn add_fault(&self, what: String) {
        self.book().faults.push(what);
    }

    /// Returns a random recent token.
    pub(super) fn pick(&self, rng: &mut fastrand::Rng) -> Option<Handed> {
        const LATELY: usize = 200;
        let book = self.book();
        let old = book.handed.len().saturating_sub(LATELY);
        rng.choice(&book.handed[old..]).cloned()
    }

    /// Returns how often an operation had a matching result.
    pub(super) fn total(&self, what: &str, end: impl Fn(&str) -> bool) -> u64 {
        let book = self.book();
        book.tally.iter().filter(|((op, how), _)| *op == what && end(how)).map(|(_, count)| count).sum()
    }

    /// Returns how often any operation had a matching result.
    pub(super) fn total_of_all(&self, end: impl Fn(&str) -> bool) -> u64 {
        self.book().tally.iter().filter(|((_, how), _)| end(how)).map(|(_, count)| count).sum()
    }

    pub(super) fn handed(&self) -> usize {
        self.book().handed.len()
    }

    /// Returns the client ids of all tokens that callers got.
    pub(super) fn client_ids(&self) -> BTreeSet<String> {
        self.book().handed.iter().map(|token| token.client_id.clone()).collect()
    }

    /// Compares the callers' knowledge with Astra and Vault.
    pub(super) fn compare(&self, storm: &Storm) -> Findings {
        // Vault first: a token that is minted and undone in the meantime is then in neither list.
        let known = storm.known();
        let alive = storm.alive();
        let book = self.book();
        let mut findings = Findings {
            unknown: alive.difference(&known).cloned().collect(),
            missing: known.difference(&alive).cloned().collect(),
            roots: storm.spare_roots(),
            statics: storm.wrong_static_tokens(),
            ..Findings::default()
        };
        let mut names = HashSet::new();
        for token in &book.handed {
            let (lives, id) = (alive.contains(&token.client_id), &token.client_id);
            if !lives && !token.brief && !book.endings.iter().any(|ending| ending.may_have_met(token)) {
                findings.lost.push(id.clone());
            }
            if lives && (token.brief || book.endings.iter().any(|ending| ending.has_met(token))) {
                findings.not_deleted.push(id.clone());
            }
            let named = !storm.mints_by_read(&token.org_id);
            if lives && named && !names.insert((&token.mount, &token.org_id, token.role, &token.name)) {
                findings.duplicates.push(id.clone());
            }
        }
        findings
    }

    /// Panics if a caller got an answer that callers must not get, or a token that Astra does not know.
    pub(super) fn assert_answers(&self, storm: &Storm) {
        let secrets: HashSet<String> = storm.world.secrets().into_iter().collect();
        let book = self.book();
        let handed = book.handed.iter().map(|token| (&token.client_id, &token.token));
        let returned = handed.chain(book.reads.iter().map(|(client_id, token)| (client_id, token)));
        let wrong: Vec<&str> =
            returned.filter(|(_, token)| !secrets.contains(*token)).map(|(client_id, _)| &**client_id).collect();
        assert!(wrong.is_empty(), "callers got tokens that Astra does not know: {wrong:?}");
        assert!(book.faults.is_empty(), "answers that no caller may get:\n{}", book.faults.join("\n"));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let book = self.book();
        let mut rows: BTreeMap<&str, String> = BTreeMap::new();
        for ((what, end), count) in &book.tally {
            write!(rows.entry(what).or_default(), " {end}: {count},")?;
        }
        rows.iter().try_for_each(|(what, ends)| writeln!(f, "{what:>16}:{}", ends.trim_end_matches(',')))
    }
}

/// Differences, as client ids.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Alive in Astra, but unknown to Vault.
    pub(super) unknown: Vec<String>,
    /// Known to Vault, but gone in Astra.
    pub(super) missing: Vec<String>,
    /// Gone, although nobody deleted or revoked the token of a caller.
    pub(super) lost: Vec<String>,
    /// Alive, although deleted or revoked.
    pub(super) not_deleted: Vec<String>,
    /// Alive together with another token of the same name.
    pub(super) duplicates: Vec<String>,
    /// Live root tokens that no config holds, and dead root tokens that a config holds.
    pub(super) roots: Vec<String>,
    /// Current tokens of static roles that are not live, and other tokens of static roles.
    pub(super) statics: Vec<String>,
}

impl Findings {
    pub(super) fn is_clean(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the number of differences of each kind.
    pub(super) fn counts(&self) -> String {
        let Self { unknown, missing, lost, not_deleted, duplicates, roots, statics } = self;
        format!(
            "unknown {}, missing {}, lost {}, not deleted {}, duplicates {}, root tokens {}, static roles {}",
            unknown.len(),
            missing.len(),
            lost.len(),
            not_deleted.len(),
            duplicates.len(),
            roots.len(),
            statics.len()
        )
    }
}
