//! The parameters that select tokens in a list of the inventory.

use std::time::Duration;

use jiff::Timestamp;
use vault_plugin_sdk::framework::{Field, FieldSpec, Fields};

use crate::error::Error;
use crate::names::RoleName;
use crate::store::{Filter, Metadata};

const ROLE: Field<String> =
    Field::lowercase("role", "Lists only tokens of this role. The engine lower-cases the name.")
        .aliases(&["role_name"]);

const CREATED_BY: Field<String> = Field::string(
    "created_by",
    "Lists only tokens whose mint had a caller with this display name or entity id. Letter case matters.",
);

const METADATA: Field<Metadata> = Field::pairs(
    "metadata",
    "Lists only tokens with this key=value pair. Repeat the parameter for several pairs, which a token must all have.",
);

const OLDER_THAN: Field<Duration> =
    Field::duration("older_than", "Lists only tokens that were minted at least this long ago.");

const UNUSED_FOR: Field<Duration> = Field::duration(
    "unused_for",
    "Lists only tokens that were not used for at least this long: not read, and their lease not renewed. For a token that \
     was never used, the time of the mint counts.",
);

const FILTERS: usize = 5;

/// Returns the fields of a list: first the others, then the filters.
pub(super) const fn with_filters(others: [FieldSpec; 3]) -> [FieldSpec; 3 + FILTERS] {
    let [one, two, three] = others;
    [one, two, three, ROLE.spec(), CREATED_BY.spec(), METADATA.spec(), OLDER_THAN.spec(), UNUSED_FOR.spec()]
}

/// Returns the conditions of a list; `None` if it has none.
pub(super) fn filter(fields: &Fields) -> Result<Option<Filter>, Error> {
    let created_by = fields.get(&CREATED_BY);
    if created_by.as_ref().is_some_and(String::is_empty) {
        return Err(Error::field(
            CREATED_BY.name(),
            "must not be empty; leave created_by out to list the tokens of all callers",
        ));
    }
    let filter = Filter {
        role: fields.get(&ROLE).map(|role| RoleName::find(ROLE.name(), &role)).transpose()?,
        created_by,
        metadata: fields.get(&METADATA).unwrap_or_default(),
        created_until: ago(fields, &OLDER_THAN)?,
        used_until: ago(fields, &UNUSED_FOR)?,
    };
    Ok(Some(filter).filter(|filter| !filter.is_empty()))
}

/// Returns the time that is as long ago as a field says.
fn ago(fields: &Fields, field: &Field<Duration>) -> Result<Option<Timestamp>, Error> {
    let Some(age) = fields.get(field) else { return Ok(None) };
    let time = Timestamp::now().checked_sub(age);
    time.map(Some).map_err(|_| Error::field(field.name(), "is too long; give a time of at most 1000 years"))
}
