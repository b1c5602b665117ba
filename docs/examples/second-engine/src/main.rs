//! A secrets engine to start from: it issues keys of a service under leases.
//!
//! ```text
//! roles        list
//! roles/:name  create, update, patch, read, delete: what the keys of a role may do, and for how long
//! keys/:name   read: issues a key of a role under a lease that can be renewed and revoked
//! ```
//!
//! Replace `service.rs` with a client of your service, and the fields of a role with the fields that the service needs.

mod service;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{
    Backend, Call, Field, FieldSpec, Handler, LeaseCall, Path, SecretType, WRITES, WalEntry, WalKind, format_duration,
};
use vault_plugin_sdk::locks::KeyedLocks;
use vault_plugin_sdk::logical::{
    Answer, Error, Map, Mount, Operation, Response, Secret, SpecialPaths, StorageError, StorageExt,
};
use vault_plugin_sdk::{Plugin, serve};

use service::Service;

fn main() -> ExitCode {
    serve(PLUGIN, declaration().factory(Engine::new))
}

const PLUGIN: Plugin = Plugin::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
    .description("Issues keys of a service")
    .log_target(env!("CARGO_CRATE_NAME"));

/// The engine on one mount. One process serves all mounts.
struct Engine {
    mount: Mount,
    service: Service,
    /// Held by the name of a role from reading the role to writing it.
    roles: KeyedLocks,
}

/// Everything that the engine does. Help, OpenAPI, routing, typed fields and warnings follow from it.
fn declaration() -> Backend<Engine> {
    Backend::new("Issues keys of a service under leases.")
        .path(
            Path::new("roles/?", &[])
                .help("Lists the roles.", "The answer has the name of each role.")
                .list(Handler::new("List the roles.", list_roles)),
        )
        .path(
            Path::new(r"roles/(?P<name>\w(?:[\w\-.]*\w)?)", ROLE)
                .help("Stores a role.", "A write changes the fields that it names. Keys that exist do not change.")
                .exists(role_exists)
                .read(Handler::new("Read a role.", read_role).shows_fields())
                // Detached: a change goes on when the caller hangs up.
                .write(Handler::new("Create or change a role.", write_role).on_active_node().detached())
                .patch(Handler::new("Change a role.", write_role).on_active_node().detached())
                .delete(Handler::new("Delete a role.", delete_role).on_active_node().detached()),
        )
        .path(
            Path::new(r"keys/(?P<name>\w(?:[\w\-.]*\w)?)", KEY)
                .help("Issues a key of a role.", "The key is deleted when its lease expires or is revoked.")
                // Not detached: if the caller hangs up, nobody can take the lease, and `undo` deletes the key.
                .read(Handler::new("Issue a key.", issue).on_active_node()),
        )
        .secret(SecretType::new(KEY_TYPE).renew(renew).revoke(revoke))
        .wal(WalKind::new(KEY_TYPE, Duration::from_secs(60), undo))
        // The log of a cluster's node stays in that cluster.
        .special_paths(SpecialPaths::default().local_storage(["wal/"]))
}

const NAME: Field<String> = Field::name_string("name", "Name of the role.").required();
const SCOPE: Field<String> = Field::lowercase("scope", "What the keys of the role may do.")
    .default("read")
    .allowed(&["read", "write"])
    .only(WRITES)
    .shown("What the keys of the role may do.");
const TTL: Field<Duration> =
    Field::duration("ttl", "TTL of the keys.").default("10m").only(WRITES).shown("TTL of the keys.");

const ROLE: &[FieldSpec] = &[NAME.spec(), SCOPE.spec(), TTL.spec()];
const KEY: &[FieldSpec] = &[NAME.spec()];

/// Type of the leases, and kind of the entries in the write-ahead log. Both are stored, so the name can never change.
const KEY_TYPE: &str = "key";

/// A stored role. `default` lets entries of older versions load; a field that they lack is empty or zero.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Role {
    scope: String,
    ttl_seconds: u64,
}

impl Engine {
    fn new(mount: &Mount) -> Self {
        Self { mount: mount.clone(), service: Service::new(mount.storage.clone()), roles: KeyedLocks::default() }
    }

    async fn role(&self, name: &str) -> Result<Option<Role>, StorageError> {
        self.mount.storage.get_json(&format!("roles/{name}")).await
    }
}

fn name(call: &Call) -> String {
    call.fields.get(&NAME).unwrap_or_default()
}

async fn list_roles(engine: Arc<Engine>, _: Call) -> Answer {
    Ok(Some(Response::list(engine.mount.storage.list("roles/").await?)))
}

async fn role_exists(engine: Arc<Engine>, call: Call) -> Result<bool, Error> {
    Ok(engine.role(&name(&call)).await?.is_some())
}

async fn read_role(engine: Arc<Engine>, call: Call) -> Answer {
    // No response is a 404.
    let Some(role) = engine.role(&name(&call)).await? else { return Ok(None) };
    let ttl = format_duration(Duration::from_secs(role.ttl_seconds));
    Ok(Some(Response::new(object([("scope", json!(role.scope)), ("ttl", json!(ttl))]))))
}

async fn write_role(engine: Arc<Engine>, call: Call) -> Answer {
    let name = name(&call);
    let _guard = engine.roles.lock(&name).await;
    let stored = engine.role(&name).await?;
    if stored.is_none() && call.request.operation == Operation::Patch {
        return Err(Error::status(404, format!("role {name:?} does not exist; write roles/{name} first")));
    }
    // Only the fields that the caller named change. A new role takes the default of the others.
    let fields = if stored.is_some() { call.fields } else { call.fields.for_new_object() };
    let mut role = stored.unwrap_or_default();
    let mut ttl = Duration::from_secs(role.ttl_seconds);
    fields.apply(&SCOPE, &mut role.scope);
    fields.apply(&TTL, &mut ttl);
    role.ttl_seconds = ttl.as_secs();
    // The declaration only shows the allowed values to users.
    let allowed = SCOPE.spec().allowed;
    if !allowed.contains(&role.scope.as_str()) {
        return Err(Error::invalid(format!("scope {:?} is not allowed; use one of {allowed:?}", role.scope)));
    }
    engine.mount.storage.put_json(&format!("roles/{name}"), &role).await?;
    Ok(None)
}

async fn delete_role(engine: Arc<Engine>, call: Call) -> Answer {
    let name = name(&call);
    let _guard = engine.roles.lock(&name).await;
    engine.mount.storage.delete(&format!("roles/{name}")).await?;
    Ok(None)
}

async fn issue(engine: Arc<Engine>, call: Call) -> Answer {
    let name = name(&call);
    // 400 and not 404: clients hide the text of a 404 when they read.
    let role = engine.role(&name).await?;
    let role = role.ok_or_else(|| Error::invalid(format!("role {name:?} does not exist; write roles/{name} first")))?;
    // The host limits the TTL too, but only after the key exists.
    let max_ttl = engine.mount.system.max_lease_ttl().await?;
    let ttl = Duration::from_secs(role.ttl_seconds).min(max_ttl);

    // The entry is written before the key exists. If the end of this function is not reached, `undo` deletes the key.
    let id = uuid::Uuid::new_v4().to_string();
    let wal = engine.mount.wal();
    let entry = wal.put(KEY_TYPE, &id).await?;
    let key = engine.service.create(&id, &role.scope).await?;
    wal.delete(&entry).await?;

    // The lease stores all that a revocation needs, because the role may be gone by then.
    let lease = Secret::new(ttl, max_ttl, object([("id", json!(id))])).of_type(KEY_TYPE);
    let data = object([("id", json!(id)), ("key", json!(key)), ("scope", json!(role.scope))]);
    Ok(Some(Response::new(data).lease(lease)))
}

async fn renew(engine: Arc<Engine>, call: LeaseCall) -> Answer {
    let max_ttl = engine.mount.system.max_lease_ttl().await?;
    // The answer replaces the stored lease, so it holds the data and the whole lease.
    Ok(Some(Response::new(call.request.data).lease(call.secret.max_ttl(max_ttl))))
}

async fn revoke(engine: Arc<Engine>, call: LeaseCall) -> Result<(), Error> {
    let id = call.secret.internal_data.get("id").and_then(Value::as_str);
    let id = id.ok_or_else(|| Error::internal("the lease has no id of a key"))?;
    // A revocation can be repeated, so a key that is gone is no error.
    Ok(engine.service.delete(id).await?)
}

async fn undo(engine: Arc<Engine>, entry: WalEntry) -> Result<(), Error> {
    let id: String = entry.decode()?;
    engine.service.delete(&id).await?;
    // The server's log shows this line.
    tracing::info!(id, "deleted a key that nobody got");
    Ok(())
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Map {
    members.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
}
