//! Static roles: tokens without a lease that a schedule replaces.
//!
//! | file | what it does |
//! | --- | --- |
//! | `rotation` | mints the next token of a static role |
//! | `work` | does what is due: rotates, deletes replaced tokens, deletes static roles |
//!
//! A rotation uses the protocol of [`Order`](crate::tokens::Order). Its note names the static role. If the process stops after
//! it has stored the new token in the static role, the tick finds that the token is in use, and keeps the token.
//!
//! Architecture invariant: a static role returns only a token that is stored and that Astra has accepted. The replaced
//! token stays live for the overlap.

mod rotation;
mod work;

pub(crate) use self::rotation::{rotate, until};
pub(crate) use self::work::{arm, delete, delete_unreadable, work};
