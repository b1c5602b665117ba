//! The configs: which orgs have one, and by which names these orgs are called.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use vault_plugin_sdk::logical::StorageExt as _;

use super::base::{Store, log_skipped};
use super::directory::{Directory, Names, Time, Wanted};
use super::entries::Config;
use super::keys::{CONFIGS, config_key};
use crate::error::{Error, readable};
use crate::names::OrgId;

/// How many configs are read at the same time.
const CONCURRENT: usize = 32;

/// A write of a config. If the write fails, or if its future is dropped, the config counts as changed.
struct Write<'a> {
    store: &'a Store,
    org: &'a OrgId,
    start: Time,
    /// The names after the write, once the write has succeeded. `Some(None)` means that the config was deleted.
    written: Option<Option<Names>>,
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let Self { store, org, start, .. } = self;
        store.configs.forget(&config_key(org));
        match self.written.take() {
            Some(names) => store.directory.written(org, names, *start),
            None => store.directory.mark(org),
        }
    }
}

impl Store {
    /// Returns the config of an org.
    pub(crate) async fn config(&self, org: &OrgId) -> Result<Option<Arc<Config>>, Error> {
        self.load(&self.configs, &config_key(org)).await
    }

    /// Whether an org has a config. The config may be an entry that cannot be read.
    pub(crate) async fn has_config(&self, org: &OrgId) -> Result<bool, Error> {
        let (config, reason) = readable(self.config(org).await)?;
        Ok(config.is_some() || reason.is_some())
    }

    /// Returns the config of an org from storage, not from the cache. Callers that delete tokens need the latest root
    /// token.
    pub(crate) async fn stored_config(&self, org: &OrgId) -> Result<Option<Arc<Config>>, Error> {
        self.configs.forget(&config_key(org));
        self.config(org).await
    }

    /// Writes a config. The caller holds the lock of the configs.
    pub(crate) async fn put_config(&self, config: &Config) -> Result<(), Error> {
        let mut write = self.write(&config.org_id);
        self.storage.put_json(&config_key(&config.org_id), config).await?;
        write.written = Some(Some(config.into()));
        Ok(())
    }

    /// Deletes a config. The caller holds the lock of the configs.
    pub(crate) async fn delete_config(&self, org: &OrgId) -> Result<(), Error> {
        let mut write = self.write(org);
        self.storage.delete(&config_key(org)).await?;
        write.written = Some(None);
        Ok(())
    }

    fn write<'a>(&'a self, org: &'a OrgId) -> Write<'a> {
        Write { store: self, org, start: self.directory.time(), written: None }
    }

    /// Returns the orgs that have a config, in sorted order. Includes orgs whose config cannot be parsed.
    pub(crate) async fn orgs(&self) -> Result<Vec<OrgId>, Error> {
        let mut orgs: Vec<OrgId> = self.names_in(CONFIGS).await?.into_iter().map(OrgId::stored).collect();
        orgs.sort();
        Ok(orgs)
    }

    /// Returns the orgs whose configs have this logical name: at most one, unless an older version stored more.
    pub(crate) async fn orgs_named(&self, logical_name: &str) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        Ok(directory.named(logical_name).cloned().collect())
    }

    /// Returns the orgs that have this logical name or this id.
    pub(crate) async fn orgs_called(&self, name: &str) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        let mut orgs: BTreeSet<OrgId> = directory.named(name).cloned().collect();
        orgs.extend(Some(OrgId::stored(name)).filter(|id| directory.has(id)));
        Ok(orgs.into_iter().collect())
    }

    /// Returns the orgs that a caller may mean by a name: orgs whose logical name or id differs only in letter case.
    /// If there are none, returns the orgs with this former logical name. Compares the name with all orgs.
    pub(crate) async fn orgs_like(&self, name: &str) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        let folded = name.to_lowercase();
        let is_like = |other: &str| other.to_lowercase() == folded;
        let named = directory.all_named().filter(|(other, _)| is_like(other)).flat_map(|(_, orgs)| orgs);
        let mut orgs: BTreeSet<&OrgId> = named.chain(directory.ids().filter(|id| is_like(id.as_str()))).collect();
        if orgs.is_empty() {
            orgs.extend(directory.formerly_named(name));
        }
        Ok(orgs.into_iter().cloned().collect())
    }

    /// Returns the orgs whose root token the engine must have rotated by `now`.
    pub(crate) async fn orgs_to_rotate(&self, now: Timestamp) -> Result<Vec<OrgId>, Error> {
        Ok(self.directory().await?.to_rotate(now).cloned().collect())
    }

    /// Returns the orgs that have their second of the day in one of these ranges, in this order.
    pub(crate) async fn orgs_in_seconds(&self, ranges: &[Range<u32>]) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        Ok(ranges.iter().flat_map(|range| directory.in_seconds(range.clone())).cloned().collect())
    }

    /// Whether the names of all orgs are kept in memory. If not, each question about them reads all configs.
    pub(crate) async fn keeps_names(&self) -> bool {
        self.caching().await
    }

    /// Returns the names of all orgs. Reads only the configs that may have changed since they were read.
    pub(crate) async fn directory(&self) -> Result<Arc<Directory>, Error> {
        if !self.caching().await {
            return Ok(Arc::new(self.read_directory().await?));
        }
        loop {
            if let Wanted::Nothing(directory) = self.directory.get() {
                return Ok(directory);
            }
            let _reading = self.directory.read_lock.lock().await;
            // The previous holder may have read what this caller wants.
            match self.directory.get() {
                Wanted::Nothing(directory) => return Ok(directory),
                Wanted::Some(start, orgs) => self.directory.put(start, self.read_names(orgs).await?),
                Wanted::All(start) => self.directory.put_all(start, Arc::new(self.read_directory().await?)),
            }
        }
    }

    async fn read_directory(&self) -> Result<Directory, Error> {
        let mut directory = Directory::default();
        for (org, names) in self.read_names(self.orgs().await?).await? {
            directory.set(&org, names);
        }
        Ok(directory)
    }

    /// Reads the names of orgs. Does not use the cache of the configs, because many orgs would evict the configs in use.
    async fn read_names(&self, orgs: Vec<OrgId>) -> Result<Vec<(OrgId, Option<Names>)>, Error> {
        let read = |org: OrgId| async move {
            let stored = self.storage.get_json::<Config>(&config_key(&org)).await;
            let (config, reason) = readable(stored.map_err(Error::from))?;
            reason.iter().for_each(log_skipped);
            let names = config.as_ref().map(Names::from).or(reason.map(|_| Names::default()));
            Ok::<_, Error>((org, names))
        };
        stream::iter(orgs).map(read).buffer_unordered(CONCURRENT).try_collect().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vault_plugin_sdk::testing::{HostFault, mount};

    use super::*;

    fn config(name: &str) -> Config {
        let mut config = Config::new(OrgId::stored("org"), "");
        config.logical_name = name.to_owned();
        config
    }

    /// The host drops a tick while the tick writes a config. The write takes effect.
    #[tokio::test]
    async fn a_dropped_write_leaves_neither_an_old_config_nor_an_old_name() {
        let (mount, storage, _) = mount();
        let store = Store::new(&mount);
        let org = OrgId::stored("org");
        let orgs = [org.clone()];
        store.put_config(&config("old")).await.unwrap();
        assert_eq!(store.orgs_named("old").await.unwrap(), orgs);
        assert!(store.config(&org).await.unwrap().is_some_and(|config| config.logical_name == "old"));

        storage.inject(HostFault::HangsAt(1));
        let new = config("new");
        assert!(tokio::time::timeout(Duration::from_millis(5), store.put_config(&new)).await.is_err());
        storage.heal();
        assert!(store.config(&org).await.unwrap().is_some_and(|config| config.logical_name == "new"));
        assert_eq!(store.orgs_named("new").await.unwrap(), orgs);
        assert!(store.orgs_named("old").await.unwrap().is_empty());
    }

    /// Another node changes the config during a write of this node.
    #[tokio::test]
    async fn a_write_does_not_hide_a_later_change_of_another_node() {
        let (mount, storage, _) = mount();
        let store = Store::new(&mount);
        let orgs = [OrgId::stored("org")];
        for key in ["config/org", ""] {
            store.put_config(&config("old")).await.unwrap();
            assert_eq!(store.orgs_named("old").await.unwrap(), orgs);
            storage.inject(HostFault::HangsAt(1));
            let written = config("written");
            let write = store.put_config(&written);
            let other = async {
                tokio::task::yield_now().await;
                storage.heal();
                storage.put_json("config/org", &config("other")).await.unwrap();
                store.invalidate(key);
                if key.is_empty() {
                    // The next caller reads all configs before the write has ended.
                    assert_eq!(store.orgs_named("other").await.unwrap(), orgs);
                }
            };
            let (written, ()) = tokio::join!(write, other);
            written.unwrap();
            assert_eq!(store.orgs_named("other").await.unwrap(), orgs, "{key:?}");
            assert!(store.orgs_named("written").await.unwrap().is_empty(), "{key:?}");
        }
    }
}
