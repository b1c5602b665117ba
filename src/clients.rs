//! The clients of Astra: one for each org, created at its first call.
//!
//! A client is small. The connections are in pools that the orgs share, so a client is created again after each change
//! of its config.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio_util::task::TaskTracker;
use vault_plugin_sdk::logical::{self, SystemView};

use super::api;
use super::health::{Health, State};
use super::names::{ClientId, OrgId};
use super::store::{Config, Store};

/// Clients of at most this many orgs are kept. A client takes about 1 KiB.
const KEPT: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Clients of at most this many configs of an org are kept: the current config, and configs of earlier calls.
const KEPT_CONFIGS: usize = 4;

/// The clients of a mount.
pub(crate) struct Clients {
    orgs: Mutex<LruCache<OrgId, Org>>,
    /// Client ids of root tokens that a rotation deletes or has deleted, at least the latest ones. No config may hold these
    /// root tokens again. A config remembers those that it held.
    retired: Mutex<LruCache<ClientId, ()>>,
    system: Arc<dyn SystemView>,
    user_agent: OnceCell<String>,
    pools: Arc<api::Pools>,
    meter: Arc<api::Meter>,
}

/// The results of the calls of an org so far.
#[derive(Clone)]
pub(crate) struct Calls {
    pub(crate) health: Arc<Health>,
    queue: Arc<api::Queue>,
}

impl Calls {
    /// Returns the numbers of the org's requests.
    pub(crate) fn load(&self) -> api::Load {
        self.queue.load()
    }
}

/// The clients of one org.
struct Org {
    health: Arc<Health>,
    /// Shared by all clients of the org: a call with an earlier config counts against the same limit.
    queue: Arc<api::Queue>,
    /// One slot for each config in use. A call that started with an earlier config must not replace the client of the
    /// current config.
    slots: Vec<Arc<Slot>>,
}

/// The client of one config.
struct Slot {
    config: Arc<Config>,
    queue: Arc<api::Queue>,
    health: Arc<Health>,
    client: OnceCell<Arc<api::Client>>,
    /// The calls that have not finished.
    calls: TaskTracker,
}

impl Clients {
    /// Returns the clients of a mount, without creating a client.
    pub(crate) fn new(system: Arc<dyn SystemView>, pools: Arc<api::Pools>) -> Self {
        // A bounded cache would allocate its memory for all orgs at once.
        let (mut orgs, mut retired) = (LruCache::unbounded(), LruCache::unbounded());
        orgs.resize(KEPT);
        retired.resize(KEPT);
        let (orgs, retired) = (Mutex::new(orgs), Mutex::new(retired));
        Self { orgs, retired, system, user_agent: OnceCell::new(), pools, meter: Arc::default() }
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
            let client = self.client_in(&slot).await.inspect_err(|error| slot.health.note_error(error))?;
            let done = call(client).await;
            drop(running);
            if done.as_ref().is_err_and(|error| error.case() == api::Case::RootTokenRejected)
                && let Ok(Some(now)) = store.config(&config.org_id).await
                && now.has_replaced_root(&config)
            {
                config = now;
                continue;
            }
            slot.health.note(&done);
            return done;
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
        self.make_with(config, Arc::new(api::Queue::new(self.meter.clone()))).await
    }

    async fn make_with(&self, config: &Config, queue: Arc<api::Queue>) -> Result<Arc<api::Client>, api::Error> {
        let settings = api::Settings {
            url: config.url.clone(),
            token: config.astra_token.clone(),
            astra_org_id: config.astra_org_id.clone(),
            ca_cert: config.ca_cert.clone(),
            timeout: config.request_timeout,
            user_agent: self.user_agent().await,
        };
        let pools = self.pools.clone();
        // Creating a client can read CA certificates from disk, which would block the runtime.
        let made = tokio::task::spawn_blocking(move || api::Client::new(&settings, &pools, queue)).await;
        made.unwrap_or_else(|_| Err(api::Error::stopping(api::PREPARE))).map(Arc::new)
    }

    /// Drops the clients of an org whose config changed. Their connections stay, for the next client.
    pub(crate) fn forget(&self, org: &OrgId) {
        if let Some(org) = self.orgs().get_mut(org) {
            org.slots.clear();
            org.health.forget();
        }
    }

    /// Returns what the calls of an org showed so far; `None` if there were none.
    pub(crate) fn seen(&self, org: &OrgId) -> Option<Calls> {
        let orgs = self.orgs();
        let Org { health, queue, .. } = orgs.peek(org)?;
        Some(Calls { health: health.clone(), queue: queue.clone() })
    }

    /// Returns the number of orgs that are known to be in each state, and the sums of all orgs.
    pub(crate) fn totals(&self) -> ([u64; State::ALL.len()], api::Load) {
        let (mut states, mut sum) = ([0; State::ALL.len()], api::Load::default());
        for (_, org) in self.orgs().iter() {
            states[org.health.state() as usize] += 1;
            sum += org.queue.load();
        }
        (states, sum)
    }

    /// Returns the measurements of all calls.
    pub(crate) fn meter(&self) -> Arc<api::Meter> {
        self.meter.clone()
    }

    /// Rejects later writes of this root token to a config.
    pub(crate) fn retire(&self, root: &ClientId) {
        self.retired().put(root.clone(), ());
    }

    /// Whether a rotation deletes or has deleted the root token of a config.
    pub(crate) fn is_retired(&self, config: &Config) -> bool {
        config.root_id().is_some_and(|id| self.retired().contains(&ClientId::stored(id)))
    }

    async fn client_in(&self, slot: &Slot) -> Result<Arc<api::Client>, api::Error> {
        let make = || self.make_with(&slot.config, slot.queue.clone());
        Ok(slot.client.get_or_try_init(make).await?.clone())
    }

    fn slot(&self, config: &Arc<Config>) -> Arc<Slot> {
        let mut orgs = self.orgs();
        let new =
            || Org { health: Arc::default(), queue: Arc::new(api::Queue::new(self.meter.clone())), slots: Vec::new() };
        let Org { health, queue, slots } = orgs.get_or_insert_mut(config.org_id.clone(), new);
        let mut calls = TaskTracker::new();
        if let Some(index) = slots.iter().position(|slot| slot.config.same_connection(config)) {
            if slots[index].config.astra_org_id == config.astra_org_id || config.astra_org_id.is_empty() {
                return slots[index].clone();
            }
            // The engine has learned the organization of the root token.
            calls = slots.remove(index).calls.clone();
        } else if slots.len() == KEPT_CONFIGS {
            slots.remove(0);
        }
        let (config, queue, health) = (config.clone(), queue.clone(), health.clone());
        let slot = Arc::new(Slot { config, queue, health, client: OnceCell::new(), calls });
        slots.push(slot.clone());
        slot
    }

    fn orgs(&self) -> MutexGuard<'_, LruCache<OrgId, Org>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, LruCache<ClientId, ()>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the `User-Agent`. Asks the host for its version once: the plugin never outlives its host.
    async fn user_agent(&self) -> String {
        let plugin = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
        let ask = async || {
            let host = self.system.host_version().await?.to_string();
            let is_word = !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic());
            Ok::<_, logical::Error>(if is_word { format!("{plugin} vault/{host}") } else { plugin.to_owned() })
        };
        self.user_agent.get_or_try_init(ask).await.cloned().unwrap_or_else(|_| plugin.to_owned())
    }
}
