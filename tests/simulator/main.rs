//! Tests of the simulated Astra DevOps API with a real HTTP client. Other tests rely on the simulator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub, reason = "tests")]

use astra_simulator as astra;

mod client;
mod control;
mod endpoints;
mod faults;
mod knobs;
mod late;
