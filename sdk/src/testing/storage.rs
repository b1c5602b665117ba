//! Storage in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::Value;

use super::fault::{Gate, HostFault};
use crate::logical::{Entry, Storage, StorageError};

/// Storage in memory. It counts its calls, and [`MemoryStorage::inject`] makes them fail. Like the host, it rejects keys
/// that contain two dots in a row.
#[derive(Default)]
pub struct MemoryStorage {
    entries: Mutex<BTreeMap<String, Entry>>,
    gate: Gate,
    read_only: AtomicBool,
    unpaged: AtomicBool,
    lists: AtomicUsize,
}

impl MemoryStorage {
    /// Returns storage with these entries.
    pub fn holding(entries: impl IntoIterator<Item = Entry>) -> Self {
        let entries = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        Self { entries: Mutex::new(entries), ..Self::default() }
    }

    /// Sets a fault, which replaces the previous fault.
    pub fn inject(&self, fault: HostFault) {
        self.gate.set(Some(fault));
    }

    /// Removes the fault. A call that hangs then returns.
    pub fn heal(&self) {
        self.gate.set(None);
    }

    /// Makes only the `n`-th call from now on fail. 1 is the next call.
    pub fn fail_nth(&self, n: usize) {
        self.inject(HostFault::At(n));
    }

    /// Makes all writes fail, as on a standby.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::SeqCst);
    }

    /// Whether the storage lists by pages, as OpenBao does, or only whole folders, as Vault does. By default, it has pages.
    pub fn set_paged(&self, paged: bool) {
        self.unpaged.store(!paged, Ordering::SeqCst);
    }

    /// Returns the number of calls so far that list.
    pub fn lists(&self) -> usize {
        self.lists.load(Ordering::SeqCst)
    }

    /// Returns the number of calls so far.
    pub fn calls(&self) -> usize {
        self.gate.calls()
    }

    /// Returns the number of calls so far that write or delete.
    pub fn writes(&self) -> usize {
        self.gate.writes()
    }

    /// Returns all keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Returns all entries, sorted by key.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().values().cloned().collect()
    }

    /// Returns a value as JSON, or `None` if the entry does not exist or its value is not JSON.
    pub fn json(&self, key: &str) -> Option<Value> {
        serde_json::from_slice(&self.lock().get(key)?.value).ok()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write(&self, effect: impl FnOnce(&mut BTreeMap<String, Entry>) + Send) -> Result<(), StorageError> {
        if self.read_only.load(Ordering::SeqCst) {
            return self.gate.pass(true, || Err(StorageError::ReadOnly)).await?;
        }
        self.gate.pass(true, || effect(&mut self.lock())).await
    }
}

/// Rejects the keys that the host rejects (the view's `SanityCheck` in Vault's `sdk/logical/storage_view.go`).
fn check(key: &str) -> Result<(), StorageError> {
    if key.contains("..") {
        return Err(StorageError::Failed("relative paths not supported".into()));
    }
    Ok(())
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        check(key)?;
        self.gate.pass(false, || self.lock().get(key).cloned()).await
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        check(&entry.key)?;
        self.write(|entries| drop(entries.insert(entry.key.clone(), entry))).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        check(key)?;
        self.write(|entries| drop(entries.remove(key))).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_page(prefix, "", 0).await
    }

    async fn list_from(&self, prefix: &str, after: &str, limit: usize) -> Result<(Vec<String>, bool), StorageError> {
        let limit = if self.unpaged.load(Ordering::SeqCst) { 0 } else { limit };
        let page = self.list_page(prefix, after, limit).await?;
        let is_full = limit > 0 && page.len() == limit;
        Ok((page, is_full))
    }

    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        check(prefix)?;
        self.lists.fetch_add(1, Ordering::SeqCst);
        let page = || {
            let entries = self.lock();
            let mut children: Vec<String> = entries
                .keys()
                .filter_map(|key| key.strip_prefix(prefix))
                .map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(folder, _)| format!("{folder}/")))
                // If a key equals the prefix, its child name is empty.
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
}
