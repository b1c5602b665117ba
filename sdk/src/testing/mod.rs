//! Stand-ins for the host, for tests of engines.
//!
//! An engine that is declared with [`framework`](super::framework) is tested as a whole: make a mount, send requests to
//! the backend, look at its answers and at the storage. [`HostFault`] makes the host fail at any call. `example.rs` in
//! this folder tests a small engine in this way.
//!
//! Architecture invariant: a stand-in never panics. What goes wrong is an error that the engine sees.

#[cfg(test)]
mod example;
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

/// Returns a mount with stand-ins, and the stand-ins.
pub fn mount() -> (Mount, Arc<MemoryStorage>, Arc<FakeSystem>) {
    let storage = Arc::new(MemoryStorage::default());
    let (mount, system) = mount_on(storage.clone());
    (mount, storage, system)
}

/// Returns a mount with this storage, and its host. For a second mount on the storage of the first, as after a restart.
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
