//! The bodies of requests to Astra and of its answers. Answers are parsed leniently: a member that is missing or has
//! the wrong type becomes empty. The code that needs the member checks it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use secrecy::{ExposeSecret, SecretString};
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::description::is_marked;

const UNREADABLE: &str = "it is not a list of clients, each with a clientId";

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

/// The tokens of an org. There can be thousands, so each entry borrows its texts from the answer.
#[derive(Deserialize)]
pub(super) struct TokenList<'a> {
    #[serde(borrow, deserialize_with = "objects")]
    pub(super) clients: Vec<ListedToken<'a>>,
}

/// An entry of the list of tokens.
#[derive(Deserialize)]
pub(super) struct ListedToken<'a> {
    #[serde(rename = "clientId", borrow)]
    pub(super) client_id: Cow<'a, str>,
    #[serde(default, borrow)]
    description: Lenient<'a>,
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

impl<'a> TokenList<'a> {
    /// Parses a list of tokens.
    ///
    /// # Errors
    /// When the list is not complete, so that a missing token proves nothing. Says why.
    pub(super) fn read(answer: &'a [u8]) -> Result<Self, &'static str> {
        let Object(list): Object<Self> = serde_json::from_slice(answer).map_err(|_| UNREADABLE)?;
        // An entry without a client id may be the token that the caller searches for.
        if list.clients.iter().any(|token| token.client_id.is_empty()) {
            return Err(UNREADABLE);
        }
        // A complete list contains at least the root token of the caller.
        if list.clients.is_empty() { Err("it has no tokens at all") } else { Ok(list) }
    }
}

impl ListedToken<'_> {
    /// Whether the description of this token ends with this marker.
    pub(super) fn is_marked(&self, marker: &str) -> bool {
        let Lenient::Text(description) = &self.description else { return false };
        is_marked(description, marker)
    }
}

/// Returns the role ids of one token in a list; `None` if the list does not contain the token.
///
/// # Errors
/// When the list or one of the roles cannot be parsed. A new token with the same roles needs all of them.
pub(super) fn roles_of(answer: &[u8], client_id: &str) -> Result<Option<Vec<String>>, &'static str> {
    #[derive(Deserialize)]
    struct Holders<'a> {
        #[serde(borrow)]
        clients: Vec<Holder<'a>>,
    }
    #[derive(Deserialize)]
    struct Holder<'a> {
        #[serde(rename = "clientId", borrow)]
        client_id: Cow<'a, str>,
        #[serde(default)]
        roles: Value,
    }
    TokenList::read(answer)?;
    let list: Holders<'_> = serde_json::from_slice(answer).map_err(|_| UNREADABLE)?;
    let Some(holder) = list.clients.into_iter().find(|holder| holder.client_id == client_id) else { return Ok(None) };
    let roles = match holder.roles {
        Value::Null => Some(Vec::new()),
        Value::Array(roles) => roles.into_iter().map(role_id).collect(),
        _ => None,
    };
    roles.map(Some).ok_or("the roles of the token are not a list of ids")
}

fn role_id(role: Value) -> Option<String> {
    match role {
        Value::String(id) if !id.is_empty() => Some(id),
        _ => None,
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
        if !is_line(&generated_on, MAX_TIME) {
            generated_on.clear();
        }
        Self { client_id, secret, org_id, roles: texts(answer.remove("roles")), token: token.into(), generated_on }
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

/// Whether a text can be Astra's id of an organization. The engine stores, compares and shows this id.
pub(super) fn is_org_id(text: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.len() <= MAX_ORG_ID && text.bytes().all(is_part)
}

/// Whether a text is printable ASCII and not too long.
fn is_line(text: &str, longest: usize) -> bool {
    text.len() <= longest && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

/// Accepts only a JSON object. By default, serde also accepts an array of the members.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(value)| value).collect())
}

/// Returns the texts in a JSON array. Skips other values.
fn texts(value: Option<Value>) -> Vec<String> {
    let Some(Value::Array(values)) = value else { return Vec::new() };
    values.into_iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;

    /// A parsed list has the same client ids and descriptions as the plain JSON, or parsing fails.
    pub(crate) fn fuzz_astra_list(data: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
        let entry = |token: &Value| match token.as_object()?.get("clientId")? {
            Value::String(id) if !id.is_empty() => Some((id.clone(), token["description"].as_str().map(str::to_owned))),
            _ => None,
        };
        let clients = value.as_object().and_then(|list| list.get("clients")?.as_array()?.iter().map(entry).collect());
        let expected: Option<Vec<_>> = clients.filter(|clients: &Vec<_>| !clients.is_empty());
        let read = |data: &[u8]| {
            let list = TokenList::read(data).ok()?;
            let pair = |token: &ListedToken<'_>| (token.client_id.clone().into_owned(), token.text());
            Some(list.clients.iter().map(pair).collect::<Vec<_>>())
        };
        assert_eq!(read(value.to_string().as_bytes()), expected);
        // If a member occurs twice, plain JSON uses the last one, and parsing may fail.
        assert!(read(data).is_none_or(|list| Some(list) == expected));
        let Ok(list) = TokenList::read(data) else { return };
        for (token, (_, description)) in list.clients.iter().zip(expected.unwrap_or_default()) {
            let marker = description.as_deref().and_then(|text| text.rsplit_once(" id=")).map(|(_, marker)| marker);
            assert!(marker.is_none_or(|marker| token.is_marked(marker) && !token.is_marked(&format!("{marker}0"))));
        }
    }

    impl ListedToken<'_> {
        fn text(&self) -> Option<String> {
            match &self.description {
                Lenient::Text(text) => Some(text.clone().into_owned()),
                Lenient::Other(_) => None,
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(list: &str, marker: &str) -> Result<Option<String>, &'static str> {
        let list = TokenList::read(list.as_bytes())?;
        Ok(list.clients.into_iter().find(|token| token.is_marked(marker)).map(|token| token.client_id.into_owned()))
    }

    #[test]
    fn a_token_is_found_by_the_marker_at_the_end_of_its_description() {
        let list = r#"{"clients": [
            {"clientId": "a", "roles": ["r"], "generatedOn": "t"}, {"clientId": "b", "description": null},
            {"clientId": "c", "description": {"id": [1.5]}}, {"clientId": "d", "description": 12345678901234567890123},
            {"clientId": "e", "description": " id=m1 "}, {"clientId": "f", "description": "x id=m1"},
            {"clientId": "g\u0041", "description": "\u0022 id=m2"}, {"clientId": "h", "description": "id=m3"}]}"#;
        for (marker, expected) in [("m1", Some("f")), ("m2", Some("gA")), ("m3", None), ("1", None), ("M1", None)] {
            assert_eq!(found(list, marker).unwrap().as_deref(), expected, "{marker}");
        }
    }

    #[test]
    fn an_array_is_neither_a_list_nor_a_token() {
        for list in [r#"[[{"clientId": "a"}]]"#, r#"{"clients": [["a", "x id=m1"]]}"#, r#"[[["a"]]]"#] {
            assert_eq!(found(list, "m1"), Err(UNREADABLE), "{list}");
        }
    }

    #[test]
    fn the_roles_of_a_token_are_complete_or_an_error() {
        let list = br#"{"clients": [{"clientId": "a", "roles": ["r", "s"]}, {"clientId": "b", "roles": []},
            {"clientId": "c", "roles": null}, {"clientId": "d"}, {"clientId": "e", "roles": ["r", 1]},
            {"clientId": "f", "roles": ["r", ""]}, {"clientId": "g", "roles": "r"}]}"#;
        let roles = |ids: &[&str]| Ok(Some(ids.iter().map(|id| (*id).to_owned()).collect()));
        assert_eq!(roles_of(list, "a"), roles(&["r", "s"]));
        for client_id in ["b", "c", "d"] {
            assert_eq!(roles_of(list, client_id), roles(&[]), "{client_id}");
        }
        for client_id in ["e", "f", "g"] {
            assert!(roles_of(list, client_id).is_err(), "{client_id}");
        }
        assert_eq!(roles_of(list, "A"), Ok(None));
        assert!(roles_of(br#"{"clients": []}"#, "a").is_err());
    }

    #[test]
    fn an_incomplete_list_is_an_error() {
        for list in [
            r#"{"clients": []}"#,
            r#"{"clients": [{"clientId": "a"}, {"description": "x id=m1"}]}"#,
            r#"{"clients": [{"clientId": "a"}, {"clientId": null}]}"#,
            r#"{"clients": [{"clientId": "a"}, {"clientId": ""}]}"#,
            r#"{"clients": [{"clientId": "a"}, "b"]}"#,
            r#"{"clients": [{"clientId": "a"}"#,
            r#"{"clients": null}"#,
            "[]",
            "{}",
            "null",
            "",
        ] {
            assert!(found(list, "m1").is_err(), "{list}");
        }
    }
}
