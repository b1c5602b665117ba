//! The paths of the engine, one file each.

pub(super) mod config;
pub(super) mod configs;
pub(super) mod creds;
mod org;
pub(super) mod role;
pub(super) mod roles;
pub(super) mod rotate_root;
mod shared;
pub(super) mod sync;
pub(super) mod token;
pub(super) mod tokens;
mod verify;
