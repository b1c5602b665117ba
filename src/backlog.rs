//! The open entries of the write-ahead log, by org. The entries are read once and remembered, so that a frequent look costs
//! one list of the log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use vault_plugin_sdk::framework::Wal;

use super::error::{Error, readable};
use super::names::OrgId;

/// How many entries are read at the same time.
const CONCURRENT: usize = 32;

/// How many entries one look reads at most. After an outage, there can be many.
const MOST_READ: usize = 1_000;

/// The entries that were read.
#[derive(Default)]
pub(crate) struct Backlog(Mutex<HashMap<String, Entry>>);

/// The known facts of an entry. An entry that cannot be read has no org, no kind, and no time.
#[derive(Clone, Default)]
struct Entry {
    org: OrgId,
    kind: String,
    created_at: Option<i64>,
}

/// The entries of the log at one time.
#[derive(Default)]
pub(crate) struct Open {
    /// The number of entries.
    pub(crate) all: Entries,
    /// By org.
    pub(crate) orgs: BTreeMap<OrgId, Entries>,
    /// The number of entries of each kind.
    pub(crate) kinds: BTreeMap<String, u64>,
}

/// A number of entries, and when the oldest was written, in seconds since 1970.
#[derive(Clone, Copy, Default)]
pub(crate) struct Entries {
    pub(crate) number: u64,
    oldest: Option<i64>,
}

impl Entries {
    /// Returns the age of the oldest entry, in seconds.
    pub(crate) fn oldest_age(&self) -> Option<u64> {
        let age = Timestamp::now().as_second().saturating_sub(self.oldest?);
        Some(u64::try_from(age).unwrap_or(0))
    }

    fn add(&mut self, created_at: Option<i64>) {
        self.number += 1;
        self.oldest = self.oldest.into_iter().chain(created_at).min();
    }
}

impl Backlog {
    /// Returns the open entries. Reads those that are new, but only some of them if there are many.
    pub(crate) async fn look(&self, wal: Wal<'_>) -> Result<Open, Error> {
        let ids = wal.list().await?;
        let new: Vec<String> = {
            let known = self.entries();
            ids.iter().filter(|id| !known.contains_key(*id)).take(MOST_READ).cloned().collect()
        };
        let wal = &wal;
        let read = |id: String| async move {
            let (entry, damage) = readable(wal.get(&id).await.map_err(Error::from))?;
            let entry = entry.map(|entry| Entry {
                org: OrgId::stored(entry.data["org_id"].as_str().unwrap_or_default()),
                kind: entry.kind,
                created_at: Some(entry.created_at),
            });
            Ok::<_, Error>((id, entry.or_else(|| damage.map(|_| Entry::default()))))
        };
        let mut entries = stream::iter(new).map(read).buffer_unordered(CONCURRENT);
        let (mut found, mut gone) = (HashMap::new(), HashSet::new());
        while let Some(read) = entries.next().await {
            match read? {
                (id, Some(entry)) => drop(found.insert(id, entry)),
                (id, None) => drop(gone.insert(id)),
            }
        }
        let mut known = self.entries();
        known.extend(found);
        let listed: HashSet<&str> = ids.iter().map(String::as_str).collect();
        known.retain(|id, _| listed.contains(id.as_str()));
        let mut open = Open::default();
        for id in ids.iter().filter(|id| !gone.contains(*id)) {
            let Entry { org, kind, created_at } = known.get(id).cloned().unwrap_or_default();
            open.all.add(created_at);
            if !org.as_str().is_empty() {
                open.orgs.entry(org).or_default().add(created_at);
            }
            let kind = if kind.is_empty() { "unknown".to_owned() } else { kind };
            *open.kinds.entry(kind).or_default() += 1;
        }
        Ok(open)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
