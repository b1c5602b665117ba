//! Deletions of tokens: their entries and their records.
//!
//! A revocation deletes the entry of its token first and the record last, and asks Astra in between. So a record without
//! an entry shows a revocation that was interrupted. This holds for tokens whose id is their client id. If a named token
//! lost its entry before its deletion in Astra, another token could get its name.

use std::collections::HashSet;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::base::{Store, log_skipped};
use super::entries::{Record, Token};
use super::index::CONCURRENT;
use super::keys::token_key;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId, fits_key};

/// The token under the id of a token that is deleted.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Holder {
    /// The token itself.
    Token,
    /// Another token, which has the same name.
    Newer,
    /// No live token.
    Nothing,
}

impl Record {
    /// Whether a missing entry of the token shows that its revocation was interrupted. The record of a token of the Go
    /// plugin stays if the Go plugin deletes the token.
    pub(super) fn shows_interruption(&self, client: &ClientId) -> bool {
        self.token_id == client.as_str() && !self.created_at.is_empty()
    }
}

impl Store {
    /// Whether a token is still stored, or still has a record. An entry that cannot be read counts.
    pub(crate) async fn has_traces(&self, id: &str, org: &OrgId, client: &ClientId) -> Result<bool, Error> {
        let (record, reason) = readable(self.record(org, client).await)?;
        Ok(record.is_some() || reason.is_some() || self.may_store(id, client).await?)
    }

    /// Deletes the entries of a token. Keeps the entry of a newer token with the same name.
    pub(crate) async fn delete_token(&self, id: &str, org: &OrgId, client: &ClientId) -> Result<(), Error> {
        let _deleting = self.live.deleting(org, client);
        // The entry is deleted even if it is not there: a put that timed out can take effect later.
        if !id.is_empty() && fits_key(id) {
            let holder = self.holder(id, client).await?;
            if holder != Holder::Newer {
                self.storage.delete(&token_key(id)).await?;
            }
            // A newer token may have replaced this token.
            if holder != Holder::Token && id != client.as_str() && fits_key(client.as_str()) {
                self.storage.delete(&token_key(client.as_str())).await?;
            }
        }
        self.delete_record(org, client).await?;
        self.uses.forget(org, client);
        self.uncount(org, client).await;
        Ok(())
    }

    /// Begins the revocation of a token whose id is its client id: deletes its entry.
    pub(crate) async fn begin_revocation(&self, client: &ClientId) -> Result<(), Error> {
        Ok(self.storage.delete(&token_key(client.as_str())).await?)
    }

    /// Ends the revocation of a token: deletes its record.
    pub(crate) async fn end_revocation(&self, org: &OrgId, client: &ClientId) -> Result<(), Error> {
        self.delete_token("", org, client).await
    }

    /// Returns the record of a token whose revocation was interrupted; `None` for any other token.
    pub(crate) async fn interrupted(&self, org: &OrgId, client: &ClientId) -> Result<Option<Record>, Error> {
        let (record, reason) = readable(self.record(org, client).await)?;
        reason.iter().for_each(log_skipped);
        match record.filter(|record| record.shows_interruption(client)) {
            Some(record) if !self.may_store(&record.token_id, client).await? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// Returns the tokens of a page that have a record and no entry: their revocations were interrupted, or their mints are
    /// unfinished.
    pub(crate) async fn without_entry(&self, page: &[(ClientId, Record)]) -> Result<HashSet<ClientId>, Error> {
        let suspects: Vec<ClientId> = page
            .iter()
            .filter(|(client, record)| record.shows_interruption(client))
            .map(|(id, _)| id.clone())
            .collect();
        let check = |client: ClientId| async move {
            let is_stored = self.may_store(client.as_str(), &client).await?;
            Ok((!is_stored).then_some(client))
        };
        let checked: Result<Vec<Option<ClientId>>, Error> =
            stream::iter(suspects).map(check).buffer_unordered(CONCURRENT).try_collect().await;
        Ok(checked?.into_iter().flatten().collect())
    }

    /// Returns which token is stored under an id.
    async fn holder(&self, id: &str, client: &ClientId) -> Result<Holder, Error> {
        if id == client.as_str() {
            return Ok(Holder::Token);
        }
        let Some(entry) = self.storage.get(&token_key(id)).await? else { return Ok(Holder::Nothing) };
        // An entry that cannot be parsed is deleted, too. It must not block the revocation of a lease.
        Ok(match entry.decode::<Token>() {
            Ok(token) if token.is_live() && token.client_id != *client => Holder::Newer,
            Ok(token) if token.client_id == *client => Holder::Token,
            _ => Holder::Nothing,
        })
    }
}
