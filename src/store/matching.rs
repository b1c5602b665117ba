//! The list of the records that meet the conditions of a filter.
//!
//! Architecture invariant: the memory does not grow with the records that do not match. The records are read page by page,
//! and only the matching ones are kept, as many as one answer can have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use vault_plugin_sdk::logical::StorageExt as _;

use super::base::Store;
use super::entries::Record;
use super::filter::Filter;
use super::index::{DETAILS, DETAILS_SIZE, Detail, PAGE, Page};
use super::keys::{record_key, records_folder};
use crate::error::Error;
use crate::names::{ClientId, OrgId, from_segment, segment};

/// How many orgs are searched at the same time. Each of them reads many records at the same time.
const ORGS_AT_ONCE: usize = 8;

/// How many records that cannot be read are named.
const UNREADABLE_NAMED: usize = 100;

/// The place of a token in the list.
type Place = (ClientId, OrgId);

/// The first matches, in the order of their client ids.
struct Matches {
    /// The most matches.
    limit: usize,
    /// The first matches, as many as one answer can have with their records.
    detailed: BTreeMap<Place, (Record, usize)>,
    /// The size of the records.
    size: usize,
    /// The further matches.
    others: BTreeSet<Place>,
    /// The keys of some records that cannot be read.
    unreadable: Vec<String>,
}

impl Store {
    /// Returns a page of the records that match, sorted by client id: up to `limit` tokens (0 means all) that come after
    /// `after`. Also returns the keys of some records that cannot be read.
    pub(crate) async fn matching(
        &self,
        org: Option<&OrgId>,
        after: &str,
        limit: usize,
        filter: &Filter,
    ) -> Result<(Page, Vec<String>), Error> {
        let orgs = match org {
            Some(org) => vec![org.clone()],
            None => self.orgs_to_search().await?,
        };
        let limit = if limit == 0 { usize::MAX } else { limit };
        let matches = Mutex::new(Matches::new(limit));
        let search = |org: OrgId| self.search(org, after, filter, &matches);
        stream::iter(orgs).map(Ok).try_for_each_concurrent(ORGS_AT_ONCE, search).await?;
        Ok(matches.into_inner().unwrap_or_else(PoisonError::into_inner).into_page())
    }

    /// Searches the records of an org, until it cannot have one of the first matches any more.
    async fn search(&self, org: OrgId, after: &str, filter: &Filter, matches: &Mutex<Matches>) -> Result<(), Error> {
        let lock = || matches.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pages = Box::pin(self.storage.pages(records_folder(&org), segment(after), PAGE));
        while let Some(page) = pages.try_next().await? {
            let clients: Vec<ClientId> = page.iter().map(|client| ClientId::stored(from_segment(client))).collect();
            if clients.first().is_some_and(|first| lock().ends_before(first)) {
                return Ok(());
            }
            let mut details = self.details(clients.into_iter().map(|client| (client, org.clone())));
            while let Some(detail) = details.try_next().await? {
                let Some(((org, client, record), size)) = detail else { continue };
                let mut matches = lock();
                match record.map(|record| self.uses.added_to(&org, &client, record)) {
                    Some(record) if filter.matches(&record) => matches.add((client, org), record, size),
                    Some(_) => {}
                    None => matches.note_unreadable(&org, &client),
                }
            }
        }
        Ok(())
    }
}

impl Matches {
    fn new(limit: usize) -> Self {
        Self { limit, detailed: BTreeMap::new(), size: 0, others: BTreeSet::new(), unreadable: Vec::new() }
    }

    fn len(&self) -> usize {
        self.detailed.len() + self.others.len()
    }

    /// Whether the list is full, and this client id comes after all of it.
    fn ends_before(&self, client: &ClientId) -> bool {
        let last = self.others.last().or_else(|| self.detailed.keys().next_back());
        self.len() >= self.limit && last.is_some_and(|(last, _)| last < client)
    }

    fn add(&mut self, place: Place, record: Record, size: usize) {
        if self.others.first().is_some_and(|first| *first < place) {
            self.others.insert(place);
        } else {
            self.size += size;
            self.detailed.insert(place, (record, size));
        }
        while self.detailed.len() > DETAILS || (self.size > DETAILS_SIZE && self.detailed.len() > 1) {
            let Some((place, (_, size))) = self.detailed.pop_last() else { break };
            self.size -= size;
            self.others.insert(place);
        }
        while self.len() > self.limit {
            if self.others.pop_last().is_none()
                && let Some((_, (_, size))) = self.detailed.pop_last()
            {
                self.size -= size;
            }
        }
    }

    fn note_unreadable(&mut self, org: &OrgId, client: &ClientId) {
        if self.unreadable.len() < UNREADABLE_NAMED {
            self.unreadable.push(record_key(org, client));
        }
    }

    fn into_page(self) -> (Page, Vec<String>) {
        let detail = |((client, org), (record, _)): (Place, (Record, usize))| -> Detail { (org, client, Some(record)) };
        let others = self.others.into_iter().map(|(client, _)| client).collect();
        (Page { detailed: self.detailed.into_iter().map(detail).collect(), others }, self.unreadable)
    }
}
