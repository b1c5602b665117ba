//! `roles/sync`: a role in Vault for each role in Astra.
//!
//! Architecture invariant: deletes nothing, and changes nothing of a role that exists but its `role_id`.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, FieldSpec, Path};
use vault_plugin_sdk::logical::{Caller, Operation, Request, Response};

use super::role;
use super::shared::{Answered, ORG_ID, ROLE_NAME, handler, mount, object, optional_org_id, require_config};
use crate::api::{AstraRole, RoleList};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{OrgId, RoleName};
use crate::store::Role;

const FIELDS: &[FieldSpec] = &[ORG_ID.spec()];

/// Orgs worked on at the same time. Their lists of roles are in memory meanwhile.
const ORGS_AT_ONCE: usize = 8;

/// Roles of one org read or written at the same time.
const ROLES_AT_ONCE: usize = 8;

pub(crate) fn path() -> Path<Engine> {
    let returns = &[
        ("created", "For each organization, the names of the new roles. Their ttl and max_ttl are the defaults."),
        ("updated", "For each organization, the names of the roles whose role_id changed."),
        ("unchanged", "For each organization, the names of the roles that were as they should be."),
        ("collisions", "For each organization, the names that several Astra roles would have. They were left alone."),
        ("renamed", "For each organization, the roles whose Astra role has another name, and that name."),
        ("vanished", "For each organization, the names of the roles whose role_id Astra does not list."),
        ("errors", "For each organization that failed, why."),
    ];
    Path::new("roles/sync", FIELDS)
        .operation(Operation::Update, handler("Import the roles of Astra", sync).on_active_node().returns(returns))
        .help(
            "Imports the roles of Astra.",
            "Asks Astra for the roles of the organization with org_id, or of every organization that has a config, and \
             writes a role for each. Its name is that of the Astra role in lower case, with one \"_\" for each run of \
             characters other than letters and digits: \"R/W User\" becomes \"r_w_user\". A role that exists keeps its ttl \
             and max_ttl, and gets the role_id if it has another. Nothing is deleted. Where several Astra roles would have \
             one name, none of them is imported. If some organizations fail, the others are done, and the answer has \
             errors; if all do, the request fails. The root token needs the permission org-role-read.\n\nExample:\n    \
             vault write <mount>/roles/sync org_id=$ORG_ID",
        )
}

/// What became of the roles of one org.
#[derive(Default)]
struct Report {
    created: Vec<RoleName>,
    updated: Vec<RoleName>,
    unchanged: Vec<RoleName>,
    /// Names in Astra of the roles that would have one name in Vault.
    collisions: BTreeMap<RoleName, Vec<String>>,
    /// Names in Astra of the roles that have another one in Vault.
    renamed: BTreeMap<RoleName, String>,
    vanished: Vec<RoleName>,
    /// Entries of Astra's list that cannot be imported.
    unreadable: usize,
}

/// What an import does to one role.
enum Fate {
    Created,
    Updated,
    Unchanged,
}

/// Astra roles by the names that they have in Vault, each id once.
type Wanted = BTreeMap<RoleName, Vec<AstraRole>>;

type Outcomes = Vec<(OrgId, Result<Report, Error>)>;

async fn sync(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let orgs = match optional_org_id(&fields)? {
        Some(org) => vec![org],
        None => engine.store.orgs().await?,
    };
    if orgs.is_empty() {
        let mount = mount(&request);
        let text = format!(
            "no organization has a config; write one with \"vault write {mount}/config org_id=... astra_token=...\""
        );
        return Err(Error::Refused(text));
    }
    // Once for all orgs, since a listing of the storage goes over all of them. What is written is read anew.
    let mut known: BTreeMap<OrgId, Vec<RoleName>> = BTreeMap::new();
    for (org, name) in engine.store.roles().await? {
        known.entry(org).or_default().push(name);
    }
    let request = Arc::new(request);
    let work = orgs.into_iter().map(|org| {
        let (engine, request, known) = (engine.clone(), request.clone(), known.remove(&org).unwrap_or_default());
        async move {
            let outcome = sync_org(&engine, &request, &org, known).await;
            (org, outcome)
        }
    });
    // All of them are run to their ends, whatever becomes of the others.
    let mut outcomes: Outcomes = stream::iter(work).buffer_unordered(ORGS_AT_ONCE).collect().await;
    outcomes.sort_by(|(one, _), (other, _)| one.cmp(other));
    answer(outcomes).map(Some)
}

/// Imports the roles of one org. A caller who hangs up ends it as long as Astra is asked, and not any more once roles are
/// written.
async fn sync_org(engine: &Arc<Engine>, request: &Request, org: &OrgId, known: Vec<RoleName>) -> Result<Report, Error> {
    let config = require_config(engine, request, org).await?;
    let list = engine.call(&config, |client| async move { client.roles().await }).await?;
    let (org, caller) = (org.clone(), request.caller.clone());
    let work = {
        let engine = engine.clone();
        async move { import(&engine, &caller, &org, list, known).await }
    };
    engine.tasks.run(work).await?
}

/// Writes what Astra lists, and compares what is there besides.
async fn import(
    engine: &Engine,
    caller: &Caller,
    org: &OrgId,
    list: RoleList,
    known: Vec<RoleName>,
) -> Result<Report, Error> {
    let (wanted, unreadable) = by_name(list);
    let mut report = Report { unreadable, ..compare(engine, org, &wanted, known).await? };
    let write = |(name, roles): (RoleName, Vec<AstraRole>)| async move {
        let fate = match <[AstraRole; 1]>::try_from(roles) {
            Ok([role]) => Ok(write_role(engine, caller, org, &name, role.id).await?),
            Err(roles) => Err(roles),
        };
        Ok::<_, Error>((name, fate))
    };
    // None is dropped in the middle of its write, since the host may store it nevertheless.
    let written: Vec<_> = stream::iter(wanted.into_iter().map(write)).buffered(ROLES_AT_ONCE).collect().await;
    for outcome in written {
        match outcome? {
            (name, Ok(Fate::Created)) => report.created.push(name),
            (name, Ok(Fate::Updated)) => report.updated.push(name),
            (name, Ok(Fate::Unchanged)) => report.unchanged.push(name),
            (name, Err(roles)) => drop(report.collisions.insert(name, labels(&roles))),
        }
    }
    Ok(report)
}

/// Makes sure that a role is there with this id.
async fn write_role(
    engine: &Engine,
    caller: &Caller,
    org: &OrgId,
    name: &RoleName,
    role_id: String,
) -> Result<Fate, Error> {
    let _lock = engine.locks.role(org, name).await;
    let old = engine.store.role(org, name).await?;
    let (role, fate) = match old.as_deref() {
        Some(old) if old.role_id == role_id => return Ok(Fate::Unchanged),
        Some(old) => (Role { role_id, ..old.clone() }, Fate::Updated),
        None => {
            org.require_new(ORG_ID.name())?;
            (Role::new(org.clone(), name.clone(), role_id), Fate::Created)
        }
    };
    role::put(engine, old.as_deref(), &role, caller).await?;
    Ok(fate)
}

/// Finds the roles that no Astra role of the same name stands for any more.
async fn compare(engine: &Engine, org: &OrgId, wanted: &Wanted, known: Vec<RoleName>) -> Result<Report, Error> {
    let by_id: BTreeMap<String, &AstraRole> =
        wanted.values().flatten().map(|role| (role.id.to_ascii_lowercase(), role)).collect();
    let is_written = |name: &RoleName| wanted.get(name).is_some_and(|roles| roles.len() == 1);
    let read = |name: RoleName| async move { (engine.store.role(org, &name).await, name) };
    let others = known.into_iter().filter(|name| !is_written(name));
    let mut others = stream::iter(others.map(read)).buffered(ROLES_AT_ONCE);
    let mut report = Report::default();
    while let Some((role, name)) = others.next().await {
        let Some(role) = role? else { continue };
        let has_id = |astra: &AstraRole| astra.id.eq_ignore_ascii_case(&role.role_id);
        if wanted.get(&name).is_some_and(|roles| roles.iter().any(has_id)) {
            continue;
        }
        match by_id.get(&role.role_id.to_ascii_lowercase()) {
            Some(astra) => drop(report.renamed.insert(name, astra.label())),
            None => report.vanished.push(name),
        }
    }
    report.vanished.sort();
    Ok(report)
}

/// Sorts what Astra lists by the names for Vault. Returns as well how many entries cannot be imported.
fn by_name(list: RoleList) -> (Wanted, usize) {
    let (mut wanted, mut unreadable) = (Wanted::new(), list.unreadable);
    for role in list.roles {
        let name = RoleName::parse(ROLE_NAME.name(), &safe_name(&role.name));
        match (name, role::checked_role_id(role.id)) {
            (Ok(name), Ok(id)) => {
                let roles = wanted.entry(name).or_default();
                if !roles.iter().any(|other| other.id == id) {
                    roles.push(AstraRole { id, name: role.name });
                }
            }
            _ => unreadable += 1,
        }
    }
    (wanted, unreadable)
}

/// Returns the name for Vault: lower case, and one `_` for each run of characters other than letters and digits.
fn safe_name(name: &str) -> String {
    name.chars().fold(String::with_capacity(name.len()), |mut safe, c| {
        if c.is_ascii_alphanumeric() {
            safe.push(c.to_ascii_lowercase());
        } else if !safe.ends_with('_') {
            safe.push('_');
        }
        safe
    })
}

/// Returns the names of roles in Astra, sorted, so that the order of the list does not matter.
fn labels(roles: &[AstraRole]) -> Vec<String> {
    let mut labels: Vec<String> = roles.iter().map(AstraRole::label).collect();
    labels.sort();
    labels
}

/// Answers what became of the orgs.
///
/// # Errors
/// When all of them failed, or the host did.
fn answer(outcomes: Outcomes) -> Result<Response, Error> {
    let (mut reports, mut errors) = (BTreeMap::new(), Vec::new());
    for (org, outcome) in outcomes {
        match outcome {
            Ok(report) => drop(reports.insert(org, report)),
            // That is not the org's failure, and the host may know what to do about it.
            Err(error @ (Error::Storage(_) | Error::Host(_))) => return Err(error),
            Err(error) => errors.push((org, error)),
        }
    }
    if reports.is_empty() {
        return Err(match <[(OrgId, Error); 1]>::try_from(errors) {
            Ok([(_, error)]) => error,
            Err(errors) => Error::EveryOrg(errors),
        });
    }
    let mut warnings = Vec::new();
    for (org, error) in &errors {
        tracing::error!(org_id = %org, error = %error, "failed to import the roles of an org");
        warnings.push(format!("org_id {:?} failed: {error}", org.as_str()));
    }
    warnings.extend(reports.iter().flat_map(|(org, report)| remarks(org, report)));
    let errors: BTreeMap<OrgId, String> = errors.into_iter().map(|(org, error)| (org, error.to_string())).collect();
    let data = object([
        ("created", per_org(&reports, |report| &report.created)),
        ("updated", per_org(&reports, |report| &report.updated)),
        ("unchanged", per_org(&reports, |report| &report.unchanged)),
        ("collisions", per_org(&reports, |report| &report.collisions)),
        ("renamed", per_org(&reports, |report| &report.renamed)),
        ("vanished", per_org(&reports, |report| &report.vanished)),
        ("errors", json!(errors)),
    ]);
    Ok(Response::new(data).warnings(warnings))
}

/// Returns one kind of outcome for each org.
fn per_org<T: Serialize>(reports: &BTreeMap<OrgId, Report>, kind: impl Fn(&Report) -> &T) -> Value {
    reports.iter().map(|(org, report)| (org.to_string(), json!(kind(report)))).collect()
}

/// Says what an operator has to look at.
fn remarks(org: &OrgId, report: &Report) -> Vec<String> {
    let Report { collisions, renamed, vanished, unreadable, .. } = report;
    let org = org.as_str();
    let mut remarks = Vec::new();
    for (name, roles) in collisions {
        remarks.push(format!(
            "org_id {org:?}: role {:?} was left alone, since several Astra roles would have this name: {}; write roles \
             for them by hand",
            name.as_str(),
            quoted(roles)
        ));
    }
    if !renamed.is_empty() {
        let told = renamed.iter().map(|(name, astra)| format!("{:?} is {astra:?} in Astra", name.as_str()));
        let told = told.collect::<Vec<_>>().join(", ");
        remarks.push(format!(
            "org_id {org:?}: these roles were left alone, since their Astra roles have other names: {told}"
        ));
    }
    if !vanished.is_empty() {
        let names = quoted(vanished.iter().map(RoleName::as_str));
        remarks.push(format!(
            "org_id {org:?}: Astra does not list the role_id of these roles, which were left alone: {names}"
        ));
    }
    if *unreadable > 0 {
        remarks.push(format!(
            "org_id {org:?}: {unreadable} entries of Astra's list were skipped, since they have no usable id and name"
        ));
    }
    remarks
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}
