//! The bodies of requests to Astra and of its answers. Answers are parsed leniently: a member that is missing or has
//! the wrong type becomes empty. The code that needs the member checks it.

use std::borrow::Cow;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::description::is_marked;

/// A token has about a hundred bytes. Every server accepts a header of this length.
pub(crate) const MAX_TOKEN: usize = 4096;

const MAX_TIME: usize = 64;

/// A UUID has 36 bytes.
const MAX_ORG_ID: usize = 64;

/// The prefix of every application token.
pub(crate) const TOKEN_PREFIX: &str = "AstraCS:";

/// The request body of a mint.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NewToken {
    /// Ids of the Astra roles of the token.
    pub(crate) roles: Vec<String>,
    /// The description, which Astra's portal shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    /// When the token expires in Astra (RFC 3339, UTC).
    #[serde(rename = "tokenExpiry", skip_serializing_if = "Option::is_none")]
    pub(crate) token_expiry: Option<String>,
}

/// When Astra generated a token, and when the token expires. `None` if Astra does not say it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct TokenDates {
    pub(crate) created_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
}

/// A text, or any other JSON value.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Lenient<'a> {
    Text(#[serde(borrow)] Cow<'a, str>),
    Other(IgnoredAny),
}

impl Default for Lenient<'_> {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

impl Lenient<'_> {
    /// Returns the text, if the value is a text.
    pub(super) fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.into_owned()),
            Self::Other(_) => None,
        }
    }
}

/// The answer to a mint. No `Debug`: it holds the token.
pub(crate) struct CreatedToken {
    /// Public part of the token.
    pub(crate) client_id: String,
    /// The secret from which Astra computed the token.
    pub(crate) secret: SecretString,
    /// Astra's id of the organization.
    pub(crate) org_id: String,
    /// Ids of the Astra roles of the token.
    pub(crate) roles: Vec<String>,
    /// The token.
    pub(crate) token: SecretString,
    /// When Astra minted the token (RFC 3339); empty if the answer has no usable time.
    pub(crate) generated_on: String,
    /// The description that Astra keeps; empty if the answer has none.
    description: String,
    /// When the token expires in Astra, if the answer says that.
    pub(crate) expiry: Option<Timestamp>,
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
            // Astra's specification does not promise this member, but documents how to compute it.
            token if token.is_empty() && !client_id.is_empty() && !secret.expose_secret().is_empty() => {
                format!("{TOKEN_PREFIX}{client_id}:{:x}", Sha256::digest(secret.expose_secret()))
            }
            token => token,
        };
        let (org_id, mut generated_on) = (text("orgId"), text("generatedOn"));
        let (description, expiry) = (text("description"), text("tokenExpiry").parse().ok());
        if !is_line(&generated_on, MAX_TIME) {
            generated_on.clear();
        }
        let (roles, token) = (texts(answer.remove("roles")), token.into());
        Self { client_id, secret, org_id, roles, token, generated_on, description, expiry }
    }

    /// Whether Astra keeps a description that begins with this marker.
    pub(crate) fn is_marked(&self, marker: &str) -> bool {
        is_marked(&self.description, marker)
    }

    /// Returns the fault of the answer, if it has one. The caller checks that the answer is for the right organization.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let parts = self.token.expose_secret().strip_prefix(TOKEN_PREFIX).and_then(|rest| rest.split_once(':'));
        if self.client_id.is_empty() {
            Some("it has no clientId")
        } else if parts.is_none_or(|(client_id, digest)| client_id != self.client_id || digest.is_empty()) {
            Some("its token does not belong to its clientId")
        } else if !is_line(self.token.expose_secret(), MAX_TOKEN) || self.token.expose_secret().contains(' ') {
            // Templates write the token into files. A line end in the token would inject another line.
            Some("its token has characters or a length that no token has")
        } else if !is_org_id(&self.org_id) {
            Some("it has no orgId")
        } else {
            None
        }
    }
}

/// Splits the text of a token, `AstraCS:<client id>:<digest>`, into its client id and its digest. Both are printable ASCII without
/// colons.
pub(crate) fn token_parts(token: &str) -> Option<(&str, &str)> {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
    let parts = token.strip_prefix(TOKEN_PREFIX)?.split_once(':')?;
    Some(parts).filter(|(client_id, digest)| is_part(client_id) && is_part(digest))
}

/// Whether a text can be Astra's id of an organization. The engine stores, compares and shows this id.
pub(super) fn is_org_id(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= MAX_ORG_ID && text.bytes().all(is_part)
}

/// Whether a text is printable ASCII and not too long.
fn is_line(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Returns the texts in a JSON array. Skips other values.
fn texts(value: Option<Value>) -> Vec<String> {
    let Some(Value::Array(values)) = value else { return Vec::new() };
    values.into_iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;

    /// An answer without a fault holds a token that belongs to its client id, and an organization.
    pub(crate) fn fuzz_astra_token(data: &[u8]) {
        let Ok(Value::Object(answer)) = serde_json::from_slice(data) else { return };
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let token = CreatedToken::read(answer.clone());
        assert_eq!((&token.client_id, &token.org_id), (&text("clientId"), &text("orgId")));
        let all = answer.get("roles").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        assert_eq!(token.roles.len(), all.iter().filter(|role| role.is_string()).count());
        if token.fault().is_none() {
            assert!(!token.org_id.is_empty() && !token.org_id.contains([' ', '/', ':', '\n']));
            let (whole, id) = (token.token.expose_secret(), &token.client_id);
            let digest = whole.strip_prefix(&format!("AstraCS:{id}:"));
            assert!(!id.is_empty() && !id.contains(':') && digest.is_some_and(|digest| !digest.is_empty()));
            assert!(whole == text("token") || text("token").is_empty() && !text("secret").is_empty());
        }
    }
}
