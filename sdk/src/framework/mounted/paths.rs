//! Tests of small engines that are declared for one test: spellings of paths, optional groups, patches, leases.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::framework::{Backend, Call, Field, FieldSpec, Handler, Path, SecretType};
use crate::logical::{self, Answer, Error, Map, Mount, Operation, Response, Secret};
use crate::testing::{self, request};

const NAME: Field<String> = Field::lowercase("name", "");
const SIZE: Field<i64> = Field::int("size", "");
const LABELS: Field<BTreeMap<String, String>> = Field::pairs("labels", "");
const SETTINGS: Field<Map> = Field::map("settings", "");
const FIELDS: &[FieldSpec] = &[NAME.spec(), SIZE.spec()];
const OBJECTS: &[FieldSpec] = &[LABELS.spec(), SETTINGS.spec()];

/// Answers with the fields that it reads.
async fn echo(_: Arc<()>, call: Call) -> Answer {
    let data = json!({"name": call.fields.get(&NAME), "size": call.fields.get(&SIZE)});
    Ok(Some(Response::new(data.as_object().cloned().unwrap())))
}

fn mount(path: Path<()>) -> Arc<dyn logical::Backend> {
    with(Backend::new("").path(path))
}

fn with(backend: Backend<()>) -> Arc<dyn logical::Backend> {
    Arc::new(backend).mount(Arc::new(()), testing::mount().0)
}

async fn data(backend: &dyn logical::Backend, operation: Operation, path: &str, data: Value) -> Value {
    Value::Object(backend.handle(request(operation, path, data)).await.unwrap().unwrap().data.unwrap())
}

#[tokio::test]
async fn a_path_with_one_spelling_rejects_all_others() {
    let path =
        || Path::new(r"roles/(?P<name>\w+)/(?P<size>[\da-fx]+)", FIELDS).read(Handler::new("", echo)).one_spelling();
    let backend = mount(path().write(Handler::new("", echo)).exists(async |_: Arc<()>, _| Ok::<_, Error>(true)));
    assert_eq!(
        data(&*backend, Operation::Read, "roles/admin/16", json!({})).await,
        json!({"name": "admin", "size": 16})
    );
    for (other, right) in
        [("roles/ADMIN/16", "roles/admin/16"), ("roles/admin/0x10", "roles/admin/16"), ("roles/A/010", "roles/a/8")]
    {
        let error = backend.handle(request(Operation::Read, other, json!({}))).await.err().unwrap();
        assert_eq!(error.to_string(), format!("path {other:?} has only one spelling; use {right:?}"));
        assert_eq!(backend.exists(request(Operation::Create, other, json!({}))).await.ok(), Some(None));
    }
    assert_eq!(backend.exists(request(Operation::Create, "roles/admin/16", json!({}))).await.ok(), Some(Some(true)));
}

#[tokio::test]
async fn the_body_cannot_fill_a_group_that_took_no_part() {
    const FIELDS: &[FieldSpec] = &[Field::name_string("name", "").spec(), Field::int("size", "").default("7").spec()];
    let backend = mount(
        Path::new(r"roles(/(?P<name>\w+))?(/(?P<size>\d+))?", FIELDS)
            .read(Handler::new("", async |_: Arc<()>, call: Call| {
                let name = call.fields.get(&Field::name_string("name", ""));
                let size = call.fields.get(&Field::int("size", "").default("7"));
                Answer::Ok(Some(Response::new(json!({"name": name, "size": size}).as_object().cloned().unwrap())))
            }))
            .one_spelling(),
    );
    let mut asked = request(Operation::Read, "roles", json!({"name": "body", "size": 3}));
    let answer = backend.handle(asked.clone()).await.unwrap().unwrap();
    assert_eq!(Value::Object(answer.data.unwrap()), json!({"name": "", "size": 0}));
    assert!(answer.warnings[0].contains("[name size]"), "{:?}", answer.warnings);
    asked.path = "roles/x".into();
    assert_eq!(data(&*backend, Operation::Read, "roles/x", json!({"name": "body"})).await["name"], "x");
}

/// Applies a request to stored objects, and returns them.
async fn changed(operation: Operation, request: Value) -> Value {
    let change = async |_: Arc<()>, call: Call| {
        let mut labels = BTreeMap::from([("env".to_owned(), "dev".to_owned()), ("team".to_owned(), "a".to_owned())]);
        let mut settings = json!({"a": 1, "deep": {"b": 2, "c": 3}}).as_object().cloned().unwrap();
        call.fields.apply(&LABELS, &mut labels);
        call.fields.apply(&SETTINGS, &mut settings);
        let stored = json!({"labels": labels, "settings": settings});
        Answer::Ok(Some(Response::new(stored.as_object().cloned().unwrap())))
    };
    let path = Path::new("thing", OBJECTS).patch(Handler::new("", change)).write(Handler::new("", change));
    data(&*mount(path), operation, "thing", request).await
}

#[tokio::test]
async fn a_patch_merges_objects_and_pairs_and_a_write_replaces_them() {
    let request =
        json!({"labels": {"env": null, "owner": "b"}, "settings": {"a": null, "deep": {"b": null, "d": [4]}}});
    let merged = json!({"labels": {"team": "a", "owner": "b"}, "settings": {"deep": {"c": 3, "d": [4]}}});
    assert_eq!(changed(Operation::Patch, request).await, merged);
    let text =
        changed(Operation::Patch, json!({"labels": "env=prod", "settings": {"deep": 1, "new": {"x": null}}})).await;
    assert_eq!(text, json!({"labels": {"env": "prod", "team": "a"}, "settings": {"a": 1, "deep": 1, "new": {}}}));
    let reset = changed(Operation::Patch, json!({"labels": null, "settings": null})).await;
    assert_eq!(reset, json!({"labels": {}, "settings": {}}));
    let written = changed(Operation::Update, json!({"labels": {"owner": "b"}, "settings": {"x": 1}})).await;
    assert_eq!(written, json!({"labels": {"owner": "b"}, "settings": {"x": 1}}));
}

fn lease(kind: &'static str, undone: Arc<AtomicUsize>) -> Path<()> {
    Path::new("lend", &[]).read(Handler::new("", move |_: Arc<()>, _| {
        let undone = undone.clone();
        async move {
            let secret = Secret::new(Duration::from_secs(60), Duration::from_secs(60), Map::new()).of_type(kind);
            let take_back = move || _ = undone.fetch_add(1, Ordering::SeqCst);
            Answer::Ok(Some(Response::new(Map::new()).lease(secret).on_undelivered(take_back)))
        }
    }))
}

#[tokio::test]
async fn a_lease_whose_type_cannot_be_renewed_is_not_renewable() {
    let kind = || SecretType::new("loan").revoke(async |_: Arc<()>, _| Ok::<_, Error>(()));
    let kind = |renews: bool| if renews { kind().renew(async |_: Arc<()>, _| Answer::Ok(None)) } else { kind() };
    for renews in [false, true] {
        let backend = with(Backend::new("").secret(kind(renews)).path(lease("loan", Arc::default())));
        let answer = backend.handle(request(Operation::Read, "lend", json!({}))).await.unwrap().unwrap();
        assert_eq!(answer.secret.unwrap().renewable, renews);
    }
}

#[tokio::test]
async fn a_lease_of_an_undeclared_type_is_taken_back_and_an_error() {
    let undone = Arc::new(AtomicUsize::new(0));
    let backend = mount(lease("gift", undone.clone()));
    let error = backend.handle(request(Operation::Read, "lend", json!({}))).await.err().unwrap();
    assert!(error.detail().contains("no declared secret type"), "{}", error.detail());
    assert_eq!(undone.load(Ordering::SeqCst), 1);
}

#[tokio::test]
#[should_panic(expected = "field \"size\" is not declared on this path")]
async fn a_field_that_the_path_does_not_declare_is_no_empty_value() {
    let path = Path::new("x", const { &[NAME.spec()] }).read(Handler::new("", echo));
    let _ = mount(path).handle(request(Operation::Read, "x", json!({}))).await;
}

#[tokio::test]
async fn an_entry_of_an_undeclared_kind_is_refused_before_the_change() {
    let path = Path::new("x", &[]).read(Handler::new("", async |mount: Arc<Mount>, _| {
        let _entry = mount.wal().put("print", &1).await?;
        Answer::Ok(None)
    }));
    let (mount, storage, _) = testing::mount();
    let backend = Backend::new("").path(path).factory(Mount::clone)(mount).unwrap();
    let error = backend.handle(request(Operation::Read, "x", json!({}))).await.err().unwrap();
    assert_eq!(error.to_string(), "storage: WAL kind \"print\" is not declared; declare it with `Backend::wal`");
    assert!(storage.keys().is_empty());
}
