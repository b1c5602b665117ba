//! `config`: the root token and the settings of one org.

mod root_dates;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use vault_plugin_sdk::framework::{Call, Fields, Path};
use vault_plugin_sdk::logical::{self, Operation, Request, Response};

pub(super) use self::root_dates::{DATE_FIELDS, ignored};
use self::root_dates::{MEMBERS, expiry_warning, stop_warning};
use self::settings::shown;
use self::settings::{ASTRA_TOKEN, CREATE_ONLY, FIELDS, FORCE, VERIFY_CONNECTION, carries_token, changed};
pub(super) use self::settings::{LOGICAL_NAME, SETTINGS, UNSTORED};
use super::org;
use super::shared::{
    Answered, Durations, ORG_ID, REPLACED, detached, handler, mount, no_config, org_id, require_config,
    unreadable_config, written,
};
use super::verify::{Verified, require_not_minted, settle_org, verify};
use crate::api::TokenDates;
use crate::clock;
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::journal;
use crate::names::OrgId;
use crate::rotate::Replacement;
use crate::store::Config;
use crate::upkeep::dates_for_write;

pub(crate) fn path() -> Path<Engine> {
    Path::new("config", FIELDS)
        .read(
            handler("Read the config of an organization", read)
                .shows_fields()
                .returns(RETURNED),
        )
        .write(detached("Write the config of an organization", write).on_active_node())
        .patch(detached("Change some settings of the config of an organization", write).on_active_node())
        .delete(detached("Delete the config of an organization", delete).on_active_node())
        .exists(exists)
        .help(
            "Manages the root token and the settings of one Astra organization.",
            "Each Astra organization needs a config with a root token, with which the engine mints and revokes tokens. A \
             write changes only the parameters that are given. A read takes org_id or logical_name and never shows the \
             root token. A tool that writes the same config again and again uses create_only=true: its astra_token is then ignored \
             if the organization has a config. If a write replaces a root token that the engine made in a rotation, the engine \
             deletes this root token in Astra. A config cannot be deleted while its organization has live tokens, unless force is true.\n\n\
             You choose the org_id. Use Astra's id of the organization. Another text also works, as in mounts of the Go plugin: \
             the engine then learns from Astra which organization the root token belongs to, shows the id of this \
             organization as astra_org_id, and rejects answers for another organization.\n\
             \nExamples:\n    vault write <mount>/config org_id=$ORG_ID astra_token=$ROOT_TOKEN logical_name=retail\n    \
             vault read <mount>/config logical_name=retail\n    \
             vault patch <mount>/config org_id=$ORG_ID request_timeout=10s\n    \
             vault write <mount>/config org_id=$ORG_ID astra_token=$ROOT_TOKEN create_only=true",
        )
}

/// The members of answers that are no settings.
const RETURNED: &[(&str, &str)] = &[
    ("astra_org_id", "Astra's id of the organization. Empty until Astra has named the organization."),
    MEMBERS[0],
    MEMBERS[1],
    MEMBERS[2],
    MEMBERS[3],
];

async fn exists(engine: Arc<Engine>, call: Call) -> Result<bool, logical::Error> {
    // Every caller can reach this check, so errors in the request are reported later, to callers that can write.
    match org_id(&call.fields) {
        Ok(org) => Ok(engine.store.has_config(&org).await?),
        Err(_) => Ok(false),
    }
}

async fn read(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let org = match (fields.get(&ORG_ID), fields.get(&LOGICAL_NAME)) {
        (None, Some(name)) if !name.is_empty() => org::named(&engine, &request, &name).await?,
        (None, _) => return Err(Error::field(ORG_ID.name(), "or logical_name is required")),
        (Some(_), _) => org_id(&fields)?,
    };
    let config = require_config(&engine, &request, &org).await?;
    Ok(Some(answer(&config, &request, Durations::Text)))
}

/// Returns the answer to a read.
pub(super) fn answer(config: &Config, request: &Request, durations: Durations) -> Response {
    let warnings = expiry_warning(config, request, clock::now()).into_iter().chain(stop_warning(config, request));
    Response::new(shown(config, durations)).warnings(warnings)
}

/// Astra's answers about a root token that is not stored yet.
struct Checked {
    /// The config with this root token.
    config: Config,
    org: Verified,
    dates: Option<TokenDates>,
}

pub(super) async fn write(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields: all_fields, .. } = call;
    let org = org_id(&all_fields)?;
    let mut checked: Option<Checked> = None;
    loop {
        let lock = engine.locks.configs().await;
        let (old, damage) = readable(engine.store.config(&org).await)?;
        let is_new = old.is_none() && damage.is_none();
        // A config that cannot be read holds no root token, so the write needs the given one.
        let ignores_token = old.is_some() && all_fields.get(&CREATE_ONLY) == Some(true);
        let fields = if ignores_token { all_fields.without(&ASTRA_TOKEN) } else { all_fields.clone() };
        if let Some(reason) = damage.as_ref()
            && (request.operation == Operation::Patch || !fields.is_given(&ASTRA_TOKEN))
        {
            return Err(Error::Refused(unreadable_config(&org, reason)));
        }
        if is_new {
            org.require_new(ORG_ID.name())?;
        }
        if is_new && request.operation == Operation::Patch {
            return Err(Error::NotFound(no_config(&request, &org)));
        }
        let (mut new, remarks) = changed(old.as_deref(), &org, &fields)?;
        // Somebody looks after the root token.
        new.root.stopped_at = None;
        org::require_free_names(&engine, old.as_deref(), &new).await?;
        require_in_use(&engine, &new)?;
        let known = checked.take().filter(|known| known.config.same_endpoint(&new));
        let named = known.as_ref().and_then(|known| known.org.org());
        require_not_minted(&engine, old.as_deref(), &new, named).await?;
        if known.is_some() || !must_verify(old.as_deref(), &new, &fields) {
            let mut warnings: Vec<String> = known.as_ref().and_then(|known| known.org.remark()).into_iter().collect();
            if let Some(named) = named {
                warnings.extend(settle_org(&engine, &mut new, named, is_new).await?);
            }
            let is_accepted = named.is_some();
            let dates = known.and_then(|known| known.dates);
            let replacement = store(&engine, old.as_ref(), &mut new, dates).await?;
            drop(lock);
            log_written(&request, &new);
            warnings.extend(remarks);
            warnings.extend(damage.map(|_| REPLACED.to_owned()));
            warnings.extend(expiry_warning(&new, &request, clock::now()));
            if let Some(replacement) = replacement {
                warnings.push(replacement.finish(&engine, &Arc::new(new), is_accepted).await);
            }
            return Ok(written(warnings));
        }
        // The lock is released during the calls of Astra. If another write changes the verified settings, the loop
        // verifies again.
        drop(lock);
        let org = verify(&engine, &new).await?;
        let dates = dates_for_write(&engine, &new).await;
        checked = Some(Checked { config: new, org, dates });
    }
}

/// Stores a config. Returns the replacement of the root token, if the engine had made the former one.
async fn store(
    engine: &Engine,
    old: Option<&Arc<Config>>,
    new: &mut Config,
    dates: Option<TokenDates>,
) -> Result<Option<Replacement>, Error> {
    if let Some(dates) = dates {
        new.root.set_dates(dates.created_at, dates.expires_at);
    }
    let replacement = match old {
        Some(old) => Replacement::begin(engine, old, new).await?,
        None => None,
    };
    engine.store.put_config(new).await?;
    engine.clients.forget(&new.org_id);
    if dates.is_none() && old.is_none_or(|old| old.root_id() != new.root_id()) {
        engine.schedule.read_after(&new.org_id, Duration::ZERO);
    }
    Ok(replacement)
}

fn log_written(request: &Request, config: &Config) {
    tracing::info!(org_id = %config.org_id, logical_name = config.logical_name, url = config.url,
        caller_mode = config.caller_mode.as_str(), display_name = request.caller.display_name,
        entity_id = request.caller.entity_id, "wrote config");
}

pub(super) async fn delete(engine: Arc<Engine>, call: Call) -> Answered {
    let Call { request, fields, .. } = call;
    let org = org_id(&fields)?;
    let is_forced = fields.get(&FORCE).unwrap_or(false);
    if !is_forced && readable(engine.store.config(&org).await)?.0.is_some() {
        require_no_tokens(&engine, &request, &org).await?;
        engine.store.write_records_after_downgrade().await?;
        // The log can be long, so it is read before the locks are taken. A mint that begins later either stores its token
        // before the next check of the tokens, or finds no config and is undone.
        require_no_unfinished(&engine, &org).await?;
    }
    let _no_token_stored = engine.locks.no_token_stored(&org).await;
    let _lock = engine.locks.configs().await;
    let (config, damage) = readable(engine.store.config(&org).await)?;
    if config.is_none() && damage.is_none() {
        org.require_new(ORG_ID.name())?;
        return Ok(None);
    }
    if let Some(reason) = damage.filter(|_| !is_forced) {
        return Err(Error::Refused(unreadable_config(&org, &reason)));
    }
    if !is_forced {
        require_no_tokens(&engine, &request, &org).await?;
        require_no_static_roles(&engine, &org).await?;
    }
    engine.store.delete_static_roles_of(&org).await?;
    engine.store.delete_config(&org).await?;
    engine.clients.forget(&org);
    tracing::info!(org_id = %org, display_name = request.caller.display_name, entity_id = request.caller.entity_id,
        "deleted config");
    Ok(None)
}

/// Fails if the org has a static role. Its token may be deleted, and then it gets another one.
async fn require_no_static_roles(engine: &Engine, org: &OrgId) -> Result<(), Error> {
    match engine.store.static_roles_of(org).await?.first() {
        Some(name) => Err(Error::Refused(format!(
            "org_id {:?} has the static role {:?}; delete its static roles first, or delete with force=true",
            org.as_str(),
            name.as_str()
        ))),
        None => Ok(()),
    }
}

async fn require_no_unfinished(engine: &Engine, org: &OrgId) -> Result<(), Error> {
    if !journal::is_unfinished(engine.wal(), org).await? {
        return Ok(());
    }
    Err(Error::NotYet(format!(
        "org_id {:?} has an unfinished mint or rotation, which needs the config; try again in a minute, or delete with \
         force=true",
        org.as_str()
    )))
}

async fn require_no_tokens(engine: &Engine, request: &Request, org: &OrgId) -> Result<(), Error> {
    // Checked before the search for tokens: the build of the inventory could finish in between.
    let is_complete = engine.store.inventory_is_complete().await?;
    if engine.store.has_tokens(org).await? {
        return Err(Error::Refused(format!(
            "org_id {:?} has live tokens, which cannot be revoked without the config; revoke these tokens first (see \"vault \
             list {}/org/tokens\"), or delete with force=true",
            org.as_str(),
            mount(request)
        )));
    }
    if !is_complete {
        return Err(Error::inventory_incomplete(Some("delete with force=true")));
    }
    let is_known = engine.store.config(org).await?.is_none_or(|config| !config.astra_org_id.is_empty());
    if !is_known && !engine.store.strays().await?.is_empty() {
        return Err(Error::NotYet(format!(
            "Astra has not named the organization of org_id {:?} yet, and some stored tokens may belong to this organization; \
             write the astra_token again, or delete with force=true",
            org.as_str()
        )));
    }
    Ok(())
}

/// Fails if the engine deletes or has deleted the root token. A write that comes late, or a tool that writes the same config
/// again and again, must not store this root token again.
fn require_in_use(engine: &Engine, config: &Config) -> Result<(), Error> {
    if !engine.clients.is_retired(config) && !config.root_id().is_some_and(|id| config.has_replaced(id)) {
        return Ok(());
    }
    Err(Error::field(
        ASTRA_TOKEN.name(),
        "was rotated out: the engine replaced this root token and deletes it in Astra; omit astra_token or write it with \
         create_only=true to keep the current root token, or give a new one",
    ))
}

/// Whether this write asks Astra. Settings that do not change the calls of Astra need no verification. A given root
/// token is verified even if it is stored already, because the stored root token may never have been verified.
fn must_verify(old: Option<&Config>, new: &Config, fields: &Fields) -> bool {
    fields.get(&VERIFY_CONNECTION).unwrap_or(true)
        && (fields.is_given(&VERIFY_CONNECTION)
            || carries_token(old, fields)
            || old.is_none_or(|old| !old.same_endpoint(new)))
}
