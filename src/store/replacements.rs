//! Tokens whose name belongs to a newer token: a mint replaced them, and they stay live for a while.
//!
//! The entry of a named token is stored under its names. A replacement copies the entry to the client id of the old token
//! first, marks the record of the old token, and then stores the new token under the names. So the old token can still be
//! read, renewed and revoked, and an undo of the mint gives the name back.
//!
//! Architecture invariant: the caller holds the lock of the names, which is the lock of both tokens.

use jiff::Timestamp;
use vault_plugin_sdk::logical::StorageExt as _;

use super::base::Store;
use super::entries::{Record, Token};
use super::keys::token_key;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId};

impl Record {
    /// Returns when the token ends, if a newer token has its name.
    pub(crate) fn replaced_until(&self) -> Option<Timestamp> {
        self.replaced_until.parse().ok()
    }
}

impl Store {
    /// Prepares a named token for its replacement: from now on, its entry can be overwritten.
    pub(crate) async fn begin_replacement(
        &self,
        org: &OrgId,
        id: &str,
        old: &Token,
        until: String,
    ) -> Result<(), Error> {
        self.storage.put_json(&token_key(old.client_id.as_str()), old).await?;
        // A token of the Go plugin may have no record yet.
        let record = readable(self.record(org, &old.client_id).await)?.0.unwrap_or_else(|| Record::of(id, old));
        self.put_record(org, &old.client_id, &Record { replaced_until: until, ..record }).await
    }

    /// Gives the name back to a replaced token, unless the name belongs to a third token, or the replaced token is deleted.
    /// `new` is the token of the mint that is undone. If the undo is repeated, the copy of the entry stays: until then, a
    /// late put of the new token can overwrite the name again.
    pub(crate) async fn undo_replacement(
        &self,
        org: &OrgId,
        id: &str,
        old: &ClientId,
        new: &ClientId,
        is_repeated: bool,
    ) -> Result<(), Error> {
        let named = readable(self.token(id).await)?.0;
        let is_old = named.as_ref().is_some_and(|token| token.client_id == *old);
        let is_new = named.is_some_and(|token| token.client_id == *new);
        let copy = readable(self.token(old.as_str()).await)?.0.filter(|token| token.client_id == *old);
        if !is_old && !self.has_record(org, old).await? {
            // The old token was deleted after an earlier undo.
            self.replaced.forget(org, old);
            return self.delete_copy(id, old).await;
        }
        match copy {
            Some(token) if is_new => self.storage.put_json(&token_key(id), &token).await?,
            _ if is_old => {}
            _ => {
                self.replaced.end_undo(org, old);
                return Ok(());
            }
        }
        self.unmark_replaced(org, old).await?;
        if is_repeated { Ok(()) } else { self.delete_copy(id, old).await }
    }

    /// Removes what an undone replacement has left of itself: the mark and the copy of a token that has its name.
    pub(crate) async fn keep_name(&self, org: &OrgId, id: &str, client: &ClientId) -> Result<(), Error> {
        self.unmark_replaced(org, client).await?;
        self.delete_copy(id, client).await
    }

    async fn unmark_replaced(&self, org: &OrgId, client: &ClientId) -> Result<(), Error> {
        if let Some(record) = readable(self.record(org, client).await)?.0
            && !record.replaced_until.is_empty()
        {
            self.put_record(org, client, &Record { replaced_until: String::new(), ..record }).await?;
        }
        self.replaced.forget(org, client);
        Ok(())
    }

    async fn delete_copy(&self, id: &str, client: &ClientId) -> Result<(), Error> {
        if id != client.as_str() {
            self.storage.delete(&token_key(client.as_str())).await?;
        }
        Ok(())
    }

    /// Whether a token has its name, so that no newer token has replaced it.
    pub(crate) async fn has_its_name(&self, record: &Record, client: &ClientId) -> Result<bool, Error> {
        let named = readable(self.token(&record.token_id).await)?.0;
        Ok(named.is_some_and(|token| token.client_id == *client))
    }

    /// Returns the token of a record. The entry of a replaced token is stored under its client id.
    pub(crate) async fn token_of_record(&self, record: &Record, client: &ClientId) -> Result<Option<Token>, Error> {
        self.named_or_replaced(&record.token_id, client).await
    }

    /// Returns the token with this client id: under this id, or, if another token is stored there, under the client id.
    pub(crate) async fn named_or_replaced(&self, id: &str, client: &ClientId) -> Result<Option<Token>, Error> {
        let is_same = |token: &Token| token.client_id == *client;
        match self.token(id).await?.filter(is_same) {
            None if id != client.as_str() => Ok(self.token(client.as_str()).await?.filter(is_same)),
            found => Ok(found),
        }
    }
}
