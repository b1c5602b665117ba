//! Write-ahead log: a note of what is about to be changed elsewhere, so that it can be undone if the end is never reached.
//!
//! An entry is written before the change and deleted after what came of it is stored. What is still there after a
//! minimum age belongs to a change that was cut short; the host's tick hands it to the undo of its kind.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use crate::sdk::logical::{Error, Storage, StorageError, StorageExt};

/// Storage prefix of the log (OpenBao `sdk/framework/wal.go`).
pub(super) const PREFIX: &str = "wal/";

/// One entry of the log.
#[derive(Serialize, Deserialize)]
pub struct WalEntry {
    /// Id of the entry; its key is `wal/<id>`.
    #[serde(skip)]
    pub id: String,
    /// Name of the [`WalKind`].
    #[serde(rename = "type")]
    pub kind: String,
    /// What the undo needs to know.
    pub data: Value,
    /// When the entry was written, in seconds since 1970.
    pub created_at: i64,
}

impl WalEntry {
    /// Returns the data as the type that it was written as.
    ///
    /// # Errors
    /// When the data has another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, StorageError> {
        T::deserialize(&self.data).map_err(|_| StorageError::Encoding {
            key: format!("{PREFIX}{}", self.id),
            reason: format!("not the data of a {:?} entry", self.kind),
        })
    }

    /// Returns the time since the entry was written.
    pub fn age(&self) -> Duration {
        let seconds = Timestamp::now().as_second().saturating_sub(self.created_at);
        Duration::from_secs(seconds.try_into().unwrap_or(0))
    }
}

/// The write-ahead log of a mount.
pub struct Wal<'a> {
    storage: &'a dyn Storage,
}

impl<'a> Wal<'a> {
    /// Returns the log in this storage.
    pub fn new(storage: &'a dyn Storage) -> Self {
        Self { storage }
    }

    /// Writes an entry and returns its id.
    ///
    /// # Errors
    /// When storage fails; the change that the entry is for must not be made then.
    pub async fn put<T: Serialize + Sync>(&self, kind: &str, data: &T) -> Result<String, StorageError> {
        let id = Uuid::new_v4().to_string();
        self.write(&id, kind, data).await?;
        Ok(id)
    }

    /// Writes an entry again, with what is known by now.
    ///
    /// # Errors
    /// When storage fails; the old entry is still there then.
    pub async fn update<T: Serialize + Sync>(&self, id: &str, kind: &str, data: &T) -> Result<(), StorageError> {
        self.write(id, kind, data).await
    }

    /// Deletes an entry.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn delete(&self, id: &str) -> Result<(), StorageError> {
        self.storage.delete(&format!("{PREFIX}{id}")).await
    }

    /// Returns the ids of all entries.
    ///
    /// # Errors
    /// When storage fails.
    pub async fn list(&self) -> Result<Vec<String>, StorageError> {
        self.storage.list(PREFIX).await
    }

    /// Returns an entry, or `None` if it is gone by now.
    ///
    /// # Errors
    /// When storage fails or the entry is not the log's.
    pub async fn get(&self, id: &str) -> Result<Option<WalEntry>, StorageError> {
        let entry: Option<WalEntry> = self.storage.get_json(&format!("{PREFIX}{id}")).await?;
        Ok(entry.map(|entry| WalEntry { id: id.to_owned(), ..entry }))
    }

    async fn write<T: Serialize + Sync>(&self, id: &str, kind: &str, data: &T) -> Result<(), StorageError> {
        #[derive(Serialize)]
        struct Stored<'a, T> {
            r#type: &'a str,
            data: &'a T,
            created_at: i64,
        }
        let entry = Stored { r#type: kind, data, created_at: Timestamp::now().as_second() };
        self.storage.put_json(&format!("{PREFIX}{id}"), &entry).await
    }
}

type RollbackFn<E> = Arc<dyn Fn(Arc<E>, WalEntry) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;

/// A kind of entry, with the undo of what was cut short.
pub struct WalKind<E> {
    pub(super) name: &'static str,
    pub(super) minimum_age: Duration,
    pub(super) rollback: RollbackFn<E>,
}

impl<E: Send + Sync + 'static> WalKind<E> {
    /// Declares a kind. Entries younger than `minimum_age` may belong to a change that is still going on and are left
    /// alone, so it must be above the longest such change. The undo may run several times for one entry; the entry is
    /// deleted when it succeeds, and handed to it again at the next tick when it fails.
    pub fn new<F, Fut>(name: &'static str, minimum_age: Duration, rollback: F) -> Self
    where
        F: Fn(Arc<E>, WalEntry) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Self { name, minimum_age, rollback: Arc::new(move |engine, entry| Box::pin(rollback(engine, entry))) }
    }
}
