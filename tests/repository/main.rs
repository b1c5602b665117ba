//! Checks of the repository itself: documents, generated code, third-party licences, and who may name whom.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod documents;
mod generated;
mod layering;
mod messages;
mod notice;
