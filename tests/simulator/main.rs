//! The simulated Astra DevOps API, seen through a real client: what others build on must itself be true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

#[path = "../support/astra/mod.rs"]
mod astra;

mod client;
mod control;
mod endpoints;
mod faults;
mod knobs;
