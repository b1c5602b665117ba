//! Our own host: starts a plugin binary exactly as Vault and OpenBao do, and uses the same wire.
//!
//! ```text
//! Launch  -> Plugin   the child process: environment, handshake line, everything it printed, how it ended
//! Host    -> Plugin   the connection: mutual TLS, stdio and broker streams, MultiplexingSupport
//! Mount   -> Host     one instance: storage and facts served to the plugin, requests sent to it
//! ```
//!
//! The host checks three things before a test may end: the plugin stopped on its own; it wrote only its handshake line
//! to stdout; a host can read each line on stderr. The host also checks every reply against the rules of real hosts. A
//! failing test prints the plugin's output without the secrets of the test.

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
pub mod estimator;
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
