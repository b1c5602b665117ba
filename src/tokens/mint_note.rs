//! The note of a mint: how its token is found and deleted if the mint is not completed.

use std::sync::Arc;

use vault_plugin_sdk::locks::KeyedGuard;

use super::order::{Event, OrderNote};
use crate::api;
use crate::engine::Engine;
use crate::error::Error;
use crate::events::Occasion;
use crate::journal::{Looked, MINT, MintNote};
use crate::names::{ClientId, OrgId};
use crate::store::Config;

impl MintNote {
    /// Returns the id of the token in Vault.
    pub(super) fn token_id<'a>(&'a self, client_id: &'a ClientId) -> &'a str {
        self.token_id.as_deref().unwrap_or(client_id.as_str())
    }
}

impl OrderNote for MintNote {
    const KIND: &'static str = MINT;
    const CALL: &'static str = api::MINT;

    fn org_id(&self) -> &OrgId {
        &self.org_id
    }

    fn marker(&self) -> &str {
        &self.marker
    }

    fn is_described(&self) -> bool {
        self.described
    }

    fn client_id(&self) -> Option<&ClientId> {
        self.client_id.as_ref()
    }

    fn set_client_id(&mut self, client_id: ClientId) {
        self.client_id = Some(client_id);
    }

    fn looked(&self) -> Looked {
        self.looked
    }

    fn set_looked(&mut self, looked: Looked) {
        self.looked = looked;
    }

    fn has_expired(&self) -> bool {
        MintNote::has_expired(self)
    }

    async fn is_of_another(&self, engine: &Engine, config: &Config, client_id: &ClientId) -> Result<bool, Error> {
        if config.is_root(client_id) {
            return Ok(true);
        }
        let record = engine.store.record(&self.org_id, client_id).await?;
        Ok(record.is_some_and(|record| record.marker != self.marker))
    }

    async fn is_in_use(&self, engine: &Engine, client_id: &ClientId) -> Result<bool, Error> {
        let Some(name) = &self.static_role else { return Ok(false) };
        let role = engine.store.static_role(&self.org_id, name).await?;
        Ok(role.is_some_and(|role| role.tokens().any(|token| token == client_id)))
    }

    async fn remove_stored(
        &self,
        engine: &Engine,
        client_id: &ClientId,
        held: Option<&KeyedGuard>,
        is_repeated: bool,
    ) -> Result<(), Error> {
        let token_id = self.token_id(client_id);
        let _lock = if held.is_some() { None } else { Some(engine.locks.token(token_id).await) };
        if let Some(old) = &self.replaces {
            engine.store.undo_replacement(&self.org_id, token_id, old, client_id, is_repeated).await?;
        }
        engine.store.delete_token(token_id, &self.org_id, client_id).await
    }

    async fn delete(&self, engine: &Engine, config: &Arc<Config>, client_id: &ClientId) -> Result<(), Error> {
        let id = client_id.as_str();
        engine.call(config, |client: Arc<api::Client>| async move { client.delete_token(id).await }).await?;
        tracing::info!(org_id = %self.org_id, role_name = %self.role_name, client_id = %client_id,
            display_name = self.display_name, entity_id = self.entity_id, "rolled back token");
        let revoked = Occasion::Revoked { role: &self.role_name, client: client_id };
        engine.events.send(&self.org_id, Some(config), &revoked);
        Ok(())
    }

    fn log(&self, event: Event<'_>) {
        let (org_id, role_name, marker) = (&self.org_id, &self.role_name, &self.marker);
        match event {
            // `delete` has logged the deletion.
            Event::Undone => {}
            Event::OfAnother(client_id) => tracing::error!(org_id = %org_id, client_id = %client_id,
                "did not undo a mint: Astra had named another token"),
            Event::UndoFailed(error) => {
                let client_id = self.client_id.as_ref().map_or("", ClientId::as_str);
                tracing::error!(org_id = %org_id, client_id, error = %error, "failed to undo a mint, will retry");
            }
            Event::LookFailed(error) => tracing::warn!(org_id = %org_id, role_name = %role_name, error = %error,
                "failed to look for a token that Astra may have minted, will retry"),
            Event::NotFound => tracing::warn!(org_id = %org_id, role_name = %role_name, marker,
                "found no token of an unfinished mint: Astra minted no token, or keeps no descriptions"),
            Event::Lost => {
                let expires_at = self.expires_at.as_deref().unwrap_or("never");
                tracing::error!(org_id = %org_id, role_name = %role_name, expires_at,
                    "lost the outcome of a mint without a description: look for a token of that time in Astra's portal");
            }
            Event::Expired(error) => tracing::warn!(org_id = %org_id, role_name = %role_name, error = %error,
                "gave up deleting an expired token"),
            Event::GaveUp(error) => tracing::error!(org_id = %org_id, role_name = %role_name, marker, error = %error,
                "gave up deleting a token: delete the token with this marker in Astra's portal"),
        }
    }

    fn left(&self) -> String {
        let (org, role) = (self.org_id.as_str(), self.role_name.as_str());
        format!("a token without a lease for role {role:?} of org_id {org:?} may be left in Astra")
    }
}
