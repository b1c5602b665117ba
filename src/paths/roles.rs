//! `roles`: the names of the roles of all orgs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use vault_plugin_sdk::framework::{Call, FieldSpec, Path};
use vault_plugin_sdk::logical::{Map, Response};

use super::role;
use super::shared::{Answered, CONCURRENT_READS, ORG_ID, handler, optional_org_id};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{OrgId, RoleName};

const FIELDS: &[FieldSpec] = &[ORG_ID.spec()];

pub(crate) fn path() -> Path<Engine> {
    Path::new("roles/?", FIELDS)
        .list(handler("List the roles", list).returns(&[
            ("keys", "Names of the roles."),
            ("key_info", "For each name and each organization with a role of this name: role_id, ttl, max_ttl, and max_tokens if set."),
        ]))
        .help(
            "Lists the roles.",
            "Lists the names of the roles of all organizations of this mount, or of the organization with org_id. Each name \
             appears once. key_info shows for each name which organizations have a role with this name.\n\nExample:\n    \
             vault list -detailed <mount>/roles",
        )
}

async fn list(engine: Arc<Engine>, call: Call) -> Answered {
    let org = optional_org_id(&call.fields)?;
    let mut names = engine.store.roles().await?;
    names.retain(|(owner, _)| org.as_ref().is_none_or(|org| org == owner));
    if let Some(org) = org.filter(|_| names.is_empty()) {
        org.require_new(ORG_ID.name())?;
    }
    let read = |(org, name): (OrgId, RoleName)| {
        let engine = &engine;
        async move {
            let role = engine.store.role(&org, &name).await?;
            Ok::<_, Error>(role.map(|role| (org, name, role)))
        }
    };
    let roles: Vec<Option<_>> = stream::iter(names).map(read).buffered(CONCURRENT_READS).try_collect().await?;
    let mut info: BTreeMap<String, Map> = BTreeMap::new();
    for (org, name, role) in roles.into_iter().flatten() {
        let shown = role::settings(&role);
        info.entry(name.to_string()).or_default().insert(org.to_string(), Value::Object(shown));
    }
    Ok(Some(Response::list_with_info(info.into_iter().map(|(name, orgs)| (name, Value::Object(orgs))))))
}
