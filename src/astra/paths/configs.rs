//! `configs`: the orgs that have a config.

use std::sync::Arc;

use super::{Answered, handler};
use crate::astra::engine::Engine;
use crate::sdk::framework::{Call, Path};
use crate::sdk::logical::Response;

pub(crate) fn path() -> Path<Engine> {
    Path::new("configs/?", &[])
        .list(handler("List the organizations that have a config", list).returns(&[("keys", "Ids of the organizations.")]))
        .help(
            "Lists the organizations that have a config.",
            "Lists the ids of all Astra organizations that have a config on this mount. Read one with \"config\" and its \
             org_id.",
        )
}

async fn list(engine: Arc<Engine>, _call: Call) -> Answered {
    let orgs = engine.store.orgs().await?;
    Ok(Some(Response::list(orgs.into_iter().map(|org| org.to_string()))))
}
