//! Mints tokens with a lease, renews leases, revokes and deletes tokens, and sweeps tokens without a lease.
//!
//! | file | what it does |
//! | --- | --- |
//! | `time` | computes with times: max TTL of the mount, expiry |
//! | `request` | a request for a token: its TTLs and expiry, the limit of its role, its description |
//! | `lease` | the internal data of a lease, and the data that a caller gets |
//! | `listing` | the list of Astra's tokens that the WAL entries of a tick share |
//! | `order` | the protocol for a token that is ordered from Astra, with its undo |
//! | `finish` | undoes at a tick the orders that were not completed |
//! | `mint_note` | how the token of a mint is found and deleted if the mint is not completed |
//! | `undelivered` | takes back a mint whose answer the host has dropped |
//! | `mint` | mints a token with this protocol |
//! | `find` | finds the token of a lease, also of the Go plugin |
//! | `revoke` | revokes a lease, deletes a token |
//! | `replace` | deletes the tokens that a mint has replaced |
//! | `interrupted` | finishes the revocations that were interrupted |
//! | `renew` | renews a lease |
//! | `uses` | counts the uses of tokens, and writes them to the records |
//! | `sweep` | deletes tokens whose lease cannot exist any more |
//! | `compare` | compares Astra's list with the inventory |
//! | `tidy` | deletes the tokens that only Astra or only the inventory has |

mod compare;
mod find;
mod finish;
mod interrupted;
mod lease;
mod listing;
mod mint;
mod mint_note;
mod order;
mod renew;
mod replace;
mod request;
mod revoke;
mod sweep;
mod tidy;
mod time;
mod undelivered;
mod uses;

pub(crate) use self::compare::Ids;
pub(crate) use self::find::Target;
pub(crate) use self::finish::wal_kind;
#[cfg(any(test, fuzzing))]
pub(crate) use self::lease::fuzz::fuzz_lease;
pub(crate) use self::lease::{SECRET_TYPE, lease_end, shown_token, token_data};
pub(crate) use self::mint::mint;
pub(crate) use self::order::{Event, Failure, Order, OrderNote};
pub(crate) use self::renew::renew;
pub(crate) use self::request::{MintRequest, MintedBy, owner_text};
pub(crate) use self::revoke::{delete, deletions, revoke};
pub(crate) use self::sweep::sweep;
pub(crate) use self::tidy::{Cause, Tidied, TidyRequest, tidy};
pub(crate) use self::time::{later, rfc3339};
pub(crate) use self::uses::{note_read, write_rest};
