//! What is sent to Astra and what comes back. Answers are read leniently: a member that is missing or of another type is
//! empty, and whoever needs it checks it.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// How every application token begins.
pub(crate) const TOKEN_PREFIX: &str = "AstraCS:";

/// The token to be made.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NewToken {
    /// Ids of its Astra roles.
    pub(crate) roles: Vec<String>,
    /// What Astra's portal shows beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// When it dies by itself (RFC 3339, UTC).
    #[serde(rename = "tokenExpiry", skip_serializing_if = "Option::is_none")]
    pub(crate) token_expiry: Option<String>,
}

/// The tokens of an org. Of each, which may be thousands, only the id is kept.
#[derive(Deserialize)]
pub(super) struct TokenList {
    pub(super) clients: Vec<ListedToken>,
}

/// One of them.
#[derive(Deserialize)]
pub(super) struct ListedToken {
    #[serde(rename = "clientId")]
    pub(super) client_id: String,
    #[serde(default)]
    pub(super) description: Value,
}

/// A token that Astra says it made. No `Debug`: it holds the token.
pub(crate) struct CreatedToken {
    /// Public part of the token.
    pub(crate) client_id: String,
    /// The secret that the token was made of.
    pub(crate) secret: SecretString,
    /// The org.
    pub(crate) org_id: String,
    /// Ids of its Astra roles.
    pub(crate) roles: Vec<String>,
    /// The token.
    pub(crate) token: SecretString,
    /// When it was made (RFC 3339); empty if Astra does not say.
    pub(crate) generated_on: String,
}

impl CreatedToken {
    pub(super) fn read(mut answer: Map<String, Value>) -> Self {
        let mut text = |name: &str| match answer.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let client_id = text("clientId");
        let secret = SecretString::from(text("secret"));
        let token = match text("token") {
            // The spec does not promise it, but says what it is made of.
            token if token.is_empty() && !client_id.is_empty() && !secret.expose_secret().is_empty() => {
                format!("{TOKEN_PREFIX}{client_id}:{:x}", Sha256::digest(secret.expose_secret()))
            }
            token => token,
        };
        let (org_id, generated_on) = (text("orgId"), text("generatedOn"));
        Self { client_id, secret, org_id, roles: texts(answer.remove("roles")), token: token.into(), generated_on }
    }

    /// Says what is wrong with the answer, if anything is.
    pub(crate) fn fault(&self, org_id: &str) -> Option<&'static str> {
        let parts = self.token.expose_secret().strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once(':'));
        if self.client_id.is_empty() {
            Some("it has no clientId")
        } else if parts.is_none_or(|(client_id, digest)| client_id != self.client_id || digest.is_empty()) {
            Some("its token does not belong to its clientId")
        } else if !self.org_id.eq_ignore_ascii_case(org_id) {
            Some("its token is of another org")
        } else {
            None
        }
    }
}

/// The texts of a JSON array.
fn texts(value: Option<Value>) -> Vec<String> {
    let Some(Value::Array(values)) = value else { return Vec::new() };
    values.into_iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}
