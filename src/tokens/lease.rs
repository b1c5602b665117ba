//! The lease of a token: its internal data, and the response that the host stores with the lease.
//!
//! Architecture invariant: if the role or the root token changes, the internal data is still enough to revoke the
//! token.

use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vault_plugin_sdk::logical::{self, Map, Secret};

use super::request::MintedBy;
use super::time::EXPIRY_MARGIN;
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, OrgId, RoleName};
use crate::store::{Record, Token};

/// Type of the lease. Leases of the Go plugin have the same type.
pub(crate) const SECRET_TYPE: &str = "astra_token";

/// Internal data of a lease. Leases of the Go plugin have only the members before `ttl_seconds`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LeaseData {
    #[serde(rename = "orgId")]
    pub(super) org_id: OrgId,
    #[serde(rename = "clientId")]
    pub(super) client_id: ClientId,
    #[serde(rename = "roleName")]
    pub(super) role_name: RoleName,
    #[serde(rename = "tokenId")]
    pub(super) token_id: String,
    pub(super) secret_type: String,
    /// `ttl` of the role when the token was minted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ttl_seconds: Option<u64>,
    /// `max_ttl` of the role when the token was minted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_ttl_seconds: Option<u64>,
    /// When the token expires in Astra (RFC 3339), if the mint gave Astra an expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires_at: Option<String>,
}

impl LeaseData {
    /// Reads a lease from its internal data. Reads a missing member from `data`, the response stored with the lease.
    pub(super) fn read(secret: &Secret, data: &Map) -> Self {
        // Members are read one by one: a member with a wrong type must not hide the client id.
        let text = |name: &str| {
            let texts = [&secret.internal_data, data].map(|members| members.get(name).and_then(Value::as_str));
            texts.into_iter().flatten().find(|text| !text.is_empty()).unwrap_or_default()
        };
        // The host returns numbers as floats.
        let seconds = |name: &str| match secret.internal_data.get(name) {
            Some(Value::Number(number)) => number.as_f64().map(|seconds| seconds as u64),
            _ => None,
        };
        Self {
            org_id: OrgId::stored(text("orgId")),
            client_id: ClientId::stored(text("clientId")),
            role_name: RoleName::stored(text("roleName")),
            token_id: text("tokenId").to_owned(),
            secret_type: SECRET_TYPE.to_owned(),
            ttl_seconds: seconds("ttl_seconds"),
            max_ttl_seconds: seconds("max_ttl_seconds"),
            expires_at: Some(text("expires_at")).filter(|text| !text.is_empty()).map(str::to_owned),
        }
    }

    /// Logs a failed renewal or revocation with the names that the host's own log does not have.
    pub(super) fn failed(&self, engine: &Engine, operation: &str, error: Error) -> logical::Error {
        engine.metrics.failed(&error);
        if error.is_failure() {
            tracing::error!(org_id = %self.org_id, role_name = %self.role_name, client_id = %self.client_id,
                error = %error, "failed to {operation} a token");
        }
        error.for_lease()
    }

    pub(super) fn into_map(self) -> Map {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }
}

/// Returns the response with a token.
///
/// If the response of a read has `metadata` without an empty `deletion_time`, agents take it for a deleted key/value
/// entry. So the metadata gets an empty `deletion_time` if a read mints.
pub(crate) fn token_data(token: &Token, minted_by: MintedBy) -> Map {
    let mut metadata = json!(token.metadata);
    match &mut metadata {
        Value::Object(pairs) if pairs.is_empty() => metadata = Value::Null,
        Value::Object(pairs) if minted_by == MintedBy::Read => {
            pairs.insert("deletion_time".into(), json!(""));
        }
        _ => {}
    }
    Map::from_iter([
        ("clientId".to_owned(), json!(token.client_id)),
        ("generatedOn".to_owned(), json!(token.generated_on)),
        ("logicalName".to_owned(), json!(token.logical_name)),
        ("metadata".to_owned(), metadata),
        ("orgId".to_owned(), json!(token.org_id)),
        ("roleName".to_owned(), json!(token.role_name)),
        ("token".to_owned(), shown_token(token)),
    ])
}

/// Returns the token as an answer shows it.
pub(crate) fn shown_token(token: &Token) -> Value {
    json!(token.token.expose_secret())
}

/// Returns the latest time at which the lease of a token can expire, if that time is known.
pub(crate) fn lease_end(record: &Record) -> Option<Timestamp> {
    if let Ok(end) = record.lease_end.parse() {
        return Some(end);
    }
    let expiry: Timestamp = record.expires_at.parse().ok()?;
    expiry.checked_sub(jiff::SignedDuration::try_from(EXPIRY_MARGIN).ok()?).ok()
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use std::time::Duration;

    use super::*;
    use crate::tokens::time::{later, until};

    /// For any lease data, the names of the token are read. A written lease reads the same after the host has turned
    /// its numbers into floats.
    pub(crate) fn fuzz_lease(data: &[u8]) {
        let Ok(Value::Object(data)) = serde_json::from_slice(data) else { return };
        let read = |data: Map| LeaseData::read(&Secret::new(Duration::ZERO, Duration::ZERO, data), &Map::new());
        let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
        let lease = read(data.clone());
        let names = [lease.org_id.as_str(), lease.client_id.as_str(), lease.role_name.as_str(), &lease.token_id];
        assert_eq!(names, ["orgId", "clientId", "roleName", "tokenId"].map(text));
        // Without internal data, the stored response has the same members.
        let answer = LeaseData::read(&Secret::new(Duration::ZERO, Duration::ZERO, Map::new()), &data);
        assert_eq!((answer.org_id, answer.client_id), (lease.org_id.clone(), lease.client_id.clone()));
        let written = lease.clone().into_map();
        let as_float = |value: Value| value.as_f64().map_or(value, |number| json!(number));
        let floats = written.iter().map(|(name, value)| (name.clone(), as_float(value.clone()))).collect();
        assert!(read(floats).into_map() == written, "a lease changed on its way");
        let issued = Timestamp::now();
        for seconds in [lease.ttl_seconds, lease.max_ttl_seconds].into_iter().flatten() {
            let end = later(issued, Duration::from_secs(seconds));
            assert!(end >= issued && until(issued, end).as_secs() <= seconds);
        }
    }
}
