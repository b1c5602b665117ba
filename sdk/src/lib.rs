#![doc = include_str!("../README.md")]
//!
//! # Modules
//!
//! An engine declares its paths with [`framework`] and uses the plain types of [`logical`]. Work that must continue
//! when the caller hangs up runs as [`tasks`]. [`locks`] protect a stored value between read and write. The engine
//! passes a [`logical::Factory`] to [`serve`].
//!
//! Architecture invariant: nothing in here names an engine.

mod context;
pub mod doctor;
pub mod framework;
#[cfg(any(test, fuzzing, feature = "testing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod locks;
pub mod logical;
pub(crate) mod pb;
mod plugin;
mod process;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod wire;

use std::process::ExitCode;

/// For implementing traits of [`logical`], such as [`logical::Storage`].
pub use async_trait::async_trait;
/// A point in time, in leases and fields. jiff has no version 1 yet, so engines must use this re-export.
pub use jiff::Timestamp;

pub use self::plugin::{Command, License, Limits, Plugin};
pub use self::process::{proxy_variables, variable};

/// Runs the plugin until its host stops it, and returns the exit status of the process. `factory` makes the backend of
/// each mount.
///
/// If a person starts the binary, it prints its usage or runs a [`Command`] of the plugin instead.
pub fn serve(plugin: Plugin, factory: logical::Factory) -> ExitCode {
    process::run(&plugin, move |broker| wire::services(broker, plugin, factory))
}
