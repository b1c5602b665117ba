//! `roles/sync`: imports the roles of Astra.
//!
//! Architecture invariant: an import deletes nothing. Of an existing role, it changes only the `role_id`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path};
use vault_plugin_sdk::logical::{Caller, Operation, Request, Response};

use super::role;
use super::role_names::{Wanted, by_name, labels};
use super::shared::{
    Answered, ORG_ID, handler, mount, object, optional_org_id, org_id, require_config, unreadable_entries,
};
use crate::api::{AstraRole, RoleList};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::names::{OrgId, RoleName};
use crate::store::{Role, log_skipped};

const AFTER: Field<String> =
    Field::string("after", "Imports only organizations whose org_id comes after this text, in byte order.");

const LIMIT: Field<i64> =
    Field::int("limit", "Imports at most this many organizations. Without limit, or with 0, all organizations.");

const FIELDS: &[FieldSpec] = &[ORG_ID.spec(), AFTER.spec(), LIMIT.spec()];

/// How many orgs are imported at the same time. Their lists of roles are in memory during the import.
const ORGS_AT_ONCE: usize = 8;

/// How many roles of one org are read or written at the same time.
const ROLES_AT_ONCE: usize = 8;

/// What an import answers.
pub(super) const REPORT: &[(&str, &str)] = &[
    ("created", "For each organization, the names of the new roles. They have the default ttl and max_ttl."),
    ("updated", "For each organization, the names of the roles whose role_id changed."),
    ("unchanged", "For each organization, the names of the roles that had the right role_id already."),
    (
        "collisions",
        "For each organization, the names that several Astra roles would have. Roles with these names were not changed.",
    ),
    ("renamed", "For each organization, the roles whose Astra role has another name, and that name."),
    (
        "vanished",
        "For each organization, the names of the roles whose role_id Astra does not list, or one of whose role_ids.",
    ),
    ("errors", "For each organization that failed, the reason."),
    ("next", "The next value of after. Missing if the last organization was reached."),
];

pub(crate) fn path() -> Path<Engine> {
    Path::new("roles/sync", FIELDS)
        .operation(Operation::Update, handler("Import the roles of Astra", sync).on_active_node().returns(REPORT))
        .help(
            "Imports the roles of Astra.",
            "Asks Astra for the roles of the organization with org_id, or of every organization that has a config, and \
             writes a role for each Astra role. The name of a role is the name of the Astra role in lower case, with one \
             \"_\" for each run of characters other than letters and digits: \"R/W User\" becomes \"r_w_user\". An existing \
             role keeps its ttl and max_ttl, and gets the role_id of the Astra role. A role with several role_ids stays as it is. Nothing is deleted. If several Astra \
             roles would have the same name, none of them is imported. If some organizations fail, the others are imported, \
             and the answer lists the failures in errors. If all organizations fail, and no further page follows, the request fails. The server stops a request after \
             90 seconds, which can be too short for many organizations. Then import pages: set limit, and repeat the request \
             with after set to next until next is missing. The root token needs the permission org-role-read.\n\nExample:\n    \
             vault write <mount>/roles/sync org_id=$ORG_ID",
        )
}

/// The result of the import of one org.
#[derive(Default)]
struct Report {
    created: Vec<RoleName>,
    updated: Vec<RoleName>,
    unchanged: Vec<RoleName>,
    /// Astra's names of the roles that would share a name in Vault.
    collisions: BTreeMap<RoleName, Vec<String>>,
    /// Astra's names of the roles that have another name in Vault.
    renamed: BTreeMap<RoleName, String>,
    vanished: Vec<RoleName>,
    /// Roles whose stored entries cannot be read.
    damaged: Vec<RoleName>,
    /// Entries of Astra's list that cannot be imported.
    unreadable: usize,
}

/// The result of the import of one role.
enum Imported {
    Created,
    Updated,
    Unchanged,
    /// The stored role has several Astra roles, and stays as it is: somebody chose them.
    Kept(Arc<Role>),
    /// The stored role cannot be read, and stays as it is: an import does not know its other settings.
    Damaged,
}

type Outcomes = Vec<(OrgId, Result<Report, Error>)>;

async fn sync(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let after = fields.get(&AFTER).unwrap_or_default();
    let limit = fields.get(&LIMIT).unwrap_or(0);
    let limit = usize::try_from(limit).map_err(|_| Error::field(LIMIT.name(), "must not be negative"))?;
    let (orgs, next) = match optional_org_id(&fields)? {
        Some(_) if limit > 0 || !after.is_empty() => {
            return Err(Error::field(ORG_ID.name(), "cannot be used with after or limit; leave org_id out"));
        }
        Some(org) => (vec![org], None),
        None => page(engine.store.orgs().await?, &after, limit),
    };
    if orgs.is_empty() && after.is_empty() {
        let mount = mount(&request);
        let text = format!(
            "no organization has a config; write one with \"vault write {mount}/config org_id=... astra_token=...\""
        );
        return Err(Error::Refused(text));
    }
    import_orgs(&engine, request, orgs, next).await
}

/// Imports the roles of one org.
pub(super) async fn sync_one(engine: Arc<Engine>, call: Call) -> Answered {
    let org = org_id(&call.fields)?;
    import_orgs(&engine, call.request, vec![org], None).await
}

async fn import_orgs(engine: &Arc<Engine>, request: Request, orgs: Vec<OrgId>, next: Option<OrgId>) -> Answered {
    // One listing for all orgs, because a listing of the storage covers all orgs. Each role is read again before its
    // write.
    let mut known: BTreeMap<OrgId, Vec<RoleName>> = BTreeMap::new();
    let (roles, skipped) = engine.store.roles().await?;
    for (org, name) in roles {
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
    // If an org fails, the imports of the other orgs continue.
    let mut outcomes: Outcomes = stream::iter(work).buffer_unordered(ORGS_AT_ONCE).collect().await;
    outcomes.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Some(answer(outcomes, next)?.warnings(unreadable_entries(&skipped))))
}

/// Returns the orgs of one page, in sorted order. Also returns where the next page starts, if there is one.
fn page(mut orgs: Vec<OrgId>, after: &str, limit: usize) -> (Vec<OrgId>, Option<OrgId>) {
    orgs.retain(|org| org.as_str() > after);
    let has_more = limit > 0 && orgs.len() > limit;
    if has_more {
        orgs.truncate(limit);
    }
    let next = orgs.last().filter(|_| has_more).cloned();
    (orgs, next)
}

/// Imports the roles of one org. If the caller hangs up during the call of Astra, the import stops. After that call,
/// the import continues.
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

/// Writes the roles that Astra lists, and compares the other roles with Astra's list.
async fn import(
    engine: &Engine,
    caller: &Caller,
    org: &OrgId,
    list: RoleList,
    known: Vec<RoleName>,
) -> Result<Report, Error> {
    let (wanted, unreadable) = by_name(list);
    let listed: BTreeSet<String> = wanted.values().flatten().map(|role| role.id.to_ascii_lowercase()).collect();
    let mut report = Report { unreadable, ..compare(engine, org, &wanted, &listed, known).await? };
    let write = |(name, roles): (RoleName, Vec<AstraRole>)| async move {
        let imported = match <[AstraRole; 1]>::try_from(roles) {
            Ok([role]) => Ok(write_role(engine, caller, org, &name, role.id).await?),
            Err(roles) => Err(roles),
        };
        Ok::<_, Error>((name, imported))
    };
    // `collect` waits for every write: the host may still store a role whose write was dropped.
    let written: Vec<_> = stream::iter(wanted.into_iter().map(write)).buffered(ROLES_AT_ONCE).collect().await;
    for outcome in written {
        match outcome? {
            (name, Ok(Imported::Created)) => report.created.push(name),
            (name, Ok(Imported::Updated)) => report.updated.push(name),
            (name, Ok(Imported::Kept(role))) if role.lacks_one_of(&listed) => report.vanished.push(name),
            (name, Ok(Imported::Unchanged | Imported::Kept(_))) => report.unchanged.push(name),
            (name, Ok(Imported::Damaged)) => report.damaged.push(name),
            (name, Err(roles)) => drop(report.collisions.insert(name, labels(&roles))),
        }
    }
    report.vanished.sort();
    Ok(report)
}

/// Writes a role with this id, unless the stored role has this id already.
async fn write_role(
    engine: &Engine,
    caller: &Caller,
    org: &OrgId,
    name: &RoleName,
    role_id: String,
) -> Result<Imported, Error> {
    let _lock = engine.locks.role(org, name).await;
    let (old, damage) = readable(engine.store.role(org, name).await)?;
    if let Some(reason) = damage {
        log_skipped(&reason);
        return Ok(Imported::Damaged);
    }
    let (role, imported) = match &old {
        Some(old) if old.has_several() => return Ok(Imported::Kept(old.clone())),
        Some(old) if old.role_id == role_id => return Ok(Imported::Unchanged),
        Some(old) => (Role { role_id, ..(**old).clone() }, Imported::Updated),
        None => {
            org.require_new(ORG_ID.name())?;
            (Role::new(org.clone(), name.clone(), role_id), Imported::Created)
        }
    };
    role::put(engine, old.as_deref(), &role, caller).await?;
    Ok(imported)
}

/// Finds the roles whose Astra role has another name or is not in Astra's list.
async fn compare(
    engine: &Engine,
    org: &OrgId,
    wanted: &Wanted,
    listed: &BTreeSet<String>,
    known: Vec<RoleName>,
) -> Result<Report, Error> {
    let by_id: BTreeMap<String, &AstraRole> =
        wanted.values().flatten().map(|role| (role.id.to_ascii_lowercase(), role)).collect();
    let is_written = |name: &RoleName| wanted.get(name).is_some_and(|roles| roles.len() == 1);
    let read = |name: RoleName| async move { (engine.store.role(org, &name).await, name) };
    let others = known.into_iter().filter(|name| !is_written(name));
    let mut others = stream::iter(others.map(read)).buffered(ROLES_AT_ONCE);
    let mut report = Report::default();
    while let Some((role, name)) = others.next().await {
        let (role, damage) = readable(role)?;
        if let Some(reason) = damage {
            log_skipped(&reason);
            report.damaged.push(name);
            continue;
        }
        let Some(role) = role else { continue };
        if role.has_several() {
            // Its name need not be the name of one of its Astra roles.
            report.vanished.extend(role.lacks_one_of(listed).then_some(name));
            continue;
        }
        let has_id = |astra: &AstraRole| astra.id.eq_ignore_ascii_case(&role.role_id);
        if wanted.get(&name).is_some_and(|roles| roles.iter().any(has_id)) {
            continue;
        }
        match by_id.get(&role.role_id.to_ascii_lowercase()) {
            Some(astra) => drop(report.renamed.insert(name, astra.label())),
            None => report.vanished.push(name),
        }
    }
    Ok(report)
}

/// Returns the answer for all orgs.
///
/// # Errors
/// If all orgs failed and there is no next page, or if the host failed.
fn answer(outcomes: Outcomes, next: Option<OrgId>) -> Result<Response, Error> {
    let (mut reports, mut errors) = (BTreeMap::new(), Vec::new());
    for (org, outcome) in outcomes {
        match outcome {
            Ok(report) => drop(reports.insert(org, report)),
            // The host failed, not the org. The host can react to its own errors, for example forward the request.
            Err(error @ (Error::Storage(_) | Error::Host(_))) => return Err(error),
            Err(error) => errors.push((org, error)),
        }
    }
    // With a next page, the caller needs to know where to go on.
    if reports.is_empty() && !errors.is_empty() && next.is_none() {
        return Err(match <[(OrgId, Error); 1]>::try_from(errors) {
            Ok([(_, error)]) => error,
            Err(errors) => Error::EveryOrg(errors),
        });
    }
    let mut warnings = Vec::new();
    for (org, error) in &errors {
        tracing::error!(org_id = %org, error = %error, "failed to import the roles of an organization");
        warnings.push(format!("org_id {:?} failed: {error}", org.as_str()));
    }
    warnings.extend(reports.iter().flat_map(|(org, report)| remarks(org, report)));
    let errors: BTreeMap<OrgId, String> = errors.into_iter().map(|(org, error)| (org, error.to_string())).collect();
    let mut data = object([
        ("created", per_org(&reports, |report| &report.created)),
        ("updated", per_org(&reports, |report| &report.updated)),
        ("unchanged", per_org(&reports, |report| &report.unchanged)),
        ("collisions", per_org(&reports, |report| &report.collisions)),
        ("renamed", per_org(&reports, |report| &report.renamed)),
        ("vanished", per_org(&reports, |report| &report.vanished)),
        ("errors", json!(errors)),
    ]);
    data.extend(next.map(|next| ("next".to_owned(), json!(next))));
    Ok(Response::new(data).warnings(warnings))
}

/// Returns one list of the reports for each org.
fn per_org<T: Serialize>(reports: &BTreeMap<OrgId, Report>, kind: impl Fn(&Report) -> &T) -> Value {
    reports.iter().map(|(org, report)| (org.to_string(), json!(kind(report)))).collect()
}

/// Returns the warnings for the operator.
fn remarks(org: &OrgId, report: &Report) -> Vec<String> {
    let Report { collisions, renamed, vanished, damaged, unreadable, .. } = report;
    let org = org.as_str();
    let mut remarks = Vec::new();
    for (name, roles) in collisions {
        remarks.push(format!(
            "org_id {org:?}: role {:?} was not imported, because several Astra roles would have this name: {}; write a \
             role for each of these Astra roles",
            name.as_str(),
            quoted(roles)
        ));
    }
    if !renamed.is_empty() {
        let names = renamed.iter().map(|(name, astra)| format!("{:?} is {astra:?} in Astra", name.as_str()));
        let names = names.collect::<Vec<_>>().join(", ");
        remarks.push(format!(
            "org_id {org:?}: these roles were not changed, because their Astra roles have other names: {names}"
        ));
    }
    if !vanished.is_empty() {
        let names = quoted(vanished.iter().map(RoleName::as_str));
        remarks.push(format!(
            "org_id {org:?}: Astra does not list the role_id or all role_ids of these roles, which were not changed: {names}"
        ));
    }
    if !damaged.is_empty() {
        let names = quoted(damaged.iter().map(RoleName::as_str));
        remarks.push(format!(
            "org_id {org:?}: these roles were not changed, because their stored entries cannot be read: {names}; write or \
             delete these roles again"
        ));
    }
    if *unreadable > 0 {
        remarks.push(format!(
            "org_id {org:?}: {unreadable} entries of Astra's list were skipped, because they have no usable id and name"
        ));
    }
    remarks
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("{:?}", name.as_ref())).collect::<Vec<_>>().join(", ")
}
