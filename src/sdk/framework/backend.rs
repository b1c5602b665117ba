//! The declaration of an engine, and the [`logical::Backend`] that comes of it.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use uuid::Uuid;

use super::fields::Fields;
use super::path::{Call, Captures, Path};
use super::secret::{LeaseCall, SecretType, is_of_type, is_untyped, mark};
use super::wal::{Wal, WalKind};
use super::{help, pattern};
use crate::sdk::logical::{self, Answer, Error, Mount, Operation, Request, Response, SpecialPaths};

/// Entries of the write-ahead log that are undone at the same time: what one of them waits for holds up few others.
const UNDONE_AT_ONCE: usize = 16;

/// Failures of one tick that are logged one by one.
const FAILURES_LOGGED: usize = 8;

type EventFn<E> = Arc<dyn Fn(Arc<E>) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;
type InvalidateFn<E> = Arc<dyn Fn(&E, &str) + Send + Sync>;

/// An engine as it is declared: one for the whole process. [`Backend::mount`] makes a mount of it.
pub struct Backend<E> {
    pub(super) help: &'static str,
    pub(super) paths: Vec<Path<E>>,
    secrets: Vec<SecretType<E>>,
    wal: Vec<WalKind<E>>,
    pub(super) special: SpecialPaths,
    initialize: Option<EventFn<E>>,
    cleanup: Option<EventFn<E>>,
    periodic: Option<EventFn<E>>,
    invalidate: Option<InvalidateFn<E>>,
}

impl<E: Send + Sync + 'static> Backend<E> {
    /// Declares an engine with the text that `path-help` shows for the root of a mount.
    pub fn new(help: &'static str) -> Self {
        Self {
            help,
            paths: Vec::new(),
            secrets: Vec::new(),
            wal: Vec::new(),
            special: SpecialPaths::default(),
            initialize: None,
            cleanup: None,
            periodic: None,
            invalidate: None,
        }
    }

    /// Adds a path. The first path that matches a request wins, so specific ones go before general ones.
    ///
    /// # Panics
    /// On a wrong field (see [`Path`]) or on a path that an earlier one hides: at start-up.
    #[must_use]
    pub fn path(mut self, path: Path<E>) -> Self {
        path.check_fields();
        for name in pattern::expand(path.pattern) {
            // Named groups stand as `{name}`, which only a group that takes nearly everything matches.
            let hidden_by = self.paths.iter().find(|known| known.matches(&name).is_some());
            assert!(hidden_by.is_none(), "path {:?} is hidden by an earlier one for {name:?}", path.pattern);
        }
        assert!(
            self.paths.iter().all(|known| known.pattern != path.pattern),
            "path {:?} is declared twice",
            path.pattern
        );
        self.paths.push(path);
        self
    }

    /// Adds a type of lease.
    ///
    /// # Panics
    /// At start-up, in three cases: another type has the same name; the type cannot be revoked, so its leases would
    /// never end; or another type takes the leases without a type already.
    #[must_use]
    pub fn secret(mut self, secret: SecretType<E>) -> Self {
        assert!(self.secrets.iter().all(|known| known.name != secret.name), "lease {:?} declared twice", secret.name);
        assert!(secret.revoke.is_some(), "lease {:?} cannot be revoked", secret.name);
        let is_taken = secret.untyped && self.secrets.iter().any(|known| known.untyped);
        assert!(!is_taken, "lease {:?} is the second that takes leases without a type", secret.name);
        self.secrets.push(secret);
        self
    }

    /// Adds a kind of write-ahead log entry.
    ///
    /// # Panics
    /// On a name that is there already: at start-up.
    #[must_use]
    pub fn wal(mut self, kind: WalKind<E>) -> Self {
        assert!(
            self.wal.iter().all(|known| known.name != kind.name),
            "write-ahead log entry {:?} declared twice",
            kind.name
        );
        self.wal.push(kind);
        self
    }

    /// Sets the special paths.
    #[must_use]
    pub fn special_paths(mut self, special: SpecialPaths) -> Self {
        self.special = special;
        self
    }

    /// Runs once after mounting, on nodes that may write and on those that may not.
    #[must_use]
    pub fn on_initialize<F, Fut>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.initialize = Some(event(run));
        self
    }

    /// Runs before unmounting; maybe twice.
    #[must_use]
    pub fn on_cleanup<F, Fut>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.cleanup = Some(event(run));
        self
    }

    /// Runs at each tick of the host, about once a minute, on nodes that may write.
    #[must_use]
    pub fn periodic<F, Fut>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.periodic = Some(event(run));
        self
    }

    /// Runs when another node changed a storage key.
    #[must_use]
    pub fn on_invalidate(mut self, run: impl Fn(&E, &str) + Send + Sync + 'static) -> Self {
        self.invalidate = Some(Arc::new(run));
        self
    }

    /// Makes a mount of this engine.
    pub fn mount(self: Arc<Self>, engine: Arc<E>, mount: Mount) -> Arc<dyn logical::Backend> {
        Arc::new(Mounted { backend: self, engine, mount })
    }
}

fn event<E, F, Fut>(run: F) -> EventFn<E>
where
    F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Error>> + Send + 'static,
{
    Arc::new(move |engine| Box::pin(run(engine)))
}

/// One mount: the declaration, which all mounts share, and the engine's own state.
struct Mounted<E> {
    backend: Arc<Backend<E>>,
    engine: Arc<E>,
    mount: Mount,
}

#[async_trait]
impl<E: Send + Sync + 'static> logical::Backend for Mounted<E> {
    async fn handle(&self, request: Request) -> Answer {
        match request.operation {
            Operation::Renew => self.renew(request).await,
            Operation::Revoke => self.revoke(request).await,
            Operation::Rollback => self.rollback(request).await,
            Operation::Help => help::answer(&self.backend, &request),
            _ => self.route(request).await,
        }
    }

    async fn exists(&self, request: Request) -> Result<Option<bool>, Error> {
        let Some((path, captures)) = self.find(&request.path) else { return Ok(None) };
        let Some(check) = &path.exists else { return Ok(None) };
        let fields = Fields::parse(path.fields, &captures, &request.data)?;
        check(self.engine.clone(), Call { request, fields }).await.map(Some)
    }

    fn special_paths(&self) -> SpecialPaths {
        self.backend.special.clone()
    }

    async fn initialize(&self) -> Result<(), Error> {
        run(self.backend.initialize.as_ref(), &self.engine).await
    }

    async fn cleanup(&self) {
        if let Err(error) = run(self.backend.cleanup.as_ref(), &self.engine).await {
            tracing::error!(error = error.detail(), "failed to clean up");
        }
    }

    fn invalidate(&self, key: &str) {
        if let Some(invalidate) = &self.backend.invalidate {
            invalidate(&self.engine, key);
        }
    }
}

impl<E: Send + Sync + 'static> Mounted<E> {
    fn find(&self, path: &str) -> Option<(&Path<E>, Captures)> {
        self.backend.paths.iter().find_map(|known| known.matches(path).map(|captures| (known, captures)))
    }

    async fn route(&self, request: Request) -> Answer {
        let (path, captures) = self.find(&request.path).ok_or(Error::UnsupportedPath)?;
        let handler = path.operations.get(&request.operation).ok_or(Error::UnsupportedOperation)?;
        let fields = Fields::parse(path.fields, &captures, &request.data)?;
        let warnings = parameter_warnings(&fields);
        if handler.active_node && !self.mount.system.is_writable().await? {
            return Err(Error::ReadOnly);
        }
        let operation = request.operation;
        let mut answer = (handler.run)(self.engine.clone(), Call { request, fields }).await?;
        if answer.is_none() && !warnings.is_empty() && !operation.is_read() {
            // Go engines stay silent here. A mistyped setting that is not heard of is worse than a 200 for a 204.
            answer = Some(Response::default());
        }
        if let Some(response) = &mut answer {
            response.warnings.extend(warnings);
            debug_assert!(
                response.secret.as_ref().is_none_or(|secret| self.type_of(secret).is_some()),
                "path {:?} made a lease that no secret type can revoke",
                path.pattern
            );
        }
        Ok(answer)
    }

    async fn renew(&self, mut request: Request) -> Answer {
        let (kind, secret) = self.secret_type(&mut request)?;
        let renew = kind.renew.as_ref().ok_or(Error::UnsupportedOperation)?;
        let mut answer = renew(self.engine.clone(), LeaseCall { request, secret }).await?;
        if let Some(secret) = answer.as_mut().and_then(|response| response.secret.as_mut()) {
            mark(secret, kind.name);
        }
        Ok(answer)
    }

    async fn revoke(&self, mut request: Request) -> Answer {
        let (kind, secret) = self.secret_type(&mut request)?;
        let revoke = kind.revoke.as_ref().ok_or(Error::UnsupportedOperation)?;
        revoke(self.engine.clone(), LeaseCall { request, secret }).await?;
        Ok(None)
    }

    fn secret_type(&self, request: &mut Request) -> Result<(&SecretType<E>, logical::Secret), Error> {
        let secret = request.secret.take().ok_or_else(|| Error::internal("the request has no lease"))?;
        let untyped = || self.backend.secrets.iter().find(|kind| kind.untyped && is_untyped(&secret));
        let kind = self.type_of(&secret).or_else(untyped);
        let kind = kind.ok_or_else(|| Error::internal("the lease has no secret_type that this engine knows"))?;
        Ok((kind, secret))
    }

    fn type_of(&self, secret: &logical::Secret) -> Option<&SecretType<E>> {
        self.backend.secrets.iter().find(|kind| is_of_type(secret, kind.name))
    }

    /// The host's tick. Nothing is done on nodes that may not write; what fails is tried again at the next tick.
    async fn rollback(&self, request: Request) -> Answer {
        if self.backend.periodic.is_none() && self.backend.wal.is_empty() {
            return Ok(None);
        }
        if !self.mount.system.is_writable().await? {
            return Ok(None);
        }
        let immediate = request.data.get("immediate").and_then(serde_json::Value::as_bool).unwrap_or(false);
        // The host cuts the tick short after 90 seconds. Neither must keep the other from its turn until then.
        let periodic = run(self.backend.periodic.as_ref(), &self.engine);
        let (periodic, wal) = tokio::join!(periodic, self.undo(immediate));
        periodic.and(wal).map(|()| None)
    }

    async fn undo(&self, immediate: bool) -> Result<(), Error> {
        if self.backend.wal.is_empty() {
            return Ok(());
        }
        let wal = &Wal::new(&*self.mount.storage);
        let mut ids = wal.list().await?;
        if ids.len() > UNDONE_AT_ONCE {
            // What cannot be undone, or takes too long, must not stand before the others at every tick.
            ids.sort_by_cached_key(|_| Uuid::new_v4());
        }
        // A mount that is removed has its last tick, and loses the log after it. Nothing new is begun there any more.
        let immediate = immediate || (!ids.is_empty() && self.mount.system.tainted().await.unwrap_or(false));
        let undo = |id: String| async move {
            let undone = self.undo_one(wal, &id, immediate).await;
            undone.map_err(|error| (id, error))
        };
        let mut undone = stream::iter(ids).map(undo).buffer_unordered(UNDONE_AT_ONCE);
        let mut failures = 0;
        let mut result = Ok(());
        while let Some(one) = undone.next().await {
            if let Err((id, error)) = one {
                failures += 1;
                if failures <= FAILURES_LOGGED {
                    tracing::error!(wal_id = %id, error = error.detail(), "failed to undo an unfinished change, will try again");
                }
                result = Err(error);
            }
        }
        if failures > FAILURES_LOGGED {
            tracing::error!(failures, "failed to undo more unfinished changes than are shown here, will try again");
        }
        result
    }

    async fn undo_one(&self, wal: &Wal<'_>, id: &str, immediate: bool) -> Result<(), Error> {
        if Wal::is_open(id) {
            return Ok(());
        }
        let Some(entry) = wal.get(id).await? else { return Ok(()) };
        let Some(kind) = self.backend.wal.iter().find(|kind| kind.name == entry.kind) else {
            let text =
                format!("kind {:?} is unknown; a version of the plugin that knows it sets this right", entry.kind);
            return Err(Error::internal(text));
        };
        if !immediate && entry.age() < kind.minimum_age(&entry) {
            return Ok(());
        }
        (kind.rollback)(self.engine.clone(), entry).await?;
        Ok(wal.remove(id).await?)
    }
}

async fn run<E>(event: Option<&EventFn<E>>, engine: &Arc<E>) -> Result<(), Error> {
    match event {
        Some(event) => event(engine.clone()).await,
        None => Ok(()),
    }
}

/// The two remarks that Go engines make about parameters (OpenBao `sdk/framework/backend.go`).
fn parameter_warnings(fields: &Fields) -> Vec<String> {
    let mut warnings = Vec::new();
    if !fields.unknown.is_empty() {
        warnings.push(format!("Endpoint ignored these unrecognized parameters: [{}]", fields.unknown.join(" ")));
    }
    if !fields.replaced.is_empty() {
        warnings.push(format!(
            "Endpoint replaced the value of these parameters with the values captured from the endpoint's path: [{}]",
            fields.replaced.join(" ")
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::sdk::framework::sample::{Mounted, Shelf, backend, mounted};
    use crate::sdk::framework::{Field, FieldSpec, Handler};
    use crate::sdk::logical::{Entry, Map, ReplicationState, Secret, Storage, StorageExt};
    use crate::sdk::testing::request;

    impl Mounted {
        async fn ask(&self, operation: Operation, path: &str, data: Value) -> Answer {
            self.backend.handle(request(operation, path, data)).await
        }

        /// Returns a response that must be there.
        async fn response(&self, operation: Operation, path: &str, data: Value) -> Response {
            self.ask(operation, path, data).await.unwrap().expect("there is a response")
        }

        /// Returns the text of the caller's mistake.
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
            *self.system.state.lock().unwrap() = ReplicationState(state);
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
        let data =
            json!({ "headline": "Dune", "pages": "0x10", "genre": "POEM", "tags": "sand, worm", "notes": ["a=b"] });
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
        assert_eq!(
            text,
            "Field validation failed: error converting input for field \"pages\": expected a whole number"
        );
        let text = shelf.mistake(Operation::Read, "lend/dune", json!({ "ttl": "-5" })).await;
        assert_eq!(
            text,
            "Field validation failed: error converting input for field \"ttl\": cannot provide negative value"
        );
        assert_eq!(shelf.shelf.events(), [""; 0]);
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
        // A read without an answer has to stay a 404.
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

    /// Any other kind of error would make the lease irrevocable at once.
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
        shelf.system.tainted.store(true, Ordering::SeqCst);
        assert!(shelf.ask(Operation::Rollback, "", Value::Null).await.unwrap().is_none());
        assert_eq!((shelf.shelf.events().len(), shelf.storage.keys().len()), (2, 0));
    }

    #[tokio::test]
    async fn what_fails_is_kept_and_stops_nothing_else() {
        let shelf = mounted();
        shelf.write_wal("a", "print", json!({ "name": "torn" }), 100).await;
        shelf.write_wal("b", "unknown", json!({}), 100).await;
        shelf.storage.put(Entry { key: "wal/c".into(), value: b"junk".to_vec(), seal_wrap: false }).await.unwrap();
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
    async fn a_long_log_is_begun_elsewhere_at_each_tick() {
        let shelf = mounted();
        for n in 0..100 {
            shelf.write_wal(&format!("{n:02}"), "print", json!({ "name": format!("{n:02}"), "seconds": 0 }), 100).await;
        }
        let order = || async {
            // Each undo succeeds, and no entry is removed.
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
        // List, get, delete.
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

    const WRONG_DEFAULT: &[FieldSpec] = &[Field::int("n", "").default("many").spec()];
    const WRONG_ALLOWED: &[FieldSpec] = &[Field::int("n", "").allowed(&["1", "many"]).spec()];
    const TWICE: &[FieldSpec] = &[Field::int("n", "").spec(), Field::int("m", "").aliases(&["n"]).spec()];

    fn no_handler() -> Handler<Shelf> {
        Handler::new("", async |_: Arc<Shelf>, _: Call| Ok(None))
    }

    #[test]
    #[should_panic(expected = "default cannot be read")]
    fn a_wrong_default_stops_the_start() {
        let _ = backend().path(Path::new("x", WRONG_DEFAULT));
    }

    #[test]
    #[should_panic(expected = "allowed value cannot be read")]
    fn a_wrong_allowed_value_stops_the_start() {
        let _ = backend().path(Path::new("x", WRONG_ALLOWED));
    }

    #[test]
    #[should_panic(expected = "is there twice")]
    fn two_fields_of_one_name_stop_the_start() {
        let _ = backend().path(Path::new("x", TWICE));
    }

    #[test]
    #[should_panic(expected = "takes \"n\"")]
    fn an_operation_with_an_unknown_field_stops_the_start() {
        let _ = backend().path(Path::new("x", &[]).read(no_handler().takes(&["n"])));
    }

    #[test]
    #[should_panic(expected = "hidden by an earlier one")]
    fn a_hidden_path_stops_the_start() {
        let _ = backend().path(Path::new("books/index", &[]));
    }

    #[test]
    #[should_panic(expected = "is declared twice")]
    fn two_paths_of_one_pattern_stop_the_start() {
        let path = || Path::new("x/(?P<n>[a-z]+)", const { &[Field::int("n", "").spec()] });
        let _ = backend().path(path()).path(path());
    }

    #[test]
    #[should_panic(expected = "captures \"n\"")]
    fn a_capture_without_a_field_stops_the_start() {
        let _ = Path::<Shelf>::new("x/(?P<n>[a-z]+)", &[]);
    }

    #[tokio::test]
    async fn a_lease_without_a_type_goes_to_the_type_that_takes_it() {
        let loan = SecretType::new("loan").takes_untyped().revoke(|_, _| async { Ok(()) });
        let (mount, _, _) = crate::sdk::testing::mount();
        let backend = Arc::new(Backend::<()>::new("").secret(loan)).mount(Arc::new(()), mount);
        for (internal_data, is_taken) in [(json!({}), true), (json!({ "secret_type": "gift" }), false)] {
            let mut request = request(Operation::Revoke, "lend/dune", Value::Null);
            let data: Map = internal_data.as_object().cloned().unwrap();
            request.secret = Some(Secret::new(Duration::ZERO, Duration::ZERO, data));
            assert_eq!(backend.handle(request).await.is_ok(), is_taken, "{internal_data}");
        }
    }

    #[test]
    #[should_panic(expected = "takes leases without a type")]
    fn two_types_that_take_leases_without_a_type_stop_the_start() {
        let kind = |name| SecretType::<Shelf>::new(name).takes_untyped().revoke(|_, _| async { Ok(()) });
        let _ = backend().secret(kind("one")).secret(kind("two"));
    }

    #[test]
    #[should_panic(expected = "cannot be revoked")]
    fn a_lease_without_end_stops_the_start() {
        let _ = backend().secret(SecretType::new("gift"));
    }
}
