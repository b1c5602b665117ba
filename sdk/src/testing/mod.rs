//! Stand-ins for the host, for tests of engines.
//!
//! Test an engine that is declared with [`framework`](super::framework) as a whole: make a mount, send requests to the
//! backend, then check its responses and the storage. [`HostFault`] makes the host fail at any call:
//!
//! ```
//! use std::sync::Arc;
//!
//! use serde_json::{Value, json};
//! use vault_plugin_sdk::framework::{Backend, Call, Field, FieldSpec, Handler, Path};
//! use vault_plugin_sdk::logical::{Answer, Error, Factory, Map, Mount, Operation, ReplicationState, Response, StorageExt};
//! use vault_plugin_sdk::testing::{HostFault, mount, request};
//!
//! // The engine under test. It keeps a greeting.
//!
//! const TEXT: Field<String> = Field::string("text", "The greeting.").default("hello");
//! const FIELDS: &[FieldSpec] = &[TEXT.spec()];
//!
//! fn factory() -> Factory {
//!     let path = Path::new("greeting", FIELDS)
//!         .read(Handler::new("Read the greeting", |mount: Arc<Mount>, _| async move {
//!             let text: Option<String> = mount.storage.get_json("greeting").await?;
//!             Answer::Ok(text.map(|text| Response::new(Map::from_iter([("text".into(), text.into())]))))
//!         }))
//!         .write(
//!             Handler::new("Change the greeting", |mount: Arc<Mount>, call: Call| async move {
//!                 mount.storage.put_json("greeting", &call.fields.get(&TEXT)).await?;
//!                 Answer::Ok(None)
//!             })
//!             .on_active_node()
//!             .detached(),
//!         );
//!     Backend::new("An engine that greets.").path(path).factory(Mount::clone)
//! }
//!
//! // Its tests. In an engine, each is a `#[tokio::test]`.
//!
//! async fn a_greeting_is_stored_and_read() {
//!     let (mount, storage, _) = mount();
//!     let engine = factory()(mount).unwrap();
//!     let write = request(Operation::Update, "greeting", json!({ "text": "good morning" }));
//!     assert!(engine.handle(write).await.unwrap().is_none());
//!     let read = engine.handle(request(Operation::Read, "greeting", Value::Null)).await.unwrap().unwrap();
//!     assert_eq!(read.data.unwrap()["text"], "good morning");
//!     assert_eq!(storage.json("greeting"), Some(json!("good morning")));
//! }
//!
//! async fn a_write_that_storage_refuses_is_an_error() {
//!     let (mount, storage, _) = mount();
//!     let engine = factory()(mount).unwrap();
//!     let write = || engine.handle(request(Operation::Update, "greeting", Value::Null));
//!     storage.inject(HostFault::At(1));
//!     assert!(matches!(write().await, Err(Error::Internal { .. })));
//!     assert_eq!(storage.json("greeting"), None);
//!     storage.heal();
//!     assert!(write().await.is_ok());
//!     assert_eq!(storage.json("greeting"), Some(json!("hello")));
//! }
//!
//! async fn a_standby_asks_the_host_to_forward_a_write() {
//!     let (mount, storage, system) = mount();
//!     system.set_state(ReplicationState::PERFORMANCE_STANDBY);
//!     let engine = factory()(mount).unwrap();
//!     let answer = engine.handle(request(Operation::Update, "greeting", Value::Null)).await;
//!     assert!(matches!(answer, Err(Error::ReadOnly)));
//!     assert_eq!(storage.writes(), 0);
//! }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! #     a_greeting_is_stored_and_read().await;
//! #     a_write_that_storage_refuses_is_an_error().await;
//! #     a_standby_asks_the_host_to_forward_a_write().await;
//! # }
//! ```
//!
//! Leases and ticks are requests too: [`tick`] is the host's periodic tick, and [`immediate_tick`] also undoes young WAL
//! entries. For a revocation, pass the lease of an earlier response to [`Request::secret`], with [`Operation::Revoke`].
//!
//! Architecture invariant: a stand-in never panics. The engine sees each fault as an error.

mod fault;
mod storage;
mod system;

use std::sync::Arc;

use serde_json::Value;

pub use self::fault::HostFault;
pub use self::storage::MemoryStorage;
pub use self::system::FakeSystem;
use super::logical::{Map, Mount, Operation, Request};
use super::plugin::Plugin;

/// Returns a mount and its stand-ins.
pub fn mount() -> (Mount, Arc<MemoryStorage>, Arc<FakeSystem>) {
    let storage = Arc::new(MemoryStorage::default());
    let (mount, system) = mount_on(storage.clone());
    (mount, storage, system)
}

/// Returns a mount with this storage, and its host. Use it for a second mount on the storage of the first, as after a
/// restart.
pub fn mount_on(storage: Arc<MemoryStorage>) -> (Mount, Arc<FakeSystem>) {
    let system = Arc::new(FakeSystem::default());
    let plugin = Plugin::new("tested", "0.0.0");
    let mount = Mount::new(plugin, storage, system.clone()).uuid("6a4c2d1e-0000-4000-8000-000000000000");
    (mount, system)
}

/// Returns a request at the mount `tested/`. `data` is a JSON object, or `null` for no data.
pub fn request(operation: Operation, path: &str, data: Value) -> Request {
    let data: Map = match data {
        Value::Object(data) => data,
        _ => Map::new(),
    };
    Request::new(operation, path).data(data).mount_point("tested/")
}

/// Returns the host's periodic tick. It runs [`Backend::periodic`](crate::framework::Backend::periodic), and undoes the WAL
/// entries that have the minimum age of their kind.
pub fn tick() -> Request {
    Request::new(Operation::Rollback, "").mount_point("tested/")
}

/// Returns a tick that undoes all WAL entries, however young, except those of changes in progress.
pub fn immediate_tick() -> Request {
    tick().data(Map::from_iter([("immediate".into(), true.into())]))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::framework::{Backend, WalKind};
    use crate::logical::{Error, StorageExt};

    #[tokio::test]
    async fn a_tick_spares_a_young_entry_and_an_immediate_tick_does_not() {
        let (mount, storage, _) = mount();
        let undo = async |engine: Arc<Mount>, _| engine.storage.put_json("undone", &true).await.map_err(Error::from);
        let declared = Backend::new("").wal(WalKind::new("print", Duration::from_secs(60), undo));
        let backend = declared.factory(Mount::clone)(mount.clone()).unwrap();
        let entry = mount.wal().put("print", &"dune").await.unwrap();
        assert!(backend.handle(immediate_tick()).await.unwrap().is_none());
        assert_eq!((storage.json("undone"), storage.keys().len()), (None, 1), "the change is in progress");
        drop(entry);
        assert!(backend.handle(tick()).await.unwrap().is_none());
        assert_eq!((storage.json("undone"), storage.keys().len()), (None, 1), "the entry is young");
        assert!(backend.handle(immediate_tick()).await.unwrap().is_none());
        assert_eq!((storage.json("undone"), storage.keys()), (Some(true.into()), vec!["undone".to_owned()]));
    }
}
