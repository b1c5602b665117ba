//! A simulated Astra DevOps API. It behaves like the real service, including its oddities, as far as they are known.
//!
//! [`Astra::spawn`] starts a simulator on port 0, in its own thread, so synchronous and asynchronous tests can use it.
//! Dropping the handle stops the simulator and ends every request that hangs. A request passes `server` (connections),
//! `exchange` (faults, log), `routes` (order of checks), then `tokens`, `roles` or `orgs`. If the behaviour of the real
//! service is unknown or varies, a field of [`Knobs`] selects it. An [`AstraFault`] makes requests fail, take effect late,
//! or take effect twice ([`Phase`]).
//!
//! Invariant: no token, secret or digest is in a log entry, a [`TokenView`], a control answer or a `Debug` output. Only
//! [`Org::root_token`], [`Minted`], [`Astra::secrets`] and the answer to a create call contain secrets.
#![allow(missing_docs, unreachable_pub, reason = "test support of this repository only")]
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
mod late;
mod orgs;
mod roles;
mod routes;
mod server;
mod state;
mod tls;
mod tokens;

pub use builder::{Builder, Seed};
pub use fault::{AstraFault, Delay, Empty, Kind, Malformed, Match, Phase, Redirect, RetryAfter};
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
