//! The paths of the engine, one file or folder each, and those below `orgs` in one folder. `shared` has what several paths use, `org` the names of
//! organizations in paths, and `verify` the check of a root token before its config is stored.

mod config;
mod configs;
mod creds;
mod filters;
mod lookup;
mod metrics;
mod org;
mod orgs;
mod role;
mod role_ids;
mod role_metadata;
mod role_names;
mod roles;
mod rotate_root;
mod shared;
mod static_creds;
mod status;
mod sync;
mod token;
mod tokens;
mod verify;

use vault_plugin_sdk::framework::Path;

use super::engine::Engine;

/// Returns all paths.
pub(super) fn all() -> Vec<Path<Engine>> {
    let guide = [
        config::path(),
        configs::path(),
        rotate_root::path(),
        role::path(),
        roles::path(),
        sync::path(),
        token::path(),
        tokens::path(),
        creds::path(),
        lookup::path(),
        status::path(),
        metrics::path(),
        static_creds::path(),
    ];
    guide.into_iter().chain(orgs::paths()).collect()
}
