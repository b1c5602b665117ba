//! The paths of the engine, one file or folder each. `shared` has what several paths use, `org` the names of
//! organizations in paths, and `verify` the check of a root token before its config is stored.

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
