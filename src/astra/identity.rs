//! Which organization of Astra stands behind the `org_id` of a config.
//!
//! An `org_id` is the operator's key. Astra names the organization when a config is verified. Where that never happened, as
//! in configs of the Go plugin, the first answer that names the organization tells it. From then on, every answer has to
//! name the same one.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use uuid::Uuid;

use super::Error;
use super::engine::Engine;
use super::paths::config::LOCK;
use super::rollback::in_tick;
use super::store::{Config, OrgId};

/// Organizations asked for at the same time.
const ASKED_AT_ONCE: usize = 8;

impl Engine {
    /// Whether the organization that an answer of Astra names is that of the config. The first one that is named is
    /// remembered.
    pub(crate) async fn is_own_org(&self, config: &Config, named: &str) -> bool {
        if let Some(is_own) = config.is_of(named) {
            return is_own;
        }
        match self.learn_org(config, named).await {
            Ok(is_own) => is_own,
            Err(error) => {
                // The next answer tells it again.
                tracing::warn!(org_id = %config.org_id, error = %error, "failed to store the organization of a config");
                true
            }
        }
    }

    /// Stores the organization of a config, if the config is still the one that Astra answered for. Returns false if
    /// another organization was stored meanwhile.
    async fn learn_org(&self, config: &Config, named: &str) -> Result<bool, Error> {
        let _lock = self.locks.lock(LOCK).await;
        let org = &config.org_id;
        let Some(now) = self.store.stored_config(org).await? else { return Ok(true) };
        if let Some(is_own) = now.is_of(named) {
            return Ok(is_own);
        }
        if !now.same_endpoint(config) {
            return Ok(true);
        }
        let mut new = (*now).clone();
        self.adopt_org(&mut new, named).await?;
        self.store.put_config(&new).await?;
        if is_uuid(org.as_str()) && !org.as_str().eq_ignore_ascii_case(named) {
            tracing::warn!(org_id = %org, astra_org_id = named, "found that the root token of a config is of another organization than its org_id says");
        } else {
            tracing::info!(org_id = %org, astra_org_id = named, "learned the organization of a config");
        }
        Ok(true)
    }

    /// Notes the organization in a config that is about to be stored. Moves the records that are under Astra's id of the
    /// organization to the config.
    pub(crate) async fn adopt_org(&self, config: &mut Config, named: &str) -> Result<(), Error> {
        let stray = OrgId::stored(named);
        if stray != config.org_id && self.store.config(&stray).await?.is_none() {
            // Before the config is stored, so that it is repeated if it fails.
            self.store.move_records(&stray, &config.org_id).await?;
        }
        named.clone_into(&mut config.astra_org_id);
        Ok(())
    }

    /// Asks Astra for the organization of each config that does not know it. A config for which Astra fails stays as it is.
    pub(crate) async fn ask_for_orgs(&self) -> Result<(), Error> {
        let ask = |org: OrgId| async move {
            let asked = in_tick(self.ask_for_org(&org)).await;
            self.note_trouble(&org, asked.as_ref().err());
            if let Err(error) = asked {
                tracing::warn!(org_id = %org, error = %error, "failed to ask Astra for the organization of a config");
            }
        };
        let orgs = self.store.orgs_not_known().await?;
        stream::iter(orgs.into_iter().map(ask)).buffer_unordered(ASKED_AT_ONCE).collect::<()>().await;
        Ok(())
    }

    /// Asks Astra for the organization of a config, if it is not known.
    pub(crate) async fn ask_for_org(&self, org: &OrgId) -> Result<(), Error> {
        let config: Arc<Config> = self.config_for_undo(org).await?;
        if config.astra_org_id.is_empty() {
            let named = self.call(&config, |client| async move { client.current_org().await }).await?;
            self.learn_org(&config, &named).await?;
        }
        Ok(())
    }
}

/// Whether a text has the form of Astra's ids, so that an operator means the organization with this id.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}
