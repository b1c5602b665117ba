//! The mount's storage in the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use http::header::{HeaderName, HeaderValue};
use prost::Message;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::channel::Channel;
use super::unary::Method;
use crate::context;
use crate::logical::{Entry, Storage, StorageError, Transaction};
use crate::pb::pb;

// The host's storage limits the size of entries, so there is no second limit here.
static GET: Method<pb::StorageGetArgs, pb::StorageGetReply> = Method::new("/pb.Storage/Get").unlimited();
static PUT: Method<pb::StoragePutArgs, pb::StoragePutReply> = Method::new("/pb.Storage/Put");
static DELETE: Method<pb::StorageDeleteArgs, pb::StorageDeleteReply> = Method::new("/pb.Storage/Delete");
static LIST: Method<pb::StorageListArgs, pb::StorageListReply> = Method::new("/pb.Storage/List").unlimited();
static LIST_PAGE: Method<pb::StorageListPageArgs, pb::StorageListReply> =
    Method::new("/pb.Storage/ListPage").unlimited();
static IS_TRANSACTIONAL: Method<pb::Empty, pb::StorageIsTransactionalReply> =
    Method::new("/pb.Storage/IsTransactional");
static BEGIN_READ_ONLY: Method<pb::Empty, pb::StorageBeginTxReply> = Method::new("/pb.Storage/BeginReadOnlyTx");
static BEGIN: Method<pb::Empty, pb::StorageBeginTxReply> = Method::new("/pb.Storage/BeginTx");
static COMMIT: Method<pb::StorageCommitTxArgs, pb::StorageCommitTxReply> = Method::new("/pb.Storage/Commit");
static ROLLBACK: Method<pb::StorageRollbackTxArgs, pb::StorageRollbackTxReply> = Method::new("/pb.Storage/Rollback");

/// How long one call may take. A call can hang while the host loses its leadership.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The metadata key for the snapshot of a call.
pub(super) const SNAPSHOT_ID: &str = "snapshot_id";

/// Storage of one mount, or a transaction in it.
pub(super) struct RemoteStorage {
    host: Arc<Host>,
    /// Id of the transaction. Empty outside a transaction.
    txn: String,
    /// Whether the transaction is still open. If the host does not know the id in a call, it runs the call outside any
    /// transaction. So the id of a closed transaction must never be sent again.
    open: bool,
}

/// The host's storage service, and its known abilities.
struct Host {
    channel: Channel,
    /// Whether the host has transactions. Vault has none and refuses each time, so the plugin asks once.
    transactional: OnceCell<bool>,
    /// Whether the host lists by pages. Vault does not.
    paged: AtomicBool,
}

impl Host {
    /// Calls a method, and names the snapshot that the current request reads from (Vault `sdk/plugin/context.go`).
    async fn call<A, R>(&self, method: &Method<A, R>, args: &A) -> Result<R, Status>
    where
        A: Message,
        R: Message + Default,
    {
        let snapshot =
            context::with_current(|request| HeaderValue::from_str(request.snapshot.as_deref()?).ok()).flatten();
        let metadata = snapshot.map(|id| (HeaderName::from_static(SNAPSHOT_ID), id));
        match timeout(TIMEOUT, method.call(&self.channel, args, metadata)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("the host did not answer in time")),
        }
    }
}

impl RemoteStorage {
    pub(super) fn new(channel: Channel) -> Self {
        let host = Host { channel, transactional: OnceCell::new(), paged: AtomicBool::new(true) };
        Self { host: Arc::new(host), txn: String::new(), open: false }
    }

    async fn call<A, R>(&self, method: &Method<A, R>, args: A) -> Result<R, Status>
    where
        A: Message,
        R: Message + Default,
    {
        self.host.call(method, &args).await
    }

    async fn begin_transaction(host: Arc<Host>, writes: bool) -> Result<Self, StorageError> {
        let method = if writes { &BEGIN } else { &BEGIN_READ_ONLY };
        let reply = host.call(method, &pb::Empty {}).await.map_err(failed)?;
        check(&reply.err)?;
        if reply.txn.is_empty() {
            // Writes without an id would run outside any transaction.
            return Err(StorageError::Failed("the host began a transaction without an id".into()));
        }
        Ok(Self { host, txn: reply.txn, open: true })
    }

    async fn begin_any(&self, writes: bool) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        let transactional =
            self.host.transactional.get_or_try_init(async || match self.call(&IS_TRANSACTIONAL, pb::Empty {}).await {
                Ok(reply) => Ok(reply.transactional),
                Err(status) if status.code() == Code::Unimplemented => Ok(false),
                Err(status) => Err(failed(status)),
            });
        if !*transactional.await? || !self.txn.is_empty() {
            return Ok(None);
        }
        // In its own task: if the caller hangs up, the host may still begin a transaction. Its id must arrive here to
        // be rolled back.
        let begun = tokio::spawn(Self::begin_transaction(self.host.clone(), writes)).await;
        let transaction = begun.map_err(|_| StorageError::Failed("the plugin is stopping".into()))??;
        Ok(Some(Box::new(transaction)))
    }

    async fn list_whole(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let args = pb::StorageListArgs { prefix: prefix.into(), txn: self.txn.clone() };
        let reply = self.call(&LIST, args).await.map_err(failed)?;
        check(&reply.err)?;
        Ok(reply.keys)
    }
}

#[async_trait]
impl Storage for RemoteStorage {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        let args = pb::StorageGetArgs { key: key.into(), txn: self.txn.clone() };
        let reply = self.call(&GET, args).await.map_err(failed)?;
        check(&reply.err)?;
        Ok(reply.entry.map(|entry| Entry { key: entry.key, value: entry.value, seal_wrap: entry.seal_wrap }))
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        let entry = pb::StorageEntry { key: entry.key, value: entry.value, seal_wrap: entry.seal_wrap };
        let args = pb::StoragePutArgs { entry: Some(entry), txn: self.txn.clone() };
        check(&self.call(&PUT, args).await.map_err(failed)?.err)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let args = pb::StorageDeleteArgs { key: key.into(), txn: self.txn.clone() };
        check(&self.call(&DELETE, args).await.map_err(failed)?.err)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.list_whole(prefix).await
    }

    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        let (mut keys, _) = self.list_from(prefix, after, limit).await?;
        if limit > 0 {
            keys.truncate(limit);
        }
        Ok(keys)
    }

    async fn list_from(&self, prefix: &str, after: &str, limit: usize) -> Result<(Vec<String>, bool), StorageError> {
        if self.host.paged.load(Ordering::Relaxed) {
            let args = pb::StorageListPageArgs {
                prefix: prefix.into(),
                after: after.into(),
                limit: i32::try_from(limit).unwrap_or(i32::MAX),
                txn: self.txn.clone(),
            };
            match self.call(&LIST_PAGE, args).await {
                Ok(reply) => {
                    check(&reply.err)?;
                    let is_full = limit > 0 && reply.keys.len() >= limit;
                    return Ok((reply.keys, is_full));
                }
                Err(status) if status.code() != Code::Unimplemented => return Err(failed(status)),
                Err(_) => self.host.paged.store(false, Ordering::Relaxed),
            }
        }
        Ok((page(self.list_whole(prefix).await?, after, 0), false))
    }

    async fn begin(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        self.begin_any(true).await
    }

    async fn begin_read_only(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        self.begin_any(false).await
    }
}

#[async_trait]
impl Transaction for RemoteStorage {
    async fn commit(mut self: Box<Self>) -> Result<(), StorageError> {
        self.open = false;
        let args = pb::StorageCommitTxArgs { txn: self.txn.clone() };
        let committed = match self.call(&COMMIT, args).await {
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
        check(&self.call(&ROLLBACK, args).await.map_err(failed)?.err)
    }
}

impl Drop for RemoteStorage {
    /// Rolls the transaction back. Otherwise the transaction would stay in the host until unmounting.
    fn drop(&mut self) {
        if self.open
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (host, txn) = (self.host.clone(), self.txn.clone());
            runtime.spawn(async move {
                if let Err(status) = host.call(&ROLLBACK, &pb::StorageRollbackTxArgs { txn }).await {
                    tracing::warn!(error = %failed(status), "a dropped storage transaction could not be rolled back");
                }
            });
        }
    }
}

/// Cuts a page out of a whole list.
fn page(mut keys: Vec<String>, after: &str, limit: usize) -> Vec<String> {
    keys.retain(|key| key.as_str() > after);
    keys.sort_unstable();
    if limit > 0 {
        keys.truncate(limit);
    }
    keys
}

/// The host reports most failures in the reply, not by a status.
fn check(err: &str) -> Result<(), StorageError> {
    if err.is_empty() { Ok(()) } else { Err(classify(err)) }
}

fn failed(status: Status) -> StorageError {
    classify(status.message())
}

/// Finds the kind of a failure by its text. The wire has no kinds, so hosts do the same (OpenBao
/// `sdk/logical/error.go`).
fn classify(text: &str) -> StorageError {
    if text.contains(READ_ONLY) { StorageError::ReadOnly } else { StorageError::Failed(text.to_owned()) }
}

const READ_ONLY: &str = "cannot write to readonly storage";
const CONFLICT: &str = "transaction commit failed";

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use futures_util::FutureExt;
    use futures_util::future::ready;
    use proptest::prelude::*;
    use tokio::io::DuplexStream;
    use tokio::sync::mpsc;
    use tonic::transport::Server;
    use tonic::{Request, Response};

    use super::*;
    use crate::pb::pb::storage_server::{Storage as Served, StorageServer};
    use crate::process::Io;

    /// The storage of a host, either Vault or OpenBao. It records the calls.
    struct FakeHost {
        calls: mpsc::UnboundedSender<String>,
        is_vault: bool,
        err: Mutex<String>,
    }

    impl FakeHost {
        fn called(&self, call: String) {
            let _ = self.calls.send(call);
        }

        /// Answers a call that only OpenBao supports.
        fn bao<T>(&self, call: &str, reply: T) -> Result<Response<T>, Status> {
            self.called(call.into());
            if self.is_vault { Err(Status::unimplemented(call)) } else { Ok(Response::new(reply)) }
        }

        fn err(&self) -> String {
            self.err.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    #[async_trait]
    impl Served for FakeHost {
        async fn list(&self, _: Request<pb::StorageListArgs>) -> Result<Response<pb::StorageListReply>, Status> {
            self.called("list".into());
            let keys = ["c", "a/", "b"].map(String::from).to_vec();
            Ok(Response::new(pb::StorageListReply { keys, err: self.err() }))
        }

        async fn get(&self, request: Request<pb::StorageGetArgs>) -> Result<Response<pb::StorageGetReply>, Status> {
            let snapshot = request.metadata().get(SNAPSHOT_ID).map(|id| id.to_str().unwrap_or_default().to_owned());
            let key = request.into_inner().key;
            self.called(snapshot.map_or_else(|| "get".into(), |id| format!("get from {id}")));
            let value = vec![b'x'; 5 << 20];
            let entry = (key == "big").then_some(pb::StorageEntry { key, value, seal_wrap: true });
            Ok(Response::new(pb::StorageGetReply { entry, err: self.err() }))
        }

        async fn put(&self, request: Request<pb::StoragePutArgs>) -> Result<Response<pb::StoragePutReply>, Status> {
            let args = request.into_inner();
            let entry = args.entry.unwrap_or_default();
            let size = if entry.value.len() < 10 { String::new() } else { format!(" of {} bytes", entry.value.len()) };
            self.called(format!("put {}{size} in {:?}", entry.key, args.txn));
            Ok(Response::new(pb::StoragePutReply { err: self.err() }))
        }

        async fn delete(&self, _: Request<pb::StorageDeleteArgs>) -> Result<Response<pb::StorageDeleteReply>, Status> {
            Err(Status::unknown("missing storage implementation"))
        }

        async fn list_page(
            &self,
            request: Request<pb::StorageListPageArgs>,
        ) -> Result<Response<pb::StorageListReply>, Status> {
            let args = request.into_inner();
            let call = format!("list_page {} {}", args.after, args.limit);
            self.bao(&call, pb::StorageListReply { keys: vec!["page".into()], err: self.err() })
        }

        async fn is_transactional(
            &self,
            _: Request<pb::Empty>,
        ) -> Result<Response<pb::StorageIsTransactionalReply>, Status> {
            self.bao("is_transactional", pb::StorageIsTransactionalReply { transactional: true })
        }

        async fn begin_read_only_tx(&self, _: Request<pb::Empty>) -> Result<Response<pb::StorageBeginTxReply>, Status> {
            self.bao("begin_read_only", pb::StorageBeginTxReply { txn: "r1".into(), err: self.err() })
        }

        async fn begin_tx(&self, _: Request<pb::Empty>) -> Result<Response<pb::StorageBeginTxReply>, Status> {
            let err = self.err();
            let txn = if err.is_empty() { "t1".into() } else { String::new() };
            self.bao("begin", pb::StorageBeginTxReply { txn, err })
        }

        async fn commit(
            &self,
            request: Request<pb::StorageCommitTxArgs>,
        ) -> Result<Response<pb::StorageCommitTxReply>, Status> {
            self.bao(&format!("commit {}", request.get_ref().txn), pb::StorageCommitTxReply { err: self.err() })
        }

        async fn rollback(
            &self,
            request: Request<pb::StorageRollbackTxArgs>,
        ) -> Result<Response<pb::StorageRollbackTxReply>, Status> {
            self.bao(&format!("rollback {}", request.get_ref().txn), pb::StorageRollbackTxReply { err: self.err() })
        }
    }

    struct Calls(mpsc::UnboundedReceiver<String>, Arc<FakeHost>);

    impl Calls {
        fn so_far(&mut self) -> Vec<String> {
            std::iter::from_fn(|| self.0.try_recv().ok()).collect()
        }

        fn fail_with(&self, err: &str) {
            err.clone_into(&mut self.1.err.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Returns storage of a host, and a record of the calls that reach the host.
    async fn storage(is_vault: bool) -> (RemoteStorage, Calls) {
        let (calls, called) = mpsc::unbounded_channel();
        let host = Arc::new(FakeHost { calls, is_vault, err: Mutex::default() });
        let (near, far) = tokio::io::duplex(64 * 1024);
        let server = StorageServer::from_arc(host.clone()).max_decoding_message_size(usize::MAX);
        let incoming = tokio_stream::once(std::io::Result::<DuplexStream>::Ok(far));
        tokio::spawn(Server::builder().add_service(server).serve_with_incoming(incoming));
        let near = Mutex::new(Some(near));
        let connect = move || {
            let near = near.lock().unwrap_or_else(PoisonError::into_inner).take();
            ready(near.map(|near| Box::new(near) as Box<dyn Io>).ok_or(std::io::ErrorKind::NotConnected.into())).boxed()
        };
        (RemoteStorage::new(Channel::new(connect)), Calls(called, host))
    }

    #[test]
    fn the_methods_are_those_of_the_generated_client() {
        let generated = include_str!("../pb/pb.rs");
        GET.check(generated);
        PUT.check(generated);
        DELETE.check(generated);
        LIST.check(generated);
        LIST_PAGE.check(generated);
        IS_TRANSACTIONAL.check(generated);
        BEGIN_READ_ONLY.check(generated);
        BEGIN.check(generated);
        COMMIT.check(generated);
        ROLLBACK.check(generated);
    }

    #[tokio::test]
    async fn entries_are_as_large_as_the_host_takes_them() {
        let (storage, mut calls) = storage(false).await;
        let big = Entry { key: "big".into(), value: vec![b'x'; 5 << 20], seal_wrap: false };
        storage.put(big).await.unwrap();
        assert_eq!(calls.so_far(), ["put big of 5242880 bytes in \"\""]);
        assert_eq!(storage.get("big").await.unwrap().map(|entry| entry.value.len()), Some(5 << 20));
        assert!(storage.get("none").await.unwrap().is_none());
    }

    #[tokio::test]
    async fn failures_are_found_in_the_reply_and_in_the_status() {
        let (storage, calls) = storage(false).await;
        let missing = StorageError::Failed("missing storage implementation".into());
        assert_eq!(storage.delete("k").await, Err(missing));
        calls.fail_with("disk full");
        let full = StorageError::Failed("disk full".into());
        assert_eq!(storage.list("").await, Err(full.clone()));
        assert_eq!(storage.get("k").await.err(), Some(full.clone()));
        assert_eq!(storage.begin().await.err(), Some(full));
        calls.fail_with("x: cannot write to readonly storage");
        assert_eq!(storage.put(Entry::json("k", &1).unwrap()).await, Err(StorageError::ReadOnly));
    }

    #[tokio::test]
    async fn vault_is_asked_once_for_what_it_does_not_have() {
        let (storage, mut calls) = storage(true).await;
        for _ in 0..2 {
            assert!(storage.begin().await.unwrap().is_none());
            assert_eq!(storage.list_page("", "a/", 1).await.unwrap(), ["b"]);
        }
        assert_eq!(calls.so_far(), ["is_transactional", "list_page a/ 1", "list", "list"]);
    }

    #[tokio::test]
    async fn transaction_is_named_in_its_calls_and_ended_once() {
        let (storage, mut calls) = storage(false).await;
        assert_eq!(storage.list_page("", "a", usize::MAX).await.unwrap(), ["page"]);
        let transaction = storage.begin().await.unwrap().unwrap();
        transaction.put(Entry::json("k", &1).unwrap()).await.unwrap();
        assert!(transaction.begin().await.unwrap().is_none());
        transaction.commit().await.unwrap();
        storage.begin().await.unwrap().unwrap().rollback().await.unwrap();
        storage.put(Entry::json("k", &1).unwrap()).await.unwrap();
        let expected = [
            &*format!("list_page a {}", i32::MAX),
            "is_transactional",
            "begin",
            "put k in \"t1\"",
            "commit t1",
            "begin",
            "rollback t1",
            "put k in \"\"",
        ];
        assert_eq!(calls.so_far(), expected);
    }

    #[tokio::test]
    async fn a_read_only_transaction_begins_as_such() {
        let (storage, mut calls) = storage(false).await;
        storage.begin_read_only().await.unwrap().unwrap().rollback().await.unwrap();
        assert_eq!(calls.so_far(), ["is_transactional", "begin_read_only", "rollback r1"]);
        let (storage, _calls) = self::storage(true).await;
        assert!(storage.begin_read_only().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn the_calls_of_a_request_read_its_snapshot_also_in_a_task() {
        let (storage, mut calls) = storage(true).await;
        let storage = Arc::new(storage);
        let in_task = storage.clone();
        let read = async {
            storage.get("k").await.unwrap();
            let tasks = crate::tasks::Tasks::default();
            tasks.run(async move { in_task.get("k").await.map(drop) }).await.unwrap().unwrap();
        };
        let request = context::Context { snapshot: Some("6c1f".into()), ..Default::default() };
        context::scope(request.into(), read).await;
        storage.get("k").await.unwrap();
        assert_eq!(calls.so_far(), ["get from 6c1f", "get from 6c1f", "get"]);
    }

    #[tokio::test]
    async fn dropped_transaction_is_rolled_back() {
        let (storage, mut calls) = storage(false).await;
        drop(storage.begin().await.unwrap());
        for expected in ["is_transactional", "begin", "rollback t1"] {
            assert_eq!(calls.0.recv().await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn transaction_that_nobody_waits_for_any_more_is_rolled_back() {
        let (storage, mut calls) = storage(false).await;
        storage.begin().await.unwrap().unwrap().commit().await.unwrap();
        calls.so_far();
        let mut begin = storage.begin();
        assert!(begin.as_mut().now_or_never().is_none());
        assert_eq!(calls.0.recv().await.unwrap(), "begin");
        drop(begin);
        let rolled_back = timeout(Duration::from_secs(10), calls.0.recv()).await;
        assert_eq!(rolled_back.expect("the host keeps it").unwrap(), "rollback t1");
    }

    #[tokio::test]
    async fn lost_race_is_a_conflict() {
        let (storage, calls) = storage(false).await;
        let transaction = storage.begin().await.unwrap().unwrap();
        calls.fail_with("transaction commit failed: other writer");
        assert_eq!(transaction.commit().await, Err(StorageError::Conflict));
    }

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
