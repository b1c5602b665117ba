//! Which org a stored token belongs to.
//!
//! In a token, the Go plugin stored the id that Astra gives the organization. The `org_id` of the config may be another
//! text. Architecture invariant: no token is ever attributed to an org by a guess, or it would be deleted with a root token
//! of an organization that does not have it.

use std::collections::HashMap;
use std::sync::Arc;

use super::directory::Directory;
use super::names::OrgId;
use super::{Store, Token, named_token_id};
use crate::astra::Error;

/// Finds the orgs of many tokens.
pub(super) struct Owners {
    directory: Arc<Directory>,
    /// The last org that a name led to, by the organization in its token: the next token is most likely of that one too.
    led: HashMap<OrgId, OrgId>,
}

impl Store {
    /// Returns the org of a token: the `org_id` of its config; `None` if no config is known to be of its organization.
    pub(crate) async fn owner(&self, id: &str, token: &Token) -> Result<Option<OrgId>, Error> {
        if is_named(&token.org_id, id, token) || self.config(&token.org_id).await?.is_some() {
            return Ok(Some(token.org_id.clone()));
        }
        Ok(self.owners().await?.of(id, token))
    }

    /// Returns the orgs whose configs are known to be of an organization of Astra.
    pub(crate) async fn orgs_of(&self, astra_org_id: &str) -> Result<Vec<OrgId>, Error> {
        Ok(self.directory().await?.of_astra(astra_org_id).cloned().collect())
    }

    /// Returns the orgs of whose configs it is not known which organization they are of.
    pub(crate) async fn orgs_not_known(&self) -> Result<Vec<OrgId>, Error> {
        Ok(self.directory().await?.not_known().cloned().collect())
    }

    pub(super) async fn owners(&self) -> Result<Owners, Error> {
        Ok(Owners { directory: self.directory().await?, led: HashMap::new() })
    }
}

impl Owners {
    /// Returns the org of a token.
    pub(super) fn of(&mut self, id: &str, token: &Token) -> Option<OrgId> {
        if is_named(&token.org_id, id, token) {
            return Some(token.org_id.clone());
        }
        // The id of a named token is the digest of its names, the org's among them.
        if id.len() == 64 {
            let led = self.led.get(&token.org_id).into_iter();
            let known = led.chain(self.directory.of_astra(token.org_id.as_str())).chain(self.directory.ids());
            let named = known.into_iter().find(|org| is_named(org, id, token)).cloned();
            if let Some(org) = named {
                self.led.insert(token.org_id.clone(), org.clone());
                return Some(org);
            }
        }
        if self.directory.has(&token.org_id) {
            return Some(token.org_id.clone());
        }
        self.directory.of_astra(token.org_id.as_str()).next().cloned()
    }
}

fn is_named(org: &OrgId, id: &str, token: &Token) -> bool {
    id.len() == 64 && named_token_id(org, &token.role_name, &token.logical_name) == id
}
