//! Checks of the repository itself: documents, scripts, workflows, generated code, third-party licences, and imports
//! between modules.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod documents;
mod generated;
mod imports;
mod layering;
mod lengths;
mod licenses;
mod linters;
mod messages;
mod packages;
mod release;
mod targets;
