//! The declaration of an engine: paths, types of leases, kinds of write-ahead log entries and hooks.
//!
//! Architecture invariant: nothing in here runs a request. [`super::mounted`] runs requests.

use std::future::Future;
use std::sync::Arc;

use futures_util::future::{BoxFuture, TryFutureExt as _};

use super::path::Path;
use super::pattern;
use super::secret::SecretType;
use super::wal::WalKind;
use crate::logical::{Error, Resolver, SpecialPaths};

pub(super) type EventFn<E> = Arc<dyn Fn(Arc<E>) -> BoxFuture<'static, Result<(), Error>> + Send + Sync>;
pub(super) type InvalidateFn<E> = Arc<dyn Fn(&E, &str) + Send + Sync>;

/// The declaration of an engine, once for the whole process. [`Backend::mount`] makes a mount from the declaration.
pub struct Backend<E> {
    pub(super) help: &'static str,
    pub(super) paths: Vec<Path<E>>,
    pub(super) secrets: Vec<SecretType<E>>,
    pub(super) wal: Vec<WalKind<E>>,
    pub(super) special: SpecialPaths,
    pub(super) initialize: Option<EventFn<E>>,
    pub(super) cleanup: Option<EventFn<E>>,
    pub(super) periodic: Option<EventFn<E>>,
    pub(super) invalidate: Option<InvalidateFn<E>>,
    pub(super) resolver: Option<Resolver>,
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
            resolver: None,
        }
    }

    /// Adds a path. The first path that matches a request wins, so declare specific paths before general paths.
    ///
    /// # Panics
    /// At start-up, if the path has a mistake (see [`Path`]) or if an earlier path hides this path.
    #[must_use]
    pub fn path(mut self, path: Path<E>) -> Self {
        path.check_list();
        path.check_create();
        path.check_spelling();
        path.check_fields();
        for name in pattern::expand(path.pattern) {
            // A named group becomes `{name}`. Only a group that matches nearly everything matches the braces.
            let hidden_by = self.paths.iter().find(|known| known.matches(&name).is_some()).map(|known| known.pattern);
            let earlier = hidden_by.unwrap_or_default();
            assert!(
                hidden_by.is_none(),
                "path {:?} is hidden by {earlier:?}; declare it before that path",
                path.pattern
            );
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
    /// At start-up, in three cases: another type has the same name; the type has no revoke handler, so its leases could
    /// never be revoked; or another type already takes the leases without a type.
    #[must_use]
    pub fn secret(mut self, secret: SecretType<E>) -> Self {
        assert!(
            self.secrets.iter().all(|known| known.name != secret.name),
            "secret type {:?} is declared twice",
            secret.name
        );
        assert!(
            secret.revoke.is_some(),
            "secret type {:?} has no revoke handler; add `SecretType::revoke`",
            secret.name
        );
        let is_taken = secret.untyped && self.secrets.iter().any(|known| known.untyped);
        assert!(!is_taken, "secret type {:?} is the second that takes leases without a type", secret.name);
        self.secrets.push(secret);
        self
    }

    /// Adds a kind of write-ahead log entry.
    ///
    /// # Panics
    /// At start-up, if another kind has the same name.
    #[must_use]
    pub fn wal(mut self, kind: WalKind<E>) -> Self {
        assert!(self.wal.iter().all(|known| known.name != kind.name), "WAL kind {:?} is declared twice", kind.name);
        self.wal.push(kind);
        self
    }

    /// Sets the special paths.
    ///
    /// # Panics
    /// At start-up, if the host could not read one of the paths.
    #[must_use]
    pub fn special_paths(mut self, special: SpecialPaths) -> Self {
        special.check();
        self.special = special;
        self
    }

    /// Runs once after mounting, on every node: on nodes that can write and on nodes that cannot.
    #[must_use]
    pub fn on_initialize<F, Fut, Failure>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        self.initialize = Some(event(run));
        self
    }

    /// Runs before unmounting, possibly twice. The mount's tasks already refuse new work then. After this hook, cleanup
    /// waits at most 4.5 seconds for running tasks.
    #[must_use]
    pub fn on_cleanup<F, Fut, Failure>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        self.cleanup = Some(event(run));
        self
    }

    /// Runs at each periodic tick of the host, about once a minute, on nodes that can write. The host stops a tick after
    /// 90 seconds, and never runs two ticks of a mount at once. WAL entries are undone at the same time, so neither waits
    /// for the other. The host logs an error, and the next tick comes as usual.
    #[must_use]
    pub fn periodic<F, Fut, Failure>(mut self, run: F) -> Self
    where
        F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
        Failure: Into<Error> + 'static,
    {
        self.periodic = Some(event(run));
        self
    }

    /// Tells OpenBao which path another spelling stands for, before it checks policies. See [`Resolver`]. Without this,
    /// a path stands for itself.
    #[must_use]
    pub fn resolve(mut self, resolve: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.resolver = Some(Arc::new(resolve));
        self
    }

    /// Runs when another node changed a storage key.
    #[must_use]
    pub fn on_invalidate(mut self, run: impl Fn(&E, &str) + Send + Sync + 'static) -> Self {
        self.invalidate = Some(Arc::new(run));
        self
    }
}

fn event<E, F, Fut, Failure>(run: F) -> EventFn<E>
where
    F: Fn(Arc<E>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    Failure: Into<Error> + 'static,
{
    Arc::new(move |engine| Box::pin(run(engine).map_err(Into::into)))
}

#[cfg(test)]
mod tests;
