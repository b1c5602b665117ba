//! What Astra's list tells about one token, for people.

use super::list::ListedToken;

/// A token in Astra's list.
pub(crate) struct Described {
    /// The description, safe to show.
    pub(crate) description: String,
    /// Ids of its Astra roles; empty if Astra does not tell them.
    pub(crate) roles: Vec<String>,
}

impl Described {
    pub(super) fn of(token: ListedToken<'_>) -> Self {
        Self { description: token.safe_description(), roles: token.into_roles().unwrap_or_default() }
    }
}
