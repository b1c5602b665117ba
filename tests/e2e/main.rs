//! The real plugin under a real server, with a simulated Astra.
//!
//! The server is the program in `HOST_BIN`, or `.cache/bao/bao`. Most tests share one server, and each test has its own
//! mount and its own Astra. A test that stops or watches a server has its own server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests fail by panicking, and read the environment of the test run"
)]

use astra_simulator as astra;
use plugin_host::plugin;

#[path = "../support/bao/mod.rs"]
mod bao;
#[path = "../fixtures/go-2.0.0/mod.rs"]
mod go_plugin;

mod agent;
mod attacks;
mod audit;
mod bad_input;
mod catalogue;
mod cluster;
mod creds;
mod docs;
mod events;
mod examples;
mod facts;
mod guide;
mod hangups;
mod harness;
mod install;
mod leases;
mod lifecycle;
mod limits;
mod load;
mod lookup;
mod old_names;
mod openapi;
mod operations;
mod orgs;
mod ownership;
mod permissions;
mod policies;
mod proxy;
mod races;
mod readme;
mod replace;
mod root_expiry;
mod rotate;
mod secrets;
mod servers;
mod services;
mod static_roles;
mod storm;
mod sync;
mod takeover;
mod team;
mod tidy;
mod world;
