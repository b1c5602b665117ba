//! Whole requests against the engine, with stand-ins for the host.

use serde_json::{Value, json};
use vault_plugin_sdk::logical::{self, Operation, Request};
use vault_plugin_sdk::testing::{HostFault, MemoryStorage, immediate_tick, mount, request, tick};

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
async fn a_key_that_nobody_got_is_deleted() {
    let (engine, storage) = engine().await;
    // The third call to the storage creates the key. The first two read the role and write the entry.
    storage.inject(HostFault::AfterEffectAt(3));
    assert!(engine.handle(issue_key()).await.is_err());
    storage.heal();
    assert_eq!(keys(&storage), 1);
    // The entry is too young for a tick.
    engine.handle(tick()).await.expect("a tick");
    assert_eq!(keys(&storage), 1);
    engine.handle(immediate_tick()).await.expect("a tick");
    assert_eq!(keys(&storage), 0);
    assert_eq!(storage.keys(), ["roles/reader"]);
}

#[tokio::test]
async fn a_write_of_a_new_role_takes_defaults_and_a_patch_needs_a_role() {
    let (engine, storage) = engine().await;
    assert_eq!(storage.json("roles/reader"), Some(json!({ "scope": "read", "ttl_seconds": 3600 })));
    let patch = |path, data| engine.handle(request(Operation::Patch, path, data));
    // `null` sets the default.
    assert!(patch("roles/reader", json!({ "scope": "write", "ttl": null })).await.is_ok());
    assert_eq!(storage.json("roles/reader"), Some(json!({ "scope": "write", "ttl_seconds": 600 })));
    let missing = patch("roles/none", json!({ "scope": "write" })).await;
    assert!(matches!(missing, Err(Error::Status { status: 404, .. })));
    let wrong = patch("roles/reader", json!({ "scope": "all" })).await;
    assert!(matches!(wrong, Err(Error::InvalidRequest(text)) if text.contains("use one of")));
}
