//! How to test an engine: whole requests against a backend on stand-ins, then with a host that fails.

use serde_json::{Value, json};

use super::{HostFault, mount, request};
use crate::framework::{Backend, Call, Field, FieldSpec, Handler, Path};
use crate::logical::{Answer, Error, Factory, Map, Mount, Operation, ReplicationState, Response, StorageExt};

// The engine under test. It keeps a greeting.

const TEXT: Field<String> = Field::string("text", "The greeting.").default("hello");
const FIELDS: &[FieldSpec] = &[TEXT.spec()];

fn factory() -> Factory {
    let path = Path::new("greeting", FIELDS)
        .read(Handler::new("Read the greeting", |mount: std::sync::Arc<Mount>, _| async move {
            let text: Option<String> = mount.storage.get_json("greeting").await?;
            Answer::Ok(text.map(|text| Response::new(Map::from_iter([("text".into(), text.into())]))))
        }))
        .write(
            Handler::new("Change the greeting", |mount: std::sync::Arc<Mount>, call: Call| async move {
                mount.storage.put_json("greeting", &call.fields.get(&TEXT)).await?;
                Answer::Ok(None)
            })
            .on_active_node()
            .detached(),
        );
    Backend::new("An engine that greets.").path(path).factory(Mount::clone)
}

// Its tests.

#[tokio::test]
async fn a_greeting_is_stored_and_read() {
    let (mount, storage, _) = mount();
    let engine = factory()(mount).unwrap();
    let write = request(Operation::Update, "greeting", json!({ "text": "good morning" }));
    assert!(engine.handle(write).await.unwrap().is_none());
    let read = engine.handle(request(Operation::Read, "greeting", Value::Null)).await.unwrap().unwrap();
    assert_eq!(read.data.unwrap()["text"], "good morning");
    assert_eq!(storage.json("greeting"), Some(json!("good morning")));
}

#[tokio::test]
async fn a_write_that_storage_refuses_is_an_error() {
    let (mount, storage, _) = mount();
    let engine = factory()(mount).unwrap();
    let write = || engine.handle(request(Operation::Update, "greeting", Value::Null));
    storage.inject(HostFault::At(1));
    assert!(matches!(write().await, Err(Error::Internal { .. })));
    assert_eq!(storage.json("greeting"), None);
    storage.heal();
    assert!(write().await.is_ok());
    assert_eq!(storage.json("greeting"), Some(json!("hello")));
}

#[tokio::test]
async fn a_standby_asks_the_host_to_forward_a_write() {
    let (mount, storage, system) = mount();
    system.set_state(ReplicationState::PERFORMANCE_STANDBY);
    let engine = factory()(mount).unwrap();
    let answer = engine.handle(request(Operation::Update, "greeting", Value::Null)).await;
    assert!(matches!(answer, Err(Error::ReadOnly)));
    assert_eq!(storage.writes(), 0);
}
