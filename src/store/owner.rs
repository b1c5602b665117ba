//! Finds the org that a stored token belongs to.
//!
//! In a token, the Go plugin stored Astra's id of the organization. The `org_id` of the config may be another text.
//! Architecture invariant: never guesses the org of a token. Otherwise the engine would try to delete the token with
//! the root token of another organization.

use std::collections::HashMap;
use std::sync::Arc;

use super::base::Store;
use super::directory::Directory;
use super::entries::Token;
use super::keys::named_token_id;
use crate::error::Error;
use crate::names::OrgId;

/// Finds the orgs of many tokens.
pub(super) struct Owners {
    directory: Arc<Directory>,
    /// Maps the organization in a token to the org of the last such token. The next token most likely has the same org.
    last_org: HashMap<OrgId, OrgId>,
}

impl Store {
    /// Returns the org of a token: the `org_id` of its config; `None` if its organization has no known config.
    pub(crate) async fn owner(&self, id: &str, token: &Token) -> Result<Option<OrgId>, Error> {
        let has_config = self.has_config(&token.org_id).await?;
        if has_config && (id.len() != 64 || is_named(&token.org_id, id, token)) {
            return Ok(Some(token.org_id.clone()));
        }
        Ok(self.owners().await?.of(id, token))
    }

    /// Returns the orgs whose configs belong to an organization of Astra, as far as known.
    pub(crate) async fn orgs_of(&self, astra_org_id: &str) -> Result<Vec<OrgId>, Error> {
        Ok(self.directory().await?.of_astra(astra_org_id).cloned().collect())
    }

    /// Returns the orgs whose configs have no known organization.
    pub(crate) async fn orgs_not_known(&self) -> Result<Vec<OrgId>, Error> {
        Ok(self.directory().await?.not_known().cloned().collect())
    }

    pub(super) async fn owners(&self) -> Result<Owners, Error> {
        Ok(Owners { directory: self.directory().await?, last_org: HashMap::new() })
    }
}

impl Owners {
    /// Returns the org of a token.
    pub(super) fn of(&mut self, id: &str, token: &Token) -> Option<OrgId> {
        // Without a config, the org has no root token. The organization may have a config with another `org_id` by now.
        let has_config = self.directory.has(&token.org_id);
        if has_config && is_named(&token.org_id, id, token) {
            return Some(token.org_id.clone());
        }
        // The id of a named token is the digest of its names. The `org_id` is among these names.
        if id.len() == 64 {
            let last = self.last_org.get(&token.org_id).into_iter();
            let candidates = last.chain(self.directory.of_astra(token.org_id.as_str())).chain(self.directory.ids());
            let named = candidates.into_iter().find(|org| is_named(org, id, token)).cloned();
            if let Some(org) = named {
                self.last_org.insert(token.org_id.clone(), org.clone());
                return Some(org);
            }
        }
        if has_config {
            return Some(token.org_id.clone());
        }
        self.directory.of_astra(token.org_id.as_str()).next().cloned()
    }
}

fn is_named(org: &OrgId, id: &str, token: &Token) -> bool {
    id.len() == 64 && named_token_id(org, &token.role_name, &token.logical_name) == id
}
