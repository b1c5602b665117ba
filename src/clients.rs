//! The clients of Astra: one for each org, created at its first call.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;
use vault_plugin_sdk::logical::SystemView;

use super::api;
use super::names::{ClientId, OrgId};
use super::store::{Config, Store};

/// Connections of at most this many orgs are kept.
const KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// The clients of a mount.
pub(crate) struct Clients {
    slots: Mutex<LruCache<OrgId, Arc<Slot>>>,
    /// Client ids of root tokens that a rotation deletes or has deleted. No config may hold these root tokens again.
    retired: Mutex<HashSet<ClientId>>,
    system: Arc<dyn SystemView>,
    proxies: Arc<api::Proxies>,
}

/// The client of one org.
struct Slot {
    /// The config that the client was created from. If the config changes, a new slot replaces this slot.
    config: Arc<Config>,
    client: OnceCell<Arc<api::Client>>,
    /// The calls that have not finished.
    calls: TaskTracker,
}

impl Clients {
    /// Returns the clients of a mount, without creating a client.
    pub(crate) fn new(system: Arc<dyn SystemView>, proxies: Arc<api::Proxies>) -> Self {
        Self { slots: Mutex::new(LruCache::new(KEPT)), retired: Mutex::default(), system, proxies }
    }

    /// Calls Astra for an org. If Astra rejects the root token and the config holds another root token by then, repeats
    /// the call with the new root token. This is safe: Astra does nothing for a call whose root token it rejects.
    pub(crate) async fn call<T, F>(
        &self,
        store: &Store,
        config: &Arc<Config>,
        call: impl Fn(Arc<api::Client>) -> F,
    ) -> Result<T, api::Error>
    where
        F: Future<Output = Result<T, api::Error>>,
    {
        let mut config = config.clone();
        loop {
            let slot = self.slot(&config);
            let running = slot.calls.token();
            let refused = match call(self.client_in(&slot).await?).await {
                Err(error) if error.case() == api::Case::RootTokenRefused => error,
                done => return done,
            };
            drop(running);
            match store.config(&config.org_id).await {
                Ok(Some(now)) if now.has_replaced_root(&config) => config = now,
                _ => return Err(refused),
            }
        }
    }

    /// Creates the client of an org, if the org has no client yet.
    pub(crate) async fn prepare(&self, config: &Arc<Config>) -> Result<(), api::Error> {
        self.client_in(&self.slot(config)).await.map(drop)
    }

    /// Returns the tracker of the calls with this config.
    pub(crate) fn calls(&self, config: &Arc<Config>) -> TaskTracker {
        self.slot(config).calls.clone()
    }

    /// Creates a client for a config, which may be stored or not.
    pub(crate) async fn make(&self, config: &Config) -> Result<Arc<api::Client>, api::Error> {
        let settings = api::Settings {
            url: config.url.clone(),
            token: config.astra_token.clone(),
            ca_cert: config.ca_cert.clone(),
            timeout: config.request_timeout,
            user_agent: self.user_agent().await,
            proxies: self.proxies.clone(),
        };
        // Creating a client reads CA certificates from disk, which would block the runtime.
        let made = tokio::task::spawn_blocking(move || api::Client::new(&settings)).await;
        made.unwrap_or_else(|_| Err(api::Error::stopping(api::PREPARE))).map(Arc::new)
    }

    /// Closes the connections of an org whose config changed.
    pub(crate) fn forget(&self, org: &OrgId) {
        self.slots().pop(org);
    }

    /// Rejects later writes of this root token to a config.
    pub(crate) fn retire(&self, root: &ClientId) {
        self.retired().insert(root.clone());
    }

    /// Whether a rotation deletes or has deleted the root token of a config.
    pub(crate) fn is_retired(&self, config: &Config) -> bool {
        config.root_id().is_some_and(|id| self.retired().contains(&ClientId::stored(id)))
    }

    async fn client_in(&self, slot: &Slot) -> Result<Arc<api::Client>, api::Error> {
        Ok(slot.client.get_or_try_init(|| self.make(&slot.config)).await?.clone())
    }

    fn slot(&self, config: &Arc<Config>) -> Arc<Slot> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(&config.org_id).filter(|slot| slot.config.same_connection(config)) {
            return slot.clone();
        }
        let slot = Arc::new(Slot { config: config.clone(), client: OnceCell::new(), calls: TaskTracker::new() });
        slots.put(config.org_id.clone(), slot.clone());
        slot
    }

    fn slots(&self) -> MutexGuard<'_, LruCache<OrgId, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, HashSet<ClientId>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn user_agent(&self) -> String {
        let plugin = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
        match self.system.host_version().await {
            Ok(host) if !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic()) => {
                format!("{plugin} vault/{host}")
            }
            _ => plugin.to_owned(),
        }
    }
}
