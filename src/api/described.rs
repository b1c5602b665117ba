//! What Astra's list tells about one token, for people.

use super::error::Error;
use super::list::ListedToken;
use super::{Client, LIST, MOST_FOUND};

/// A token in Astra's list.
pub(crate) struct Described {
    /// The description, safe to show.
    pub(crate) description: String,
    /// Ids of its Astra roles; empty if Astra does not tell them.
    pub(crate) roles: Vec<String>,
}

impl Client {
    /// Returns the description and the roles of a token; `None` if Astra does not list the token.
    ///
    /// # Errors
    /// When this is not certain, as in [`Client::has_token`].
    pub(crate) async fn described(&self, client_id: &str) -> Result<Option<Described>, Error> {
        let describe = |token: ListedToken<'_>| {
            (token.client_id == client_id).then(|| Described {
                description: token.safe_description(),
                roles: token.into_roles().unwrap_or_default(),
            })
        };
        let found = self.tokens(MOST_FOUND, describe).await?.into_iter().next();
        if found.is_none() {
            self.require_own_org(LIST).await?;
        }
        Ok(found)
    }
}
