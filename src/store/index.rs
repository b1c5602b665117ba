//! The inventory: one record for each token, found by its client id.
//!
//! Tokens that the Go plugin minted have no record. [`Store::write_records`] writes theirs once, beside normal work. A
//! token that the Go plugin minted later, during a downgrade, gets its record when its lease is renewed, or when the deletion
//! of a config looks for such tokens.
//!
//! A caller asks whether the inventory is complete before it looks for a token, or it looks again afterwards. Otherwise
//! the inventory could be completed between the two steps, and a live token would seem to be missing.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use vault_plugin_sdk::logical::StorageExt as _;

use super::base::{Store, log_skipped};
use super::client_index::{CLIENT_INDEX, ClientIndex, Cursor};
use super::entries::{Config, Record, Token};
use super::keys::{RECORDS, record_key, records_folder, token_key};
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId, fits_key, from_segment, segment};

/// How many keys one list call returns while all tokens or records are read.
pub(super) const PAGE: usize = 256;

/// The most records in one answer.
pub(super) const DETAILS: usize = 10_000;

/// The most memory of the records in one answer. All of them are in memory at the same time, here and in the host.
pub(super) const DETAILS_SIZE: usize = 8 << 20;

/// The memory of a pair of metadata, besides its text.
const PAIR: usize = 64;

/// The result of reading one record. The record is `None` if its entry cannot be read.
pub(crate) type Detail = (OrgId, ClientId, Option<Record>);

/// How many records are read or moved at the same time.
pub(super) const CONCURRENT: usize = 32;

/// A page of the inventory.
pub(crate) struct Page {
    /// The first tokens, with their records.
    pub(crate) detailed: Vec<Detail>,
    /// The client ids of the remaining tokens.
    pub(crate) others: Vec<ClientId>,
}

/// The result of looking for a token by its client id.
pub(crate) enum Lookup {
    /// A live token and its id.
    Found(String, Box<Token>),
    /// There is no such token.
    Missing,
    /// The record of the token cannot be read, for this reason, and the token is not stored under its client id.
    Unreadable(Error),
    /// The inventory is not complete, so the token may be there.
    Unknown,
}

impl Store {
    /// Returns the inventory record of a token.
    pub(crate) async fn record(&self, org: &OrgId, client: &ClientId) -> Result<Option<Record>, Error> {
        if client.as_str().is_empty() || !fits_key(client.as_str()) {
            return Ok(None);
        }
        Ok(self.storage.get_json(&record_key(org, client)).await?)
    }

    /// Returns the inventory record of a token, with the uses that are not written yet.
    pub(crate) async fn record_with_uses(&self, org: &OrgId, client: &ClientId) -> Result<Option<Record>, Error> {
        let record = self.record(org, client).await?;
        Ok(record.map(|record| self.uses.added_to(org, client, record)))
    }

    /// Whether a token has an inventory record. The record may be an entry that cannot be read.
    pub(crate) async fn has_record(&self, org: &OrgId, client: &ClientId) -> Result<bool, Error> {
        let (record, reason) = readable(self.record(org, client).await)?;
        Ok(record.is_some() || reason.is_some())
    }

    /// Writes the inventory record of a token.
    pub(crate) async fn put_record(&self, org: &OrgId, client: &ClientId, record: &Record) -> Result<(), Error> {
        // Added first: if the host drops this future, the record may be stored.
        self.record_orgs.add(org);
        self.storage.put_json(&record_key(org, client), record).await?;
        self.token_counts.stored(org, client);
        Ok(())
    }

    /// Removes the inventory record of a token.
    pub(super) async fn delete_record(&self, org: &OrgId, client: &ClientId) -> Result<(), Error> {
        if client.as_str().is_empty() || !fits_key(client.as_str()) {
            return Ok(());
        }
        self.storage.delete(&record_key(org, client)).await?;
        self.token_counts.deleted(org, client);
        // The users of a static role must not wait for the end of its period.
        self.schedule.note_deleted(org, client);
        Ok(())
    }

    /// Looks for a live token by its client id.
    pub(crate) async fn token_of(&self, org: &OrgId, client: &ClientId) -> Result<Lookup, Error> {
        let was_complete = self.inventory.known().is_some();
        match self.look_up(org, client).await? {
            Lookup::Missing if !was_complete => {}
            found => return Ok(found),
        }
        if self.client_index().await?.is_none() {
            return Ok(Lookup::Unknown);
        }
        // The record may have been written after the first look-up and before the inventory was completed.
        self.look_up(org, client).await
    }

    async fn look_up(&self, org: &OrgId, client: &ClientId) -> Result<Lookup, Error> {
        let (record, reason) = readable(self.record(org, client).await)?;
        if let Some(record) = record {
            let token = self.token_of_record(&record, client).await?;
            return Ok(token.map_or(Lookup::Missing, |token| Lookup::Found(record.token_id, Box::new(token))));
        }
        // A token that a read minted is found without a record: its id is the client id.
        let id = client.as_str();
        match self.token(id).await?.filter(|token| token.client_id == *client) {
            Some(token) if self.owner(id, &token).await?.as_ref() == Some(org) => {
                Ok(Lookup::Found(id.to_owned(), Box::new(token)))
            }
            _ => Ok(reason.map_or(Lookup::Missing, Lookup::Unreadable)),
        }
    }

    /// Returns the records with this client id in all orgs. There is at most one record, unless Astra uses a client id
    /// twice.
    pub(crate) async fn records_named(&self, client: &ClientId) -> Result<Vec<(OrgId, Record)>, Error> {
        let page = self.orgs_to_search().await?.into_iter().map(|org| (client.clone(), org)).collect();
        let records = self.read_records(page).await?;
        Ok(records.into_iter().filter_map(|(org, _, record)| Some((org, record?))).collect())
    }

    /// Returns a page of the inventory, sorted by client id: up to `limit` tokens (0 means all) that come after
    /// `after`. Reads the records of the first tokens only, as many as one answer can have.
    pub(crate) async fn inventory(&self, org: Option<&OrgId>, after: &str, limit: usize) -> Result<Page, Error> {
        let orgs = match org {
            Some(org) => vec![org.clone()],
            None => self.orgs_to_search().await?,
        };
        let list = |org: OrgId| async move {
            let clients = self.storage.list_page(&records_folder(&org), &segment(after), limit).await?;
            let clients = clients.iter().map(|client| (ClientId::stored(from_segment(client)), org.clone()));
            Ok::<Vec<_>, Error>(clients.collect())
        };
        let pages: Vec<_> = stream::iter(orgs).map(list).buffer_unordered(CONCURRENT).try_collect().await?;
        let mut page = pages.concat();
        page.sort();
        if limit > 0 {
            page.truncate(limit);
        }
        let (detailed, read) = self.read_details(&page).await?;
        Ok(Page { detailed, others: page.into_iter().skip(read).map(|(client, _)| client).collect() })
    }

    /// Reads the records of the first tokens of a page, as many as one answer can have. Also returns how many tokens these
    /// are, with those that were deleted since they were listed.
    async fn read_details(&self, page: &[(ClientId, OrgId)]) -> Result<(Vec<Detail>, usize), Error> {
        let (mut detailed, mut size, mut read) = (Vec::new(), 0, 0);
        let mut details = self.details(page.iter().take(DETAILS).cloned());
        while let Some(detail) = details.try_next().await? {
            if let Some(((org, client, record), more)) = detail {
                size += more;
                if size > DETAILS_SIZE && !detailed.is_empty() {
                    break;
                }
                let record = record.map(|record| self.uses.added_to(&org, &client, record));
                detailed.push((org, client, record));
            }
            read += 1;
        }
        Ok((detailed, read))
    }

    /// Waits for the cursor of the sweep, and locks it.
    pub(crate) async fn sweep_cursor(&self) -> tokio::sync::MutexGuard<'_, Cursor> {
        self.cursor.lock().await
    }

    /// Reads records. Skips tokens that were deleted since they were listed.
    pub(super) async fn read_records(&self, page: Vec<(ClientId, OrgId)>) -> Result<Vec<Detail>, Error> {
        let details: Vec<Option<(Detail, usize)>> = self.details(page).try_collect().await?;
        Ok(details.into_iter().flatten().map(|(detail, _)| detail).collect())
    }

    /// Reads records, each with its size in memory. A token that was deleted since it was listed is `None`.
    pub(super) fn details(
        &self,
        page: impl IntoIterator<Item = (ClientId, OrgId), IntoIter: Send> + Send,
    ) -> impl Stream<Item = Result<Option<(Detail, usize)>, Error>> + Send + Unpin {
        let read = move |(client, org): (ClientId, OrgId)| async move {
            let (record, reason) = readable(self.record(&org, &client).await)?;
            reason.iter().for_each(log_skipped);
            let size = record.as_ref().map_or(0, size_of);
            Ok((record.is_some() || reason.is_some()).then_some(((org, client, record), size)))
        };
        Box::pin(stream::iter(page).map(read).buffered(CONCURRENT))
    }

    /// Returns the records of an org that come after `after`, page by page, without entries that cannot be read.
    pub(crate) fn records_of<'a>(
        &'a self,
        org: &OrgId,
        after: &str,
    ) -> impl Stream<Item = Result<Vec<(ClientId, Record)>, Error>> + Send + Unpin + use<'a> {
        let org = org.clone();
        let pages = self.storage.pages(records_folder(&org), after.to_owned(), PAGE).map_err(Error::from);
        Box::pin(pages.and_then(move |clients| {
            let page = clients.iter().map(|client| (ClientId::stored(from_segment(client)), org.clone())).collect();
            async move {
                let records = self.read_records(page).await?;
                Ok(records.into_iter().filter_map(|(_, client, record)| Some((client, record?))).collect())
            }
        }))
    }

    /// Returns the client ids of all records of an org.
    pub(crate) async fn client_ids(&self, org: &OrgId) -> Result<Vec<ClientId>, Error> {
        let (mut ids, mut pages) = (Vec::new(), pin!(self.storage.pages(records_folder(org), "", PAGE)));
        while let Some(page) = pages.try_next().await? {
            ids.extend(page.iter().map(|client| ClientId::stored(from_segment(client))));
        }
        Ok(ids)
    }

    /// Returns the other orgs whose tokens may be in Astra's list for this config: configs of the same organization of
    /// Astra, configs whose organization is not known, and orgs that have records and no config.
    pub(crate) async fn orgs_sharing(&self, config: &Config) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        let mut orgs: BTreeSet<OrgId> = self.orgs_to_search().await?.into_iter().collect();
        orgs.extend(directory.ids().cloned());
        orgs.retain(|org| *org != config.org_id && !directory.is_of_another(org, &config.astra_org_id));
        Ok(orgs.into_iter().collect())
    }

    /// Whether the org has live tokens.
    pub(crate) async fn has_tokens(&self, org: &OrgId) -> Result<bool, Error> {
        Ok(!self.storage.list_page(&records_folder(org), "", 1).await?.is_empty())
    }

    /// Returns the orgs that have records and no config.
    pub(crate) async fn strays(&self) -> Result<Vec<OrgId>, Error> {
        let orgs: BTreeSet<OrgId> = self.orgs().await?.into_iter().collect();
        Ok(self.orgs_with_tokens().await?.into_iter().filter(|org| !orgs.contains(org)).collect())
    }

    /// Whether every token has a record.
    pub(crate) async fn inventory_is_complete(&self) -> Result<bool, Error> {
        Ok(self.client_index().await?.is_some())
    }

    /// Returns the entry `client-index`; `None` if the inventory is not complete.
    async fn client_index(&self) -> Result<Option<Arc<ClientIndex>>, Error> {
        if let Some(index) = self.inventory.known() {
            return Ok(Some(index));
        }
        let Some(entry) = self.storage.get(CLIENT_INDEX).await? else { return Ok(None) };
        // Only the presence of the entry counts. If the entry cannot be parsed, the inventory is still complete.
        let index = entry.decode().unwrap_or(ClientIndex { version: 1, left_out: Vec::new() });
        Ok(Some(self.inventory.keep(index)))
    }

    /// Returns the ids of some stored tokens that the inventory leaves out.
    pub(crate) async fn left_out(&self) -> Result<Vec<String>, Error> {
        let Some(index) = self.client_index().await? else { return Ok(Vec::new()) };
        let mut left_out = Vec::new();
        for id in &index.left_out {
            // When the lease of the token is revoked, the entry is deleted.
            if self.storage.get(&token_key(id)).await?.is_some() {
                left_out.push(id.clone());
            }
        }
        Ok(left_out)
    }

    /// Returns the orgs that have records.
    pub(crate) async fn orgs_with_tokens(&self) -> Result<Vec<OrgId>, Error> {
        let reading = self.record_orgs.read();
        let folders = self.storage.list(RECORDS).await?;
        let orgs = folders.iter().filter_map(|folder| folder.strip_suffix('/'));
        let orgs: Vec<OrgId> = orgs.map(|org| OrgId::stored(from_segment(org))).collect();
        self.record_orgs.complete(reading, &orgs);
        Ok(orgs)
    }

    /// Returns the orgs that have records, and some orgs that had records. Lists the orgs only once, because the host walks
    /// over all records for this list.
    pub(super) async fn orgs_to_search(&self) -> Result<Vec<OrgId>, Error> {
        match self.record_orgs.known() {
            Some(orgs) if self.caching().await => Ok(orgs),
            _ => self.orgs_with_tokens().await,
        }
    }
}

/// Returns about the memory of a record.
fn size_of(record: &Record) -> usize {
    record.metadata.iter().map(|(key, value)| key.len() + value.len() + PAIR).sum()
}
