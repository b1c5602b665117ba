//! Learns which organization of Astra a config belongs to.
//!
//! An `org_id` is the operator's key. Astra names the organization when the engine verifies a config. Configs of the Go
//! plugin were never verified: the engine learns their organization from the first answer of Astra that names an
//! organization. From then on, every answer must name the same organization.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use uuid::Uuid;

use super::backoff::in_tick;
use super::engine::Engine;
use super::error::Error;
use super::names::OrgId;
use super::store::Config;

/// How many organizations the engine asks Astra for at the same time.
const CONCURRENT: usize = 8;

impl Engine {
    /// Whether `named`, the organization in an answer of Astra, is the organization of the config. If the config has no
    /// known organization, stores `named` in the config.
    pub(crate) async fn is_own_org(&self, config: &Config, named: &str) -> bool {
        if let Some(is_own) = config.is_of(named) {
            return is_own;
        }
        match self.learn_org(config, named).await {
            Ok(is_own) => is_own,
            Err(error) => {
                // The next answer of Astra names the organization again.
                tracing::warn!(org_id = %config.org_id, error = %error, "failed to store the organization of a config");
                true
            }
        }
    }

    /// Stores the organization of a config, unless the config was changed during the call to Astra. Returns false if
    /// another organization was stored meanwhile.
    async fn learn_org(&self, config: &Config, named: &str) -> Result<bool, Error> {
        let _lock = self.locks.configs().await;
        let org = &config.org_id;
        let Some(stored) = self.store.stored_config(org).await? else { return Ok(true) };
        if let Some(is_own) = stored.is_of(named) {
            return Ok(is_own);
        }
        if !stored.same_endpoint(config) {
            return Ok(true);
        }
        let mut new = (*stored).clone();
        self.adopt_org(&mut new, named).await?;
        self.store.put_config(&new).await?;
        if is_uuid(org.as_str()) && !org.as_str().eq_ignore_ascii_case(named) {
            tracing::warn!(org_id = %org, astra_org_id = named, "found a root token of another organization than the org_id of the config");
        } else {
            tracing::info!(org_id = %org, astra_org_id = named, "learned the organization of a config");
        }
        Ok(true)
    }

    /// Sets the organization of a config before the caller stores the config. Moves the records from Astra's id of the
    /// organization to the `org_id` of the config.
    pub(crate) async fn adopt_org(&self, config: &mut Config, named: &str) -> Result<(), Error> {
        let stray = OrgId::stored(named);
        if stray != config.org_id && !self.store.has_config(&stray).await? {
            // Records move before the config is stored: if moving fails, the next answer of Astra repeats it.
            self.store.move_records(&stray, &config.org_id).await?;
        }
        named.clone_into(&mut config.astra_org_id);
        Ok(())
    }

    /// Asks Astra for the organization of each config without a known organization. If Astra fails, the config stays as
    /// it is.
    pub(crate) async fn ask_for_orgs(&self) -> Result<(), Error> {
        let ask = |org: OrgId| async move {
            let asked = in_tick(self.ask_for_org(&org)).await;
            self.backoff.note(&org, asked.as_ref().err());
            if let Err(error) = asked {
                tracing::warn!(org_id = %org, error = %error, "failed to ask Astra for the organization of a config");
            }
        };
        let orgs = self.store.orgs_not_known().await?;
        stream::iter(orgs.into_iter().map(ask)).buffer_unordered(CONCURRENT).collect::<()>().await;
        Ok(())
    }

    /// Asks Astra for the organization of a config, if the organization is not known.
    pub(crate) async fn ask_for_org(&self, org: &OrgId) -> Result<(), Error> {
        let config: Arc<Config> = self.config_for_undo(org).await?;
        if config.astra_org_id.is_empty() {
            let named = self.call(&config, |client| async move { client.current_org().await }).await?;
            self.learn_org(&config, &named).await?;
        }
        Ok(())
    }
}

/// Whether a text has the form of Astra's ids. An `org_id` of this form means the organization with this id.
pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}
