//! Stand-ins for the host, for unit tests of engines and of this runtime.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::watch;

use super::logical::{
    Entity, Entry, Error, Map, Mount, Operation, ReplicationState, Request, Storage, StorageError, SystemView,
    Transaction,
};
use super::plugin::Plugin;

/// What goes wrong at the host. Calls are counted from when the fault is set; 1 is the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The n-th call fails and has no effect.
    At(usize),
    /// The n-th call takes effect, and the caller is told that it failed.
    AfterEffectAt(usize),
    /// The n-th call takes effect, and its answer does not come until the fault is removed.
    HangsAt(usize),
    /// From the n-th call on all fail.
    From(usize),
    /// From the n-th call on nothing can be written: the node is not the active one any more.
    ReadOnlyFrom(usize),
    /// Every call takes this long.
    Slow(Duration),
}

/// Counts the calls of a stand-in and lets them go wrong.
#[derive(Default)]
struct Gate {
    calls: AtomicUsize,
    writes: AtomicUsize,
    /// The fault, and the number of calls before it was set.
    fault: watch::Sender<Option<(Fault, usize)>>,
}

impl Gate {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn set(&self, fault: Option<Fault>) {
        self.fault.send_replace(fault.map(|fault| (fault, self.calls())));
    }

    /// Makes one call: its effect happens unless the fault keeps it from happening.
    async fn pass<T: Send>(&self, writes: bool, effect: impl FnOnce() -> T + Send) -> Result<T, StorageError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        self.writes.fetch_add(usize::from(writes), Ordering::SeqCst);
        let fault = *self.fault.borrow();
        let Some((fault, before)) = fault else { return Ok(effect()) };
        let failed = || Err(StorageError::Failed("told to fail".into()));
        let n = call - before;
        match fault {
            Fault::At(at) if n == at => failed(),
            Fault::From(first) if n >= first => failed(),
            Fault::ReadOnlyFrom(first) if writes && n >= first => Err(StorageError::ReadOnly),
            Fault::AfterEffectAt(at) if n == at => {
                effect();
                failed()
            }
            Fault::HangsAt(at) if n == at => {
                let done = effect();
                let removed = self.fault.subscribe().wait_for(Option::is_none).await.is_ok();
                assert!(removed, "the gate outlives its calls");
                Ok(done)
            }
            Fault::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(effect())
            }
            _ => Ok(effect()),
        }
    }
}

/// Storage in memory that counts its calls and can be told to fail.
#[derive(Default)]
pub(crate) struct MemoryStorage {
    entries: Mutex<BTreeMap<String, Entry>>,
    gate: Gate,
    read_only: AtomicBool,
}

impl MemoryStorage {
    /// Returns storage with these entries.
    pub(crate) fn holding(entries: impl IntoIterator<Item = Entry>) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        Self { entries: Mutex::new(entries), ..Self::default() }
    }

    /// Sets a fault, in place of the one before.
    pub(crate) fn inject(&self, fault: Fault) {
        self.gate.set(Some(fault));
    }

    /// Removes the fault; a call that hangs goes on.
    pub(crate) fn heal(&self) {
        self.gate.set(None);
    }

    /// Lets the `n`-th call from now on fail (1 = the next one), and no other.
    pub(crate) fn fail_nth(&self, n: usize) {
        self.inject(Fault::At(n));
    }

    /// Lets all writes fail as on a standby.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::SeqCst);
    }

    /// Returns the number of calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.gate.calls()
    }

    /// Returns the number of calls so far that write or delete.
    pub(crate) fn writes(&self) -> usize {
        self.gate.writes.load(Ordering::SeqCst)
    }

    /// Returns all keys, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Returns all entries, sorted by key.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().values().cloned().collect()
    }

    /// Returns a value as JSON.
    pub(crate) fn json(&self, key: &str) -> Option<Value> {
        self.lock().get(key).map(|entry| serde_json::from_slice(&entry.value).expect("stored value is JSON"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, effect: impl FnOnce(&mut BTreeMap<String, Entry>) + Send) -> Result<(), StorageError> {
        if self.read_only.load(Ordering::SeqCst) {
            return self.gate.pass(true, || Err(StorageError::ReadOnly)).await?;
        }
        self.gate.pass(true, || effect(&mut self.lock())).await
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        self.gate.pass(false, || self.lock().get(key).cloned()).await
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        self.write(|entries| drop(entries.insert(entry.key.clone(), entry))).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.write(|entries| drop(entries.remove(key))).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_page(prefix, "", 0).await
    }

    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        let page = || {
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
            children
        };
        self.gate.pass(false, page).await
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
    /// Whether the mount is being removed.
    pub(crate) tainted: AtomicBool,
    gate: Gate,
}

impl FakeSystem {
    /// Returns the number of calls so far. Each is a round trip to a real host.
    pub(crate) fn calls(&self) -> usize {
        self.gate.calls()
    }

    /// Sets a fault, in place of the one before.
    pub(crate) fn inject(&self, fault: Fault) {
        self.gate.set(Some(fault));
    }

    /// Removes the fault.
    pub(crate) fn heal(&self) {
        self.gate.set(None);
    }

    async fn tell<T: Send>(&self, fact: impl FnOnce() -> T + Send) -> Result<T, Error> {
        self.gate.pass(false, fact).await.map_err(|error| Error::internal(error.to_string()))
    }
}

impl Default for FakeSystem {
    fn default() -> Self {
        let month = Duration::from_secs(768 * 3600);
        Self {
            default_lease_ttl: Mutex::new(month),
            max_lease_ttl: Mutex::new(month),
            state: Mutex::new(ReplicationState(12288)),
            tainted: AtomicBool::new(false),
            gate: Gate::default(),
        }
    }
}

#[async_trait]
impl SystemView for FakeSystem {
    async fn default_lease_ttl(&self) -> Result<Duration, Error> {
        self.tell(|| *self.default_lease_ttl.lock().unwrap_or_else(PoisonError::into_inner)).await
    }

    async fn max_lease_ttl(&self) -> Result<Duration, Error> {
        self.tell(|| *self.max_lease_ttl.lock().unwrap_or_else(PoisonError::into_inner)).await
    }

    async fn replication_state(&self) -> Result<ReplicationState, Error> {
        self.tell(|| *self.state.lock().unwrap_or_else(PoisonError::into_inner)).await
    }

    async fn local_mount(&self) -> Result<bool, Error> {
        self.tell(|| false).await
    }

    async fn tainted(&self) -> Result<bool, Error> {
        self.tell(|| self.tainted.load(Ordering::SeqCst)).await
    }

    async fn caching_disabled(&self) -> Result<bool, Error> {
        self.tell(|| false).await
    }

    async fn host_version(&self) -> Result<String, Error> {
        self.tell(|| "2.7.2".into()).await
    }

    async fn entity(&self, _id: &str) -> Result<Option<Entity>, Error> {
        self.tell(|| None).await
    }

    async fn cluster_id(&self) -> Result<String, Error> {
        self.tell(String::new).await
    }

    async fn generate_password(&self, _policy: &str) -> Result<String, Error> {
        self.tell(|| ()).await?;
        Err(Error::internal("no password policies"))
    }
}

/// Returns a mount with stand-ins, and the stand-ins.
pub(crate) fn mount() -> (Mount, Arc<MemoryStorage>, Arc<FakeSystem>) {
    let storage = Arc::new(MemoryStorage::default());
    let (mount, system) = mount_on(storage.clone());
    (mount, storage, system)
}

/// Returns a mount with this storage, and its host.
pub(crate) fn mount_on(storage: Arc<MemoryStorage>) -> (Mount, Arc<FakeSystem>) {
    let system = Arc::new(FakeSystem::default());
    let plugin = Plugin::new("tested", "0.0.0");
    let mount = Mount::new(plugin, storage, system.clone()).uuid("6a4c2d1e-0000-4000-8000-000000000000");
    (mount, system)
}

/// Returns a request with data, given as a JSON object.
pub(crate) fn request(operation: Operation, path: &str, data: Value) -> Request {
    let data: Map = data.as_object().cloned().unwrap_or_default();
    Request { data, mount_point: "astra/".into(), ..Request::new(operation, path) }
}
