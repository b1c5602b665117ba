//! The entries that a mount stores: their keys, their JSON, and the caches in front of them.
//!
//! | key | entry |
//! | --- | --- |
//! | `config/<org_id>` | [`Config`] |
//! | `role/<org_id>:<role_name>` | [`Role`] |
//! | `token/<token id>` | [`Token`] |
//! | `client/<org_id>/<client_id>` | [`Record`], the inventory |
//! | `client-index` | its presence means that the inventory is complete |
//! | `static-role/<org_id>/<name>` | [`StaticRole`] |
//! | `live/<org_id>/<role_name>/<client_id>` | the token counts towards the limit of its role |
//!
//! The Go plugin uses the first three keys, and accepts any text as a name. In the other keys, a name must be one
//! segment, so [`segment`](crate::names::segment) escapes the slashes in names of the Go plugin.
//!
//! Architecture invariant: a list operation reads only `client/`, which holds no secret.

mod answers;
mod base;
mod build;
mod cache;
mod caller_mode;
mod client_index;
mod config_root;
mod counts;
mod deletions;
mod directory;
mod entries;
mod filter;
mod index;
mod interrupted;
mod json;
mod keys;
mod limits;
mod lookup;
mod matching;
mod missing;
mod orgs;
mod owner;
mod record_orgs;
mod replaced;
mod replacements;
mod role_ids;
mod root;
mod roster;
mod rotations;
mod static_roles;
mod tokens;
mod uses;

pub(crate) use self::base::{Store, log_skipped};
pub(crate) use self::caller_mode::CallerMode;
pub(crate) use self::client_index::Cursor;
pub(crate) use self::directory::{Directory, Listed, RootTimes};
pub(crate) use self::entries::{Config, DEFAULT_TTL, DEFAULT_URL, Kind, Metadata, Record, Role, Token};
pub(crate) use self::filter::Filter;
pub(crate) use self::index::{Detail, Lookup};
pub(crate) use self::keys::{config_key, named_token_id, record_key, role_key, token_digest};
pub(crate) use self::roster::{Place, Reserved};
pub(crate) use self::rotations::{CurrentToken, FormerToken, Overlap, StaticRole};
pub(crate) use self::static_roles::static_role_key;
#[cfg(any(test, fuzzing))]
pub(crate) use self::{entries::fuzz::fuzz_entries, keys::fuzz::fuzz_names};
