//! Stands for the client of your service. It keeps the keys in the storage of the mount; a real client sends requests.

use std::sync::Arc;

use vault_plugin_sdk::logical::{Storage, StorageError, StorageExt};

pub struct Service {
    storage: Arc<dyn Storage>,
}

impl Service {
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// Creates a key with this id, and returns it.
    pub async fn create(&self, id: &str, scope: &str) -> Result<String, StorageError> {
        self.storage.put_json(&format!("service/{id}"), &scope).await?;
        Ok(uuid::Uuid::new_v4().simple().to_string())
    }

    /// Deletes a key. A key that is gone is no error.
    pub async fn delete(&self, id: &str) -> Result<(), StorageError> {
        self.storage.delete(&format!("service/{id}")).await
    }
}
