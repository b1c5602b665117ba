//! Stored tokens together with their records and their places.

use vault_plugin_sdk::logical::StorageExt as _;

use super::base::Store;
use super::entries::{Kind, Record, Token};
use super::keys::token_key;
use super::roster::Place;
use crate::error::Error;
use crate::names::OrgId;

/// How many tokens of an org [`Store::org_of_tokens`] reads.
const TOKENS_READ: usize = 16;

impl Store {
    /// Returns the organization of the stored tokens of an org, as the tokens name it. Prefers the organization
    /// `named`, and reads the first tokens only. Returns `None` if none of them names an organization.
    pub(crate) async fn org_of_tokens(&self, org: &OrgId, named: &str) -> Result<Option<OrgId>, Error> {
        let mut found: Option<OrgId> = None;
        for (_, client, record) in self.inventory(Some(org), "", TOKENS_READ).await?.detailed {
            let Some(record) = record else { continue };
            let token = self.readable_token(&record.token_id).await?.filter(|token| token.client_id == client);
            // Tokens of this engine hold the `org_id` of their config, not Astra's id of the organization.
            let Some(id) = token.map(|token| token.org_id).filter(|id| id != org && !id.as_str().is_empty()) else {
                continue;
            };
            if id.as_str().eq_ignore_ascii_case(named) {
                return Ok(Some(id));
            }
            found.get_or_insert(id);
        }
        Ok(found)
    }

    /// Writes a token and its record. If the role of the token has a limit, `place` is the reservation of the token.
    pub(crate) async fn put_token(
        &self,
        id: &str,
        token: &Token,
        record: &Record,
        place: Option<Place>,
    ) -> Result<(), Error> {
        // The token of a static role does not count towards the limit of its role.
        if record.kind == Kind::Lease {
            self.count_new(token, place).await?;
        }
        let key = token_key(id);
        let put_record = self.put_record(&token.org_id, &token.client_id, record);
        let put_token = self.storage.put_json(&key, token);
        if self.inventory.known().is_none() {
            // The inventory build could find the token without a record, and write a record without marker and expiry. The
            // undo and the sweep would then skip the token.
            put_record.await?;
            put_token.await?;
            return Ok(());
        }
        // Both calls end before this returns. Otherwise the second could take effect after the undo.
        let (record, stored) = tokio::join!(put_record, put_token);
        record?;
        Ok(stored?)
    }
}
