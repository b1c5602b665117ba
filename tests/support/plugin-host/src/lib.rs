//! A host of our own: starts a plugin binary exactly as Vault and OpenBao do, and speaks to it over the same wire.
//!
//! ```text
//! Launch  -> Plugin   the child process: environment, handshake line, everything it printed, how it ended
//! Host    -> Plugin   the connection: mutual TLS, stdio and broker streams, MultiplexingSupport
//! Mount   -> Host     one instance: storage and facts served to the plugin, requests sent to it
//! ```
//!
//! Whatever a test does, three things are checked of every plugin before its test may end: it ended by itself, it wrote
//! nothing to stdout but its handshake line, and each line on stderr is one that a host can read. Every reply is held
//! against the rules that hosts rely on. A failing test prints what the plugin printed, with the secrets of the test
//! blotted out.

#![allow(missing_docs, unreachable_pub, reason = "test support of this repository only")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "test support fails by panicking, and reads the environment of the test run"
)]

mod brokered;
pub mod gate;
pub mod log;
pub mod mount;
pub mod mux;
#[path = "../../../../sdk/src/pb/mod.rs"]
pub mod pb;
pub mod plugin;
pub mod process;
pub mod reply;
pub mod resets;
pub mod storage;
pub mod system;
pub mod tls;
pub mod wire;

pub use gate::Gate;
pub use mount::{Lease, Mount, Offer, Setup};
pub use process::Launch;
pub use reply::Reply;
pub use storage::Storage;
pub use system::System;
pub use wire::Host;
