//! The checklist of the plugin protocol, point by point, against the real binary under a host of our own.
//!
//! Each test is named after its point. Points about the process and the wire are tested with the engine of this
//! package; those about requests with `tests/support/passbook.rs`, whose paths do what the point needs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

use astra_simulator as astra;
use plugin_host as host;
use plugin_host::plugin;

mod command_line;
mod connection;
#[path = "../support/dns/mod.rs"]
mod dns;
mod end;
mod instances;
mod kills;
mod leases;
mod names;
mod output;
mod requests;
mod start;
