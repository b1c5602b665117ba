//! The Astra roles of a role: `role_id`, and `role_ids` for several.

use vault_plugin_sdk::framework::{Change, Field, Fields, WRITES};

use crate::error::Error;
use crate::store::Role;

pub(super) const ROLE_ID: Field<String> = Field::string(
    "role_id",
    "Id of the role in Astra, as \"GET /v2/organizations/roles\" of Astra's DevOps API lists it. Required for a new role, unless \
     role_ids is given. Without role_ids, a write of role_id removes the other ids.",
)
.only(WRITES)
.shown("Id of the role in Astra. If the role has several, the first one.");

pub(super) const ROLE_IDS: Field<Vec<String>> = Field::comma_strings(
    "role_ids",
    "Ids of several roles in Astra. A token gets the permissions of all of them. The first id is also role_id. At most 50 ids.",
)
.only(WRITES)
.shown("Ids of the roles in Astra. Missing if the role has only role_id.");

/// The most Astra roles of a role.
const MOST_ROLE_IDS: usize = 50;

/// Whether a request has what a new role needs.
pub(super) fn has_role_ids(fields: &Fields) -> bool {
    fields.is_given(&ROLE_ID) || fields.get(&ROLE_IDS).is_some_and(|ids| !ids.is_empty())
}

/// Sets the Astra roles of a role. An empty list leaves only `role_id`, which was set before.
pub(super) fn set_role_ids(fields: &Fields, role: &mut Role) -> Result<(), Error> {
    let field = ROLE_IDS.name();
    let ids = match fields.change(&ROLE_IDS) {
        Change::Keep => return Ok(()),
        Change::Reset => Vec::new(),
        Change::Set(ids) => ids.into_iter().map(|id| checked_role_id(field, id)).collect::<Result<Vec<_>, _>>()?,
    };
    if ids.is_empty() {
        let first = role.role_id.clone();
        role.set_role_ids(vec![first]);
        return Ok(());
    }
    if ids.len() > MOST_ROLE_IDS {
        return Err(Error::field(field, format!("must not have more than {MOST_ROLE_IDS} ids")));
    }
    if fields.is_given(&ROLE_ID) && ids.first() != Some(&role.role_id) {
        return Err(Error::field(field, "must begin with role_id; leave role_id out, or correct the list"));
    }
    role.set_role_ids(ids);
    Ok(())
}

/// Rejects texts that cannot be an id. Astra accepts any text as a role, and then mints a token without permissions.
pub(super) fn checked_role_id(field: &'static str, id: String) -> Result<String, Error> {
    if id.trim().is_empty() {
        return Err(Error::field(field, "must not be empty"));
    }
    if id.len() > 255 || id.chars().any(char::is_control) {
        return Err(Error::field(field, "must be at most 255 bytes without control characters"));
    }
    Ok(id)
}
