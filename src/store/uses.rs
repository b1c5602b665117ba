//! The uses of tokens that their records do not have yet.
//!
//! A read of a token must not write. So this module counts reads and renewals in memory, and the tick adds them to the
//! records. An entry is due one hour after its first use, so a record is written at most once an hour, and a crash loses
//! the uses of at most that hour.
//!
//! Architecture invariant: reads and writes no storage. The memory is bounded: only tokens with uses since the last write
//! have an entry, and there are at most [`LIMIT`] entries.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::entries::Record;
use crate::names::{ClientId, OrgId};

/// How long uses stay in memory before the tick writes them.
const PERIOD: Duration = Duration::from_secs(3600);

/// The most entries, of about 150 bytes each.
const LIMIT: usize = 1 << 18;

/// Each has its own mutex, so that a look at all entries holds up few callers.
const SHARDS: usize = 64;

/// After this many tokens, a tick looks for no more.
const DUE: usize = 1 << 16;

/// How long an entry that nobody writes can stay if the memory is needed.
const STALE: Duration = Duration::from_secs(2 * 3600);

/// The uses since the last write.
pub(crate) struct Uses {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    shard_limit: usize,
    /// Held by the tick that writes. If the storage hangs, the next ticks do not write as well.
    pub(crate) writing: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Shard {
    /// By org, so that a look-up needs no owned key.
    orgs: HashMap<OrgId, HashMap<ClientId, Use>>,
    len: usize,
    /// When the shard last dropped its stale entries.
    cleaned: Option<Instant>,
    /// The uses that were not counted, because the shard was full.
    uncounted: u64,
}

/// The uses of one token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Use {
    /// The count in the record without these uses, once a write has read it. Without it, a write whose outcome is unknown
    /// would be repeated with a wrong count.
    base: Option<u64>,
    count: u64,
    last_used_at: Timestamp,
    /// Display name of the last reader; `None` if there were renewals only.
    last_used_by: Option<Box<str>>,
    /// The first use since the last write.
    since: Instant,
}

impl Use {
    /// Returns the record with these uses.
    pub(crate) fn added_to(&self, mut record: Record) -> Record {
        let counted = self.base.unwrap_or(record.use_count).saturating_add(self.count);
        record.use_count = record.use_count.max(counted);
        let is_later = record.last_used_at.parse::<Timestamp>().is_ok_and(|stored| stored > self.last_used_at);
        if !is_later {
            record.last_used_at = self.last_used_at.to_string();
            if let Some(by) = &self.last_used_by {
                record.last_used_by = by.to_string();
            }
        }
        record
    }
}

impl Default for Uses {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl Uses {
    fn with_limit(limit: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), shard_limit: (limit / SHARDS).max(1), writing: Arc::default() }
    }

    /// Counts a use. `reader` is the display name of a reader, `None` for a renewal. Returns whether this is the first use
    /// in an hour that this node knows of; false if there is no room for another token.
    pub(crate) fn note(&self, org: &OrgId, client: &ClientId, reader: Option<&str>) -> bool {
        let (now, mut shard) = (Instant::now(), self.shard(client));
        // Whole seconds, like the other times of a record.
        let time = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        if let Some(known) = shard.get_mut(org, client) {
            let is_first = known.count == 0 && known.base.is_some() || now.duration_since(known.since) >= PERIOD;
            if known.count == 0 && known.base.is_some() {
                known.since = now;
            }
            known.count += 1;
            known.last_used_at = time;
            if let Some(reader) = reader
                && known.last_used_by.as_deref() != Some(reader)
            {
                known.last_used_by = Some(reader.into());
            }
            return is_first;
        }
        if !shard.make_room(self.shard_limit, now) {
            shard.uncounted += 1;
            return false;
        }
        shard.len += 1;
        let new = Use { base: None, count: 1, last_used_at: time, last_used_by: reader.map(Into::into), since: now };
        shard.orgs.entry(org.clone()).or_default().insert(client.clone(), new);
        true
    }

    /// Takes back one use, because another node counts it. The next hour begins now.
    pub(crate) fn take_back(&self, org: &OrgId, client: &ClientId) {
        if let Some(known) = self.shard(client).get_mut(org, client) {
            known.count = known.count.saturating_sub(1);
            known.since = Instant::now();
        }
    }

    /// Returns a record with the uses in memory. Read the record first: a write that ends in between is then seen here.
    pub(crate) fn added_to(&self, org: &OrgId, client: &ClientId, record: Record) -> Record {
        match self.get(org, client) {
            Some(known) => known.added_to(record),
            None => record,
        }
    }

    fn get(&self, org: &OrgId, client: &ClientId) -> Option<Use> {
        self.shard(client).get_mut(org, client).cloned()
    }

    /// Returns the tokens whose uses must be written now, but not more than a tick can write; with `all`, those of every
    /// token. Drops the entries that were written and have no new uses.
    pub(crate) fn due(&self, all: bool) -> Vec<(OrgId, ClientId)> {
        let (now, mut due) = (Instant::now(), Vec::new());
        for shard in &self.shards {
            let mut shard = lock(shard);
            // A shard that becomes full does not wait.
            let is_urgent = all || shard.len > self.shard_limit / 2;
            shard.retain(|_, known| known.count > 0);
            if !all && due.len() >= DUE {
                continue;
            }
            for (org, clients) in &shard.orgs {
                let is_due = |known: &Use| is_urgent || now.duration_since(known.since) >= PERIOD;
                let clients = clients.iter().filter(|(_, known)| is_due(known));
                due.extend(clients.map(|(client, _)| (org.clone(), client.clone())));
            }
        }
        due
    }

    /// Begins to write the uses of a token: `stored` is the count in its record. Returns the uses to add to the record, and
    /// keeps them until [`Uses::end_write`].
    pub(crate) fn begin_write(&self, org: &OrgId, client: &ClientId, stored: u64) -> Option<Use> {
        let mut shard = self.shard(client);
        let known = shard.get_mut(org, client).filter(|known| known.count > 0)?;
        known.base.get_or_insert(stored);
        Some(known.clone())
    }

    /// Ends a write: the record of the token has the uses `written`, and this count.
    pub(crate) fn end_write(&self, org: &OrgId, client: &ClientId, written: &Use, stored: u64) {
        if let Some(known) = self.shard(client).get_mut(org, client) {
            known.base = Some(stored);
            known.count = known.count.saturating_sub(written.count);
            // The entry stays until the next tick. A list may have read the record before the write.
            known.since = Instant::now();
        }
    }

    /// Forgets the uses of a token whose record is gone.
    pub(crate) fn forget(&self, org: &OrgId, client: &ClientId) {
        let mut shard = self.shard(client);
        if let Some(clients) = shard.orgs.get_mut(org)
            && clients.remove(client).is_some()
        {
            if clients.is_empty() {
                shard.orgs.remove(org);
            }
            shard.len -= 1;
        }
    }

    /// Returns how many uses were not counted since the last call, because too many tokens had uses.
    pub(crate) fn take_uncounted(&self) -> u64 {
        self.shards.iter().map(|shard| std::mem::take(&mut lock(shard).uncounted)).sum()
    }

    fn shard(&self, client: &ClientId) -> MutexGuard<'_, Shard> {
        let place = self.hasher.hash_one(client) % self.shards.len() as u64;
        lock(&self.shards[usize::try_from(place).unwrap_or_default()])
    }
}

impl Shard {
    fn get_mut(&mut self, org: &OrgId, client: &ClientId) -> Option<&mut Use> {
        self.orgs.get_mut(org)?.get_mut(client)
    }

    /// Whether there is room for another entry. A full shard first drops the entries that nobody has written for two hours:
    /// a standby cannot write.
    fn make_room(&mut self, limit: usize, now: Instant) -> bool {
        const PAUSE: Duration = Duration::from_secs(60);
        if self.len >= limit && self.cleaned.is_none_or(|last| now.duration_since(last) >= PAUSE) {
            self.cleaned = Some(now);
            self.retain(|_, known| now.duration_since(known.since) < STALE);
        }
        self.len < limit
    }

    fn retain(&mut self, keep: impl Fn(&ClientId, &Use) -> bool) {
        self.orgs.retain(|_, clients| {
            clients.retain(|client, known| keep(client, known));
            !clients.is_empty()
        });
        self.len = self.orgs.values().map(HashMap::len).sum();
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> (OrgId, ClientId) {
        (OrgId::stored("o"), ClientId::stored(format!("c{n}")))
    }

    fn record(use_count: u64) -> Record {
        Record { use_count, ..Record::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn uses_are_due_an_hour_after_the_first_and_counted_once() {
        let (uses, (org, client)) = (Uses::default(), names(1));
        assert!(uses.note(&org, &client, Some("bob")) && !uses.note(&org, &client, None));
        assert!(uses.due(false).is_empty());
        assert_eq!(uses.due(true).len(), 1);
        tokio::time::advance(PERIOD).await;
        assert_eq!(uses.due(false).len(), 1);

        let written = uses.begin_write(&org, &client, 7).unwrap();
        uses.note(&org, &client, Some("eve"));
        // Before and after the write, the count is the same.
        let stored = written.added_to(record(7));
        assert_eq!((stored.use_count, stored.last_used_by.as_str()), (9, "bob"));
        for count in [7, 9] {
            assert_eq!(uses.added_to(&org, &client, record(count)).use_count, 10);
        }
        uses.end_write(&org, &client, &written, 9);
        for count in [7, 9] {
            let shown = uses.added_to(&org, &client, record(count));
            assert_eq!((shown.use_count, shown.last_used_by.as_str()), (10, "eve"));
        }
        assert!(uses.due(false).is_empty(), "the next hour has begun");
        let written = uses.begin_write(&org, &client, 9).unwrap();
        uses.end_write(&org, &client, &written, 10);
        assert_eq!(uses.added_to(&org, &client, record(9)).use_count, 10, "an older record");
        assert!(uses.due(true).is_empty() && uses.get(&org, &client).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_with_an_unknown_outcome_is_repeated_with_the_same_count() {
        for took_effect in [false, true] {
            let (uses, (org, client)) = (Uses::default(), names(1));
            uses.note(&org, &client, Some("bob"));
            let lost = uses.begin_write(&org, &client, 4).unwrap().added_to(record(4));
            uses.note(&org, &client, Some("bob"));
            let stored = if took_effect { lost } else { record(4) };
            let again = uses.begin_write(&org, &client, stored.use_count).unwrap().added_to(stored);
            assert_eq!(again.use_count, 6, "{took_effect}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_keeps_the_last_reader_and_a_later_time_stays() {
        let (uses, (org, client)) = (Uses::default(), names(1));
        uses.note(&org, &client, None);
        let read = Record { last_used_by: "bob".into(), ..record(1) };
        assert_eq!(uses.added_to(&org, &client, read).last_used_by, "bob");
        let future = Record { last_used_at: "2999-01-01T00:00:00Z".into(), ..record(1) };
        let shown = uses.added_to(&org, &client, future);
        assert_eq!((shown.use_count, shown.last_used_at.as_str()), (2, "2999-01-01T00:00:00Z"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded_and_a_standby_drops_old_entries() {
        let uses = Uses::with_limit(SHARDS * 4);
        for n in 0..10_000 {
            let (org, client) = names(n);
            uses.note(&org, &client, None);
        }
        let kept = uses.due(true).len();
        assert_eq!((kept, uses.take_uncounted()), (SHARDS * 4, 10_000 - kept as u64));
        assert_eq!(uses.due(false).len(), kept, "full shards do not wait an hour");
        tokio::time::advance(STALE).await;
        let (org, client) = names(10_001);
        uses.note(&org, &client, None);
        assert_eq!(uses.take_uncounted(), 0);
        assert_eq!(uses.added_to(&org, &client, record(0)).use_count, 1);
        assert!(uses.due(true).len() < kept);
        uses.forget(&org, &client);
        assert_eq!(uses.added_to(&org, &client, record(0)).use_count, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_use_that_another_node_counts_is_taken_back_and_begins_an_hour() {
        let (uses, (org, client)) = (Uses::default(), names(1));
        assert!(uses.note(&org, &client, Some("bob")));
        uses.take_back(&org, &client);
        assert!(!uses.note(&org, &client, Some("bob")));
        assert_eq!(uses.added_to(&org, &client, record(3)).use_count, 4);
        tokio::time::advance(PERIOD).await;
        assert!(uses.note(&org, &client, Some("bob")));
    }
}
