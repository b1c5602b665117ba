//! Loads that a change overtakes.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{ORG, ROLE_ID, data};
use crate::sdk::logical::{Entry, Mount, Operation, Storage, StorageError, Transaction};
use crate::sdk::testing::{MemoryStorage, mount, request};

/// Storage that holds back one answer until it is let go.
struct Held {
    inner: Arc<MemoryStorage>,
    key: Mutex<Option<String>>,
    reached: Semaphore,
    go: Semaphore,
}

#[async_trait]
impl Storage for Held {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StorageError> {
        let entry = self.inner.get(key).await;
        let hold = self.key.lock().unwrap().take_if(|held| held == key).is_some();
        if hold {
            self.reached.add_permits(1);
            self.go.acquire().await.unwrap().forget();
        }
        entry
    }

    async fn put(&self, entry: Entry) -> Result<(), StorageError> {
        self.inner.put(entry).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key).await
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
        let (reached, go) = (Semaphore::new(0), Semaphore::new(0));
        let storage = Arc::new(Held { inner: inner.clone(), key: Mutex::new(None), reached, go });
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
