//! Which records of the inventory a list shows.

use jiff::Timestamp;

use super::entries::{Metadata, Record};
use crate::names::RoleName;

/// The conditions of a list. A record must meet all of them.
#[derive(Default)]
pub(crate) struct Filter {
    /// The role.
    pub(crate) role: Option<RoleName>,
    /// Display name or entity id of the caller who minted the token.
    pub(crate) created_by: Option<String>,
    /// Pairs that the metadata must have.
    pub(crate) metadata: Metadata,
    /// The token was minted at this time or before.
    pub(crate) created_until: Option<Timestamp>,
    /// The token was not used after this time.
    pub(crate) used_until: Option<Timestamp>,
}

impl Filter {
    /// Whether every record meets the conditions.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { role, created_by, metadata, created_until, used_until } = self;
        role.is_none() && created_by.is_none() && metadata.is_empty() && created_until.is_none() && used_until.is_none()
    }

    /// Whether a record, with the uses in memory, meets the conditions. A time that is not known is not before any time.
    pub(super) fn matches(&self, record: &Record) -> bool {
        let is_until = |time: Option<Timestamp>, end: Option<Timestamp>| {
            end.is_none_or(|end| time.is_some_and(|time| time <= end))
        };
        self.role.as_ref().is_none_or(|role| *role == record.role_name)
            && self.created_by.as_ref().is_none_or(|by| [&record.display_name, &record.entity_id].contains(&by))
            && self.metadata.iter().all(|(key, value)| record.metadata.get(key) == Some(value))
            && is_until(record.minted_at(), self.created_until)
            && is_until(record.last_used_at.parse().ok().or_else(|| record.minted_at()), self.used_until)
    }
}

impl Record {
    /// Returns the time of the mint. Records of the Go plugin's tokens have only the time that Astra gives.
    pub(crate) fn minted_at(&self) -> Option<Timestamp> {
        self.created_at.parse().or_else(|_| self.generated_on.parse()).ok()
    }
}
