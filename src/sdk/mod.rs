//! Runtime for secrets engines that Vault and OpenBao run as external plugins (plugin API version 5).
//!
//! An engine declares its paths with [`framework`], works with the plain types of [`logical`], and hands a
//! [`logical::Factory`] to `serve`, which does the rest: handshake, mutual TLS, broker, multiplexing, logs, shutdown.
//!
//! Architecture invariant: nothing in here names the engine that is built on it.

pub mod framework;
pub mod logical;
pub(crate) mod pb;
#[cfg(test)]
pub(crate) mod testing;
