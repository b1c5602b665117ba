//! The mount's part of the host's storage.

use std::collections::VecDeque;

use async_trait::async_trait;
use futures_util::stream::{self, Stream};
use serde::{Serialize, de::DeserializeOwned};

/// One stored value. It has no `Debug`, because the value may be a secret.
#[derive(Clone, Eq, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// Key relative to the mount, without leading slash.
    pub key: String,
    /// The value. The host encrypts the value.
    pub value: Vec<u8>,
    /// Asks for the additional encryption of the seal (Vault Enterprise).
    pub seal_wrap: bool,
}

impl Entry {
    /// Returns an entry with this value.
    pub fn new(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: value.into(), seal_wrap: false }
    }

    /// Asks for the additional encryption of the seal.
    #[must_use]
    pub fn seal_wrap(mut self) -> Self {
        self.seal_wrap = true;
        self
    }

    /// Returns an entry with `value` as JSON.
    ///
    /// # Errors
    /// If the value has no JSON form.
    pub fn json<T: Serialize>(key: impl Into<String>, value: &T) -> Result<Self, StorageError> {
        let key = key.into();
        match serde_json::to_vec(value) {
            Ok(value) => Ok(Self::new(key, value)),
            Err(error) => Err(StorageError::Encoding { key, reason: reason(&error) }),
        }
    }

    /// Returns the value, read as JSON.
    ///
    /// # Errors
    /// If the value is not the JSON of a `T`. The error names the key and the place, and never contains the value.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, StorageError> {
        serde_json::from_slice(&self.value)
            .map_err(|error| StorageError::Encoding { key: self.key.clone(), reason: reason(&error) })
    }
}

/// A storage call that failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// This node cannot write.
    #[error("cannot write to readonly storage")]
    ReadOnly,
    /// Another writer changed the same data during a transaction. The caller can retry the whole transaction.
    #[error("storage transaction conflict")]
    Conflict,
    /// The host refused the call or was unreachable. The text comes from the host.
    #[error("storage: {0}")]
    Failed(String),
    /// The stored value could not be read or written as JSON.
    #[error("storage: entry {key:?}: {reason}")]
    Encoding {
        /// Key of the entry.
        key: String,
        /// Kind and place of the fault.
        reason: String,
    },
}

/// Storage of one mount.
///
/// There is no compare-and-swap outside transactions. So a writer that reads first must hold a lock of the process.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Returns the entry of this key, or `None`.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError>;

    /// Writes an entry.
    async fn put(&self, entry: Entry) -> Result<(), StorageError>;

    /// Deletes an entry. A missing entry is not an error.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;

    /// Returns the immediate children of a prefix. The prefix is empty or ends in `/`. Folders end in `/`. The order is
    /// not specified.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError>;

    /// Returns up to `limit` (0 = all) immediate children that sort after `after`, in byte order.
    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        let mut children = self.list(prefix).await?;
        children.retain(|child| after.is_empty() || child.as_str() > after);
        children.sort_unstable();
        if limit > 0 {
            children.truncate(limit);
        }
        Ok(children)
    }

    /// Returns up to `limit` (0 = all) immediate children that sort after `after`, like [`Storage::list_page`], and whether
    /// more children can follow. If the host has no pages, returns all children that follow, because the host lists all
    /// of them for each page. [`StorageExt::pages`] makes pages of both.
    async fn list_from(&self, prefix: &str, after: &str, _limit: usize) -> Result<(Vec<String>, bool), StorageError> {
        Ok((self.list_page(prefix, after, 0).await?, false))
    }

    /// Starts a transaction, or returns `None` if the host has no transactions.
    async fn begin(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        Ok(None)
    }

    /// Starts a transaction whose reads all see the same state and whose writes fail. Returns `None` if the host has no
    /// transactions.
    async fn begin_read_only(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        Ok(None)
    }
}

/// A storage transaction. If it is dropped without [`Transaction::commit`], it is rolled back.
#[async_trait]
pub trait Transaction: Storage {
    /// Makes all writes visible at once.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if another writer was faster. Nothing was written then.
    async fn commit(self: Box<Self>) -> Result<(), StorageError>;

    /// Discards all writes.
    async fn rollback(self: Box<Self>) -> Result<(), StorageError>;
}

/// Storage calls with JSON values.
#[async_trait]
pub trait StorageExt: Storage {
    /// Returns the value of this key, read as JSON.
    async fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StorageError> {
        self.get(key).await?.map(|entry| entry.decode()).transpose()
    }

    /// Writes a value as JSON.
    async fn put_json<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<(), StorageError> {
        self.put(Entry::json(key, value)?).await
    }

    /// Returns the immediate children that sort after `after`, in byte order, as pages of `size` children. If the host has
    /// no pages, lists the children only once. A child that is added or deleted meanwhile may be missing or left.
    fn pages(
        &self,
        prefix: impl Into<String>,
        after: impl Into<String>,
        size: usize,
    ) -> impl Stream<Item = Result<Vec<String>, StorageError>> + Send {
        // The first child can be empty. A page with only this child would not say where the next page starts.
        let (prefix, size) = (prefix.into(), size.max(2));
        let start = (Some(after.into()), VecDeque::new());
        stream::try_unfold(start, move |(mut after, mut rest)| {
            let prefix = prefix.clone();
            async move {
                if rest.is_empty()
                    && let Some(last) = after.take()
                {
                    let (children, more) = self.list_from(&prefix, &last, size).await?;
                    after = children.last().filter(|_| more).cloned();
                    rest = VecDeque::from(children);
                }
                let page: Vec<String> = rest.drain(..size.min(rest.len())).collect();
                Ok((!page.is_empty()).then_some((page, (after, rest))))
            }
        })
    }
}

impl<S: Storage + ?Sized> StorageExt for S {}

/// Returns the error's category and place. serde_json's own text may quote the value, which may be a secret.
fn reason(error: &serde_json::Error) -> String {
    format!("not the expected JSON ({:?} error at line {} column {})", error.classify(), error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;

    use super::*;
    use crate::testing::{HostFault, MemoryStorage};

    #[test]
    fn an_entry_that_cannot_be_read_is_named_but_not_shown() {
        let entry = Entry::new("token/a", br#"{"token":"hush"}"#);
        let error = entry.decode::<Vec<String>>().unwrap_err().to_string();
        assert!(error.starts_with(r#"storage: entry "token/a": not the expected JSON"#), "{error}");
        assert!(!error.contains("hush"));
    }

    /// Storage that implements only the required methods.
    struct Plain;

    #[async_trait]
    impl Storage for Plain {
        async fn get(&self, _: &str) -> Result<Option<Entry>, StorageError> {
            Ok(None)
        }

        async fn put(&self, _: Entry) -> Result<(), StorageError> {
            Err(StorageError::ReadOnly)
        }

        async fn delete(&self, _: &str) -> Result<(), StorageError> {
            Err(StorageError::ReadOnly)
        }

        async fn list(&self, _: &str) -> Result<Vec<String>, StorageError> {
            Ok(["c", "a/", "b", "a"].map(str::to_owned).to_vec())
        }
    }

    #[tokio::test]
    async fn pages_of_storage_without_pages_are_cut_from_its_list() {
        let page = async |after, limit| Plain.list_page("", after, limit).await.unwrap();
        assert_eq!(page("", 0).await, ["a", "a/", "b", "c"]);
        assert_eq!(page("a", 2).await, ["a/", "b"]);
        assert_eq!(page("c", 2).await, [""; 0]);
        assert!(Plain.begin().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn without_paging_all_pages_come_from_one_list() {
        for (is_paged, size, lists) in [(true, 2, 4), (true, 100, 1), (false, 2, 1), (false, 100, 1)] {
            let storage = MemoryStorage::default();
            storage.set_paged(is_paged);
            for child in ["a", "b/x", "c", "d", "e", "f"] {
                storage.put(Entry::new(format!("p/{child}"), "")).await.unwrap();
            }
            let pages: Vec<Vec<String>> = storage.pages("p/", "", size).try_collect().await.unwrap();
            assert!(pages.iter().all(|page| page.len() <= size), "{pages:?}");
            assert_eq!(pages.concat(), ["a", "b/", "c", "d", "e", "f"]);
            assert_eq!(storage.lists(), lists, "paged: {is_paged}, size: {size}");
            let pages: Vec<Vec<String>> = storage.pages("p/", "c", size).try_collect().await.unwrap();
            assert_eq!(pages.concat(), ["d", "e", "f"]);
        }
        let storage = MemoryStorage::default();
        storage.inject(HostFault::At(1));
        assert!(storage.pages("", "", 2).try_collect::<Vec<_>>().await.is_err());
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let entry = Entry::json("a", &vec![1_u64, u64::MAX]).unwrap();
        assert_eq!(entry.decode::<Vec<u64>>().unwrap(), [1, u64::MAX]);
    }
}
