//! The inventory: one record for each token, found by its client id.
//!
//! Tokens that the Go plugin minted have no record. [`Store::build_index`] writes theirs once, beside normal work. It
//! can be cut short at any point and begun anew, and never brings back the record of a token that is deleted meanwhile. A
//! token that the Go plugin minted later, during a downgrade, gets its record when its lease is renewed.

use std::sync::atomic::Ordering;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;

use super::names::{ClientId, OrgId, check};
use super::{Record, Store, TOKENS, Token, leaves, token_key};
use crate::astra::Error;
use crate::sdk::logical::StorageExt as _;

/// Its presence says that every live token has a record.
pub(super) const MARKER: &str = "client-index";

const RECORDS: &str = "client/";

/// Tokens or records looked at between two listings.
const PAGE: usize = 256;

/// Records that a listing reads at most: they are in memory together, and in one answer.
pub(crate) const DETAILS: usize = 10_000;

/// Records read at the same time.
const CONCURRENT_READS: usize = 32;

/// A page of the inventory.
pub(crate) struct Page {
    /// The tokens with their records.
    pub(crate) detailed: Vec<(OrgId, ClientId, Record)>,
    /// The tokens after them.
    pub(crate) others: Vec<ClientId>,
}

impl Store {
    /// Returns the inventory record of a token.
    pub(crate) async fn record(&self, org: &OrgId, client: &ClientId) -> Result<Option<Record>, Error> {
        Ok(self.storage.get_json(&key(org, client)).await?)
    }

    /// Writes the inventory record of a token.
    pub(crate) async fn put_record(&self, org: &OrgId, client: &ClientId, record: &Record) -> Result<(), Error> {
        Ok(self.storage.put_json(&key(org, client), record).await?)
    }

    /// Returns a page of the inventory in the order of the client ids: up to `limit` (0 = all) that sort after `after`. The
    /// records are those of the first [`DETAILS`] tokens; of the others there are the client ids.
    pub(crate) async fn inventory(&self, org: Option<&OrgId>, after: &str, limit: usize) -> Result<Page, Error> {
        let orgs = match org {
            Some(org) => vec![org.clone()],
            None => self.orgs_with_tokens().await?,
        };
        let mut page = Vec::new();
        for org in orgs {
            let clients = self.storage.list_page(&folder(&org), after, limit).await?;
            page.extend(leaves(clients).map(|client| (ClientId::stored(client), org.clone())));
        }
        page.sort();
        if limit > 0 {
            page.truncate(limit);
        }
        let others = page.split_off(page.len().min(DETAILS)).into_iter().map(|(client, _)| client).collect();
        Ok(Page { detailed: self.read_records(page).await?, others })
    }

    /// Returns the records of up to `limit` tokens that come after another one, in the order of orgs and client ids, and
    /// the last of these tokens if there may be more.
    pub(crate) async fn records_after(
        &self,
        last: Option<&(ClientId, OrgId)>,
        limit: usize,
    ) -> Result<(Vec<(OrgId, ClientId, Record)>, Option<(ClientId, OrgId)>), Error> {
        let mut orgs = self.orgs_with_tokens().await?;
        orgs.sort();
        let mut page = Vec::new();
        for org in orgs.into_iter().filter(|org| last.is_none_or(|(_, last)| org >= last)) {
            let after = last.filter(|(_, last)| *last == org).map_or("", |(client, _)| client.as_str());
            let clients = self.storage.list_page(&folder(&org), after, limit - page.len()).await?;
            page.extend(leaves(clients).map(|client| (ClientId::stored(client), org.clone())));
            if page.len() >= limit {
                break;
            }
        }
        let last = if page.len() < limit { None } else { page.last().cloned() };
        Ok((self.read_records(page).await?, last))
    }

    /// Reads records; those of tokens that are gone by now are left out.
    async fn read_records(&self, page: Vec<(ClientId, OrgId)>) -> Result<Vec<(OrgId, ClientId, Record)>, Error> {
        let read = |(client, org): (ClientId, OrgId)| async move {
            let record = self.record(&org, &client).await?;
            Ok::<_, Error>(record.map(|record| (org, client, record)))
        };
        let records: Vec<Option<_>> = stream::iter(page).map(read).buffered(CONCURRENT_READS).try_collect().await?;
        Ok(records.into_iter().flatten().collect())
    }

    /// Returns records of an org from a point on, and the next point if there may be more.
    pub(super) async fn records_of(
        &self,
        org: &OrgId,
        after: &str,
    ) -> Result<(Vec<(ClientId, Record)>, Option<String>), Error> {
        let clients = self.storage.list_page(&folder(org), after, PAGE).await?;
        // A host without paging answers with everything, in any order.
        let next = if clients.len() == PAGE { clients.last().cloned() } else { None };
        let page = leaves(clients).map(|client| (ClientId::stored(client), org.clone())).collect();
        let records = self.read_records(page).await?;
        Ok((records.into_iter().map(|(_, client, record)| (client, record)).collect(), next))
    }

    /// Whether the org has live tokens.
    pub(crate) async fn has_tokens(&self, org: &OrgId) -> Result<bool, Error> {
        Ok(!self.storage.list_page(&folder(org), "", 1).await?.is_empty())
    }

    /// Whether every token has its record.
    pub(crate) async fn index_is_complete(&self) -> Result<bool, Error> {
        if self.index_complete.load(Ordering::Acquire) {
            return Ok(true);
        }
        let complete = self.storage.get(MARKER).await?.is_some();
        self.index_complete.fetch_or(complete, Ordering::AcqRel);
        Ok(complete)
    }

    /// Writes the records that are missing, then the marker.
    pub(crate) async fn build_index(&self) -> Result<(), Error> {
        if self.index_is_complete().await? {
            return Ok(());
        }
        let mut after = String::new();
        loop {
            let page = self.storage.list_page(TOKENS, &after, PAGE).await?;
            let Some(last) = page.last().cloned() else { break };
            // A host without paging answers with everything, in any order.
            let is_last = page.len() != PAGE;
            for id in leaves(page) {
                self.index_token(&id).await?;
            }
            if is_last {
                break;
            }
            after = last;
        }
        self.storage.put_json(MARKER, &json!({"version": 1})).await?;
        self.index_complete.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes the record of a token if it is missing.
    pub(crate) async fn index_token(&self, id: &str) -> Result<(), Error> {
        // An entry that cannot be read is left alone: it must not keep all others out of the inventory.
        let Some(entry) = self.storage.get(&token_key(id)).await? else { return Ok(()) };
        let Ok(token) = entry.decode::<Token>() else {
            tracing::warn!(token_id = id, "left a token out of the inventory: its entry is not the expected JSON");
            return Ok(());
        };
        if !token.is_live() {
            return Ok(());
        }
        let named = check("orgId", token.org_id.as_str()).and_then(|()| check("clientId", token.client_id.as_str()));
        if let Err(error) = named {
            tracing::warn!(token_id = id, error = %error, "left a token out of the inventory: it cannot have a record");
            return Ok(());
        }
        if self.record(&token.org_id, &token.client_id).await?.is_some() {
            return Ok(());
        }
        self.put_record(&token.org_id, &token.client_id, &Record::of(id, &token)).await?;
        // Whoever deletes a token removes the entry first and the record after it. If the entry is gone by now, that
        // may have happened before the record was written.
        let now = self.token(id).await?;
        if now.is_none_or(|now| now.client_id != token.client_id) {
            self.storage.delete(&key(&token.org_id, &token.client_id)).await?;
        }
        Ok(())
    }

    async fn orgs_with_tokens(&self) -> Result<Vec<OrgId>, Error> {
        let folders = self.storage.list(RECORDS).await?;
        Ok(folders.iter().filter_map(|folder| folder.strip_suffix('/')).map(OrgId::stored).collect())
    }
}

pub(super) fn key(org: &OrgId, client: &ClientId) -> String {
    format!("{RECORDS}{org}/{client}")
}

fn folder(org: &OrgId) -> String {
    format!("{RECORDS}{org}/")
}
