//! The host's storage of one mount, in memory. A test can switch on the faults of real storage.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::gate::Gate;
use super::pb::pb::{self, StorageEntry};

type Entries = BTreeMap<String, StorageEntry>;
type Answer<T> = Result<Response<T>, Status>;

/// Error text of a write on a node that can only read.
pub const READ_ONLY: &str = "cannot write to readonly storage";

/// The current fault.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StorageFault {
    /// Nothing.
    #[default]
    None,
    /// There is no storage, as at registration: every call fails with a gRPC status.
    Missing,
    /// Every call returns this text in `err`.
    Error(&'static str),
    /// Every write returns this text in `err`.
    Write(&'static str),
}

/// Storage of one mount. Clones share the storage.
#[derive(Clone, Default)]
pub struct Storage(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    entries: Entries,
    transactions: HashMap<String, Transaction>,
    calls: Vec<String>,
    /// Number of calls that named a transaction that was closed or never existed.
    stray: usize,
    fault: StorageFault,
    vault: bool,
    delay: Duration,
    gate: Gate,
}

struct Transaction {
    read_only: bool,
    base: Entries,
    reads: BTreeSet<String>,
    writes: BTreeMap<String, Option<StorageEntry>>,
}

impl Storage {
    /// Storage like Vault's: without pages and transactions.
    pub fn of_vault() -> Self {
        let storage = Self::default();
        storage.state().vault = true;
        storage
    }

    /// Storage during registration: every call fails.
    pub fn missing() -> Self {
        let storage = Self::default();
        storage.fail(StorageFault::Missing);
        storage
    }

    /// Returns storage with the same entries, behind a gate.
    #[must_use]
    pub fn copy(&self, gate: &Gate) -> Self {
        let storage = Self::default();
        storage.state().entries = self.state().entries.clone();
        storage.state().gate = gate.clone();
        storage
    }

    /// Sets a fault for all calls from now on.
    pub fn fail(&self, fault: StorageFault) {
        self.state().fault = fault;
    }

    /// Delays each call from now on.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Returns the calls so far, as `method key`, and clears the list.
    pub fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }

    /// Returns the number of calls since [`Storage::take_calls`].
    pub fn calls(&self) -> usize {
        self.state().calls.len()
    }

    /// Returns all keys.
    pub fn keys(&self) -> Vec<String> {
        self.state().entries.keys().cloned().collect()
    }

    /// Returns a value.
    pub fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.state().entries.get(key).map(|entry| entry.value.clone())
    }

    /// Stores a value without the plugin's knowledge.
    pub fn insert(&self, key: &str, value: &[u8]) {
        let entry = StorageEntry { key: key.into(), value: value.into(), seal_wrap: false };
        self.state().entries.insert(key.into(), entry);
    }

    /// Removes a value without the plugin's knowledge.
    pub fn remove(&self, key: &str) {
        self.state().entries.remove(key);
    }

    /// Checks that no transaction was left open or used after its end.
    pub fn check(&self) {
        let state = self.state();
        assert_eq!(state.transactions.len(), 0, "a transaction was not finished");
        assert_eq!(state.stray, 0, "a call used the id of a finished transaction");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Records a call, then applies the delay and the fault. `Ok(Some(..))` is a text for `err`.
    async fn enter(&self, call: String, writes: bool, openbao: bool) -> Result<Option<String>, Status> {
        let (fault, delay) = {
            let mut state = self.state();
            state.calls.push(call);
            if openbao && state.vault {
                return Err(Status::unimplemented("unknown method"));
            }
            (state.fault, state.delay)
        };
        tokio::time::sleep(delay).await;
        match fault {
            StorageFault::Missing => {
                Err(Status::unknown("missing storage implementation: this method should not be called"))
            }
            StorageFault::Error(text) => Ok(Some(text.into())),
            StorageFault::Write(text) if writes => Ok(Some(text.into())),
            _ => Ok(None),
        }
    }

    /// Runs a call that does not begin or end a transaction. The inner error is a text for `err`.
    async fn carry_out<T>(
        &self,
        call: String,
        writes: bool,
        openbao: bool,
        effect: impl FnOnce(&mut State) -> T,
    ) -> Result<Result<T, String>, Status> {
        if let Some(err) = self.enter(call.clone(), writes, openbao).await? {
            return Ok(Err(err));
        }
        let gate = self.state().gate.clone();
        let number = match gate.enter(&call).await {
            Ok(number) => number,
            Err(err) => return Ok(Err(err.into())),
        };
        let result = effect(&mut self.state());
        Ok(gate.leave(number, &call).await.map(|()| result).map_err(Into::into))
    }
}

impl State {
    fn transaction(&mut self, id: &str) -> Option<&mut Transaction> {
        if id.is_empty() {
            return None;
        }
        self.stray += usize::from(!self.transactions.contains_key(id));
        self.transactions.get_mut(id)
    }

    fn get(&mut self, txn: &str, key: &str) -> Option<StorageEntry> {
        if let Some(transaction) = self.transaction(txn) {
            transaction.reads.insert(key.into());
            let written = transaction.writes.get(key).cloned();
            return written.unwrap_or_else(|| transaction.base.get(key).cloned());
        }
        self.entries.get(key).cloned()
    }

    fn set(&mut self, txn: &str, key: String, entry: Option<StorageEntry>) -> String {
        if key.contains("..") {
            return "relative paths not supported".into();
        }
        match (self.transaction(txn), entry) {
            (Some(transaction), _) if transaction.read_only => return "transaction is read-only".into(),
            (Some(transaction), entry) => drop(transaction.writes.insert(key, entry)),
            (None, Some(entry)) => drop(self.entries.insert(key, entry)),
            (None, None) => drop(self.entries.remove(&key)),
        }
        String::new()
    }

    fn list(&mut self, txn: &str, prefix: &str) -> Vec<String> {
        let Some(transaction) = self.transaction(txn) else { return children(&self.entries, prefix) };
        let mut entries = transaction.base.clone();
        for (key, entry) in &transaction.writes {
            match entry {
                Some(entry) => drop(entries.insert(key.clone(), entry.clone())),
                None => drop(entries.remove(key)),
            }
        }
        children(&entries, prefix)
    }

    fn begin(&mut self, read_only: bool) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let base = self.entries.clone();
        let transaction = Transaction { read_only, base, reads: BTreeSet::new(), writes: BTreeMap::new() };
        self.transactions.insert(id.clone(), transaction);
        id
    }

    fn commit(&mut self, id: &str) -> Result<String, Status> {
        let transaction =
            self.transactions.remove(id).ok_or_else(|| Status::unknown("missing storage implementation"))?;
        let touched = transaction.reads.iter().chain(transaction.writes.keys());
        for key in touched {
            if transaction.base.get(key) != self.entries.get(key) {
                return Ok("transaction commit failed".into());
            }
        }
        for (key, entry) in transaction.writes {
            match entry {
                Some(entry) => drop(self.entries.insert(key, entry)),
                None => drop(self.entries.remove(&key)),
            }
        }
        Ok(String::new())
    }
}

/// Returns the children of a folder, in byte order. Deeper keys appear as a folder. Does not walk over the keys below a
/// folder, because a test can store hundreds of thousands of them.
fn children(entries: &Entries, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut from = prefix.to_owned();
    while let Some((key, _)) = entries.range(from.clone()..).next()
        && let Some(rest) = key.strip_prefix(prefix)
    {
        let child = rest.split_inclusive('/').next().unwrap_or_default();
        from = match child.strip_suffix('/') {
            // The character after the slash: the first key that is not in this folder.
            Some(name) => format!("{prefix}{name}0"),
            None => format!("{key}\0"),
        };
        found.push(child.to_owned());
    }
    found
}

fn keys(listed: Result<Vec<String>, String>) -> pb::StorageListReply {
    match listed {
        Ok(keys) => pb::StorageListReply { keys, err: String::new() },
        Err(err) => pb::StorageListReply { keys: Vec::new(), err },
    }
}

#[tonic::async_trait]
impl pb::storage_server::Storage for Storage {
    async fn list(&self, request: Request<pb::StorageListArgs>) -> Answer<pb::StorageListReply> {
        let args = request.into_inner();
        let call = format!("list {}", args.prefix);
        let listed = self.carry_out(call, false, false, |state| state.list(&args.txn, &args.prefix)).await?;
        // In reverse order, because no caller may rely on the order.
        Ok(Response::new(keys(listed.map(|keys| keys.into_iter().rev().collect()))))
    }

    async fn get(&self, request: Request<pb::StorageGetArgs>) -> Answer<pb::StorageGetReply> {
        let args = request.into_inner();
        let call = format!("get {}", args.key);
        let reply = match self.carry_out(call, false, false, |state| state.get(&args.txn, &args.key)).await? {
            Ok(entry) => pb::StorageGetReply { entry, err: String::new() },
            Err(err) => pb::StorageGetReply { entry: None, err },
        };
        Ok(Response::new(reply))
    }

    async fn put(&self, request: Request<pb::StoragePutArgs>) -> Answer<pb::StoragePutReply> {
        let args = request.into_inner();
        let Some(entry) = args.entry else {
            return Ok(Response::new(pb::StoragePutReply { err: "cannot write nil entry".into() }));
        };
        let call = format!("put {}", entry.key);
        let effect = |state: &mut State| state.set(&args.txn, entry.key.clone(), Some(entry));
        let err = self.carry_out(call, true, false, effect).await?.unwrap_or_else(|err| err);
        Ok(Response::new(pb::StoragePutReply { err }))
    }

    async fn delete(&self, request: Request<pb::StorageDeleteArgs>) -> Answer<pb::StorageDeleteReply> {
        let args = request.into_inner();
        let call = format!("delete {}", args.key);
        let effect = |state: &mut State| state.set(&args.txn, args.key, None);
        let err = self.carry_out(call, true, false, effect).await?.unwrap_or_else(|err| err);
        Ok(Response::new(pb::StorageDeleteReply { err }))
    }

    async fn list_page(&self, request: Request<pb::StorageListPageArgs>) -> Answer<pb::StorageListReply> {
        let args = request.into_inner();
        let call = format!("list_page {}", args.prefix);
        let listed = self.carry_out(call, false, true, |state| state.list(&args.txn, &args.prefix)).await?;
        Ok(Response::new(keys(listed.map(|mut keys| {
            keys.retain(|key| *key > args.after);
            if let Ok(limit @ 1..) = usize::try_from(args.limit) {
                keys.truncate(limit);
            }
            keys
        }))))
    }

    async fn is_transactional(&self, _: Request<pb::Empty>) -> Answer<pb::StorageIsTransactionalReply> {
        self.enter("is_transactional".into(), false, true).await?;
        Ok(Response::new(pb::StorageIsTransactionalReply { transactional: true }))
    }

    async fn begin_read_only_tx(&self, _: Request<pb::Empty>) -> Answer<pb::StorageBeginTxReply> {
        if let Some(err) = self.enter("begin_read_only_tx".into(), false, true).await? {
            return Ok(Response::new(pb::StorageBeginTxReply { txn: String::new(), err }));
        }
        Ok(Response::new(pb::StorageBeginTxReply { txn: self.state().begin(true), err: String::new() }))
    }

    async fn begin_tx(&self, _: Request<pb::Empty>) -> Answer<pb::StorageBeginTxReply> {
        if let Some(err) = self.enter("begin_tx".into(), true, true).await? {
            return Ok(Response::new(pb::StorageBeginTxReply { txn: String::new(), err }));
        }
        Ok(Response::new(pb::StorageBeginTxReply { txn: self.state().begin(false), err: String::new() }))
    }

    async fn commit(&self, request: Request<pb::StorageCommitTxArgs>) -> Answer<pb::StorageCommitTxReply> {
        if let Some(err) = self.enter("commit".into(), true, true).await? {
            return Ok(Response::new(pb::StorageCommitTxReply { err }));
        }
        let err = self.state().commit(&request.into_inner().txn)?;
        Ok(Response::new(pb::StorageCommitTxReply { err }))
    }

    async fn rollback(&self, request: Request<pb::StorageRollbackTxArgs>) -> Answer<pb::StorageRollbackTxReply> {
        self.enter("rollback".into(), false, true).await?;
        self.state().transactions.remove(&request.into_inner().txn);
        Ok(Response::new(pb::StorageRollbackTxReply { err: String::new() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_each_child_once_in_byte_order() {
        let storage = Storage::default();
        for key in ["a", "p", "p/", "p/a", "p/a-b", "p/a/x", "p/a/y/z", "p/a0", "p/b/x", "q/a"] {
            storage.insert(key, b"");
        }
        let listed = |prefix| children(&storage.state().entries, prefix);
        assert_eq!(listed("p/"), ["", "a", "a-b", "a/", "a0", "b/"]);
        assert_eq!(listed("p/a/"), ["x", "y/"]);
        assert_eq!(listed(""), ["a", "p", "p/", "q/"]);
        assert_eq!(listed("r/"), [""; 0]);
    }
}
