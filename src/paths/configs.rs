//! `configs`: the orgs that have a config.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Path};
use vault_plugin_sdk::logical::Response;

use super::shared::{Answered, CONCURRENT_READS, handler, object};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::OrgId;
use crate::store::Config;

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
    let orgs = engine.store.orgs().await?;
    let read = |org: OrgId| {
        let engine = &engine;
        async move {
            let config = engine.store.config(&org).await?;
            Ok::<_, Error>(config.map(|config| (org.to_string(), shown(&config))))
        }
    };
    let configs: Vec<Option<_>> = stream::iter(orgs).map(read).buffered(CONCURRENT_READS).try_collect().await?;
    Ok(Some(Response::list_with_info(configs.into_iter().flatten())))
}

fn shown(config: &Config) -> Value {
    Value::Object(object([
        ("caller_mode", json!(config.caller_mode.as_str())),
        ("logical_name", json!(config.logical_name)),
    ]))
}
