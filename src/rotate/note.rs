//! The note of a rotation: how the new root token is found and deleted if the rotation is not completed.

use std::sync::Arc;

use vault_plugin_sdk::locks::KeyedGuard;

use super::delete_unused;
use crate::clock;
use crate::engine::Engine;
use crate::error::Error;
use crate::journal::{Looked, ROTATION, RotationNote};
use crate::names::{ClientId, OrgId};
use crate::store::Config;
use crate::tokens::{Event, OrderNote};

impl OrderNote for RotationNote {
    const KIND: &'static str = ROTATION;
    const CALL: &'static str = "make a root token";

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
        self.new.as_ref()
    }

    fn set_client_id(&mut self, client_id: ClientId) {
        self.new = Some(client_id);
    }

    async fn is_of_another(&self, engine: &Engine, _config: &Config, client_id: &ClientId) -> Result<bool, Error> {
        Ok(engine.store.record(&self.org_id, client_id).await?.is_some())
    }

    fn looked(&self) -> Looked {
        self.looked
    }

    fn set_looked(&mut self, looked: Looked) {
        self.looked = looked;
    }

    /// Does nothing: a root token is stored only in the config, and a rotation never reverts the config.
    async fn remove_stored(
        &self,
        _engine: &Engine,
        _client_id: &ClientId,
        _held: Option<&KeyedGuard>,
        _is_repeated: bool,
    ) -> Result<(), Error> {
        Ok(())
    }

    async fn delete(&self, engine: &Engine, config: &Arc<Config>, client_id: &ClientId) -> Result<(), Error> {
        delete_unused(engine, &self.org_id, config, client_id).await?;
        // If the config held the new root token, even for a moment, the old root token is not needed.
        if self.stored {
            delete_unused(engine, &self.org_id, config, &self.old).await?;
        }
        Ok(())
    }

    /// Stops the rotations on a schedule, unless the root token was replaced meanwhile.
    async fn note_lost(&self, engine: &Engine) -> Result<(), Error> {
        let _lock = engine.locks.configs().await;
        let Some(config) = engine.store.stored_config(&self.org_id).await? else { return Ok(()) };
        if !config.is_root(&self.old) || config.next_rotation().is_none() {
            return Ok(());
        }
        let mut stopped = (*config).clone();
        stopped.root.stopped_at = Some(clock::now());
        engine.store.put_config(&stopped).await?;
        tracing::error!(org_id = %self.org_id,
            "stopped rotating a root token on schedule: look for a root token of that time in Astra's portal, delete it, and then rotate the root token or write its config");
        Ok(())
    }

    fn log(&self, event: Event<'_>) {
        let (org_id, marker) = (&self.org_id, &self.marker);
        match event {
            Event::OfAnother(client_id) => tracing::error!(org_id = %org_id, client_id = %client_id,
                "did not undo a rotation: Astra had named the token of a mint"),
            Event::Undone => {
                tracing::info!(org_id = %org_id, "completed or undid an interrupted rotation of a root token")
            }
            Event::UndoFailed(error) => {
                tracing::error!(org_id = %org_id, error = %error, "failed to delete a new root token, will retry");
            }
            Event::LookFailed(error) => tracing::warn!(org_id = %org_id, error = %error,
                "failed to look for a root token that Astra may have minted, will retry"),
            Event::NotFound => tracing::warn!(org_id = %org_id, marker,
                "found no new root token of an unfinished rotation: Astra minted no root token, or keeps no descriptions"),
            Event::Lost => tracing::error!(org_id = %org_id,
                "lost the outcome of a rotation without a description: look for a root token of that time in Astra's portal"),
            Event::Expired(error) | Event::GaveUp(error) => {
                tracing::error!(org_id = %org_id, marker, old_client_id = %self.old, error = %error,
                    "gave up deleting a root token that is not in use: compare the config with the tokens in Astra's portal");
            }
        }
    }

    fn left(&self) -> String {
        format!("a root token of org_id {:?} that is not in use may be left in Astra", self.org_id.as_str())
    }
}
