//! The entries that a mount stores: their keys, their JSON, and the caches in front of them.
//!
//! | key | entry |
//! | --- | --- |
//! | `config/<org_id>` | [`Config`] |
//! | `role/<org_id>:<role_name>` | [`Role`] |
//! | `token/<token id>` | [`Token`] |
//! | `client/<org_id>/<client_id>` | [`Record`], the inventory |
//! | `client-index` | its presence means that the inventory is complete |
//! | `live/<org_id>/<role_name>/<client_id>` | the token counts towards the limit of its role |
//!
//! The Go plugin uses the first three keys, and accepts any text as a name. In the other keys, a name must be one
//! segment, so [`segment`](crate::astra::names::segment) escapes the slashes in names of the Go plugin.
//!
//! Architecture invariant: a list operation reads only `client/`, which holds no secret.

mod build;
mod cache;
mod directory;
mod entries;
mod index;
mod live;
mod owner;

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use self::cache::{Cache, Cached};
use self::directory::Directory;
use self::index::Inventory;
use self::live::Live;
use crate::astra::error::Error;
use crate::astra::names::{ClientId, LogicalName, OrgId, RoleName, fits_key};
use crate::sdk::logical::{Mount, Storage, StorageError, StorageExt, SystemView};

#[cfg(any(test, fuzzing))]
pub(crate) use self::{entries::fuzz::fuzz_entries, fuzz::fuzz_names};

pub(crate) use self::entries::{CallerMode, Config, DEFAULT_TTL, DEFAULT_URL, Metadata, Record, Role, Token};
pub(crate) use self::index::{Cursor, DETAILS, Lookup};
pub(crate) use self::live::{Place, Reserved};

const CONFIGS: &str = "config/";
const ROLES: &str = "role/";
const TOKENS: &str = "token/";

/// The stored entries of one mount.
pub(crate) struct Store {
    storage: Arc<dyn Storage>,
    system: Arc<dyn SystemView>,
    configs: Cache<Config>,
    roles: Cache<Role>,
    directory: Cache<Directory>,
    live: Live,
    /// Whether the operator allows caching. The store asks the host only once.
    caching: OnceCell<bool>,
    /// The entry `client-index`, once it is known to exist.
    inventory: Inventory,
    cursor: tokio::sync::Mutex<Cursor>,
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
            directory: Cache::new(NonZeroUsize::MIN),
            live: Live::default(),
            caching: OnceCell::new(),
            inventory: Inventory::default(),
            cursor: tokio::sync::Mutex::default(),
        }
    }

    /// Drops the cached entries of a key that another node changed. For an empty key or a folder, drops all
    /// configs and roles.
    pub(crate) fn invalidate(&self, key: &str) {
        if key.is_empty() || key.ends_with('/') {
            self.configs.clear();
            self.directory.clear();
            self.roles.clear();
            self.live.invalidate(key);
        } else if key.starts_with(CONFIGS) {
            self.configs.forget(key);
            self.directory.clear();
        } else if key.starts_with(ROLES) {
            self.roles.forget(key);
            self.live.invalidate(key);
        } else if key.starts_with(index::CLIENT_INDEX) {
            self.inventory.forget();
        } else {
            self.live.invalidate(key);
        }
    }

    /// Returns the config of an org.
    pub(crate) async fn config(&self, org: &OrgId) -> Result<Option<Arc<Config>>, Error> {
        self.load(&self.configs, &config_key(org)).await
    }

    /// Returns the config of an org from storage, not from the cache. Callers that delete tokens need the latest root
    /// token.
    pub(crate) async fn stored_config(&self, org: &OrgId) -> Result<Option<Arc<Config>>, Error> {
        self.configs.forget(&config_key(org));
        self.config(org).await
    }

    /// Writes a config.
    pub(crate) async fn put_config(&self, config: &Config) -> Result<(), Error> {
        let key = config_key(&config.org_id);
        let result = self.storage.put_json(&key, config).await;
        self.invalidate(&key);
        Ok(result?)
    }

    /// Deletes a config.
    pub(crate) async fn delete_config(&self, org: &OrgId) -> Result<(), Error> {
        let key = config_key(org);
        let result = self.storage.delete(&key).await;
        self.invalidate(&key);
        Ok(result?)
    }

    /// Returns the orgs that have a config, in sorted order.
    pub(crate) async fn orgs(&self) -> Result<Vec<OrgId>, Error> {
        let mut orgs: Vec<OrgId> = self.names_in(CONFIGS).await?.into_iter().map(OrgId::stored).collect();
        orgs.sort();
        Ok(orgs)
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

    /// Returns all roles as pairs of org and role name, in no particular order.
    pub(crate) async fn roles(&self) -> Result<Vec<(OrgId, RoleName)>, Error> {
        let mut roles = Vec::new();
        for name in self.names_in(ROLES).await? {
            if has_one_colon(&name) {
                roles.extend(name.split_once(':').map(|(org, name)| (OrgId::stored(org), RoleName::stored(name))));
            } else if let Some(role) = self.load(&self.roles, &format!("{ROLES}{name}")).await? {
                // With several colons, only the entry shows which colon separates the org from the role name.
                roles.push((role.org_id.clone(), role.role_name.clone()));
            }
        }
        Ok(roles)
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

    /// Whether a token is still stored, or still has a record.
    pub(crate) async fn has_traces(&self, id: &str, org: &OrgId, client: &ClientId) -> Result<bool, Error> {
        let is_stored = self.token(id).await?.is_some_and(|token| token.client_id == *client);
        Ok(is_stored || self.record(org, client).await?.is_some())
    }

    /// Writes a token and its record. If the role of the token has a limit, `place` is the reservation of the token.
    ///
    /// Writes the record first. Otherwise the inventory build could find the token without a record, and write a record
    /// without marker and expiry. The undo and the sweep would then skip the token.
    pub(crate) async fn put_token(
        &self,
        id: &str,
        token: &Token,
        record: &Record,
        place: Option<Place>,
    ) -> Result<(), Error> {
        self.count_new(token, place).await?;
        self.put_record(&token.org_id, &token.client_id, record).await?;
        Ok(self.storage.put_json(&token_key(id), token).await?)
    }

    /// Deletes the entries of a token. Keeps the entry of a newer token with the same name.
    pub(crate) async fn delete_token(&self, id: &str, org: &OrgId, client: &ClientId) -> Result<(), Error> {
        let deleted = self.delete_entries(id, org, client).await;
        self.uncount(org, client, deleted.is_ok()).await;
        deleted
    }

    async fn delete_entries(&self, id: &str, org: &OrgId, client: &ClientId) -> Result<(), Error> {
        if !id.is_empty()
            && fits_key(id)
            && let Some(entry) = self.storage.get(&token_key(id)).await?
        {
            // An entry that cannot be parsed is deleted, too. It must not block the revocation of a lease.
            let is_newer = entry.decode::<Token>().is_ok_and(|token| token.is_live() && token.client_id != *client);
            if !is_newer {
                self.storage.delete(&token_key(id)).await?;
            }
        }
        self.delete_record(org, client).await
    }

    /// Returns the names in a folder of the Go plugin. Storage lists a name with a slash as a subfolder.
    async fn names_in(&self, folder: &str) -> Result<Vec<String>, Error> {
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

    async fn load<T: DeserializeOwned>(&self, cache: &Cache<T>, key: &str) -> Result<Option<Arc<T>>, Error> {
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

    async fn caching(&self) -> bool {
        let ask = || async { self.system.caching_disabled().await.map(|disabled| !disabled) };
        self.caching.get_or_try_init(ask).await.copied().unwrap_or(false)
    }
}

/// Returns the id of a named token. No two live tokens have the same id.
pub(crate) fn named_token_id(org: &OrgId, role: &RoleName, name: &LogicalName) -> String {
    use std::fmt::Write as _;

    let digest = Sha256::digest(format!("{org}:{role}:{name}"));
    digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn config_key(org: &OrgId) -> String {
    format!("{CONFIGS}{org}")
}

fn role_key(org: &OrgId, name: &RoleName) -> String {
    format!("{ROLES}{org}:{name}")
}

fn token_key(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// Whether a role key has exactly one colon, so that the colon separates the org from the role name.
fn has_one_colon(key: &str) -> bool {
    key.matches(':').count() == 1
}

/// Returns the children of a folder that are entries. Skips subfolders, and the empty child of a key that is the folder
/// itself.
fn leaves(keys: Vec<String>) -> impl Iterator<Item = String> {
    keys.into_iter().filter(|key| !key.is_empty() && !key.ends_with('/'))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use super::*;
    use crate::sdk::framework::to_lower;

    /// A key has each name in its own segment, a role key can be split into its names again, and each name has only
    /// one spelling. Each line of the input is a name.
    pub(crate) fn fuzz_names(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let lines: Vec<&str> = text.split('\n').collect();
        let [one, two, three, ..] = lines[..] else { return };
        let (org, client) = (OrgId::parse("org_id", one), ClientId::parse("client_id", two));
        let (role, name) = (RoleName::parse("role_name", two), LogicalName::parse("logical_name", three));
        for error in [org.as_ref().err(), client.as_ref().err(), role.as_ref().err()].into_iter().flatten() {
            assert_eq!(error.to_string().matches("must not").count(), 1);
        }
        let Ok(org) = org else { return };
        assert!(org.as_str() == one && has_segments(&config_key(&org), &["config", one]));
        if let Ok(client) = client {
            assert!(client.as_str() == two && has_segments(&token_key(two), &["token", two]));
            assert!(has_segments(&index::key(&org, &client), &["client", one, two]));
        }
        let Ok(role) = role else { return };
        let key = role_key(&org, &role);
        assert!(has_segments(&key, &["role", &format!("{org}:{role}")]));
        assert_eq!(key.strip_prefix(ROLES).and_then(|key| key.split_once(':')), Some((one, role.as_str())));
        assert!(RoleName::parse("role_name", role.as_str()).is_ok_and(|again| again == role), "{:?}", role.as_str());
        let Ok(name) = name else { return };
        let id = named_token_id(&org, &role, &name);
        assert!(id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(id, named_token_id(&org, &role, &LogicalName::stored(to_lower(three))));
    }

    /// Whether a key has exactly these segments, and the host accepts the key.
    fn has_segments(key: &str, parts: &[&str]) -> bool {
        let fits = |part: &&str| !part.is_empty() && *part != "." && part.len() <= 2 * 255 + 1;
        key.split('/').eq(parts.iter().copied()) && parts.iter().all(fits) && !key.contains("..")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns every key that contains these names; `None` if a name is not valid.
    fn keys(org: &str, role: &str, client: &str) -> Option<[String; 5]> {
        let org = OrgId::parse("org_id", org).ok()?;
        let role = RoleName::parse("role_name", role).ok()?;
        let client = ClientId::parse("client_id", client).ok()?;
        let live = live::entry(&(org.clone(), role.clone()), &client);
        Some([config_key(&org), role_key(&org, &role), token_key(client.as_str()), index::key(&org, &client), live])
    }

    proptest! {
        #[test]
        fn different_names_have_different_keys(
            one in ("[a-c/:.]{0,4}", "[a-c/:.]{0,4}", "[a-c/:.]{0,4}"),
            two in ("[a-c/:.]{0,4}", "[a-c/:.]{0,4}", "[a-c/:.]{0,4}"),
        ) {
            let (first, second) = (keys(&one.0, &one.1, &one.2), keys(&two.0, &two.1, &two.2));
            if let (Some(first), Some(second)) = (first, second) {
                prop_assert_eq!(first == second, one == two);
                prop_assert_eq!(first[1] == second[1], (&one.0, &one.1) == (&two.0, &two.1));
                prop_assert_eq!(first[3] == second[3], (&one.0, &one.2) == (&two.0, &two.2));
                prop_assert_eq!(first[4] == second[4], one == two);
                for key in first {
                    prop_assert!(!key.contains("..") && !key.contains("//") && !key.ends_with('/'));
                }
            }
        }
    }
}
