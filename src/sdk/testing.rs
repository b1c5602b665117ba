//! Stand-ins for the host, for unit tests of engines and of this runtime.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::logical::{
    Entity, Entry, Error, Map, Mount, Operation, ReplicationState, Request, Storage, StorageError, SystemView,
    Transaction,
};

/// Storage in memory that counts its calls and can be told to fail.
#[derive(Default)]
pub(crate) struct MemoryStorage {
    entries: Mutex<BTreeMap<String, Entry>>,
    calls: AtomicUsize,
    fail_at: AtomicUsize,
    read_only: std::sync::atomic::AtomicBool,
}

impl MemoryStorage {
    /// Lets the `n`-th call from now on fail (1 = the next one), and no other.
    pub(crate) fn fail_nth(&self, n: usize) {
        self.fail_at.store(self.calls() + n, Ordering::SeqCst);
    }

    /// Lets all writes fail as on a standby.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::SeqCst);
    }

    /// Returns the number of calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Returns all keys, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Returns a value as JSON.
    pub(crate) fn json(&self, key: &str) -> Option<Value> {
        self.lock().get(key).map(|entry| serde_json::from_slice(&entry.value).expect("stored value is JSON"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, writes: bool) -> Result<(), StorageError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if call == self.fail_at.load(Ordering::SeqCst) {
            return Err(StorageError::Failed("told to fail".into()));
        }
        if writes && self.read_only.load(Ordering::SeqCst) {
            return Err(StorageError::ReadOnly);
        }
        Ok(())
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        self.count(false)?;
        Ok(self.lock().get(key).cloned())
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        self.count(true)?;
        self.lock().insert(entry.key.clone(), entry);
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.count(true)?;
        self.lock().remove(key);
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_page(prefix, "", 0).await
    }

    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        self.count(false)?;
        let entries = self.lock();
        let mut children: Vec<String> = entries
            .keys()
            .filter_map(|key| key.strip_prefix(prefix))
            .map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(folder, _)| format!("{folder}/")))
            // A key that is the prefix itself is an empty child.
            .filter(|child| after.is_empty() || child.as_str() > after)
            .collect();
        children.dedup();
        if limit > 0 {
            children.truncate(limit);
        }
        Ok(children)
    }

    async fn begin(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        Ok(None)
    }
}

/// A host's facts, to be set by the test.
pub(crate) struct FakeSystem {
    pub(crate) default_lease_ttl: Mutex<Duration>,
    pub(crate) max_lease_ttl: Mutex<Duration>,
    pub(crate) state: Mutex<ReplicationState>,
    calls: AtomicUsize,
}

impl FakeSystem {
    /// Returns the number of calls so far. Each is a round trip to a real host.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }
}

impl Default for FakeSystem {
    fn default() -> Self {
        let month = Duration::from_secs(768 * 3600);
        Self {
            default_lease_ttl: Mutex::new(month),
            max_lease_ttl: Mutex::new(month),
            state: Mutex::new(ReplicationState(12288)),
            calls: AtomicUsize::new(0),
        }
    }
}

#[async_trait]
impl SystemView for FakeSystem {
    async fn default_lease_ttl(&self) -> Result<Duration, Error> {
        self.count();
        Ok(*self.default_lease_ttl.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn max_lease_ttl(&self) -> Result<Duration, Error> {
        self.count();
        Ok(*self.max_lease_ttl.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn replication_state(&self) -> Result<ReplicationState, Error> {
        self.count();
        Ok(*self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn local_mount(&self) -> Result<bool, Error> {
        self.count();
        Ok(false)
    }

    async fn tainted(&self) -> Result<bool, Error> {
        self.count();
        Ok(false)
    }

    async fn caching_disabled(&self) -> Result<bool, Error> {
        self.count();
        Ok(false)
    }

    async fn host_version(&self) -> Result<String, Error> {
        self.count();
        Ok("2.7.2".into())
    }

    async fn entity(&self, _id: &str) -> Result<Option<Entity>, Error> {
        self.count();
        Ok(None)
    }

    async fn cluster_id(&self) -> Result<String, Error> {
        self.count();
        Ok(String::new())
    }

    async fn generate_password(&self, _policy: &str) -> Result<String, Error> {
        self.count();
        Err(Error::internal("no password policies"))
    }
}

/// Returns a mount with stand-ins, and the stand-ins.
pub(crate) fn mount() -> (Mount, Arc<MemoryStorage>, Arc<FakeSystem>) {
    let storage = Arc::new(MemoryStorage::default());
    let system = Arc::new(FakeSystem::default());
    let mount = Mount {
        storage: storage.clone(),
        system: system.clone(),
        uuid: "6a4c2d1e-0000-4000-8000-000000000000".into(),
        options: BTreeMap::new(),
    };
    (mount, storage, system)
}

/// Returns a request with data, given as a JSON object.
pub(crate) fn request(operation: Operation, path: &str, data: Value) -> Request {
    let data: Map = data.as_object().cloned().unwrap_or_default();
    Request { data, mount_point: "astra/".into(), ..Request::new(operation, path) }
}
