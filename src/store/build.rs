//! Builds the inventory: writes a record for each token that the Go plugin left behind.
//!
//! The build can stop at any point and start again. It never brings back the record of a token that is deleted
//! meanwhile. It leaves out tokens that cannot have a record, and names them.

use std::collections::BTreeSet;
use std::pin::pin;

use futures_util::stream::{self, TryStreamExt as _};
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

impl Store {
    /// Writes the records that are missing.
    pub(crate) async fn write_records(&self) -> Result<Built, Error> {
        let (mut built, mut owners) = (Built::default(), self.owners().await?);
        let mut pages = pin!(self.storage.pages(TOKENS, "", PAGE));
        while let Some(page) = pages.try_next().await? {
            for child in page {
                if child.ends_with('/') {
                    for name in self.names_in(&format!("{TOKENS}{child}")).await? {
                        self.build(&format!("{child}{name}"), &mut owners, &mut built).await?;
                    }
                } else if !child.is_empty() {
                    self.build(&child, &mut owners, &mut built).await?;
                }
            }
        }
        Ok(built)
    }

    /// Writes the entry `client-index`: all records are written.
    pub(crate) async fn complete(&self, built: Built) -> Result<(), Error> {
        let index = ClientIndex { version: 1, left_out: built.named };
        self.storage.put_json(CLIENT_INDEX, &index).await?;
        self.inventory.keep(index);
        Ok(())
    }

    async fn build(&self, id: &str, owners: &mut Owners, built: &mut Built) -> Result<(), Error> {
        match self.record_token(id, owners).await? {
            Outcome::Recorded(_) => built.tokens += 1,
            Outcome::Stray(org) => {
                built.tokens += 1;
                built.strays.insert(org);
            }
            Outcome::Junk => built.junk += 1,
            Outcome::LeftOut => {
                built.left_out += 1;
                if built.named.len() < LEFT_OUT_NAMED {
                    built.named.push(id.to_owned());
                }
            }
            Outcome::Deleted => {}
        }
        Ok(())
    }

    /// Writes the record of a token if the record is missing. Returns the org of the token.
    pub(crate) async fn index_token(&self, id: &str) -> Result<Option<OrgId>, Error> {
        match self.record_token(id, &mut self.owners().await?).await? {
            Outcome::Recorded(org) | Outcome::Stray(org) => Ok(Some(org)),
            Outcome::Junk | Outcome::LeftOut | Outcome::Deleted => Ok(None),
        }
    }

    async fn record_token(&self, id: &str, owners: &mut Owners) -> Result<Outcome, Error> {
        // An entry that cannot be parsed is skipped: it must not keep the other tokens out of the inventory.
        let Some(entry) = self.storage.get(&token_key(id)).await? else { return Ok(Outcome::Deleted) };
        let Ok(token) = entry.decode::<Token>() else {
            tracing::warn!(token_id = id, "left a token out of the inventory: its entry is not the expected JSON");
            return Ok(Outcome::LeftOut);
        };
        if !token.is_live() {
            return Ok(Outcome::Junk);
        }
        let owner = owners.of(id, &token);
        let org = owner.clone().unwrap_or_else(|| token.org_id.clone());
        if org.as_str().is_empty() || !fits_key(org.as_str()) || !fits_key(token.client_id.as_str()) {
            tracing::warn!(token_id = id, "left a token out of the inventory: it cannot have a record");
            return Ok(Outcome::LeftOut);
        }
        let outcome = if owner.is_some() { Outcome::Recorded(org.clone()) } else { Outcome::Stray(org.clone()) };
        self.record_missing(&org, &token.client_id, &Record::of(id, &token)).await?;
        Ok(outcome)
    }

    /// Writes this record of a token, unless the token already has a record in the org.
    async fn record_missing(&self, org: &OrgId, client: &ClientId, record: &Record) -> Result<(), Error> {
        // A record that cannot be read is written again.
        if readable(self.record(org, client).await)?.0.is_some() {
            return Ok(());
        }
        self.put_record(org, client, record).await?;
        // Deleting a token removes its entry first, then its record. If the entry is gone now, the record may have been
        // written after that removal, so the record is removed again.
        if !self.may_store(&record.token_id, client).await? {
            self.delete_record(org, client).await?;
        }
        Ok(())
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
