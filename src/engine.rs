//! The state of one mount, composed of its store, locks, clients and background work.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use vault_plugin_sdk::Plugin;
use vault_plugin_sdk::framework::Wal;
use vault_plugin_sdk::logical::{self, Mount, ReplicationState, SystemView};
use vault_plugin_sdk::tasks::Tasks;

use super::api;
use super::backlog::Backlog;
use super::backoff::Backoff;
use super::clients::Clients;
use super::error::Error;
use super::events::Events;
use super::locks::Locks;
use super::metrics::Metrics;
use super::names::OrgId;
use super::outage::Outages;
use super::schedule::Schedule;
use super::store::{Config, Store};

/// One mount.
pub(crate) struct Engine {
    /// Identifies the mount in the descriptions of its tokens. It is part of a hash of the mount's UUID, and stays the
    /// same when the mount moves.
    pub(crate) instance: String,
    /// The stored entries.
    pub(crate) store: Store,
    /// What the host says about itself and the mount.
    pub(crate) system: Arc<dyn SystemView>,
    /// The locks.
    pub(crate) locks: Locks,
    /// The clients of Astra.
    pub(crate) clients: Clients,
    /// Which orgs background work skips, because Astra failed for them.
    pub(crate) backoff: Backoff,
    /// Which revocations wait, because Astra fails for their org.
    pub(crate) outages: Outages,
    /// What the tick has done for the root tokens.
    pub(crate) schedule: Schedule,
    /// What the engine did so far.
    pub(crate) metrics: Metrics,
    /// The open entries of the write-ahead log.
    pub(crate) backlog: Backlog,
    /// When this process mounted the engine.
    pub(crate) started_at: Timestamp,
    /// The events for the subscribers of the host.
    pub(crate) events: Events,
    /// Work that continues if its caller hangs up.
    pub(crate) tasks: Tasks,
    mount: Mount,
    /// Whether the node was a standby when the mount started.
    started_on_standby: AtomicBool,
    background: Mutex<Option<JoinHandle<()>>>,
    /// Waits for the next work on a static role.
    timer: Mutex<Option<JoinHandle<()>>>,
    /// Orgs whose Astra does not keep descriptions. The log already has a warning for each of them.
    unmarked: Mutex<HashSet<OrgId>>,
}

impl Engine {
    /// Returns the state of a mount. Calls neither the storage nor the host.
    pub(crate) fn new(mount: &Mount, pools: Arc<api::Pools>) -> Self {
        Self {
            instance: format!("{:.12x}", Sha256::digest(&mount.uuid)),
            store: Store::new(mount),
            system: mount.system.clone(),
            locks: Locks::default(),
            clients: Clients::new(mount.system.clone(), pools),
            backoff: Backoff::default(),
            outages: Outages::default(),
            schedule: Schedule::default(),
            metrics: Metrics::default(),
            backlog: Backlog::default(),
            started_at: Timestamp::now(),
            events: Events::new(mount.system.clone()),
            tasks: mount.tasks.clone(),
            mount: mount.clone(),
            started_on_standby: AtomicBool::new(false),
            background: Mutex::default(),
            timer: Mutex::default(),
            unmarked: Mutex::default(),
        }
    }

    /// Returns the write-ahead log.
    pub(crate) fn wal(&self) -> Wal<'_> {
        self.mount.wal()
    }

    /// Returns the path of the mount, as far as it is known.
    pub(crate) fn mount_point(&self) -> String {
        self.mount.mount_point().trim_end_matches('/').to_owned()
    }

    /// Returns the description of the plugin.
    pub(crate) fn plugin(&self) -> &Plugin {
        &self.mount.plugin
    }

    /// Calls Astra for an org, as [`Clients::call`] does.
    pub(crate) async fn call<T, F>(
        &self,
        config: &Arc<Config>,
        call: impl Fn(Arc<api::Client>) -> F,
    ) -> Result<T, api::Error>
    where
        F: Future<Output = Result<T, api::Error>>,
    {
        self.clients.call(&self.store, config, call).await
    }

    /// Clears the caches for a key that another node changed.
    pub(crate) fn invalidate(&self, key: &str) {
        self.store.invalidate(key);
        if let Some(org) = key.strip_prefix("config/") {
            self.clients.forget(&OrgId::stored(org));
        }
    }

    /// Fails on a node that cannot write. Call this before a change in Astra.
    ///
    /// # Errors
    /// [`logical::Error::ReadOnly`]. The host then forwards the request to the active node.
    pub(crate) async fn require_writable(&self) -> Result<(), Error> {
        if self.system.is_writable().await? { Ok(()) } else { Err(logical::Error::ReadOnly.into()) }
    }

    /// Notes whether this node is a standby, so that a read of a token on the active node need not ask the host.
    pub(crate) async fn note_standby(&self) -> Result<(), Error> {
        let is_standby = self.system.replication_state().await?.is_standby();
        self.started_on_standby.store(is_standby, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this node is a standby. Asks the host only if the node was one when the mount started. Says no if the host
    /// fails.
    pub(crate) async fn is_standby(&self) -> bool {
        if !self.started_on_standby.load(Ordering::Relaxed) {
            return false;
        }
        self.system.replication_state().await.is_ok_and(ReplicationState::is_standby)
    }

    /// Returns the config of an org for background work.
    ///
    /// # Errors
    /// If the org has no config, or if Astra failed for this org a moment ago.
    pub(crate) async fn config_for_undo(&self, org: &OrgId) -> Result<Arc<Config>, Error> {
        self.backoff.require_over(org)?;
        let config = self.store.config(org).await?;
        config.ok_or_else(|| Error::Refused(format!("no config for org_id {:?}; write the config again", org.as_str())))
    }

    /// Warns, once for each org, that Astra does not keep the description of a token, so that its marker is lost.
    pub(crate) fn warn_unmarked(&self, org: &OrgId) {
        if self.unmarked.lock().unwrap_or_else(PoisonError::into_inner).insert(org.clone()) {
            tracing::warn!(org_id = %org, "got a token without its description: a lost answer would leave a token in Astra");
        }
    }

    /// Returns true if Astra did not keep the description of a token of this org.
    pub(crate) fn is_unmarked(&self, org: &OrgId) -> bool {
        self.unmarked.lock().unwrap_or_else(PoisonError::into_inner).contains(org)
    }

    /// Stops the previous background work and keeps the new one.
    pub(crate) fn set_background(&self, work: Option<JoinHandle<()>>) {
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = std::mem::replace(&mut *background, work) {
            previous.abort();
        }
    }

    /// Stops the previous timer and keeps the new one.
    pub(crate) fn set_timer(&self, timer: Option<JoinHandle<()>>) {
        let mut kept = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(previous) = std::mem::replace(&mut *kept, timer) {
            previous.abort();
        }
    }

    /// Stops the background work.
    pub(crate) fn stop(&self) {
        self.set_background(None);
        self.set_timer(None);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}
