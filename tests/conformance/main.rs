//! The checklist of the plugin protocol. Each point is tested with the real binary under our own host.
//!
//! The name of a test starts with its point. The engine of this package serves the points about the process and the
//! wire. `tests/support/passbook.rs` serves the points about requests, because its paths do everything that these
//! points need.

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
mod doctor;
mod end;
mod instances;
mod kills;
mod leases;
mod names;
mod output;
mod pings;
mod requests;
mod start;
