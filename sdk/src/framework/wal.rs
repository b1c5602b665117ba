//! Write-ahead log (WAL): notes about unfinished work in another system, so that an interrupted change can be undone.
//!
//! An entry is written before the change, and deleted after the result is stored. An entry that is older than its
//! minimum age belongs to an interrupted change. The host's tick gives such an entry to the undo of its kind.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, TryFutureExt as _};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::logical::{Error, Mount, Storage, StorageError, StorageExt};

/// Storage prefix of WAL entries (OpenBao `sdk/framework/wal.go`).
const PREFIX: &str = "wal/";

/// One WAL entry.
#[derive(Serialize, Deserialize)]
#[non_exhaustive]
pub struct WalEntry {
    /// Id of the entry; its key is `wal/<id>`.
    #[serde(skip)]
    pub id: String,
    /// Name of the [`WalKind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// Data for the undo.
    pub data: Value,
    /// When the entry was written, in seconds since 1970.
    pub created_at: i64,
    /// The tick that undoes the entry.
    #[serde(skip)]
    pub tick: Arc<Tick>,
}

/// Values that the undos of one tick share, such as an expensive answer of the other system. Each value is made during
/// the tick, so after the changes of all entries that this tick undoes. The values are dropped when the tick is over.
#[derive(Default)]
pub struct Tick {
    shared: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
}

impl Tick {
    /// Returns the shared value with this name. The first call in a tick makes the value.
    pub fn share<T: Default + Send + Sync + 'static>(&self, name: &str) -> Arc<T> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = shared.get(name)
            && let Ok(value) = value.clone().downcast()
        {
            return value;
        }
        let value = Arc::new(T::default());
        shared.insert(name.to_owned(), value.clone());
        value
    }
}

impl WalEntry {
    /// Returns the data as the type with which the entry was written.
    ///
    /// # Errors
    /// If the data has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, StorageError> {
        T::deserialize(&self.data).map_err(|_| StorageError::Encoding {
            key: key(&self.id),
            reason: format!("not the data of a {:?} entry", self.kind),
        })
    }

    /// Returns the time since the entry was written.
    pub fn age(&self) -> Duration {
        self.age_at(Timestamp::now())
    }

    pub(super) fn age_at(&self, time: Timestamp) -> Duration {
        let seconds = time.as_second().saturating_sub(self.created_at);
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    }
}

/// The entry of a change in progress. Until this value is dropped, the host's tick leaves the entry alone, however old
/// the entry is.
#[must_use = "the entry is undone by the next tick once this is dropped"]
pub struct OpenEntry {
    id: String,
    kind: &'static str,
}

/// Ids of the open entries of all mounts in this process.
static OPEN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

fn open() -> MutexGuard<'static, HashSet<String>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OpenEntry {
    fn new(id: String, kind: &'static str) -> Self {
        open().insert(id.clone());
        Self { id, kind }
    }

    /// Returns the id of the entry.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for OpenEntry {
    fn drop(&mut self) {
        open().remove(&self.id);
    }
}

/// The write-ahead log of a mount.
pub struct Wal<'a> {
    storage: &'a dyn Storage,
    kinds: Option<&'a [&'static str]>,
}

impl Mount {
    /// Returns the write-ahead log.
    pub fn wal(&self) -> Wal<'_> {
        Wal { storage: &*self.storage, kinds: self.wal_kinds.as_deref() }
    }
}

impl Wal<'_> {
    /// Writes an entry. `kind` is the name of a declared [`WalKind`].
    ///
    /// # Errors
    /// If storage fails, or if the kind is not declared: no tick could undo the entry. The caller must not make the change
    /// then.
    pub async fn put<T: Serialize + Sync>(&self, kind: &'static str, data: &T) -> Result<OpenEntry, StorageError> {
        self.put_as(&Uuid::new_v4().to_string(), kind, data).await
    }

    /// Writes an entry with this id, so that the entry of a repeated change replaces the earlier one. The caller makes
    /// sure that two changes with one id do not run at the same time.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub async fn put_as<T: Serialize + Sync>(
        &self,
        id: &str,
        kind: &'static str,
        data: &T,
    ) -> Result<OpenEntry, StorageError> {
        if self.kinds.is_some_and(|kinds| !kinds.contains(&kind)) {
            return Err(StorageError::Failed(format!(
                "WAL kind {kind:?} is not declared; declare it with `Backend::wal`"
            )));
        }
        let entry = OpenEntry::new(id.to_owned(), kind);
        self.update(&entry, data).await?;
        Ok(entry)
    }

    /// Replaces the data of an entry, when more is known about the change.
    ///
    /// # Errors
    /// If storage fails. The old data stays then.
    pub async fn update<T: Serialize + Sync>(&self, entry: &OpenEntry, data: &T) -> Result<(), StorageError> {
        self.write(&entry.id, entry.kind, data, Timestamp::now().as_second()).await
    }

    /// Replaces the data of an entry during its undo. The age of the entry stays.
    ///
    /// # Errors
    /// If storage fails. The old data stays then.
    pub async fn rewrite<T: Serialize + Sync>(&self, entry: &WalEntry, data: &T) -> Result<(), StorageError> {
        self.write(&entry.id, &entry.kind, data, entry.created_at).await
    }

    async fn write<T: Serialize + Sync>(
        &self,
        id: &str,
        kind: &str,
        data: &T,
        created_at: i64,
    ) -> Result<(), StorageError> {
        #[derive(Serialize)]
        struct Stored<'a, T> {
            r#type: &'a str,
            data: &'a T,
            created_at: i64,
        }
        self.storage.put_json(&key(id), &Stored { r#type: kind, data, created_at }).await
    }

    /// Deletes an entry, after its change is complete.
    ///
    /// # Errors
    /// If storage fails. The change will be undone then.
    pub async fn delete(&self, entry: &OpenEntry) -> Result<(), StorageError> {
        self.remove(&entry.id).await
    }

    /// Returns the ids of all entries.
    ///
    /// # Errors
    /// If storage fails.
    pub async fn list(&self) -> Result<Vec<String>, StorageError> {
        self.storage.list(PREFIX).await
    }

    /// Returns an entry, or `None` if it no longer exists.
    ///
    /// # Errors
    /// If storage fails or the value is not a WAL entry.
    pub async fn get(&self, id: &str) -> Result<Option<WalEntry>, StorageError> {
        let entry: Option<WalEntry> = self.storage.get_json(&key(id)).await?;
        Ok(entry.map(|entry| WalEntry { id: id.to_owned(), ..entry }))
    }

    /// Whether the change of an entry is still in progress in this process.
    pub(super) fn is_open(id: &str) -> bool {
        open().contains(id)
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), StorageError> {
        self.storage.delete(&key(id)).await
    }
}

fn key(id: &str) -> String {
    format!("{PREFIX}{id}")
}

/// The outcome of a rollback that did not fail.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Undo {
    /// Nothing is left of the change. The entry is deleted.
    Done,
    /// The change can still take effect. The entry stays, and a later tick undoes it again.
    Again,
}

impl From<()> for Undo {
    fn from((): ()) -> Self {
        Self::Done
    }
}

type RollbackFn<E> = Arc<dyn Fn(Arc<E>, WalEntry) -> BoxFuture<'static, Result<Undo, Error>> + Send + Sync>;
type AgeFn = fn(&WalEntry) -> Duration;

/// A kind of WAL entry, with the undo of an interrupted change.
pub struct WalKind<E> {
    pub(super) name: &'static str,
    pub(super) rollback: RollbackFn<E>,
    minimum_age: Duration,
    longer_for: Option<AgeFn>,
}

impl<E: Send + Sync + 'static> WalKind<E> {
    /// Declares a kind. Entries younger than `minimum_age` are left alone, because another process may still work on
    /// their change. So `minimum_age` must exceed the longest duration of such a change. The undo may run several times
    /// for one entry. If the undo succeeds, the entry is deleted; if it fails, the next tick retries. An undo that
    /// returns [`Undo`] instead of `()` can keep the entry without an error.
    pub fn new<F, Fut, Outcome, Failure>(name: &'static str, minimum_age: Duration, rollback: F) -> Self
    where
        F: Fn(Arc<E>, WalEntry) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Outcome, Failure>> + Send + 'static,
        Outcome: Into<Undo> + 'static,
        Failure: Into<Error> + 'static,
    {
        let rollback: RollbackFn<E> =
            Arc::new(move |engine, entry| Box::pin(rollback(engine, entry).map_ok(Into::into).map_err(Into::into)));
        Self { name, rollback, minimum_age, longer_for: None }
    }

    /// Lets an entry ask for a longer minimum age than its kind, for changes that can take longer.
    #[must_use]
    pub fn longer_for(mut self, age: fn(&WalEntry) -> Duration) -> Self {
        self.longer_for = Some(age);
        self
    }

    pub(super) fn minimum_age(&self, entry: &WalEntry) -> Duration {
        self.longer_for.map_or(self.minimum_age, |age| age(entry).max(self.minimum_age))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::mount;

    #[derive(Debug, Deserialize, PartialEq, Serialize)]
    struct Print {
        name: String,
    }

    fn print(name: &str) -> Print {
        Print { name: name.into() }
    }

    #[tokio::test]
    async fn an_entry_is_stored_as_go_engines_do() {
        let (mount, storage, _) = mount();
        let before = Timestamp::now().as_second();
        let entry = mount.wal().put("print", &print("dune")).await.unwrap();
        let stored = storage.json(&format!("wal/{}", entry.id())).unwrap();
        let created_at = stored["created_at"].as_i64().unwrap();
        assert!((before..=Timestamp::now().as_second()).contains(&created_at));
        assert_eq!(stored, json!({ "type": "print", "data": { "name": "dune" }, "created_at": created_at }));
    }

    #[tokio::test]
    async fn an_entry_lives_until_it_is_deleted() {
        let (mount, storage, _) = mount();
        let wal = mount.wal();
        let dune = wal.put("print", &print("dune")).await.unwrap();
        let emma = wal.put("print", &print("emma")).await.unwrap();
        assert_ne!(dune.id(), emma.id());
        wal.update(&dune, &print("dune ii")).await.unwrap();
        let entry = wal.get(dune.id()).await.unwrap().unwrap();
        assert_eq!((entry.id.as_str(), entry.kind.as_str()), (dune.id(), "print"));
        assert_eq!(entry.decode::<Print>().unwrap(), print("dune ii"));
        assert!(entry.age() < Duration::from_secs(60));
        let mut ids = wal.list().await.unwrap();
        ids.sort();
        let mut expected = [dune.id(), emma.id()];
        expected.sort_unstable();
        assert_eq!(ids, expected);
        wal.delete(&dune).await.unwrap();
        assert!(wal.get(dune.id()).await.unwrap().is_none());
        assert_eq!(storage.keys(), [format!("wal/{}", emma.id())]);
    }

    #[tokio::test]
    async fn a_rewritten_entry_keeps_its_kind_and_age() {
        let (mount, storage, _) = mount();
        let wal = mount.wal();
        let open = wal.put_as("1", "print", &print("dune")).await.unwrap();
        let entry = WalEntry { created_at: 7, ..wal.get(open.id()).await.unwrap().unwrap() };
        wal.rewrite(&entry, &print("dune ii")).await.unwrap();
        let expected = json!({ "type": "print", "data": { "name": "dune ii" }, "created_at": 7 });
        assert_eq!(storage.json("wal/1"), Some(expected));
    }

    #[tokio::test]
    async fn data_of_another_shape_is_named_but_not_shown() {
        let (mount, ..) = mount();
        let wal = mount.wal();
        let hush = wal.put("print", &json!({ "name": ["hush"] })).await.unwrap();
        let error = wal.get(hush.id()).await.unwrap().unwrap().decode::<Print>().unwrap_err().to_string();
        assert_eq!(error, format!("storage: entry \"wal/{}\": not the data of a \"print\" entry", hush.id()));
    }

    #[tokio::test]
    async fn nothing_is_written_where_nothing_may_be() {
        let (mount, storage, _) = mount();
        storage.set_read_only(true);
        let error = mount.wal().put("print", &print("dune")).await.map(drop).unwrap_err();
        assert_eq!(error, StorageError::ReadOnly);
        assert!(matches!(Error::from(error), Error::ReadOnly));
    }

    #[tokio::test]
    async fn an_entry_is_open_while_its_change_goes_on() {
        let (mount, storage, _) = mount();
        let wal = mount.wal();
        let entry = wal.put("print", &print("dune")).await.unwrap();
        let id = entry.id().to_owned();
        assert!(Wal::is_open(&id));
        drop(entry);
        assert!(!Wal::is_open(&id) && storage.keys().len() == 1);
    }
}
