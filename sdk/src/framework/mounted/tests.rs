use std::fmt::Debug;
use std::sync::atomic::Ordering;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::subscriber::NoSubscriber;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::*;
use crate::framework::sample::{Mounted, mounted};
use crate::framework::{Handler, OpenEntry, Undo, WalEntry, WalKind};
use crate::logical::{Entry, Map, ReplicationState, Secret, Storage, StorageExt};
use crate::tasks::{Budget, Tasks};
use crate::testing::request;

impl Mounted {
    async fn ask(&self, operation: Operation, path: &str, data: Value) -> Answer {
        self.backend.handle(request(operation, path, data)).await
    }

    /// Returns the response. Panics if there is none.
    async fn response(&self, operation: Operation, path: &str, data: Value) -> Response {
        self.ask(operation, path, data).await.unwrap().expect("there is a response")
    }

    /// Returns the text of an error that is the caller's mistake.
    async fn mistake(&self, operation: Operation, path: &str, data: Value) -> String {
        match self.ask(operation, path, data).await.err() {
            Some(Error::InvalidRequest(text)) => text,
            _ => panic!("the request was no mistake"),
        }
    }

    async fn lease(&self, operation: Operation, internal_data: Value) -> Answer {
        let mut request = request(operation, "lend/dune", json!({ "shown": true }));
        let data: Map = internal_data.as_object().cloned().unwrap();
        request.secret = Some(Secret::new(Duration::from_secs(60), Duration::from_secs(60), data));
        self.backend.handle(request).await
    }

    async fn write_wal(&self, id: &str, kind: &str, data: Value, age: i64) {
        let created_at = jiff::Timestamp::now().as_second() - age;
        let entry = json!({ "type": kind, "data": data, "created_at": created_at });
        self.storage.put_json(&format!("wal/{id}"), &entry).await.unwrap();
    }

    fn set_state(&self, state: i32) {
        self.system.set_state(ReplicationState(state));
    }
}

const STANDBY: i32 = 24576;

#[tokio::test]
async fn requests_find_their_path_and_operation() {
    let shelf = mounted();
    let written = shelf.response(Operation::Create, "books/dune", json!({ "title": "Dune" })).await;
    assert_eq!(written.data.unwrap()["title"], "Dune");
    assert_eq!(shelf.response(Operation::Read, "books/dune", Value::Null).await.data.unwrap()["title"], "Dune");
    assert_eq!(shelf.response(Operation::List, "books/", Value::Null).await.data.unwrap()["keys"], json!(["dune"]));
    assert!(shelf.ask(Operation::Delete, "books/dune", Value::Null).await.unwrap().is_none());
    assert!(shelf.ask(Operation::Read, "books/dune", Value::Null).await.unwrap().is_none());
    assert_eq!(shelf.shelf.events(), ["create dune"]);
}

#[tokio::test]
async fn unknown_paths_and_operations_are_told_apart() {
    let shelf = mounted();
    for path in ["", "book", "books/a/b", "books/a\n", "xbooks/a", "lend/a/later"] {
        let error = shelf.ask(Operation::Read, path, Value::Null).await.err();
        assert!(matches!(error, Some(Error::UnsupportedPath)), "{path:?}");
    }
    for (operation, path) in
        [(Operation::List, "books/dune"), (Operation::Read, "books"), (Operation::Update, "lend/dune")]
    {
        let error = shelf.ask(operation, path, json!({ "name": [] })).await.err();
        assert!(matches!(error, Some(Error::UnsupportedOperation)), "{operation:?} {path}");
    }
}

#[tokio::test]
async fn values_are_read_by_their_declaration() {
    let shelf = mounted();
    let data = json!({ "headline": "Dune", "pages": "0x10", "genre": "POEM", "tags": "sand, worm", "notes": ["a=b"] });
    let book = shelf.response(Operation::Update, "books/dune", data).await.data.unwrap();
    let expected =
        json!({ "title": "Dune", "pages": 16, "genre": "poem", "tags": ["sand", "worm"], "notes": { "a": "b" } });
    assert_eq!(Value::Object(book), expected);
}

#[tokio::test]
async fn defaults_and_null_fill_in() {
    let shelf = mounted();
    let data = json!({ "title": "Dune", "genre": null, "tags": null });
    let book = shelf.response(Operation::Update, "books/dune", data).await.data.unwrap();
    let expected = json!({ "title": "Dune", "pages": 100, "genre": "", "tags": [], "notes": null });
    assert_eq!(Value::Object(book), expected);
}

#[tokio::test]
async fn a_wrong_value_is_named_but_not_shown() {
    let shelf = mounted();
    let text = shelf.mistake(Operation::Update, "books/dune", json!({ "title": "Dune", "pages": "hush" })).await;
    assert_eq!(text, "Field validation failed: error converting input for field \"pages\": expected a whole number");
    let text = shelf.mistake(Operation::Read, "lend/dune", json!({ "ttl": "-5" })).await;
    assert_eq!(
        text,
        "Field validation failed: error converting input for field \"ttl\": cannot provide negative value"
    );
    assert_eq!(shelf.shelf.events(), [""; 0]);
}

#[tokio::test]
async fn an_empty_list_with_a_warning_names_no_keys() {
    let shelf = mounted();
    let empty = shelf.response(Operation::List, "books/", json!({ "zeal": 1 })).await;
    // The host returns 404 for empty keys, and 200 for no data and a warning.
    assert_eq!(Value::Object(empty.data.unwrap()), json!({ "keys": [] }));
    let plain = shelf.response(Operation::List, "books/", Value::Null).await;
    assert_eq!(Value::Object(plain.data.unwrap()), json!({}));
    shelf.response(Operation::Create, "books/dune", json!({ "title": "Dune" })).await;
    let listed = shelf.response(Operation::List, "books/", json!({ "zeal": 1 })).await;
    assert_eq!(listed.warnings, ["Endpoint ignored these unrecognized parameters: [zeal]"]);
}

#[tokio::test]
async fn remarks_come_with_the_answer_or_instead_of_none() {
    let shelf = mounted();
    let data = json!({ "title": "Dune", "zeal": 1, "author": 2, "name": "emma" });
    let response = shelf.response(Operation::Update, "books/dune", data).await;
    assert_eq!(
        response.warnings,
        [
            "the ink is wet",
            "Endpoint ignored these unrecognized parameters: [author zeal]",
            "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: \
             [name]",
        ]
    );
    assert_eq!(shelf.shelf.events(), ["update dune"]);
    for operation in [Operation::Update, Operation::Delete] {
        let response = shelf.response(operation, "books/dune", json!({ "zeal": 1 })).await;
        assert_eq!(response.warnings, ["Endpoint ignored these unrecognized parameters: [zeal]"]);
        assert!(response.data.is_none());
    }
    // A read that finds nothing must still return 404.
    assert!(shelf.ask(Operation::Read, "books/none", json!({ "zeal": 1 })).await.unwrap().is_none());
}

#[tokio::test]
async fn a_patch_keeps_sets_and_resets() {
    let shelf = mounted();
    shelf.response(Operation::Create, "books/dune", json!({ "title": "Dune" })).await;
    for (data, pages) in
        [(json!({ "pages": "7" }), Some(json!(7))), (json!({}), Some(json!(7))), (json!({ "pages": null }), None)]
    {
        let book = shelf.response(Operation::Patch, "books/dune", data).await.data.unwrap();
        assert_eq!(book.get("pages").cloned(), pages);
    }
}

#[tokio::test]
async fn existence_is_checked_where_it_is_declared() {
    let shelf = mounted();
    shelf.response(Operation::Create, "books/dune", json!({ "title": "Dune" })).await;
    let check = |path: &'static str| shelf.backend.exists(request(Operation::Update, path, Value::Null));
    assert_eq!(check("books/dune").await.unwrap(), Some(true));
    assert_eq!(check("books/emma").await.unwrap(), Some(false));
    assert_eq!(check("lend/dune").await.unwrap(), None);
    assert_eq!(check("films/dune").await.unwrap(), None);
    let wrong = request(Operation::Update, "books/dune", json!({ "pages": "x" }));
    assert!(matches!(shelf.backend.exists(wrong).await, Err(Error::InvalidRequest(_))));
}

#[tokio::test]
async fn what_needs_the_active_node_is_forwarded_before_it_starts() {
    let shelf = mounted();
    shelf.set_state(STANDBY);
    let error = shelf.ask(Operation::Read, "lend/dune", Value::Null).await.err();
    assert!(matches!(error, Some(Error::ReadOnly)));
    assert_eq!(shelf.shelf.events(), [""; 0]);
    assert!(shelf.ask(Operation::Read, "books/dune", Value::Null).await.unwrap().is_none());
    shelf.set_state(12288);
    let response = shelf.response(Operation::Read, "lend/dune/now", json!({ "ttl": "2m" })).await;
    let secret = response.secret.unwrap();
    assert_eq!(Value::Object(secret.internal_data), json!({ "name": "dune", "secret_type": "loan" }));
    assert_eq!(secret.ttl, Duration::from_secs(120));
}

#[tokio::test]
async fn leases_go_to_their_type() {
    let shelf = mounted();
    let loan = json!({ "secret_type": "loan", "name": "dune" });
    let response = shelf.lease(Operation::Renew, loan.clone()).await.unwrap().unwrap();
    assert_eq!(Value::Object(response.data.unwrap()), json!({ "shown": true }));
    assert_eq!(
        Value::Object(response.secret.unwrap().internal_data),
        json!({ "secret_type": "loan", "name": "dune", "renewed": true })
    );
    assert!(shelf.lease(Operation::Revoke, loan).await.unwrap().is_none());
    assert_eq!(shelf.shelf.events(), ["take back dune"]);
}

#[tokio::test]
async fn a_failed_revocation_fails() {
    let shelf = mounted();
    shelf.shelf.failing.store(true, Ordering::SeqCst);
    let error = shelf.lease(Operation::Revoke, json!({ "secret_type": "loan", "name": "dune" })).await.err();
    assert!(matches!(error, Some(Error::Internal { .. })));
}

/// The caller of a renewal made no mistake, so the status is 500 and not 400.
#[tokio::test]
async fn leases_of_no_known_type_are_our_fault() {
    let shelf = mounted();
    for internal_data in [json!({}), json!({ "secret_type": "gift" }), json!({ "secret_type": 5 })] {
        for operation in [Operation::Renew, Operation::Revoke] {
            let error = shelf.lease(operation, internal_data.clone()).await.err();
            assert!(matches!(error, Some(Error::Internal { .. })));
        }
    }
    assert!(matches!(shelf.ask(Operation::Revoke, "x", Value::Null).await, Err(Error::Internal { .. })));
}

#[tokio::test]
async fn the_tick_undoes_what_is_old_enough() {
    let shelf = mounted();
    shelf.write_wal("a", "print", json!({ "name": "old" }), 61).await;
    shelf.write_wal("b", "print", json!({ "name": "young" }), 50).await;
    shelf.write_wal("c", "print", json!({ "name": "slow", "seconds": 300 }), 200).await;
    shelf.write_wal("d", "print", json!({ "name": "future" }), -500).await;
    assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.unwrap().is_none());
    assert_eq!(shelf.shelf.events(), ["periodic", "undo old"]);
    assert_eq!(shelf.storage.keys(), ["wal/b", "wal/c", "wal/d"]);
    assert!(shelf.ask(Operation::Rollback, "", json!({ "immediate": true })).await.unwrap().is_none());
    assert_eq!(shelf.shelf.events(), ["periodic", "undo young", "undo slow", "undo future"]);
    assert_eq!(shelf.storage.keys(), [""; 0]);
}

#[tokio::test]
async fn the_last_tick_of_a_mount_undoes_young_entries_too() {
    let shelf = mounted();
    shelf.write_wal("a", "print", json!({ "name": "young" }), 0).await;
    assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.unwrap().is_none());
    assert_eq!((shelf.shelf.events(), shelf.storage.keys().len()), (vec!["periodic".to_owned()], 1));
    shelf.system.set_tainted(true);
    assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.unwrap().is_none());
    assert_eq!((shelf.shelf.events().len(), shelf.storage.keys().len()), (2, 0));
}

#[tokio::test]
async fn what_fails_is_kept_and_stops_nothing_else() {
    let shelf = mounted();
    shelf.write_wal("a", "print", json!({ "name": "torn" }), 100).await;
    shelf.write_wal("b", "unknown", json!({}), 100).await;
    shelf.storage.put(Entry::new("wal/c", b"junk")).await.unwrap();
    shelf.write_wal("d", "print", json!({ "name": "whole" }), 100).await;
    shelf.shelf.failing.store(true, Ordering::SeqCst);
    let error = shelf.ask(Operation::Rollback, "", Value::Null).await.err();
    assert!(matches!(error, Some(Error::Internal { .. })));
    assert_eq!(shelf.shelf.events(), ["periodic", "undo torn", "undo whole"]);
    assert_eq!(shelf.storage.keys(), ["wal/a", "wal/b", "wal/c"]);
    shelf.shelf.failing.store(false, Ordering::SeqCst);
    assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.is_err());
    assert_eq!(shelf.shelf.events(), ["periodic", "undo torn"]);
    assert_eq!(shelf.storage.keys(), ["wal/b", "wal/c"]);
}

#[tokio::test]
async fn an_entry_of_an_undeclared_kind_says_how_to_declare_it() {
    let shelf = mounted();
    shelf.write_wal("a", "letter", json!({}), 100).await;
    let error = shelf.ask(Operation::Rollback, "", Value::Null).await.err().unwrap();
    let text = "WAL kind \"letter\" is unknown; declare it with `Backend::wal`, or run the version of the plugin that wrote it";
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn a_long_log_is_begun_elsewhere_at_each_tick() {
    let shelf = mounted();
    for n in 0..100 {
        shelf.write_wal(&format!("{n:02}"), "print", json!({ "name": format!("{n:02}"), "seconds": 0 }), 100).await;
    }
    let order = || async {
        // Each undo succeeds, but no entry can be deleted.
        shelf.storage.set_read_only(true);
        assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.is_err());
        shelf.shelf.events()
    };
    let (mut first, mut second) = (order().await, order().await);
    assert_ne!(first, second);
    first.sort();
    second.sort();
    assert_eq!((first.len(), &first), (101, &second));
}

#[tokio::test]
async fn an_entry_that_cannot_be_deleted_is_undone_again() {
    let shelf = mounted();
    shelf.write_wal("a", "print", json!({ "name": "dune" }), 100).await;
    // The calls are list, get and delete.
    shelf.storage.fail_nth(3);
    assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.is_err());
    assert_eq!(shelf.storage.keys(), ["wal/a"]);
    assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.unwrap().is_none());
    assert_eq!(shelf.shelf.events(), ["periodic", "undo dune", "periodic", "undo dune"]);
    assert_eq!(shelf.storage.keys(), [""; 0]);
}

#[tokio::test]
async fn the_tick_does_nothing_where_nothing_may_be_written() {
    for state in [STANDBY, 64, 512] {
        let shelf = mounted();
        shelf.write_wal("a", "print", json!({ "name": "old" }), 100).await;
        shelf.set_state(state);
        let calls = shelf.storage.calls();
        assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.unwrap().is_none());
        assert_eq!(shelf.shelf.events(), [""; 0]);
        assert_eq!(shelf.storage.calls(), calls);
    }
}

#[tokio::test]
async fn events_reach_their_hooks() {
    let shelf = mounted();
    shelf.backend.initialize().await.unwrap();
    shelf.backend.invalidate("books/dune");
    shelf.backend.cleanup().await;
    shelf.shelf.failing.store(true, Ordering::SeqCst);
    assert!(shelf.backend.initialize().await.is_err());
    shelf.backend.cleanup().await;
    assert_eq!(shelf.shelf.events(), ["initialize", "invalidate books/dune", "cleanup", "initialize", "cleanup"]);
    assert_eq!(shelf.backend.special_paths().root, ["lend/*"]);
}

#[tokio::test]
async fn a_lease_without_a_type_goes_to_the_type_that_takes_it() {
    let loan = SecretType::new("loan").takes_untyped().revoke(|_, _| async { Ok::<(), Error>(()) });
    let (mount, _, _) = crate::testing::mount();
    let backend = Arc::new(Backend::<()>::new("").secret(loan)).mount(Arc::new(()), mount);
    for (internal_data, is_taken) in [(json!({}), true), (json!({ "secret_type": "gift" }), false)] {
        let mut request = request(Operation::Revoke, "lend/dune", Value::Null);
        let data: Map = internal_data.as_object().cloned().unwrap();
        request.secret = Some(Secret::new(Duration::ZERO, Duration::ZERO, data));
        assert_eq!(backend.handle(request).await.is_ok(), is_taken, "{internal_data}");
    }
}

/// An engine's own error type.
struct Jammed;

impl From<Jammed> for Error {
    fn from(_: Jammed) -> Self {
        Self::status(409, "the drawer is jammed")
    }
}

#[tokio::test]
async fn every_callback_can_fail_with_an_error_of_the_engine() {
    let backend = Backend::<()>::new("")
        .path(
            Path::new("x", &[])
                .read(Handler::new("", |_, _| async { Err(Jammed) }))
                .exists(|_, _| async { Err(Jammed) }),
        )
        .secret(SecretType::new("loan").renew(|_, _| async { Err(Jammed) }).revoke(|_, _| async { Err(Jammed) }))
        .wal(WalKind::new("print", Duration::ZERO, |_, _| async { Err::<(), _>(Jammed) }))
        .periodic(|_| async { Err(Jammed) })
        .on_initialize(|_| async { Err(Jammed) })
        .on_cleanup(|_| async { Err(Jammed) });
    let (mount, storage, _) = crate::testing::mount();
    let entry = json!({ "type": "print", "data": {}, "created_at": 0 });
    storage.put_json("wal/a", &entry).await.unwrap();
    let backend = backend.factory(|_| ())(mount).unwrap();

    let mut failed = Vec::new();
    for (operation, path) in [(Operation::Read, "x"), (Operation::Rollback, "")] {
        failed.push(backend.handle(request(operation, path, Value::Null)).await.map(drop));
    }
    for operation in [Operation::Renew, Operation::Revoke] {
        let mut request = request(operation, "x", Value::Null);
        request.secret = Some(Secret::new(Duration::ZERO, Duration::ZERO, Map::new()).of_type("loan"));
        failed.push(backend.handle(request).await.map(drop));
    }
    failed.push(backend.exists(request(Operation::Update, "x", Value::Null)).await.map(drop));
    failed.push(backend.initialize().await);
    backend.cleanup().await;
    assert_eq!(failed.len(), 6);
    assert!(failed.iter().all(|result| matches!(result, Err(Error::Status { status: 409, .. }))));
    assert_eq!(storage.keys(), ["wal/a"]);
}

#[tokio::test]
async fn an_undo_can_keep_its_entry_for_a_later_tick() {
    for (undo, left) in [(Undo::Again, vec!["wal/a".to_owned()]), (Undo::Done, Vec::new())] {
        let kind = WalKind::new("print", Duration::ZERO, move |_, _| async move { Ok::<_, Error>(undo) });
        let (mount, storage, _) = crate::testing::mount();
        let entry = json!({ "type": "print", "data": {}, "created_at": 0 });
        storage.put_json("wal/a", &entry).await.unwrap();
        let backend = Backend::<()>::new("").wal(kind).factory(|_| ())(mount).unwrap();
        backend.handle(request(Operation::Rollback, "", Value::Null)).await.unwrap();
        assert_eq!(storage.keys(), left);
    }
}

/// Remembers the ticks of its undos. At the first undo, ends the change that is in progress.
#[derive(Default)]
struct Ticking(std::sync::Mutex<(Vec<Arc<Tick>>, Option<OpenEntry>)>);

#[tokio::test]
async fn the_undos_of_a_tick_share_values_made_after_all_their_changes() {
    let kind = WalKind::new("print", Duration::ZERO, |engine: Arc<Ticking>, entry: WalEntry| async move {
        let mut state = engine.0.lock().unwrap();
        state.0.push(entry.tick);
        state.1 = None;
        Ok::<_, Error>(Undo::Again)
    });
    let (mount, storage, _) = crate::testing::mount();
    let entry = json!({ "type": "print", "data": {}, "created_at": 0 });
    storage.put_json("wal/a", &entry).await.unwrap();
    storage.put_json("wal/b", &entry).await.unwrap();
    let open = mount.wal().put("print", &()).await.unwrap();
    storage.put_json(&format!("wal/{}", open.id()), &entry).await.unwrap();
    let engine = Arc::new(Ticking::default());
    engine.0.lock().unwrap().1 = Some(open);
    let backend = Arc::new(Backend::<Ticking>::new("").wal(kind)).mount(engine.clone(), mount);
    for undone in [2, 3] {
        backend.handle(request(Operation::Rollback, "", Value::Null)).await.unwrap();
        let ticks = std::mem::take(&mut engine.0.lock().unwrap().0);
        assert_eq!(ticks.len(), undone);
        let values: Vec<_> = ticks.iter().map(|tick| tick.share::<std::sync::atomic::AtomicUsize>("a")).collect();
        assert!(values.iter().all(|value| Arc::ptr_eq(value, &values[0])));
        assert!(!Arc::ptr_eq(&values[0], &ticks[0].share("b")));
        // Nothing but the entries keeps the values.
        let kept = Arc::downgrade(&values[0]);
        drop((values, ticks));
        assert!(kept.upgrade().is_none());
    }
}

/// An engine whose handler waits until the test releases it, and then counts.
#[derive(Default)]
struct Slow {
    go: tokio::sync::Notify,
    ended: std::sync::atomic::AtomicUsize,
}

impl Slow {
    /// Sends a request to `path` and drops it. Returns how many handlers had finished when cleanup returned.
    async fn hang_up(path: &str) -> usize {
        let work = |slow: Arc<Self>, _: Call| async move {
            slow.go.notified().await;
            slow.ended.fetch_add(1, Ordering::SeqCst);
            Answer::Ok(None)
        };
        let backend = Backend::new("")
            .path(Path::new("attached", &[]).write(Handler::new("", work)))
            .path(Path::new("detached", &[]).write(Handler::new("", work).detached()));
        let (mount, ..) = crate::testing::mount();
        let slow = Arc::new(Self::default());
        let backend = Arc::new(backend).mount(slow.clone(), mount);
        let update = || backend.handle(request(Operation::Update, path, Value::Null));
        assert!(update().now_or_never().is_none());
        let cleanup = backend.cleanup();
        slow.go.notify_one();
        cleanup.await;
        if path == "detached" {
            assert!(matches!(update().await, Err(Error::Status { status: 503, .. })));
        }
        slow.ended.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_detached_handler_goes_on_when_the_caller_hangs_up_and_cleanup_waits_for_it() {
    assert_eq!(Slow::hang_up("detached").await, 1);
    assert_eq!(Slow::hang_up("attached").await, 0);
}

/// Keeps the fields of all events as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Line(String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

/// During an outage, all entries fail alike, so a line for each entry adds nothing.
#[tokio::test]
async fn a_tick_logs_one_line_for_each_kind_of_entry_that_it_fails_to_undo() {
    // With a single subscriber, the first thread at an event decides for all threads whether the event is enabled.
    static ANOTHER: LazyLock<tracing::Dispatch> = LazyLock::new(|| tracing::Dispatch::new(NoSubscriber::default()));
    LazyLock::force(&ANOTHER);
    let shelf = mounted();
    for n in 0..40 {
        shelf.write_wal(&format!("a{n}"), "print", json!({ "name": "torn" }), 100).await;
        shelf.write_wal(&format!("b{n}"), "letter", json!({}), 100).await;
    }
    shelf.storage.put(Entry::new("wal/c", b"junk")).await.unwrap();
    shelf.shelf.failing.store(true, Ordering::SeqCst);
    let lines = Lines::default();
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.is_err());
    drop(guard);
    let lines = lines.0.lock().unwrap().clone();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, fields) in
        lines.iter().zip([r#"wal_kind="" count=1 "#, r#"wal_kind="letter" count=40 "#, r#"wal_kind="print" count=40 "#])
    {
        assert!(line.contains(fields) && line.contains("wal_id="), "{line}");
    }
}

/// The write-ahead log of a removed mount is deleted, so its work needs the time that other mounts do not.
#[tokio::test(start_paused = true)]
async fn only_the_cleanup_of_a_removed_mount_waits_again() {
    for (tainted, waits) in [(false, Duration::ZERO), (true, PATIENCE)] {
        let budget = Budget::default();
        let mount = || {
            let (mount, _, system) = crate::testing::mount();
            system.set_tainted(tainted);
            let mount = mount.tasks(Tasks::sharing(budget.clone()));
            let hanging = mount.tasks.start(std::future::pending::<()>()).unwrap();
            (Arc::new(Backend::<()>::new("")).mount(Arc::new(()), mount), hanging)
        };
        let (first, _hanging) = mount();
        first.cleanup().await;
        let (second, _hanging) = mount();
        let start = tokio::time::Instant::now();
        second.cleanup().await;
        assert_eq!(start.elapsed(), waits, "tainted: {tainted}");
    }
}
