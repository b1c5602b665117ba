//! Finds the token of a client id when the caller does not know its org.

use super::base::Store;
use super::index::Detail;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId};

impl Store {
    /// Returns the records with this client id: of one org, or of all orgs. A record is `None` if its entry cannot be read.
    ///
    /// A token without a name is stored under its client id, which leads to its org. Otherwise one entry is read for each
    /// org that has tokens.
    pub(crate) async fn look_for(&self, client: &ClientId, org: Option<&OrgId>) -> Result<Vec<Detail>, Error> {
        let orgs = match org {
            Some(org) => vec![org.clone()],
            None => match self.org_of_unnamed(client).await? {
                Some(org) => vec![org],
                None => self.orgs_to_search().await?,
            },
        };
        self.read_records(orgs.into_iter().map(|org| (client.clone(), org)).collect()).await
    }

    /// Returns the orgs whose configs hold the root token with this client id. Compares the id with all orgs.
    pub(crate) async fn orgs_of_root(&self, client: &ClientId) -> Result<Vec<OrgId>, Error> {
        Ok(self.directory().await?.of_root(client).cloned().collect())
    }

    /// Returns another org than this one whose config holds the root token, if there is one.
    pub(crate) async fn other_org_of_root(&self, client: &ClientId, org: &OrgId) -> Result<Option<OrgId>, Error> {
        Ok(self.directory().await?.of_root(client).find(|other| *other != org).cloned())
    }

    /// Returns the ids of all orgs that have a config, in sorted order.
    pub(crate) async fn orgs_with_config(&self) -> Result<Vec<OrgId>, Error> {
        Ok(self.directory().await?.ids().cloned().collect())
    }

    /// Returns the org of a token that is stored under its client id, if the token has a record there.
    async fn org_of_unnamed(&self, client: &ClientId) -> Result<Option<OrgId>, Error> {
        let id = client.as_str();
        let token = readable(self.token(id).await)?.0.filter(|token| token.client_id == *client);
        let Some(token) = token else { return Ok(None) };
        let Some(org) = self.owner(id, &token).await? else { return Ok(None) };
        Ok(if self.has_record(&org, client).await? { Some(org) } else { None })
    }
}
