//! Static roles: tokens without a lease that a schedule replaces.
//!
//! | file | what it does |
//! | --- | --- |
//! | `rotation` | mints the next token of a static role |
//! | `work` | does what is due: rotates, deletes replaced tokens, deletes static roles |
//!
//! A rotation uses the protocol of [`Order`](crate::tokens::Order). Its note names the static role. If the process ends after
//! the static role has got its new token, the tick finds the token in use and keeps it.
//!
//! Architecture invariant: a static role returns only a token that is stored and that Astra has accepted. The old
//! token stays live for the overlap.

mod rotation;
mod work;

pub(crate) use self::rotation::{rotate, until};
pub(crate) use self::work::{arm, delete, work};
