//! The list of an org's tokens in Astra, which the WAL entries of one tick share.

use std::sync::Arc;

use tokio::sync::OnceCell;
use vault_plugin_sdk::framework::Tick;

use crate::api::{self, Listing};
use crate::engine::Engine;
use crate::store::Config;

/// The list, or why there is none: a tick asks once.
type Asked = OnceCell<Result<Arc<Listing>, api::Error>>;

/// Returns Astra's list of the tokens of an org. The first entry of the org in a tick asks Astra. The changes of all
/// entries of the tick ended before that, so the list shows their results.
pub(super) async fn listing(engine: &Engine, config: &Arc<Config>, tick: &Tick) -> Result<Arc<Listing>, api::Error> {
    let asked = tick.share::<Asked>(config.org_id.as_str());
    let ask = || async { engine.call(config, |client| async move { client.listing().await }).await.map(Arc::new) };
    asked.get_or_init(ask).await.clone()
}
