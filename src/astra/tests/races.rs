//! Loads that a change overtakes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{ORG, ROLE_ID, ROOT, data};
use crate::sdk::logical::{Entry, Mount, Operation, Storage, StorageError, Transaction};
use crate::sdk::testing::{MemoryStorage, mount, request};

/// Storage that holds back one answer until it is let go.
struct Held {
    inner: Arc<MemoryStorage>,
    key: Mutex<Option<String>>,
    /// Whether that can be the answer to a read, too.
    reads: bool,
    reached: Semaphore,
    go: Semaphore,
}

impl Held {
    fn of(inner: &Arc<MemoryStorage>, reads: bool) -> Arc<Self> {
        let (reached, go) = (Semaphore::new(0), Semaphore::new(0));
        Arc::new(Self { inner: inner.clone(), key: Mutex::new(None), reads, reached, go })
    }

    async fn hold(&self, key: &str) {
        let hold = self.key.lock().unwrap().take_if(|held| held == key).is_some();
        if hold {
            self.reached.add_permits(1);
            self.go.acquire().await.unwrap().forget();
        }
    }
}

#[async_trait]
impl Storage for Held {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        let entry = self.inner.get(key).await;
        if self.reads {
            self.hold(key).await;
        }
        entry
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        let key = entry.key.clone();
        let done = self.inner.put(entry).await;
        self.hold(&key).await;
        done
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let done = self.inner.delete(key).await;
        self.hold(key).await;
        done
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.inner.list(prefix).await
    }

    async fn list_page(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<String>, StorageError> {
        self.inner.list_page(prefix, after, limit).await
    }

    async fn begin(&self) -> Result<Option<Box<dyn Transaction>>, StorageError> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_read_that_a_change_overtakes_leaves_nothing_stale_in_the_cache() {
    let key = format!("role/{ORG}:r");
    for by_invalidation in [false, true] {
        let (host, inner, _) = mount();
        let storage = Held::of(&inner, true);
        let backend = crate::astra::factory()(Mount { storage: storage.clone(), ..host }).map_err(drop).unwrap();
        let role = |id: &str| json!({"role_name": "r", "role_id": id, "org_id": ORG, "ttl": 1, "max_ttl": 1});
        let stored = |id: &str| Entry::json(key.clone(), &role(id)).unwrap();
        let name = json!({"org_id": ORG, "role": "r"});
        inner.put(stored(ROLE_ID)).await.unwrap();

        *storage.key.lock().unwrap() = Some(key.clone());
        let reader = tokio::spawn({
            let (backend, name) = (backend.clone(), name.clone());
            async move { data(backend.handle(request(Operation::Read, "role", name)).await) }
        });
        storage.reached.acquire().await.unwrap().forget();
        if by_invalidation {
            inner.put(stored("new")).await.unwrap();
            backend.invalidate(&key);
        } else {
            let change = json!({"org_id": ORG, "role": "r", "role_id": "new"});
            backend.handle(request(Operation::Update, "role", change)).await.map_err(drop).unwrap();
        }
        storage.go.add_permits(1);
        assert_eq!(reader.await.unwrap()["role_id"], ROLE_ID, "it read before the change");
        let after = data(backend.handle(request(Operation::Read, "role", name)).await);
        assert_eq!(after["role_id"], "new");
    }
}

#[tokio::test]
async fn a_change_whose_caller_goes_away_leaves_nothing_stale_in_the_cache() {
    let role = json!({"org_id": ORG, "role": "r", "role_id": "new"});
    let config = json!({"org_id": ORG, "url": "http://127.0.0.1:1/new", "verify_connection": false});
    for (operation, path, key, change) in [
        (Operation::Update, "role", format!("role/{ORG}:r"), &role),
        (Operation::Delete, "role", format!("role/{ORG}:r"), &role),
        (Operation::Update, "config", format!("config/{ORG}"), &config),
        (Operation::Delete, "config", format!("config/{ORG}"), &json!({"org_id": ORG, "force": true})),
    ] {
        let (host, inner, _) = mount();
        let storage = Held::of(&inner, false);
        let backend = crate::astra::factory()(Mount { storage: storage.clone(), ..host }).map_err(drop).unwrap();
        let ask = |operation, data: &Value| {
            let (backend, request) = (backend.clone(), request(operation, path, data.clone()));
            async move { backend.handle(request).await }
        };
        let old =
            json!({"org_id": ORG, "role": "r", "role_id": ROLE_ID, "astra_token": ROOT, "verify_connection": false});
        ask(Operation::Update, &old).await.map_err(drop).unwrap();
        let name = json!({"org_id": ORG, "role": "r"});
        let before = data(ask(Operation::Read, &name).await);

        *storage.key.lock().unwrap() = Some(key.clone());
        let caller = tokio::spawn(ask(operation, change));
        storage.reached.acquire().await.unwrap().forget();
        caller.abort();
        drop(caller.await);
        storage.go.add_permits(1);

        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let after = ask(Operation::Read, &name).await.ok().flatten().and_then(|response| response.data);
            match after {
                None if operation == Operation::Delete => break,
                Some(after) if operation == Operation::Update && json!(after) != before => break,
                _ => assert!(Instant::now() < deadline, "{operation:?} of {path} is stored and not seen"),
            }
            tokio::task::yield_now().await;
        }
    }
}
