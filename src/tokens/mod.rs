//! Mints tokens with a lease, renews leases, revokes and deletes tokens, and sweeps tokens without a lease.

mod find;
mod lease;
mod mint;
mod order;
mod renew;
mod request;
mod revoke;
mod sweep;
mod time;

pub(crate) use self::find::Target;
#[cfg(any(test, fuzzing))]
pub(crate) use self::lease::fuzz::fuzz_lease;
pub(crate) use self::lease::{SECRET_TYPE, lease_end, token_data};
pub(crate) use self::mint::mint;
pub(crate) use self::order::{Event, Failure, Found, Order, OrderNote, wal_kind};
pub(crate) use self::renew::renew;
pub(crate) use self::request::{MintRequest, MintedBy};
pub(crate) use self::revoke::{delete, deletions, revoke};
pub(crate) use self::sweep::sweep;
