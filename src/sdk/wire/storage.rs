//! The mount's storage, as the host serves it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::sdk::logical::{Entry, Storage, StorageError, Transaction};
use crate::sdk::pb::pb;
use crate::sdk::pb::pb::storage_client::StorageClient;

/// How long one call may take: it can hang while the host loses its leadership.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Storage of one mount, or a transaction in it.
pub(super) struct RemoteStorage {
    host: Arc<Host>,
    /// Id of the transaction; empty outside of one.
    txn: String,
    /// Whether the transaction can still be ended. The host takes calls for one that it does not know as calls outside
    /// of any, so an ended one is never named again.
    open: bool,
}

/// What is known of the host's storage service.
struct Host {
    client: StorageClient<Channel>,
    /// Vault has no transactions and says so at every call, so it is asked once.
    transactional: OnceCell<bool>,
    /// Vault has no listing by pages either.
    paged: AtomicBool,
}

impl RemoteStorage {
    pub(super) fn new(channel: Channel) -> Self {
        // Entries are as large as the host's storage takes them.
        let client =
            StorageClient::new(channel).max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX);
        let host = Host { client, transactional: OnceCell::new(), paged: AtomicBool::new(true) };
        Self { host: Arc::new(host), txn: String::new(), open: false }
    }

    fn client(&self) -> StorageClient<Channel> {
        self.host.client.clone()
    }

    async fn list_whole(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let args = pb::StorageListArgs { prefix: prefix.into(), txn: self.txn.clone() };
        let reply = call(self.client().list(args)).await.map_err(failed)?;
        check(&reply.err)?;
        Ok(reply.keys)
    }
}

#[async_trait]
impl Storage for RemoteStorage {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        let args = pb::StorageGetArgs { key: key.into(), txn: self.txn.clone() };
        let reply = call(self.client().get(args)).await.map_err(failed)?;
        check(&reply.err)?;
        Ok(reply.entry.map(|entry| Entry { key: entry.key, value: entry.value, seal_wrap: entry.seal_wrap }))
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        let entry = pb::StorageEntry { key: entry.key, value: entry.value, seal_wrap: entry.seal_wrap };
        let args = pb::StoragePutArgs { entry: Some(entry), txn: self.txn.clone() };
        check(&call(self.client().put(args)).await.map_err(failed)?.err)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let args = pb::StorageDeleteArgs { key: key.into(), txn: self.txn.clone() };
        check(&call(self.client().delete(args)).await.map_err(failed)?.err)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_whole(prefix).await
    }

    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        if self.host.paged.load(Ordering::Relaxed) {
            let args = pb::StorageListPageArgs {
                prefix: prefix.into(),
                after: after.into(),
                limit: i32::try_from(limit).unwrap_or(i32::MAX),
                txn: self.txn.clone(),
            };
            match call(self.client().list_page(args)).await {
                Ok(reply) => return check(&reply.err).map(|()| reply.keys),
                Err(status) if status.code() != Code::Unimplemented => return Err(failed(status)),
                Err(_) => self.host.paged.store(false, Ordering::Relaxed),
            }
        }
        Ok(page(self.list_whole(prefix).await?, after, limit))
    }

    async fn begin(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        let transactional = self.host.transactional.get_or_try_init(async || {
            match call(self.client().is_transactional(pb::Empty {})).await {
                Ok(reply) => Ok(reply.transactional),
                Err(status) if status.code() == Code::Unimplemented => Ok(false),
                Err(status) => Err(failed(status)),
            }
        });
        if !*transactional.await? || !self.txn.is_empty() {
            return Ok(None);
        }
        let reply = call(self.client().begin_tx(pb::Empty {})).await.map_err(failed)?;
        check(&reply.err)?;
        if reply.txn.is_empty() {
            // Going on would write outside of any transaction.
            return Err(StorageError::Failed("the host began a transaction without an id".into()));
        }
        Ok(Some(Box::new(Self { host: self.host.clone(), txn: reply.txn, open: true })))
    }
}

#[async_trait]
impl Transaction for RemoteStorage {
    async fn commit(mut self: Box<Self>) -> Result<(), StorageError> {
        self.open = false;
        let args = pb::StorageCommitTxArgs { txn: self.txn.clone() };
        let committed = match call(self.client().commit(args)).await {
            Ok(reply) => check(&reply.err),
            Err(status) => Err(failed(status)),
        };
        committed.map_err(|error| match error {
            StorageError::Failed(text) if text.contains(CONFLICT) => StorageError::Conflict,
            other => other,
        })
    }

    async fn rollback(mut self: Box<Self>) -> Result<(), StorageError> {
        self.open = false;
        let args = pb::StorageRollbackTxArgs { txn: self.txn.clone() };
        check(&call(self.client().rollback(args)).await.map_err(failed)?.err)
    }
}

impl Drop for RemoteStorage {
    /// A transaction that is forgotten would stay in the host until the mount goes.
    fn drop(&mut self) {
        if self.open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (mut client, txn) = (self.client(), self.txn.clone());
            runtime.spawn(async move {
                if let Err(status) = call(client.rollback(pb::StorageRollbackTxArgs { txn })).await {
                    tracing::warn!(error = %failed(status), "a dropped storage transaction could not be rolled back");
                }
            });
        }
    }
}

/// Cuts a page out of a whole listing.
fn page(mut keys: Vec<String>, after: &str, limit: usize) -> Vec<String> {
    keys.retain(|key| key.as_str() > after);
    keys.sort_unstable();
    if limit > 0 {
        keys.truncate(limit);
    }
    keys
}

async fn call<T>(answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    match timeout(TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("the host did not answer in time")),
    }
}

/// The host tells most failures in the reply, not by a status.
fn check(err: &str) -> Result<(), StorageError> {
    if err.is_empty() { Ok(()) } else { Err(classify(err)) }
}

fn failed(status: Status) -> StorageError {
    classify(status.message())
}

/// The wire has no kinds of failure, so hosts recognise them by their text (OpenBao `sdk/logical/error.go`).
fn classify(text: &str) -> StorageError {
    if text.contains(READ_ONLY) { StorageError::ReadOnly } else { StorageError::Failed(text.to_owned()) }
}

const READ_ONLY: &str = "cannot write to readonly storage";
const CONFLICT: &str = "transaction commit failed";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn read_only_is_found_inside_any_text() {
        assert_eq!(check("1 error: cannot write to readonly storage"), Err(StorageError::ReadOnly));
        assert_eq!(failed(Status::unknown(READ_ONLY)), StorageError::ReadOnly);
        assert_eq!(
            check("cannot write to storage during setup"),
            Err(StorageError::Failed("cannot write to storage during setup".into()))
        );
        assert_eq!(check(""), Ok(()));
    }

    proptest! {
        #[test]
        fn pages_put_together_are_the_sorted_listing(keys in proptest::collection::btree_set("[a-c]{1,4}/?", 0..30), limit in 1_usize..5) {
            let whole: Vec<String> = keys.iter().rev().cloned().collect();
            let (mut all, mut after) = (Vec::new(), String::new());
            loop {
                let next = page(whole.clone(), &after, limit);
                prop_assert!(next.len() <= limit);
                let Some(last) = next.last() else { break };
                after.clone_from(last);
                all.extend(next);
            }
            prop_assert_eq!(&all, &keys.iter().cloned().collect::<Vec<_>>());
            prop_assert_eq!(page(whole, "", 0), all);
        }
    }
}
