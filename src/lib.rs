//! A secrets engine for Vault and OpenBao that issues application tokens of DataStax Astra DB.
//!
//! Two worlds live here, and one rule keeps them apart: [`sdk`] speaks the host's plugin protocol and knows nothing of
//! Astra; [`astra`] is written with the public face of `sdk` and never sees the wire.
//!
//! ```text
//! process  <-  wire  ->  logical  <-  framework  <-  astra
//! ```
//!
//! | to change … | go to |
//! | --- | --- |
//! | how the process starts, talks TLS, logs or stops | [`sdk`] `process` |
//! | a gRPC message or service | [`sdk`] `wire`, and `proto/` |
//! | what a request, response, error or storage is | [`sdk::logical`] |
//! | routing, fields, help, leases, write-ahead log | [`sdk::framework`] |
//! | locks by name | [`sdk::locks`] |
//! | work that goes on when its caller hangs up | [`sdk::tasks`] |
//! | a path of the engine, a lease, a call to Astra, what is undone after a failure | [`astra`] |

pub mod astra;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod sdk;

use sdk::Plugin;

/// The plugin, as its binary, its OpenAPI document and its log describe it.
pub const PLUGIN: Plugin = Plugin::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    .description(env!("CARGO_PKG_DESCRIPTION"))
    .license(env!("CARGO_PKG_LICENSE"), "https://www.apache.org/licenses/LICENSE-2.0")
    .log_level_variable("DATASTAX_ASTRA_VAULT_LOG_LEVEL")
    .log_target(env!("CARGO_CRATE_NAME"))
    .redact(&["AstraCS:"]);
