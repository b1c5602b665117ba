//! Checks of the repository itself: generated code, and who may name whom.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod generated;
mod layering;
