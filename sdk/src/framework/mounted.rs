//! One mount of an engine: finds the path, lease type or WAL entry for a request, and runs its handler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use tokio::time::timeout;
use uuid::Uuid;

use super::declaration::{Backend, EventFn};
use super::fields::Fields;
use super::help;
use super::path::{Call, Captures, Path};
use super::secret::{LeaseCall, SecretType, is_of_type, is_untyped, mark};
use super::wal::{Tick, Undo, Wal};
use crate::logical::{self, Answer, Error, Mount, Operation, Request, Resolver, Response, SpecialPaths};

/// How many WAL entries are undone at the same time, so that a slow undo delays few others.
const UNDONE_AT_ONCE: usize = 16;

/// How long tasks may delay the cleanups of a process. The SDK stops a cleanup after 5 seconds.
const PATIENCE: Duration = Duration::from_millis(4500);

/// How long the host may take to say whether a mount is being removed. Cleanups of other mounts wait meanwhile.
const ASKING: Duration = Duration::from_millis(100);

impl<E: Send + Sync + 'static> Backend<E> {
    /// Returns the factory for [`crate::serve`]. `new` makes the state of one mount; all mounts share the declaration.
    /// `new` also runs at registration. Calls of storage and system view fail at that time, so `new` must not make any.
    ///
    /// ```
    /// use vault_plugin_sdk::framework::Backend;
    /// use vault_plugin_sdk::logical::{Factory, Mount};
    ///
    /// struct Engine {
    ///     mount: Mount,
    /// }
    ///
    /// let factory: Factory = Backend::new("An engine.").factory(|mount| Engine { mount: mount.clone() });
    /// ```
    pub fn factory(self, new: impl Fn(&Mount) -> E + Send + Sync + 'static) -> logical::Factory {
        let backend = Arc::new(self);
        let kinds: Arc<[&'static str]> = backend.wal.iter().map(|kind| kind.name).collect();
        Arc::new(move |mut mount| {
            mount.wal_kinds = Some(kinds.clone());
            let engine = Arc::new(new(&mount));
            Ok(backend.clone().mount(engine, mount))
        })
    }

    /// Makes a mount of an engine and lets the caller keep the engine's state, for tests.
    pub fn mount(self: Arc<Self>, engine: Arc<E>, mount: Mount) -> Arc<dyn logical::Backend> {
        Arc::new(Mounted { backend: self, engine, mount })
    }
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
            Operation::Help => help::answer(&self.backend, &self.mount.plugin, &request),
            _ => self.route(request).await,
        }
    }

    async fn exists(&self, request: Request) -> Result<Option<bool>, Error> {
        let Some((path, captures)) = self.find(&request.path) else { return Ok(None) };
        let Some(check) = &path.exists else { return Ok(None) };
        let fields = Fields::parse(request.operation, path.fields, &captures, &request.data)?;
        if path.right_spelling(&request.path, &fields).is_some() {
            return Ok(None);
        }
        check(self.engine.clone(), Call { request, fields }).await.map(Some)
    }

    fn resolver(&self) -> Option<Resolver> {
        self.backend.resolver.clone()
    }

    fn special_paths(&self) -> SpecialPaths {
        self.backend.special.clone()
    }

    async fn initialize(&self) -> Result<(), Error> {
        run(self.backend.initialize.as_ref(), &self.engine).await
    }

    async fn cleanup(&self) {
        self.mount.tasks.close();
        if let Err(error) = run(self.backend.cleanup.as_ref(), &self.engine).await {
            tracing::error!(error = error.detail(), "failed to clean up");
        }
        if self.is_removed_with_work().await {
            self.mount.tasks.finish_alone(PATIENCE).await;
        } else {
            self.mount.tasks.finish(PATIENCE).await;
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
        let fields = Fields::parse(request.operation, path.fields, &captures, &request.data)?;
        if let Some(right) = path.right_spelling(&request.path, &fields) {
            return Err(Error::invalid(format!("path {:?} has only one spelling; use {right:?}", request.path)));
        }
        let warnings = parameter_warnings(&fields);
        if handler.active_node && !self.mount.system.is_writable().await? {
            return Err(Error::ReadOnly);
        }
        let operation = request.operation;
        let run = (handler.run)(self.engine.clone(), Call { request, fields });
        let mut answer = if handler.detached { self.mount.tasks.run(run).await?? } else { run.await? };
        if answer.is_none() && !warnings.is_empty() && !operation.is_read() {
            // Go engines drop these warnings. A user should hear of a mistyped setting, even if a 204 becomes a 200.
            answer = Some(Response::default());
        }
        if let Some(response) = &mut answer {
            response.warnings.extend(warnings);
            if operation == Operation::List {
                response.name_no_keys();
            }
            if let Some(secret) = &mut response.secret {
                let Some(kind) = self.type_of(secret) else { return Err(untyped_lease(path.pattern, response)) };
                // The host would offer renewals that can only fail.
                secret.renewable &= kind.renew.is_some();
            }
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

    /// Handles the host's tick. Does nothing on nodes that cannot write. The next tick retries failures.
    async fn rollback(&self, request: Request) -> Answer {
        if self.backend.periodic.is_none() && self.backend.wal.is_empty() {
            return Ok(None);
        }
        if !self.mount.system.is_writable().await? {
            return Ok(None);
        }
        self.mount.set_mount_point(&request.mount_point);
        let immediate = request.data.get("immediate").and_then(serde_json::Value::as_bool).unwrap_or(false);
        // The host stops a tick after 90 seconds. Both run at the same time, so that neither delays the other until
        // then.
        let periodic = run(self.backend.periodic.as_ref(), &self.engine);
        let (periodic, wal) = tokio::join!(periodic, self.undo(immediate));
        periodic.and(wal).map(|()| None)
    }

    /// Returns whether tasks still run on a mount that is being removed. The write-ahead log is deleted with the mount, so
    /// no later tick undoes these tasks.
    async fn is_removed_with_work(&self) -> bool {
        if self.mount.tasks.is_empty() {
            return false;
        }
        matches!(timeout(ASKING, self.mount.system.tainted()).await, Ok(Ok(true)))
    }

    async fn undo(&self, immediate: bool) -> Result<(), Error> {
        if self.backend.wal.is_empty() {
            return Ok(());
        }
        let wal = &self.mount.wal();
        let mut ids = wal.list().await?;
        // The undos of a tick share what they read from the other system. So the changes of all entries must have ended
        // before the first undo, also those that end during the tick.
        ids.retain(|id| !Wal::is_open(id));
        let start = &Start { time: Timestamp::now(), tick: Arc::default() };
        if ids.len() > UNDONE_AT_ONCE {
            // Random order: entries that cannot be undone, or take too long, must not come first at every tick.
            ids.sort_by_cached_key(|_| Uuid::new_v4());
        }
        // On a mount that is being removed, this is the last tick: afterwards the log is deleted. No new changes start
        // there.
        let immediate = immediate || (!ids.is_empty() && self.mount.system.tainted().await.unwrap_or(false));
        let undo = |id: String| async move {
            let mut kind = String::new();
            let undone = self.undo_one(wal, &id, start, immediate, &mut kind).await;
            undone.map_err(|error| (kind, Failures { count: 1, wal_id: id, error }))
        };
        let mut undone = stream::iter(ids).map(undo).buffer_unordered(UNDONE_AT_ONCE);
        let mut failures: BTreeMap<String, Failures> = BTreeMap::new();
        while let Some(one) = undone.next().await {
            if let Err((kind, failure)) = one {
                failures.entry(kind).and_modify(|failures| failures.count += 1).or_insert(failure);
            }
        }
        let mut result = Ok(());
        for (wal_kind, Failures { wal_id, error, count }) in failures {
            tracing::error!(
                wal_kind,
                count,
                wal_id,
                error = error.detail(),
                "failed to undo an unfinished change, will retry"
            );
            result = Err(error);
        }
        result
    }

    /// Sets `name` to the kind of the entry as soon as it is known.
    async fn undo_one(
        &self,
        wal: &Wal<'_>,
        id: &str,
        start: &Start,
        immediate: bool,
        name: &mut String,
    ) -> Result<(), Error> {
        if Wal::is_open(id) {
            return Ok(());
        }
        let Some(mut entry) = wal.get(id).await? else { return Ok(()) };
        name.clone_from(&entry.kind);
        let Some(kind) = self.backend.wal.iter().find(|kind| kind.name == entry.kind) else {
            return Err(Error::internal(format!(
                "WAL kind {:?} is unknown; declare it with `Backend::wal`, or run the version of the plugin that wrote it",
                entry.kind
            )));
        };
        if !immediate && entry.age_at(start.time) < kind.minimum_age(&entry) {
            return Ok(());
        }
        entry.tick = start.tick.clone();
        match (kind.rollback)(self.engine.clone(), entry).await? {
            Undo::Done => Ok(wal.remove(id).await?),
            Undo::Again => Ok(()),
        }
    }
}

/// Takes an answer back whose lease could never be revoked.
fn untyped_lease(pattern: &str, response: &mut Response) -> Error {
    if let Some(undelivered) = response.undelivered.take() {
        undelivered.run();
    }
    Error::internal(format!(
        "path {pattern:?} made a lease of no declared secret type; mark the lease with `Secret::of_type`, and declare the \
         type with `Backend::secret`"
    ))
}

/// The entries of one kind that one tick failed to undo. During an outage, all entries fail alike.
struct Failures {
    count: usize,
    /// An example, with its error.
    wal_id: String,
    error: Error,
}

/// The start of a tick.
struct Start {
    time: Timestamp,
    tick: Arc<Tick>,
}

async fn run<E>(event: Option<&EventFn<E>>, engine: &Arc<E>) -> Result<(), Error> {
    match event {
        Some(event) => event(engine.clone()).await,
        None => Ok(()),
    }
}

/// Returns the two warnings about parameters that Go engines give (OpenBao `sdk/framework/backend.go`).
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
mod paths;
#[cfg(test)]
mod tests;
