//! The declaration of an engine, and the [`logical::Backend`] that comes of it.

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

use super::fields::Fields;
use super::path::{Call, Captures, Path};
use super::secret::{LeaseCall, SecretType, is_of_type, mark};
use super::wal::{Wal, WalKind};
use super::{coerce, help};
use crate::sdk::logical::{self, Answer, Error, Mount, Operation, Request, SpecialPaths};

type EventFn<E> = Arc<dyn Fn(Arc<E>) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;
type InvalidateFn<E> = Arc<dyn Fn(&E, &str) + Send + Sync>;

/// An engine as it is declared: one for the whole process. [`Backend::mount`] makes a mount of it.
pub struct Backend<E> {
    pub(super) help: &'static str,
    pub(super) paths: Vec<Path<E>>,
    secrets: Vec<SecretType<E>>,
    wal: Vec<WalKind<E>>,
    special: SpecialPaths,
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
    /// On a default that the field's own type cannot read, or on a pattern that is there already: at start-up.
    #[must_use]
    pub fn path(mut self, path: Path<E>) -> Self {
        for spec in path.fields {
            let readable = spec.default.is_none_or(|text| coerce::coerce(spec.kind, &text.into()).is_ok());
            assert!(readable, "path {:?}: the default of field {:?} cannot be read", path.pattern, spec.name);
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
    #[must_use]
    pub fn secret(mut self, secret: SecretType<E>) -> Self {
        self.secrets.push(secret);
        self
    }

    /// Adds a kind of write-ahead log entry.
    #[must_use]
    pub fn wal(mut self, kind: WalKind<E>) -> Self {
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
            tracing::error!(error = %error, "failed to clean up");
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
        let mut answer = (handler.run)(self.engine.clone(), Call { request, fields }).await?;
        if let Some(response) = &mut answer {
            response.warnings.extend(warnings);
        }
        Ok(answer)
    }

    async fn renew(&self, mut request: Request) -> Answer {
        let (kind, secret) = self.secret_type(&mut request)?;
        let renew = kind.renew.as_ref().ok_or(Error::UnsupportedOperation)?;
        let mut answer = renew(self.engine.clone(), LeaseCall { request, secret }).await?;
        if let Some(secret) = answer.as_mut().and_then(|response| response.secret.as_mut()) {
            mark(&mut secret.internal_data, kind.name);
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
        let kind = self.backend.secrets.iter().find(|kind| is_of_type(&secret, kind.name));
        let kind = kind.ok_or_else(|| Error::internal("the lease has no secret_type that this engine knows"))?;
        Ok((kind, secret))
    }

    /// The host's tick. Nothing is done on nodes that may not write; what fails is tried again at the next tick.
    async fn rollback(&self, request: Request) -> Answer {
        if self.backend.periodic.is_none() && self.backend.wal.is_empty() {
            return Ok(None);
        }
        if !self.mount.system.is_writable().await? {
            return Ok(None);
        }
        let periodic = run(self.backend.periodic.as_ref(), &self.engine).await;
        let immediate = request.data.get("immediate").and_then(serde_json::Value::as_bool).unwrap_or(false);
        let wal = self.undo(immediate).await;
        periodic.and(wal).map(|()| None)
    }

    async fn undo(&self, immediate: bool) -> Result<(), Error> {
        if self.backend.wal.is_empty() {
            return Ok(());
        }
        let wal = Wal::new(&*self.mount.storage);
        let mut result = Ok(());
        for id in wal.list().await? {
            if let Err(error) = self.undo_one(&wal, &id, immediate).await {
                tracing::error!(wal_id = %id, error = %error, "failed to undo an unfinished change, will try again");
                result = Err(error);
            }
        }
        result
    }

    async fn undo_one(&self, wal: &Wal<'_>, id: &str, immediate: bool) -> Result<(), Error> {
        let Some(entry) = wal.get(id).await? else { return Ok(()) };
        let kind = self.backend.wal.iter().find(|kind| kind.name == entry.kind);
        let kind = kind.ok_or_else(|| Error::internal(format!("no kind {:?} of log entries", entry.kind)))?;
        if !immediate && entry.age() < kind.minimum_age {
            return Ok(());
        }
        (kind.rollback)(self.engine.clone(), entry).await?;
        Ok(wal.delete(id).await?)
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
