//! The tokens that a tidy missed in Astra's list, so that the next tidy of the org needs only one list.
//!
//! A tidy deletes a token in Vault after two lists without the token. The host cancels a request after 90 seconds, and two lists
//! of an organization with many tokens can take longer.
//!
//! Architecture invariant: reads and writes no storage.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

use super::entries::Config;
use crate::names::{ClientId, OrgId};

/// How many orgs are remembered.
const ORGS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// How many tokens of an org are remembered.
const MOST: usize = 10_000;

/// How long a list counts.
const KEPT: Duration = Duration::from_secs(3600);

/// The missing tokens of the orgs that had a tidy.
pub(crate) struct MissingTokens(Mutex<LruCache<OrgId, Missed>>);

/// The tokens that a list missed.
struct Missed {
    /// The config of the list. Another root token can list the tokens of another organization.
    config: Arc<Config>,
    time: Instant,
    tokens: HashSet<ClientId>,
}

impl MissingTokens {
    /// Returns the tokens that the last list missed. Returns none if the list is old, or was made with another config.
    pub(crate) fn take(&self, config: &Config) -> HashSet<ClientId> {
        let missed = self.lock().pop(&config.org_id);
        let missed = missed.filter(|missed| missed.time.elapsed() < KEPT && missed.config.same_endpoint(config));
        missed.map(|missed| missed.tokens).unwrap_or_default()
    }

    /// Notes the tokens that a list missed.
    pub(crate) fn note(&self, config: &Arc<Config>, tokens: &[ClientId]) {
        let tokens = tokens.iter().take(MOST).cloned().collect();
        let missed = Missed { config: config.clone(), time: Instant::now(), tokens };
        self.lock().put(config.org_id.clone(), missed);
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<OrgId, Missed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MissingTokens {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(ORGS)))
    }
}
