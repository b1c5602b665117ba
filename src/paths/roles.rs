//! `roles`: the names of the roles of all orgs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, FieldSpec, Path};
use vault_plugin_sdk::logical::{Map, Response};

use super::role;
use super::shared::{Answered, CONCURRENT_READS, Durations, ORG_ID, handler, optional_org_id, unreadable_entries};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{OrgId, RoleName};
use crate::store::{Role, log_skipped, role_key};

const FIELDS: &[FieldSpec] = &[ORG_ID.spec()];

pub(crate) fn path() -> Path<Engine> {
    Path::new("roles/?", FIELDS)
        .list(handler("List the roles", list).returns(&[
            ("keys", "Names of the roles."),
            ("key_info", "For each name: org_ids, the organizations with a role of this name, and the settings that are the same in all of them."),
        ]))
        .help(
            "Lists the roles.",
            "Lists the names of the roles of all organizations of this mount, or of the organization with org_id. Each name \
             appears once. key_info shows in org_ids which organizations have a role of this name, and each setting that is the same \
             in all of them. orgs/:org/roles shows all settings of one organization.\n\nExample:\n    \
             vault list -detailed <mount>/roles",
        )
}

async fn list(engine: Arc<Engine>, call: Call) -> Answered {
    let org = optional_org_id(&call.fields)?;
    let (roles, unreadable) = all(&engine, org.as_ref()).await?;
    if let Some(org) = org.filter(|_| roles.is_empty()) {
        org.require_new(ORG_ID.name())?;
    }
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (org, name, role) in roles {
        let settings = role.map(|role| role::settings(&role, Durations::Text));
        rows.entry(name.to_string()).or_default().add(&org, settings);
    }
    let listed = Response::list_with_info(rows.into_iter().map(|(name, row)| (name, row.into_info())));
    Ok(Some(listed.warnings(unreadable_entries(&unreadable))))
}

/// The details of one name. They are flat, because "list -detailed" prints an object as Go does.
#[derive(Default)]
struct Row {
    orgs: Vec<Value>,
    /// The settings that are the same in all organizations.
    settings: Option<Map>,
}

impl Row {
    /// Adds an organization, with the settings of its role if they can be read.
    fn add(&mut self, org: &OrgId, settings: Option<Map>) {
        self.orgs.push(json!(org));
        match (&mut self.settings, settings) {
            (Some(same), Some(settings)) => same.retain(|name, value| settings.get(name) == Some(value)),
            (None, settings) => self.settings = settings,
            (Some(_), None) => {}
        }
    }

    fn into_info(self) -> Value {
        let mut info = self.settings.unwrap_or_default();
        info.insert("org_ids".to_owned(), Value::Array(self.orgs));
        Value::Object(info)
    }
}

/// A role with its org, and the role itself if it can be read.
pub(super) type Listed = (OrgId, RoleName, Option<Arc<Role>>);

/// Returns the roles of all orgs, or of one org, and the keys of the roles that cannot be read.
pub(super) async fn all(engine: &Engine, org: Option<&OrgId>) -> Result<(Vec<Listed>, Vec<String>), Error> {
    let (mut names, mut unreadable) = engine.store.roles().await?;
    names.retain(|(owner, _)| org.is_none_or(|org| org == owner));
    let read = |(org, name): (OrgId, RoleName)| async move {
        let (role, damage) = readable(engine.store.role(&org, &name).await)?;
        damage.iter().for_each(log_skipped);
        Ok::<_, Error>((role.is_some() || damage.is_some()).then_some((org, name, role)))
    };
    let roles: Vec<Option<_>> = stream::iter(names).map(read).buffered(CONCURRENT_READS).try_collect().await?;
    let roles: Vec<Listed> = roles.into_iter().flatten().collect();
    unreadable.extend(roles.iter().filter(|(_, _, role)| role.is_none()).map(|(org, name, _)| role_key(org, name)));
    Ok((roles, unreadable))
}
