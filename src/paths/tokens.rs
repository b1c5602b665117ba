//! `org/tokens`: the inventory of live tokens.

use std::sync::Arc;

use serde_json::{Value, json};
use vault_plugin_sdk::framework::{Call, Field, FieldSpec, Path};
use vault_plugin_sdk::logical::{Map, Response};

use super::filters::{filter, with_filters};
use super::shared::{Answered, ORG_ID, handler, object, optional_org_id, unreadable_entries};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, OrgId};
use crate::store::{Kind, Record, record_key};
use crate::tokens::lease_end;

pub(super) const AFTER: Field<String> =
    Field::string("after", "Lists only client ids after this client id, which does not need to exist.");

pub(super) const LIMIT: Field<i64> =
    Field::int("limit", "Lists at most this many client ids. Without limit, or with 0, the list has all client ids.");

const FIELDS: &[FieldSpec] = &with_filters([ORG_ID.spec(), AFTER.spec(), LIMIT.spec()]);

/// What a list of tokens shows.
pub(super) const TOKENS: &[(&str, &str)] = &[
    ("keys", "Client ids of the tokens."),
    (
        "key_info",
        "For each client id: organization, role, names, metadata, time and caller of the mint, the latest expiry of the lease, \
         and the last use.",
    ),
];

pub(crate) fn path() -> Path<Engine> {
    Path::new("org/tokens/?", FIELDS)
        .list(handler("List the live tokens", list).returns(TOKENS))
        .help(
            "Lists the live tokens.",
            "Lists the client ids of all live tokens of this mount, or of the organization with org_id, in byte order. \
             key_info describes each token and never shows the token. lease_end is the latest time at which the lease can \
             expire, however often it is renewed; the lease can expire earlier. lease_end is empty if this time is not known, \
             as for tokens of the Go plugin. created_at is the time at which Vault stored the token, for the caller with \
             display_name and entity_id. generated_on is the time at which Astra minted the token. last_used_at is the last read \
             of the token or renewal of its lease, use_count is the number of reads and renewals, and last_used_by is the \
             display name of the last reader. null means never. The engine does not see the use of a token against a database. \
             The parameters role, created_by, metadata, older_than and unused_for select tokens. key_info has at most the \
             first 10000 tokens of an answer, and fewer if their metadata is larger than 8 MiB. For a large inventory, list \
             pages with limit, and give the last client id of a page as after.\n\nExamples:\n    vault list -detailed <mount>/org/tokens\n    \
             vault read <mount>/org/tokens list=true role=reader limit=100",
        )
}

pub(super) async fn list(engine: Arc<Engine>, call: Call) -> Answered {
    let org = optional_org_id(&call.fields)?;
    let after = call.fields.get(&AFTER).unwrap_or_default();
    let limit = call.fields.get(&LIMIT).unwrap_or(0);
    let limit = usize::try_from(limit).map_err(|_| Error::field(LIMIT.name(), "must not be negative"))?;
    let filter = filter(&call.fields)?;
    // Checked before the page is read: otherwise the build could finish in between, and missing tokens would get no
    // warning.
    let is_complete = engine.store.inventory_is_complete().await?;
    let (page, unread) = match &filter {
        Some(filter) => engine.store.matching(org.as_ref(), &after, limit, filter).await?,
        None => (engine.store.inventory(org.as_ref(), &after, limit).await?, Vec::new()),
    };
    if let Some(org) = org.filter(|_| page.detailed.is_empty()) {
        org.require_new(ORG_ID.name())?;
    }
    let details = page.detailed.len();
    let last = page.detailed.last().map(|(_, client, _)| client.clone());
    let is_unreadable =
        |(org, client, record): &(OrgId, ClientId, Option<Record>)| record.is_none().then(|| record_key(org, client));
    let unreadable: Vec<String> = page.detailed.iter().filter_map(is_unreadable).chain(unread).collect();
    let entries = page.detailed.into_iter().map(|(org, client, record)| {
        (client.to_string(), record.map_or_else(|| json!({}), |record| Value::Object(shown(&org, record))))
    });
    let mut response = Response::list_with_info(entries).warnings(unreadable_entries(&unreadable));
    if let (Some(last), Some(Value::Array(keys))) = (last, response.data.as_mut().and_then(|data| data.get_mut("keys")))
        && !page.others.is_empty()
    {
        keys.extend(page.others.into_iter().map(|client| json!(client)));
        response = response.warn(format!(
            "key_info has only the first {details} tokens; for the next tokens, list with after={last} and a limit"
        ));
    }
    if !is_complete {
        response = response
            .warn("the inventory of tokens is still being built, so some tokens may be missing; try again later");
    }
    let left_out = engine.store.left_out().await?;
    if !left_out.is_empty() {
        response = response.warn(format!(
            "some stored tokens of the Go plugin are not in the inventory, because their entries cannot be read or their client \
             ids cannot be listed: {}; the log of the upgrade names all of these tokens",
            left_out.iter().map(|id| format!("token/{id}")).collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(Some(response))
}

/// Returns the members of a record.
pub(super) fn shown(org: &OrgId, record: Record) -> Map {
    let end = record.replaced_until().map(|end| ("replaced_until".to_owned(), json!(end.to_string())));
    let metadata = if record.metadata.is_empty() { Value::Null } else { json!(record.metadata) };
    let mut shown = object([
        ("created_at", json!(record.created_at)),
        ("display_name", json!(record.display_name)),
        ("entity_id", json!(record.entity_id)),
        ("generated_on", json!(record.generated_on)),
        ("kind", json!(record.kind.as_str())),
        ("last_used_at", or_null(&record.last_used_at)),
        ("last_used_by", or_null(&record.last_used_by)),
        ("lease_end", json!(lease_end(&record).map(|end| end.to_string()).unwrap_or_default())),
        ("logical_name", json!(record.logical_name)),
        ("metadata", metadata),
        ("org_id", json!(org)),
        ("role_name", json!(record.role_name)),
        ("use_count", json!(record.use_count)),
    ]);
    shown.extend(end);
    if record.kind == Kind::Static {
        // A token without a lease.
        shown.insert("lease_end".to_owned(), json!(""));
        shown.insert("static_role".to_owned(), json!(record.static_role));
    }
    shown
}

fn or_null(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}
