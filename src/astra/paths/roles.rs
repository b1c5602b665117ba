//! `roles`: the names of the roles over all orgs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{Answered, ORG_ID, handler, object, optional_org_id};
use crate::astra::engine::Engine;
use crate::astra::error::Error;
use crate::astra::store::{OrgId, RoleName};
use crate::sdk::framework::{Call, FieldSpec, Path, format_duration};
use crate::sdk::logical::{Map, Response};

const FIELDS: &[FieldSpec] = &[ORG_ID.spec()];

/// Roles read at the same time.
const CONCURRENT_READS: usize = 32;

pub(crate) fn path() -> Path<Engine> {
    Path::new("roles/?", FIELDS)
        .list(handler("List the roles", list).returns(&[
            ("keys", "Names of the roles."),
            ("key_info", "For each name and each organization that has it: role_id, ttl and max_ttl."),
        ]))
        .help(
            "Lists the roles.",
            "Lists the distinct names of the roles of all Astra organizations of this mount, or of the one with org_id. \
             key_info shows for each name which organizations have it.",
        )
}

async fn list(engine: Arc<Engine>, call: Call) -> Answered {
    let org = optional_org_id(&call.fields)?;
    let mut names = engine.store.roles().await?;
    names.retain(|(owner, _)| org.as_ref().is_none_or(|org| org == owner));
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
        let shown = object([
            ("max_ttl", json!(format_duration(role.max_ttl()))),
            ("role_id", json!(role.role_id)),
            ("ttl", json!(format_duration(role.ttl()))),
        ]);
        info.entry(name.to_string()).or_default().insert(org.to_string(), Value::Object(shown));
    }
    Ok(Some(Response::list_with_info(info.into_iter().map(|(name, orgs)| (name, Value::Object(orgs))))))
}
