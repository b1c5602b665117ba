//! Finds the orgs of a mount by their names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cache::Cached;
use super::{CONFIGS, Store};
use crate::astra::error::Error;
use crate::astra::names::OrgId;
use crate::sdk::logical::StorageError;

/// The orgs of all configs, by their names.
#[derive(Default)]
pub(super) struct Directory {
    ids: BTreeSet<OrgId>,
    /// By the current logical name.
    named: BTreeMap<String, BTreeSet<OrgId>>,
    /// By a former logical name.
    formerly_named: BTreeMap<String, BTreeSet<OrgId>>,
    /// By Astra's id of the organization, in lower case. If the organization is not known, the key is the empty text.
    astra: BTreeMap<String, BTreeSet<OrgId>>,
}

impl Directory {
    /// Whether an org has a config.
    pub(super) fn has(&self, org: &OrgId) -> bool {
        self.ids.contains(org)
    }

    /// Returns all orgs that have a config.
    pub(super) fn ids(&self) -> impl Iterator<Item = &OrgId> {
        self.ids.iter()
    }

    /// Returns the orgs whose configs belong to this organization of Astra.
    pub(super) fn of_astra(&self, astra_org_id: &str) -> impl Iterator<Item = &OrgId> + use<'_> {
        let orgs = if astra_org_id.is_empty() { None } else { self.astra.get(&astra_org_id.to_ascii_lowercase()) };
        orgs.into_iter().flatten()
    }

    /// Returns the orgs whose configs have no known organization.
    pub(super) fn not_known(&self) -> impl Iterator<Item = &OrgId> {
        self.astra.get("").into_iter().flatten()
    }
}

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
