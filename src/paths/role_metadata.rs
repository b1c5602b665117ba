//! The settings of a role for the metadata of its tokens.

use std::collections::BTreeSet;

use serde_json::json;
use vault_plugin_sdk::framework::{Change, Field, Fields, WRITES};

use super::shared::{Setting, Shown};
use crate::error::Error;
use crate::metadata::{self, MAX_METADATA, RESERVED_KEY};
use crate::store::{Metadata, Role};

const REQUIRED_METADATA: Field<Vec<String>> = Field::comma_strings(
    "required_metadata",
    "Keys that the metadata of each new token must have, with a value that is not empty. A mint without one of them fails. \
     default_metadata can provide a key. An empty list removes the requirement. Existing tokens stay.",
)
.only(WRITES)
.shown("Keys that the metadata of each new token must have. Missing if there are none.");

const DEFAULT_METADATA: Field<Metadata> = Field::pairs(
    "default_metadata",
    "Key=value pairs that the metadata of each new token gets. A caller cannot give these keys. A value can have the templates \
     {{identity.entity.id}}, {{identity.entity.name}}, {{identity.entity.metadata.<key>}} and {{display_name}}, which \
     the engine fills in from the caller of the mint. If the caller does not have what a template needs, the mint fails. \
     A write replaces all pairs; a patch changes the pairs that it names.",
)
.only(WRITES)
.shown("Key=value pairs that the metadata of each new token gets. Missing if there are none.");

/// The keys that new tokens must have.
pub(super) const REQUIRED: Setting<Role> = Setting {
    field: REQUIRED_METADATA.spec(),
    show: |role| {
        let keys = &role.required_metadata;
        Some(Shown::Value(json!(keys))).filter(|_| !keys.is_empty())
    },
    write: |fields, role, _| set_required_metadata(fields, &mut role.required_metadata),
};

/// The pairs that new tokens get.
pub(super) const DEFAULTS: Setting<Role> = Setting {
    field: DEFAULT_METADATA.spec(),
    show: |role| {
        let pairs = &role.default_metadata;
        Some(Shown::Value(json!(pairs))).filter(|_| !pairs.is_empty())
    },
    write: |fields, role, _| set_default_metadata(fields, &mut role.default_metadata),
};

fn set_required_metadata(fields: &Fields, keys: &mut Vec<String>) -> Result<(), Error> {
    let field = REQUIRED_METADATA.name();
    if fields.change(&REQUIRED_METADATA) == Change::Keep {
        return Ok(());
    }
    fields.apply(&REQUIRED_METADATA, keys);
    let mut seen = BTreeSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    keys.iter().try_for_each(|key| check_metadata_key(field, key))?;
    if keys.iter().map(String::len).sum::<usize>() > MAX_METADATA {
        return Err(Error::field(field, "must not have more than 64 KiB of keys"));
    }
    Ok(())
}

fn set_default_metadata(fields: &Fields, pairs: &mut Metadata) -> Result<(), Error> {
    let field = DEFAULT_METADATA.name();
    if fields.change(&DEFAULT_METADATA) == Change::Keep {
        return Ok(());
    }
    fields.apply(&DEFAULT_METADATA, pairs);
    for (key, text) in &*pairs {
        check_metadata_key(field, key)?;
        if text.is_empty() {
            return Err(Error::field(field, format!("must not have an empty value (key {key:?})")));
        }
        metadata::check_default(text).map_err(|reason| Error::field(field, format!("{reason} (key {key:?})")))?;
    }
    if metadata::size(pairs) > MAX_METADATA {
        return Err(Error::field(field, "must not have more than 64 KiB of keys and values"));
    }
    Ok(())
}

fn check_metadata_key(field: &'static str, key: &str) -> Result<(), Error> {
    let reason = match key {
        "" => "must not have an empty key",
        RESERVED_KEY => "must not have the key \"deletion_time\", which agents read",
        _ => return Ok(()),
    };
    Err(Error::field(field, reason))
}
