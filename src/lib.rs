//! A secrets engine for Vault and OpenBao that mints application tokens of DataStax Astra DB.
//!
//! The engine is built on the crate [`vault_plugin_sdk`], which speaks the host's plugin protocol and does not know
//! Astra. Architecture invariant: the engine never sees the wire.
//!
//! Imports go in one direction, from the last module of this list to the first:
//!
//! ```text
//! names  clock  api  error  metrics  store  locks  backoff  outage  schedule  backlog  health  clients  events  engine  identity
//! metadata  inventory  journal  tokens  statics  rotate  upkeep  paths  doctor  lib
//! ```
//!
//! | to change … | go to |
//! | --- | --- |
//! | a path | `paths` |
//! | how a token is minted, renewed, revoked, swept or undone | `tokens` |
//! | static roles and their rotation | `statics` |
//! | the rotation of a root token | `rotate` |
//! | when root tokens expire and are rotated | `upkeep`, `schedule` |
//! | a stored entry, its key, a cache | `store` |
//! | the metadata of a token, templates | `metadata` |
//! | a call of Astra | `api` |
//! | the status or the advice of an error | `error` |
//! | a lock | `locks` |
//! | a WAL entry | `journal` |
//! | a metric | `metrics` |
//! | a check of `-doctor` | `doctor` |

mod api;
mod backlog;
mod backoff;
mod clients;
mod clock;
mod doctor;
mod engine;
mod error;
mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod identity;
mod inventory;
mod journal;
mod locks;
mod metadata;
mod metrics;
mod names;
mod outage;
mod paths;
mod rotate;
mod schedule;
mod statics;
mod store;
#[cfg(test)]
mod tests;
mod tokens;
mod upkeep;

use std::sync::Arc;

use vault_plugin_sdk::Plugin;
use vault_plugin_sdk::framework::{Backend, SecretType};
use vault_plugin_sdk::logical::{self, SpecialPaths};

use self::engine::Engine;
use self::error::Error;
use self::journal::{MintNote, RotationNote};
#[cfg(any(test, fuzzing))]
pub(crate) use self::{
    api::{fuzz_astra_error, fuzz_astra_list, fuzz_astra_token, fuzz_retry_after},
    journal::fuzz::fuzz_wal,
    store::{fuzz_entries, fuzz_names},
    tokens::fuzz_lease,
};

/// Name, version and licence of the plugin, for the binary, the OpenAPI document and the log.
/// Modules below this one read it from [`Mount::plugin`](logical::Mount::plugin).
pub const PLUGIN: Plugin = Plugin::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    .description(env!("CARGO_PKG_DESCRIPTION"))
    .license(env!("CARGO_PKG_LICENSE"), "https://www.apache.org/licenses/LICENSE-2.0")
    .log_level_variable("DATASTAX_ASTRA_VAULT_LOG_LEVEL")
    .log_target(env!("CARGO_CRATE_NAME"))
    .redact(&["AstraCS:"])
    .commands(&[doctor::COMMAND]);

/// Returns the factory of backends. All mounts share one declaration.
pub fn factory() -> logical::Factory {
    let proxies = api::Proxies::new(&vault_plugin_sdk::proxy_variables());
    let pools = Arc::new(api::Pools::new(proxies));
    backend().factory(move |mount| Engine::new(mount, pools.clone()))
}

/// Declares the engine.
fn backend() -> Backend<Engine> {
    paths::all()
        .into_iter()
        .fold(Backend::new(HELP), Backend::path)
        .secret(
            SecretType::new(tokens::SECRET_TYPE)
                .takes_untyped()
                .renew(|engine, call| async move { tokens::renew(engine, call).await.map(Some) })
                .revoke(tokens::revoke),
        )
        .wal(tokens::wal_kind::<MintNote>())
        .wal(tokens::deletions())
        .wal(tokens::wal_kind::<RotationNote>())
        .wal(rotate::replaced_roots())
        .periodic(|engine: Arc<Engine>| async move {
            // At the same time, so that none delays another until the host cancels the tick.
            let (swept, worked, kept) =
                tokio::join!(tokens::sweep(engine.clone()), statics::work(engine.clone()), upkeep::tick(engine));
            swept.and(worked).and(kept)
        })
        .special_paths(SpecialPaths::default().local_storage(["wal/"]).seal_wrap_storage(["config/", "token/", "wal/"]))
        .on_initialize(|engine: Arc<Engine>| async move {
            engine.start();
            Ok::<(), Error>(())
        })
        .on_cleanup(|engine: Arc<Engine>| async move {
            engine.stop();
            tokens::write_rest(&engine);
            Ok::<(), Error>(())
        })
        .on_invalidate(Engine::invalidate)
}

const HELP: &str = "The DataStax Astra DB secrets engine mints application tokens of Astra organizations. Write a root token \
                    for each organization to \"config\", and roles to \"role\". Then ask for tokens at \"org/token\" or at \
                    \"creds/:org/:role\". A policy can allow single paths below \"creds\", and so single roles. Each token \
                    has a lease. When the lease expires or is revoked, the engine deletes the token in Astra.\n\nTo get a \
                    first token:\n    \
                    vault write <mount>/config org_id=$ORG_ID astra_token=$ROOT_TOKEN logical_name=retail\n    \
                    vault write <mount>/role org_id=$ORG_ID role_name=reader role_id=$ROLE_ID\n    \
                    vault read <mount>/creds/retail/reader";
