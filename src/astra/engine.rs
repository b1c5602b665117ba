//! The state of one mount: its store, its clients of Astra, its locks and its background work.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::api;
use super::error::Error;
use super::lease::Sweep;
use super::locks::Locks;
use super::names::{ClientId, OrgId};
use super::store::{Config, Store};
use super::task::Tasks;
use crate::sdk::framework::Wal;
use crate::sdk::logical::{self, Mount, Storage, SystemView};

/// Orgs whose connections are kept.
const CLIENTS_KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Pauses between attempts to build the inventory: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long unfinished work may hold up the end of the mount. The runtime gives up after 5 seconds.
const PATIENCE: Duration = Duration::from_millis(4500);

/// How long work that no caller waits for leaves an org alone that Astra failed, so that it holds up no other and adds
/// nothing to what an Astra in trouble has to bear. Shorter than a tick.
const TROUBLE: Duration = Duration::from_secs(30);

/// One mount.
pub(crate) struct Engine {
    /// What the mount stores.
    pub(crate) store: Store,
    /// The host's facts.
    pub(crate) system: Arc<dyn SystemView>,
    /// The locks, in their order.
    pub(crate) locks: Locks,
    /// What goes on when its caller hangs up.
    pub(crate) tasks: Tasks,
    /// How far the search for tokens without a lease has come.
    pub(crate) sweep: tokio::sync::Mutex<Sweep>,
    storage: Arc<dyn Storage>,
    clients: Mutex<LruCache<OrgId, Arc<Slot>>>,
    /// Client ids of root tokens that are deleted, or about to be, since no config held them. None may hold them again.
    retired: Mutex<HashSet<ClientId>>,
    /// When Astra last failed an org in work that no caller waits for.
    troubled: Mutex<HashMap<OrgId, Instant>>,
    background: Mutex<Option<JoinHandle<()>>>,
    proxies: Arc<api::Proxies>,
}

/// The client of one org, made when it is first needed.
struct Slot {
    /// What the client is made of. One of another config is not used any more.
    config: Arc<Config>,
    client: OnceCell<Arc<api::Client>>,
    /// The calls that go on.
    calls: TaskTracker,
}

impl Engine {
    /// Returns the state of a mount. Neither storage nor facts are asked yet.
    pub(crate) fn new(mount: &Mount, proxies: Arc<api::Proxies>) -> Self {
        Self {
            store: Store::new(mount),
            system: mount.system.clone(),
            locks: Locks::default(),
            tasks: Tasks::default(),
            sweep: tokio::sync::Mutex::default(),
            storage: mount.storage.clone(),
            clients: Mutex::new(LruCache::new(CLIENTS_KEPT)),
            retired: Mutex::default(),
            troubled: Mutex::default(),
            background: Mutex::default(),
            proxies,
        }
    }

    /// Returns the write-ahead log.
    pub(crate) fn wal(&self) -> Wal<'_> {
        Wal::new(&*self.storage)
    }

    /// Calls Astra for an org. A call that Astra refuses has done nothing. So it is made again if the root token was replaced
    /// meanwhile, with the new one.
    pub(crate) async fn call<T, F>(
        &self,
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
                Err(error) if error.kind == api::Kind::RootToken => error,
                done => return done,
            };
            drop(running);
            match self.store.config(&config.org_id).await {
                Ok(Some(now)) if now.has_replaced_root(&config) => config = now,
                _ => return Err(refused),
            }
        }
    }

    /// Makes the client of an org, if there is none yet.
    pub(crate) async fn prepare_client(&self, config: &Arc<Config>) -> Result<(), api::Error> {
        self.client_in(&self.slot(config)).await.map(drop)
    }

    /// Returns what waits for the end of the calls that are made with this config.
    pub(crate) fn calls(&self, config: &Arc<Config>) -> TaskTracker {
        self.slot(config).calls.clone()
    }

    async fn client_in(&self, slot: &Slot) -> Result<Arc<api::Client>, api::Error> {
        Ok(slot.client.get_or_try_init(|| self.new_client(&slot.config)).await?.clone())
    }

    /// Makes a client for a config that is not stored yet.
    pub(crate) async fn new_client(&self, config: &Config) -> Result<Arc<api::Client>, api::Error> {
        let settings = api::Settings {
            url: config.url.clone(),
            token: config.astra_token.clone(),
            ca_cert: config.ca_cert.clone(),
            timeout: config.request_timeout,
            user_agent: self.user_agent().await,
            proxies: self.proxies.clone(),
        };
        // It reads CA certificates from disk.
        let made = tokio::task::spawn_blocking(move || api::Client::new(&settings)).await;
        made.unwrap_or_else(|_| Err(api::Error::garbled("prepare calls to Astra", "the client cannot be made")))
            .map(Arc::new)
    }

    /// Forgets what is known of a key that another node changed.
    pub(crate) fn invalidate(&self, key: &str) {
        self.store.invalidate(key);
        if let Some(org) = key.strip_prefix("config/") {
            self.drop_client(&OrgId::stored(org));
        }
    }

    /// Closes the connections of an org whose config changed.
    pub(crate) fn drop_client(&self, org: &OrgId) {
        self.clients().pop(org);
    }

    /// Keeps a root token from being written to a config from now on.
    pub(crate) fn retire(&self, root: &ClientId) {
        self.retired().insert(root.clone());
    }

    /// Fails if the root token of a config is deleted, or about to be.
    ///
    /// # Errors
    /// [`Error::Field`].
    pub(crate) fn require_in_use(&self, config: &Config) -> Result<(), Error> {
        match config.root_id() {
            Some(id) if self.retired().contains(&ClientId::stored(id)) => Err(Error::field(
                "astra_token",
                "was replaced by a rotation and is deleted in Astra; give another root token",
            )),
            _ => Ok(()),
        }
    }

    /// Fails on a node that may not write, before anything is changed elsewhere.
    ///
    /// # Errors
    /// [`logical::Error::ReadOnly`], upon which the host forwards the request to the active node.
    pub(crate) async fn require_writable(&self) -> Result<(), Error> {
        if self.system.is_writable().await? { Ok(()) } else { Err(logical::Error::ReadOnly.into()) }
    }

    /// Returns the config of an org for work that no caller waits for.
    ///
    /// # Errors
    /// When there is none, or Astra failed this org a moment ago.
    pub(crate) async fn config_for_undo(&self, org: &OrgId) -> Result<Arc<Config>, Error> {
        self.require_no_trouble(org)?;
        let config = self.store.config(org).await?;
        config.ok_or_else(|| Error::Refused(format!("no config for org_id {:?}; write it again", org.as_str())))
    }

    /// Fails if Astra failed this org a moment ago.
    ///
    /// # Errors
    /// [`Error::NotYet`].
    pub(crate) fn require_no_trouble(&self, org: &OrgId) -> Result<(), Error> {
        match self.troubled().get(org) {
            Some(time) if time.elapsed() < TROUBLE => Err(Error::NotYet("Astra failed a moment ago".into())),
            _ => Ok(()),
        }
    }

    /// Remembers how work for an org ended that no caller waits for.
    pub(crate) fn note_trouble(&self, org: &OrgId, error: Option<&Error>) {
        match error {
            None => drop(self.troubled().remove(org)),
            Some(Error::Api(_)) => drop(self.troubled().insert(org.clone(), Instant::now())),
            Some(_) => {}
        }
    }

    /// Starts the background work. Never fails: the host holds up its unsealing for this.
    pub(crate) fn start(self: Arc<Self>) {
        let engine = Arc::downgrade(&self);
        let work = async move {
            let (mut pause, longest) = RETRY;
            loop {
                let Some(engine) = engine.upgrade() else { return };
                match engine.prepare().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(error = %error, "failed to build the inventory of tokens, will try again")
                    }
                }
                drop(engine);
                tokio::time::sleep(pause).await;
                pause = longest.min(pause * 2);
            }
        };
        self.replace_background(Some(tokio::spawn(work.in_current_span())));
    }

    /// Stops the background work and waits for what callers began.
    pub(crate) async fn stop(&self) {
        self.replace_background(None);
        self.tasks.finish(PATIENCE).await;
    }

    async fn prepare(&self) -> Result<(), Error> {
        // On other nodes the active one does it.
        if !self.system.is_writable().await? || self.store.index_is_complete().await? {
            return Ok(());
        }
        let built = self.store.write_records().await?;
        if !built.strays.is_empty() {
            // When the engine learns an organization, it moves the records of its tokens.
            self.ask_for_orgs().await?;
        }
        if built.tokens + built.junk + built.left_out > 0 {
            tracing::info!(
                tokens = built.tokens,
                junk = built.junk,
                left_out = built.left_out,
                "built the inventory of the stored tokens"
            );
        }
        for org in self.store.strays().await? {
            tracing::warn!(org_id = %org, "found tokens of an organization without a config");
        }
        self.store.complete(built).await
    }

    fn replace_background(&self, work: Option<JoinHandle<()>>) {
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = std::mem::replace(&mut *background, work) {
            previous.abort();
        }
    }

    fn slot(&self, config: &Arc<Config>) -> Arc<Slot> {
        let mut clients = self.clients();
        if let Some(slot) = clients.get(&config.org_id).filter(|slot| slot.config.same_connection(config)) {
            return slot.clone();
        }
        let slot = Arc::new(Slot { config: config.clone(), client: OnceCell::new(), calls: TaskTracker::new() });
        clients.put(config.org_id.clone(), slot.clone());
        slot
    }

    fn clients(&self) -> MutexGuard<'_, LruCache<OrgId, Arc<Slot>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, HashSet<ClientId>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn troubled(&self) -> MutexGuard<'_, HashMap<OrgId, Instant>> {
        self.troubled.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Drop for Engine {
    fn drop(&mut self) {
        self.replace_background(None);
    }
}
