//! A simulated Astra DevOps API, faithful to what is known of the real one, oddities included.
//!
//! [`Astra::spawn`] starts one on port 0, on a thread of its own, so that synchronous and asynchronous tests can use it
//! alike; dropping the handle stops everything and releases every request that hangs. A request goes through
//! `server` (connections) -> `exchange` (faults, log) -> `routes` (order of checks) -> `tokens`, `roles`, `orgs`.
//! What the real service leaves open is a field of [`Knobs`]; what goes wrong on the way is a [`Fault`].
//!
//! Invariant: no token, secret or digest is in a log entry, a [`TokenView`], a control answer or a `Debug` output. The
//! only ways to one are [`Org::root_token`], [`Minted::token`], [`Astra::secrets`] and the answer of a create call.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "shared by several crates, each using a part"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test support")]

mod armed;
mod builder;
mod control;
mod exchange;
mod fault;
mod handle;
mod http;
mod inject;
mod inspect;
mod knobs;
mod orgs;
mod roles;
mod routes;
mod server;
mod state;
mod tls;
mod tokens;

pub use builder::{Builder, Seed};
pub use fault::{Empty, Fault, Kind, Malformed, Match, Phase, Redirect, RetryAfter};
pub use handle::{Astra, Minted, Org};
pub use http::BodyForm;
pub use inspect::{Call, TokenView};
pub use knobs::{
    BadExpiry, DeleteSuccess, FieldPolicy, Knobs, MalformedToken, PermissionFailure, RateLimit, RoleStyle, UnknownId,
    Unset, UserStyle,
};
pub use roles::built_in_id;
pub use routes::Route;
pub use tls::Certificate;
