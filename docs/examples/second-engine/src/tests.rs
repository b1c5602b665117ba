//! Whole requests against the engine, with stand-ins for the host.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{self, Operation, Request};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage, mount, request};

use super::*;

/// Returns an engine with the role `reader`, and its storage.
async fn engine() -> (Arc<dyn logical::Backend>, Arc<MemoryStorage>) {
    let (mount, storage, _) = mount();
    let engine = declaration().factory(Engine::new)(mount).expect("an engine");
    let write = request(Operation::Update, "roles/reader", json!({ "ttl": "1h" }));
    assert!(engine.handle(write).await.expect("a role").is_none());
    (engine, storage)
}

fn issue_key() -> Request {
    request(Operation::Read, "keys/reader", Value::Null)
}

/// Returns the number of keys at the service.
fn keys(storage: &MemoryStorage) -> usize {
    storage.keys().iter().filter(|key| key.starts_with("service/")).count()
}

#[tokio::test]
async fn a_key_lives_as_long_as_its_lease() {
    let (engine, storage) = engine().await;
    let issued = engine.handle(issue_key()).await.expect("a key").expect("a response");
    let secret = issued.secret.expect("a lease");
    assert_eq!(secret.ttl, Duration::from_secs(3600));
    assert_eq!(keys(&storage), 1);

    engine.handle(request(Operation::Revoke, "keys/reader", Value::Null).secret(secret)).await.expect("revoked");
    assert_eq!(keys(&storage), 0);
}

#[tokio::test]
async fn a_key_that_nobody_got_is_noted_in_the_log() {
    let (engine, storage) = engine().await;
    // The third call to the storage creates the key. The first two read the role and write the entry.
    storage.inject(HostFault::AfterEffectAt(3));
    assert!(engine.handle(issue_key()).await.is_err());
    storage.heal();
    assert_eq!(keys(&storage), 1);
    assert!(storage.keys().iter().any(|key| key.starts_with("wal/")), "nothing tells `undo` of the key");
}
