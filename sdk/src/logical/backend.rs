//! A backend: one engine on one mount.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use super::error::Error;
use super::request::Request;
use super::response::Answer;
use super::storage::Storage;
use super::system::SystemView;
use crate::plugin::Plugin;
use crate::tasks::Tasks;

/// The environment of an engine on one mount, provided by the SDK.
#[derive(Clone)]
#[non_exhaustive]
pub struct Mount {
    /// The plugin that serves the mount.
    pub plugin: Plugin,
    /// The mount's storage. During registration, its calls fail.
    pub storage: Arc<dyn Storage>,
    /// The host's facts about the mount and the node.
    pub system: Arc<dyn SystemView>,
    /// Id of the mount. It stays the same after a restart, a reload and an upgrade. It is empty at registration.
    pub uuid: String,
    /// The mount's `-options`, and the options `plugin_name`, `plugin_type` and `plugin_version`.
    pub options: BTreeMap<String, String>,
    /// Runs work that must continue when its caller hangs up.
    pub tasks: Tasks,
    /// The path of the mount in the last tick. The host can move the mount.
    mount_point: Arc<Mutex<String>>,
    /// The declared kinds of WAL entries. `None` if the backend is not declared with the framework.
    pub(crate) wal_kinds: Option<Arc<[&'static str]>>,
}

impl Mount {
    /// Returns a mount without id and options.
    pub fn new(plugin: Plugin, storage: Arc<dyn Storage>, system: Arc<dyn SystemView>) -> Self {
        Self {
            plugin,
            storage,
            system,
            uuid: String::new(),
            options: BTreeMap::new(),
            tasks: Tasks::default(),
            mount_point: Arc::default(),
            wal_kinds: None,
        }
    }

    /// Sets the id.
    #[must_use]
    pub fn uuid(mut self, uuid: impl Into<String>) -> Self {
        self.uuid = uuid.into();
        self
    }

    /// Returns the path of the mount, such as `kv/`, as the host's last tick named it. It is empty before the first tick.
    /// During a request, use the path of the request.
    pub fn mount_point(&self) -> String {
        self.mount_point.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_mount_point(&self, mount_point: &str) {
        mount_point.clone_into(&mut self.mount_point.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sets the tasks.
    #[must_use]
    pub(crate) fn tasks(mut self, tasks: Tasks) -> Self {
        self.tasks = tasks;
        self
    }

    /// Sets the options.
    #[must_use]
    pub fn options(mut self, options: BTreeMap<String, String>) -> Self {
        self.options = options;
        self
    }
}

/// Paths and storage keys that the host treats in a special way. A path is exact, or a prefix before a `*` at its end.
/// A storage key is exact, or a prefix that ends in `/`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct SpecialPaths {
    /// Paths that also need the `sudo` capability.
    pub root: Vec<String>,
    /// Paths that need no Vault token. A segment `+` stands for any one segment. The mount fails if `*` is not at the
    /// end.
    pub unauthenticated: Vec<String>,
    /// Storage that is not replicated to other clusters.
    pub local_storage: Vec<String>,
    /// Storage with the additional encryption of the seal.
    pub seal_wrap_storage: Vec<String>,
    /// Storage whose writes a secondary cluster forwards to the primary.
    pub write_forwarded_storage: Vec<String>,
    /// Paths whose bodies are not JSON (Vault only, where plugins outside of Vault do not get this yet).
    pub binary: Vec<String>,
    /// Paths that count towards Vault's limit of requests (Vault only).
    pub limited: Vec<String>,
    /// Paths that can be read from a loaded snapshot (Vault only). See
    /// [`Request::snapshot_id`](crate::logical::Request::snapshot_id).
    pub allow_snapshot_read: Vec<String>,
}

impl SpecialPaths {
    /// Adds paths that also need the `sudo` capability.
    #[must_use]
    pub fn root<I: Into<String>>(mut self, paths: impl IntoIterator<Item = I>) -> Self {
        self.root.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Adds paths that need no Vault token.
    #[must_use]
    pub fn unauthenticated<I: Into<String>>(mut self, paths: impl IntoIterator<Item = I>) -> Self {
        self.unauthenticated.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Adds storage that is not replicated to other clusters.
    #[must_use]
    pub fn local_storage<I: Into<String>>(mut self, keys: impl IntoIterator<Item = I>) -> Self {
        self.local_storage.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Adds storage with the additional encryption of the seal.
    #[must_use]
    pub fn seal_wrap_storage<I: Into<String>>(mut self, keys: impl IntoIterator<Item = I>) -> Self {
        self.seal_wrap_storage.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Adds storage whose writes a secondary cluster forwards to the primary.
    #[must_use]
    pub fn write_forwarded_storage<I: Into<String>>(mut self, keys: impl IntoIterator<Item = I>) -> Self {
        self.write_forwarded_storage.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Adds paths whose bodies are not JSON.
    #[must_use]
    pub fn binary<I: Into<String>>(mut self, paths: impl IntoIterator<Item = I>) -> Self {
        self.binary.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Adds paths that count towards Vault's limit of requests.
    #[must_use]
    pub fn limited<I: Into<String>>(mut self, paths: impl IntoIterator<Item = I>) -> Self {
        self.limited.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Adds paths that can be read from a loaded snapshot.
    #[must_use]
    pub fn allow_snapshot_read<I: Into<String>>(mut self, paths: impl IntoIterator<Item = I>) -> Self {
        self.allow_snapshot_read.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Panics if the host could not read a path. The host would refuse each mount, or never apply the rule (OpenBao
    /// `vault/router.go`).
    pub(crate) fn check(&self) {
        for path in self.root.iter().chain(&self.unauthenticated).chain(&self.allow_snapshot_read) {
            let exact = path.strip_suffix('*').unwrap_or(path);
            assert!(
                !exact.contains('*'),
                "special path {path:?} has a `*` inside; only a last `*` stands for any text"
            );
            assert!(
                !path.starts_with('/'),
                "special path {path:?} starts with a slash; paths are relative to the mount"
            );
        }
        for path in &self.unauthenticated {
            let is_whole = path.split('/').all(|segment| segment == "+" || !segment.contains('+'));
            assert!(is_whole, "unauthenticated path {path:?}: a `+` stands for a whole segment, as in \"a/+/b\"");
        }
    }
}

/// An engine on one mount. [`framework::Backend`](crate::framework::Backend) implements this for engines that
/// declare their paths.
///
/// Calls arrive concurrently, and can arrive before [`Backend::initialize`] has returned. If the caller hangs up, the
/// future of its call is dropped. Work that must not stop half-way belongs to the mount's [`Tasks`].
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Answers a request.
    async fn handle(&self, request: Request) -> Answer;

    /// Returns whether the object that the request writes to exists. `None` means that the path does not tell creates
    /// from updates.
    ///
    /// Any valid Vault token can trigger this, even without a right to the path. So this method must have no effect,
    /// and its errors must reveal nothing.
    async fn exists(&self, _request: Request) -> Result<Option<bool>, Error> {
        Ok(None)
    }

    /// Returns the function that resolves paths, if the engine has other spellings of a path. The default is none.
    fn resolver(&self) -> Option<Resolver> {
        None
    }

    /// Returns the special paths. The host reads them once, when it mounts.
    fn special_paths(&self) -> SpecialPaths {
        SpecialPaths::default()
    }

    /// Runs once after mounting, when storage can be written. The host waits for this method before it finishes
    /// unsealing. So this method must not wait for a network, and must not fail because of one.
    async fn initialize(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Runs before unmounting, sealing or reloading. It may be called twice.
    async fn cleanup(&self) {}

    /// Called when another node changed this storage key. Cached values of the key are stale.
    fn invalidate(&self, _key: &str) {}
}

/// Returns the path that a requested path stands for, relative to the mount, or `None` if the path stands for itself.
///
/// OpenBao asks before it checks the policies of a request, and then treats the request as one for the returned path
/// (operation `resolve-path`, since 2.7). Vault never asks. So an engine must also reject, or treat alike, the spellings
/// that it resolves. Any client can make OpenBao ask, even without a Vault token, so the function must be quick. It has no
/// access to storage.
pub type Resolver = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Makes the backend of a mount. A factory also runs at registration. It must not use storage or facts, because they
/// are not available then.
pub type Factory = Arc<dyn Fn(Mount) -> Result<Arc<dyn Backend>, Error> + Send + Sync>;
