//! The store of a mount: its caches, and the entries that stand alone.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use vault_plugin_sdk::logical::{Mount, Storage, StorageError, StorageExt, SystemView};

use super::cache::{Cache, Cached};
use super::client_index::{CLIENT_INDEX, Cursor, Inventory};
use super::counts::TokenCounts;
use super::directory::LiveDirectory;
use super::entries::{Config, Role, Token};
use super::interrupted::Interrupted;
use super::keys::{CONFIGS, RECORDS, ROLES, has_one_colon, role_key, token_key};
use super::missing::MissingTokens;
use super::record_orgs::RecordOrgs;
use super::replaced::Replaced;
use super::roster::Live;
use super::rotations::{STATIC_ROLES, Schedule};
use super::uses::Uses;
use crate::error::{Error, readable};
use crate::names::{ClientId, OrgId, RoleName, fits_key, from_segment};

/// The stored entries of one mount.
pub(crate) struct Store {
    pub(super) storage: Arc<dyn Storage>,
    system: Arc<dyn SystemView>,
    pub(super) configs: Cache<Config>,
    pub(super) roles: Cache<Role>,
    pub(super) directory: LiveDirectory,
    pub(super) live: Live,
    /// Whether the operator allows caching. The store asks the host only once.
    caching: OnceCell<bool>,
    /// The entry `client-index`, once it is known to exist.
    pub(super) inventory: Inventory,
    pub(super) record_orgs: RecordOrgs,
    /// The numbers of live tokens.
    pub(crate) token_counts: TokenCounts,
    /// Set once this process has looked for tokens without a record.
    pub(super) records_written: OnceCell<()>,
    pub(super) cursor: tokio::sync::Mutex<Cursor>,
    /// The revocations that this process did not complete.
    pub(crate) interrupted_revocations: Interrupted,
    /// The uses of tokens that are not in their records yet.
    pub(crate) uses: Uses,
    /// The tokens that a newer token has replaced.
    pub(crate) replaced: Replaced,
    /// The tokens that the last tidies missed in Astra's lists.
    pub(crate) missing_tokens: MissingTokens,
    /// When the static roles need work.
    pub(crate) schedule: Schedule,
}

impl Store {
    /// Returns the store of a mount. Does not read any entry.
    pub(crate) fn new(mount: &Mount) -> Self {
        const CONFIGS_KEPT: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
        const ROLES_KEPT: NonZeroUsize = NonZeroUsize::new(16384).unwrap();
        Self {
            storage: mount.storage.clone(),
            system: mount.system.clone(),
            configs: Cache::new(CONFIGS_KEPT),
            roles: Cache::new(ROLES_KEPT),
            directory: LiveDirectory::default(),
            live: Live::default(),
            caching: OnceCell::new(),
            inventory: Inventory::default(),
            record_orgs: RecordOrgs::default(),
            token_counts: TokenCounts::default(),
            records_written: OnceCell::new(),
            cursor: tokio::sync::Mutex::default(),
            interrupted_revocations: Interrupted::default(),
            uses: Uses::default(),
            replaced: Replaced::default(),
            missing_tokens: MissingTokens::default(),
            schedule: Schedule::default(),
        }
    }

    /// Drops the cached entries of a key that another node changed. For an empty key or a folder, drops all caches.
    pub(crate) fn invalidate(&self, key: &str) {
        if key.is_empty() || key.ends_with('/') {
            self.configs.clear();
            self.directory.clear();
            self.roles.clear();
            self.inventory.forget();
            self.record_orgs.forget();
            self.live.invalidate(key);
            self.schedule.forget();
        } else if let Some(org) = key.strip_prefix(CONFIGS) {
            self.configs.forget(key);
            self.directory.mark(&OrgId::stored(org));
        } else if key.starts_with(ROLES) {
            self.roles.forget(key);
            self.live.invalidate(key);
        } else if key.starts_with(STATIC_ROLES) {
            self.schedule.forget();
        } else if key.starts_with(CLIENT_INDEX) {
            self.inventory.forget();
        } else {
            if let Some((org, _)) = key.strip_prefix(RECORDS).and_then(|record| record.split_once('/')) {
                self.record_orgs.add(&OrgId::stored(from_segment(org)));
            }
            self.live.invalidate(key);
        }
    }

    /// Returns a role.
    pub(crate) async fn role(&self, org: &OrgId, name: &RoleName) -> Result<Option<Arc<Role>>, Error> {
        let key = role_key(org, name);
        let role = self.load(&self.roles, &key).await?;
        // If the key has more than one colon, a role of another org can have the same key.
        let is_same = |role: &Arc<Role>| has_one_colon(&key) || (&role.org_id, &role.role_name) == (org, name);
        Ok(role.filter(is_same))
    }

    /// Writes a role.
    pub(crate) async fn put_role(&self, role: &Role) -> Result<(), Error> {
        let key = role_key(&role.org_id, &role.role_name);
        let result = self.storage.put_json(&key, role).await;
        self.roles.forget(&key);
        Ok(result?)
    }

    /// Deletes a role.
    pub(crate) async fn delete_role(&self, org: &OrgId, name: &RoleName) -> Result<(), Error> {
        let key = role_key(org, name);
        let result = self.storage.delete(&key).await;
        self.roles.forget(&key);
        Ok(result?)
    }

    /// Returns all roles as pairs of org and role name, in no particular order. Also returns the keys of the entries whose
    /// names are not known.
    pub(crate) async fn roles(&self) -> Result<(Vec<(OrgId, RoleName)>, Vec<String>), Error> {
        let (mut roles, mut skipped) = (Vec::new(), Vec::new());
        for name in self.names_in(ROLES).await? {
            if has_one_colon(&name) {
                roles.extend(name.split_once(':').map(|(org, name)| (OrgId::stored(org), RoleName::stored(name))));
                continue;
            }
            // With several colons, only the entry shows which colon separates the org from the role name.
            let key = format!("{ROLES}{name}");
            let (role, reason) = readable(self.load(&self.roles, &key).await)?;
            roles.extend(role.map(|role| (role.org_id.clone(), role.role_name.clone())));
            if let Some(reason) = reason {
                log_skipped(&reason);
                skipped.push(key);
            }
        }
        Ok((roles, skipped))
    }

    /// Returns a live token. The id may be any text, because it can come from a lease.
    pub(crate) async fn token(&self, id: &str) -> Result<Option<Token>, Error> {
        if id.is_empty() || !fits_key(id) {
            return Ok(None);
        }
        let token: Option<Token> = self.storage.get_json(&token_key(id)).await?;
        Ok(token.filter(Token::is_live))
    }

    /// Returns a live token, like [`Store::token`]. If the entry cannot be parsed, returns `None`: the entry must block
    /// neither the revocation of a lease nor the write of a config.
    pub(crate) async fn readable_token(&self, id: &str) -> Result<Option<Token>, Error> {
        match self.token(id).await {
            Err(Error::Storage(StorageError::Encoding { .. })) => {
                tracing::error!(token_id = id, "passed over a stored token: its entry is not the expected JSON");
                Ok(None)
            }
            token => token,
        }
    }

    /// Whether the token with this client id is stored. If the entry of the token cannot be read, it may be this token.
    pub(super) async fn may_store(&self, id: &str, client: &ClientId) -> Result<bool, Error> {
        let (token, reason) = readable(self.named_or_replaced(id, client).await)?;
        Ok(reason.is_some() || token.is_some())
    }

    /// Returns the names in a folder of the Go plugin. Storage lists a name with a slash as a subfolder.
    pub(super) async fn names_in(&self, folder: &str) -> Result<Vec<String>, Error> {
        let (mut names, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(path) = folders.pop() {
            for child in self.storage.list(&format!("{folder}{path}")).await? {
                let name = format!("{path}{child}");
                match child.ends_with('/') {
                    true => folders.push(name),
                    // Storage lists a key that ends with a slash as an empty child. In `folder` itself, it is not a
                    // name.
                    false if name.is_empty() => {}
                    false => names.push(name),
                }
            }
        }
        Ok(names)
    }

    pub(super) async fn load<T: DeserializeOwned>(&self, cache: &Cache<T>, key: &str) -> Result<Option<Arc<T>>, Error> {
        // The name can come from a lease, and may not fit a key.
        if !fits_key(key) {
            return Ok(None);
        }
        let generation = match cache.get(key) {
            Cached::Hit(value) => return Ok(Some(value)),
            Cached::Miss(generation) => generation,
        };
        let Some(value) = self.storage.get_json(key).await? else { return Ok(None) };
        let value = Arc::new(value);
        if self.caching().await {
            cache.insert(key, &value, generation);
        }
        Ok(Some(value))
    }

    pub(super) async fn caching(&self) -> bool {
        let ask = || async { self.system.caching_disabled().await.map(|disabled| !disabled) };
        self.caching.get_or_try_init(ask).await.copied().unwrap_or(false)
    }
}

/// Logs that an entry is left out because it cannot be read.
pub(crate) fn log_skipped(reason: &Error) {
    tracing::warn!(error = %reason, "skipped a stored entry that cannot be read");
}
