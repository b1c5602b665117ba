//! What must hold for every stored entry, however damaged it is.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::*;
use crate::fuzz::{decode, encode};

/// Every entry that the Go plugin can store loads, and keeps its shape when it is stored again. Any other input
/// loads, or fails with an error that shows no part of the input. A loaded entry can be stored and loaded again.
pub(crate) fn fuzz_entries(data: &[u8]) {
    check_reload::<Config>(data);
    check_reload::<Role>(data);
    check_reload::<Token>(data);
    check_reload::<Record>(data);
    if let Some(role) = decode::<Role>(data) {
        assert!(role.ttl() <= role.max_ttl() && !role.ttl().is_zero());
    }
    let Ok(Value::Object(given)) = serde_json::from_slice(data) else { return };
    let text = |name: &str| (name.to_owned(), json!(given.get(name).and_then(Value::as_str).unwrap_or_default()));
    let number = |name: &str| (name.to_owned(), json!(given.get(name).and_then(Value::as_i64).unwrap_or(0).max(0)));
    let mode = |(name, mode): (String, Value)| (name, if mode == json!(2) { mode } else { json!(1) });
    check_shape::<Config>([
        text("astra_token"),
        text("url"),
        text("org_id"),
        text("logical_name"),
        mode(number("caller_mode")),
    ]);
    check_shape::<Role>([text("role_name"), text("role_id"), text("org_id"), number("ttl"), number("max_ttl")]);
    let roles = given
        .get("roles")
        .and_then(Value::as_array)
        .map(|roles| roles.iter().filter(|role| role.is_string()).collect::<Vec<_>>());
    let pairs = given
        .get("metadata")
        .and_then(Value::as_object)
        .map(|pairs| pairs.clone().into_iter().filter(|(_, value)| value.is_string()).collect::<Map<_, _>>());
    check_shape::<Token>([
        text("clientId"),
        text("secret"),
        text("orgId"),
        text("roleName"),
        ("roles".to_owned(), json!(roles.unwrap_or_default())),
        text("token"),
        text("generatedOn"),
        text("logicalName"),
        ("metadata".to_owned(), json!(pairs.filter(|pairs| !pairs.is_empty()))),
    ]);
}

fn check_reload<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Some(entry) = decode::<T>(data) {
        let stored = encode(&entry);
        assert!(
            decode::<T>(&stored).is_some_and(|entry| encode(&entry) == stored),
            "a loaded entry changed when it was stored and loaded again"
        );
    }
}

fn check_shape<T: Serialize + DeserializeOwned>(members: impl IntoIterator<Item = (String, Value)>) {
    let stored = Value::Object(members.into_iter().collect());
    let loaded = decode::<T>(&encode(&stored)).and_then(|entry| serde_json::to_value(entry).ok());
    assert!(loaded.is_some_and(|loaded| loaded == stored), "an entry of the Go plugin changed its shape");
}
