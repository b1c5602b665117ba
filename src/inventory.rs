//! Builds the inventory in the background, after an upgrade from the Go plugin.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use super::engine::Engine;
use super::error::Error;

/// Pauses between attempts: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

impl Engine {
    /// Starts the build as a background task. Never fails and never waits, because an unsealing host waits for
    /// this call.
    pub(crate) fn start(self: Arc<Self>) {
        let engine = Arc::downgrade(&self);
        let work = async move {
            let (mut pause, longest) = RETRY;
            loop {
                let Some(engine) = engine.upgrade() else { return };
                match engine.build_inventory().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(error = %error, "failed to build the inventory of tokens, will retry")
                    }
                }
                drop(engine);
                tokio::time::sleep(pause).await;
                pause = longest.min(pause * 2);
            }
        };
        self.set_background(Some(tokio::spawn(work.in_current_span())));
    }

    async fn build_inventory(&self) -> Result<(), Error> {
        self.note_standby().await?;
        // A standby cannot write. The active node builds the inventory.
        if !self.system.is_writable().await? || self.store.inventory_is_complete().await? {
            return Ok(());
        }
        let built = self.store.write_records().await?;
        if !built.strays.is_empty() {
            // When the engine learns an organization, it moves the records of its tokens.
            self.ask_for_orgs().await?;
            for org in self.store.strays().await? {
                tracing::warn!(org_id = %org, "found tokens of an organization without a config");
            }
        }
        if built.tokens + built.junk + built.left_out > 0 {
            tracing::info!(
                tokens = built.tokens,
                junk = built.junk,
                left_out = built.left_out,
                "built the inventory of the stored tokens"
            );
        }
        self.store.complete(built).await
    }
}
