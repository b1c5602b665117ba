//! Which orgs have a config, and by which names they are called.

use std::collections::BTreeSet;
use std::sync::Arc;

use vault_plugin_sdk::logical::StorageError;

use super::base::Store;
use super::cache::Cached;
use super::directory::Directory;
use super::keys::CONFIGS;
use crate::error::Error;
use crate::names::OrgId;

impl Store {
    /// Returns the orgs whose configs have this logical name: at most one, unless an older version stored more.
    pub(crate) async fn orgs_named(&self, logical_name: &str) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        Ok(directory.named.get(logical_name).into_iter().flatten().cloned().collect())
    }

    /// Returns the orgs that have this logical name or this id.
    pub(crate) async fn orgs_called(&self, name: &str) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        let named = directory.named.get(name).into_iter().flatten();
        let orgs: BTreeSet<OrgId> = named.chain(directory.ids.get(&OrgId::stored(name))).cloned().collect();
        Ok(orgs.into_iter().collect())
    }

    /// Returns the orgs that a caller may mean by a name: orgs whose logical name or id differs only in letter case.
    /// If there are none, returns the orgs with this former logical name. Compares the name with all orgs.
    pub(crate) async fn orgs_like(&self, name: &str) -> Result<Vec<OrgId>, Error> {
        let directory = self.directory().await?;
        let folded = name.to_lowercase();
        let is_like = |other: &str| other.to_lowercase() == folded;
        let named = directory.named.iter().filter(|(other, _)| is_like(other)).flat_map(|(_, orgs)| orgs);
        let mut orgs: BTreeSet<&OrgId> = named.chain(directory.ids.iter().filter(|id| is_like(id.as_str()))).collect();
        if orgs.is_empty() {
            orgs.extend(directory.formerly_named.get(name).into_iter().flatten());
        }
        Ok(orgs.into_iter().cloned().collect())
    }

    pub(super) async fn directory(&self) -> Result<Arc<Directory>, Error> {
        let generation = match self.directory.get(CONFIGS) {
            Cached::Hit(directory) => return Ok(directory),
            Cached::Miss(generation) => generation,
        };
        let directory = Arc::new(self.read_directory().await?);
        if self.caching().await {
            self.directory.insert(CONFIGS, &directory, generation);
        }
        Ok(directory)
    }

    async fn read_directory(&self) -> Result<Directory, Error> {
        let mut directory = Directory::default();
        for org in self.orgs().await? {
            let config = match self.config(&org).await {
                // A config that cannot be parsed must not keep other orgs out of the inventory. Its
                // org_id stays in use.
                Err(Error::Storage(StorageError::Encoding { .. })) => {
                    directory.ids.insert(org);
                    continue;
                }
                config => config?,
            };
            let Some(config) = config else { continue };
            if !config.logical_name.is_empty() {
                directory.named.entry(config.logical_name.clone()).or_default().insert(org.clone());
            }
            for name in &config.former_names {
                directory.formerly_named.entry(name.clone()).or_default().insert(org.clone());
            }
            directory.astra.entry(config.astra_org_id.to_ascii_lowercase()).or_default().insert(org.clone());
            directory.ids.insert(org);
        }
        Ok(directory)
    }
}
