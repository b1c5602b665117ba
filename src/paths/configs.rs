//! `configs`: the orgs that have a config.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Path};
use vault_plugin_sdk::logical::Response;

use super::shared::{Answered, CONCURRENT_READS, handler, object, unreadable_entries};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::OrgId;
use crate::store::{Config, config_key, log_skipped};

pub(crate) fn path() -> Path<Engine> {
    Path::new("configs/?", &[])
        .list(handler("List the organizations that have a config", list).returns(&[
            ("keys", "Ids of the organizations."),
            ("key_info", "For each organization: logical_name and caller_mode."),
        ]))
        .help(
            "Lists the organizations that have a config.",
            "Lists the ids of all Astra organizations that have a config on this mount. key_info \
             shows the logical name and the caller mode of each. Read a config with \"config\" and its \
             org_id.\n\nExample:\n    vault list -detailed <mount>/configs",
        )
}

async fn list(engine: Arc<Engine>, _call: Call) -> Answered {
    let (configs, unreadable) = all(&engine).await?;
    let shown = |(org, config): Listed| (org.to_string(), config.map_or_else(|| json!({}), |config| shown(&config)));
    Ok(Some(Response::list_with_info(configs.into_iter().map(shown)).warnings(unreadable_entries(&unreadable))))
}

/// An org that has a config, and the config if it can be read.
pub(super) type Listed = (OrgId, Option<Arc<Config>>);

/// Returns all orgs that have a config, and the keys of the configs that cannot be read.
pub(super) async fn all(engine: &Engine) -> Result<(Vec<Listed>, Vec<String>), Error> {
    let orgs = engine.store.orgs().await?;
    let read = |org: OrgId| async move {
        let (config, reason) = readable(engine.store.config(&org).await)?;
        reason.iter().for_each(log_skipped);
        Ok::<_, Error>((config.is_some() || reason.is_some()).then_some((org, config)))
    };
    let configs: Vec<Option<_>> = stream::iter(orgs).map(read).buffered(CONCURRENT_READS).try_collect().await?;
    let configs: Vec<Listed> = configs.into_iter().flatten().collect();
    let unreadable = configs.iter().filter(|(_, config)| config.is_none()).map(|(org, _)| config_key(org)).collect();
    Ok((configs, unreadable))
}

fn shown(config: &Config) -> Value {
    Value::Object(object([
        ("caller_mode", json!(config.caller_mode.as_str())),
        ("logical_name", json!(config.logical_name)),
    ]))
}
