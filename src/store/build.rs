//! Builds the inventory: writes a record for each token that the Go plugin left behind.
//!
//! The build can stop at any point and start again. It never brings back the record of a token that is deleted
//! meanwhile. It leaves out tokens that cannot have a record, and names them.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use vault_plugin_sdk::logical::StorageExt as _;

use super::base::Store;
use super::client_index::{CLIENT_INDEX, ClientIndex};
use super::entries::{Record, Token};
use super::index::{CONCURRENT, PAGE};
use super::keys::{TOKENS, token_key};
use super::owner::Owners;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId, fits_key};

/// How many tokens without a record the entry `client-index` names.
const LEFT_OUT_NAMED: usize = 20;

/// The result of writing the records of the stored tokens.
#[derive(Default)]
pub(crate) struct Built {
    /// Number of tokens with a record.
    pub(crate) tokens: usize,
    /// Number of entries without a token.
    pub(crate) junk: usize,
    /// Number of tokens that cannot have a record.
    pub(crate) left_out: usize,
    /// Ids of some tokens that cannot have a record.
    named: Vec<String>,
    /// Organizations that have tokens but no known config.
    pub(crate) strays: BTreeSet<OrgId>,
}

/// The result of writing the record of one token.
enum Outcome {
    /// The token has a record in this org.
    Recorded(OrgId),
    /// Like [`Outcome::Recorded`], but the organization has no known config. The record is under the id in the token.
    Stray(OrgId),
    /// The entry holds no token.
    Junk,
    /// The token cannot have a record.
    LeftOut,
    /// The entry was deleted meanwhile.
    Deleted,
}

impl Built {
    fn add(&mut self, id: String, outcome: Outcome) {
        match outcome {
            Outcome::Recorded(_) => self.tokens += 1,
            Outcome::Stray(org) => {
                self.tokens += 1;
                self.strays.insert(org);
            }
            Outcome::Junk => self.junk += 1,
            Outcome::LeftOut => {
                self.left_out += 1;
                if self.named.len() < LEFT_OUT_NAMED {
                    self.named.push(id);
                }
            }
            Outcome::Deleted => {}
        }
    }
}

impl Store {
    /// Writes the records that are missing.
    pub(crate) async fn write_records(&self) -> Result<Built, Error> {
        let (mut built, owners) = (Built::default(), Mutex::new(self.owners().await?));
        let mut pages = pin!(self.storage.pages(TOKENS, "", PAGE));
        while let Some(page) = pages.try_next().await? {
            let ids = self.ids_in(page).await?;
            let outcomes = stream::iter(ids).map(|id| async {
                let outcome = self.record_token(&id, &owners).await?;
                Ok::<_, Error>((id, outcome))
            });
            let mut outcomes = outcomes.buffered(CONCURRENT);
            while let Some((id, outcome)) = outcomes.try_next().await? {
                built.add(id, outcome);
            }
        }
        Ok(built)
    }

    /// Writes the entry `client-index`: all records are written.
    pub(crate) async fn complete(&self, built: Built) -> Result<(), Error> {
        let index = ClientIndex { version: 1, left_out: built.named };
        self.storage.put_json(CLIENT_INDEX, &index).await?;
        self.inventory.keep(index);
        let _ = self.records_written.set(());
        Ok(())
    }

    /// Writes the records of tokens that the Go plugin minted during a downgrade, after the inventory was complete. Reads
    /// all tokens, but only once in a process.
    pub(crate) async fn write_records_after_downgrade(&self) -> Result<(), Error> {
        if !self.inventory_is_complete().await? {
            return Ok(());
        }
        let write = || async { self.write_records().await.map(drop) };
        self.records_written.get_or_try_init(write).await.copied()
    }

    /// Returns the ids of the tokens on a page of keys. The id of an old token can have slashes.
    async fn ids_in(&self, page: Vec<String>) -> Result<Vec<String>, Error> {
        let mut ids = Vec::with_capacity(page.len());
        for child in page {
            if child.ends_with('/') {
                let names = self.names_in(&format!("{TOKENS}{child}")).await?;
                ids.extend(names.into_iter().map(|name| format!("{child}{name}")));
            } else if !child.is_empty() {
                ids.push(child);
            }
        }
        Ok(ids)
    }

    /// Writes the record of a token if the record is missing. Returns the org of the token.
    pub(crate) async fn index_token(&self, id: &str) -> Result<Option<OrgId>, Error> {
        match self.record_token(id, &Mutex::new(self.owners().await?)).await? {
            Outcome::Recorded(org) | Outcome::Stray(org) => Ok(Some(org)),
            Outcome::Junk | Outcome::LeftOut | Outcome::Deleted => Ok(None),
        }
    }

    async fn record_token(&self, id: &str, owners: &Mutex<Owners>) -> Result<Outcome, Error> {
        // An entry that cannot be parsed is skipped: it must not keep the other tokens out of the inventory.
        let Some(entry) = self.storage.get(&token_key(id)).await? else { return Ok(Outcome::Deleted) };
        let Ok(token) = entry.decode::<Token>() else {
            tracing::warn!(token_id = id, "left a token out of the inventory: its entry is not the expected JSON");
            return Ok(Outcome::LeftOut);
        };
        if !token.is_live() {
            return Ok(Outcome::Junk);
        }
        let owner = owners.lock().unwrap_or_else(PoisonError::into_inner).of(id, &token);
        let org = owner.clone().unwrap_or_else(|| token.org_id.clone());
        if org.as_str().is_empty() || !fits_key(org.as_str()) || !fits_key(token.client_id.as_str()) {
            tracing::warn!(token_id = id, "left a token out of the inventory: it cannot have a record");
            return Ok(Outcome::LeftOut);
        }
        let outcome = if owner.is_some() { Outcome::Recorded(org.clone()) } else { Outcome::Stray(org.clone()) };
        if self.record_missing(&org, &token.client_id, &Record::of(id, &token)).await? {
            self.count_found(&org, &token).await?;
        }
        Ok(outcome)
    }

    /// Writes this record of a token, unless the token already has a record in the org. Returns whether it was written.
    async fn record_missing(&self, org: &OrgId, client: &ClientId, record: &Record) -> Result<bool, Error> {
        // A record that cannot be read is written again.
        if readable(self.record(org, client).await)?.0.is_some() {
            return Ok(false);
        }
        self.put_record(org, client, record).await?;
        // Deleting a token removes its entry first, then its record. If the entry is gone now, the record may have been
        // written after that removal, so the record is removed again.
        if !self.may_store(&record.token_id, client).await? {
            self.delete_record(org, client).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Moves all records from `stray`, Astra's id of an organization, to `org`, the `org_id` of the config of that
    /// organization.
    pub(crate) async fn move_records(&self, stray: &OrgId, org: &OrgId) -> Result<(), Error> {
        let mut pages = self.records_of(stray, "");
        while let Some(page) = pages.try_next().await? {
            let moved = |(client, record)| self.move_record(stray, org, client, record);
            stream::iter(page.into_iter().map(Ok)).try_for_each_concurrent(CONCURRENT, moved).await?;
        }
        Ok(())
    }

    async fn move_record(&self, stray: &OrgId, org: &OrgId, client: ClientId, record: Record) -> Result<(), Error> {
        if self.may_store(&record.token_id, &client).await? {
            self.record_missing(org, &client, &record).await?;
            self.count_in_role(org, &record.role_name, &client).await?;
        }
        self.delete_record(stray, &client).await
    }
}
