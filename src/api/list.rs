//! Reads Astra's list of the tokens of an org while the list arrives. The list of a large org has some hundred
//! megabytes, so only the entry that is arriving is kept in memory.
//!
//! A scanner finds where each entry ends, and `serde_json` parses the entry. No well-kept crate gives the elements of a
//! nested array one by one from chunks of bytes: their parsers either need a blocking reader, and so a thread for
//! each list, or do not fill structs.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use uuid::Uuid;

use super::body::quote;
use super::description::{is_marked, marker, marker_of};
use super::types::{Lenient, TokenDates};

const UNREADABLE: &str = "it is not a list of clients, each with a clientId";

/// The most bytes of an entry. Real entries have some hundred bytes.
const MAX_ENTRY: usize = 1 << 20;

/// An entry of the list of tokens. Borrows its texts from the answer.
#[derive(Deserialize)]
pub(crate) struct ListedToken<'a> {
    #[serde(rename = "clientId", borrow)]
    pub(crate) client_id: Cow<'a, str>,
    #[serde(default, borrow)]
    description: Lenient<'a>,
    #[serde(rename = "generatedOn", default, borrow)]
    generated_on: Lenient<'a>,
    #[serde(rename = "tokenExpiry", default, borrow)]
    token_expiry: Lenient<'a>,
    #[serde(default)]
    roles: Value,
}

/// Reads a list of tokens while it arrives, and keeps what it needs.
pub(crate) trait ListReader: Sync {
    /// What the reader keeps.
    type All: Send;

    /// Returns what the reader keeps of no token.
    fn begin(&self) -> Self::All;

    /// Adds a token.
    fn add(&self, all: &mut Self::All, token: &ListedToken<'_>);
}

impl ListedToken<'_> {
    /// Whether the description of this token begins with this marker.
    pub(crate) fn is_marked(&self, marker: &str) -> bool {
        let Lenient::Text(description) = &self.description else { return false };
        is_marked(description, marker)
    }

    /// Returns the marker of this token, if its description begins with one.
    pub(super) fn marker(&self) -> Option<Uuid> {
        let Lenient::Text(description) = &self.description else { return None };
        Uuid::try_parse(marker(description)?).ok()
    }

    /// Returns the description of this token, safe to show; empty if it has none.
    pub(crate) fn safe_description(&self) -> String {
        let Lenient::Text(description) = &self.description else { return String::new() };
        quote(description)
    }

    /// Returns when Astra generated this token and when it expires.
    pub(crate) fn dates(&self) -> TokenDates {
        let time = |member: &Lenient<'_>| match member {
            Lenient::Text(text) => text.parse().ok(),
            Lenient::Other(_) => None,
        };
        TokenDates { created_at: time(&self.generated_on), expires_at: time(&self.token_expiry) }
    }

    /// Returns the marker of this token, if this instance wrote its description. A description that was cut off within the
    /// marker counts as written by another program, because nothing tells which mint it belongs to.
    pub(crate) fn marker_of(&self, instance: &str) -> Option<Uuid> {
        let Lenient::Text(description) = &self.description else { return None };
        Uuid::try_parse(marker_of(description, instance)?).ok()
    }

    /// Returns when Astra minted this token, if the list says that.
    pub(crate) fn generated_on(&self) -> Option<Timestamp> {
        let Lenient::Text(time) = &self.generated_on else { return None };
        time.parse().ok()
    }

    /// Whether this token expires.
    pub(crate) fn expires(&self) -> bool {
        matches!(&self.token_expiry, Lenient::Text(time) if !time.is_empty())
    }

    /// Returns the ids of the Astra roles of this token, to show them. Skips what is no text.
    pub(crate) fn role_ids(&self) -> Vec<String> {
        let Value::Array(roles) = &self.roles else { return Vec::new() };
        roles.iter().filter_map(|role| role.as_str().map(quote)).collect()
    }

    /// Returns the ids of the Astra roles of this token; `None` if one of them cannot be parsed. A new token with the
    /// same roles needs all of them.
    pub(super) fn into_roles(self) -> Option<Vec<String>> {
        match self.roles {
            Value::Null => Some(Vec::new()),
            Value::Array(roles) => roles.into_iter().map(role_id).collect(),
            _ => None,
        }
    }
}

fn role_id(role: Value) -> Option<String> {
    match role {
        Value::String(id) if !id.is_empty() => Some(id),
        _ => None,
    }
}

/// A list of tokens, of which some bytes have arrived.
#[derive(Default)]
pub(super) struct TokenList {
    /// The bytes that are not parsed yet.
    rest: Vec<u8>,
    state: State,
    /// The value that is arriving, in the states that end with a value.
    value: Extent,
    /// Whether the key of the current member is `clients`.
    is_clients: bool,
    has_clients: bool,
    tokens: usize,
}

/// What must come next in the list. The document is one object, and its member `clients` is an array of objects.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
enum State {
    /// The object.
    #[default]
    Object,
    /// A key, or the end of the object.
    FirstKey,
    /// A key.
    NextKey,
    /// The rest of a key.
    Key,
    /// The colon after a key.
    Colon,
    /// The value of a member.
    Value,
    /// The rest of a value that is not the list.
    Other,
    /// A comma, or the end of the object.
    AfterValue,
    /// An entry, or the end of the list.
    FirstEntry,
    /// An entry.
    NextEntry,
    /// The rest of an entry.
    Entry,
    /// A comma, or the end of the list.
    AfterEntry,
    /// Nothing.
    End,
}

/// How far a JSON value was scanned. Finds only its end; the parser rejects values that are not JSON.
#[derive(Default)]
struct Extent {
    scanned: usize,
    depth: usize,
    is_in_string: bool,
    is_escaped: bool,
}

impl TokenList {
    /// Adds bytes of the list. Calls `visit` for each entry that is now complete.
    ///
    /// # Errors
    /// When this is not a list of tokens. Says why.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut visit: impl FnMut(ListedToken<'_>) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let mut at = 0;
        while at < rest.len() {
            if matches!(self.state, State::Key | State::Other | State::Entry) {
                let Some(length) = self.value.end(&rest[at..]) else { break };
                self.take(&rest[at..at + length], &mut visit)?;
                at += length;
            } else if is_space(rest[at]) {
                at += 1;
            } else {
                self.state = self.after(rest[at]).ok_or(UNREADABLE)?;
                // The first byte of a value belongs to the value.
                at += usize::from(!matches!(self.state, State::Key | State::Other | State::Entry));
            }
        }
        if rest.len() - at > MAX_ENTRY {
            return Err("one of its entries is longer than 1 MiB");
        }
        rest.drain(..at);
        self.rest = rest;
        Ok(())
    }

    /// Ends the list.
    ///
    /// # Errors
    /// When the list is not complete, so that a missing token proves nothing. Says why.
    pub(super) fn finish(self) -> Result<(), &'static str> {
        match self {
            Self { state: State::End, has_clients: true, tokens: 1.., .. } => Ok(()),
            // A complete list contains at least the root token of the caller.
            Self { state: State::End, has_clients: true, .. } => Err("it has no tokens at all"),
            _ => Err(UNREADABLE),
        }
    }

    /// Returns the state after a byte that is not part of a value.
    fn after(&mut self, byte: u8) -> Option<State> {
        Some(match (self.state, byte) {
            (State::Object, b'{') => State::FirstKey,
            (State::FirstKey | State::NextKey, b'"') => State::Key,
            (State::Colon, b':') => State::Value,
            (State::Value, b'[') if self.is_clients => State::FirstEntry,
            (State::Value, _) if !self.is_clients => State::Other,
            (State::FirstEntry | State::NextEntry, b'{') => State::Entry,
            (State::AfterEntry, b',') => State::NextEntry,
            (State::FirstEntry | State::AfterEntry, b']') => State::AfterValue,
            (State::AfterValue, b',') => State::NextKey,
            (State::FirstKey | State::AfterValue, b'}') => State::End,
            _ => return None,
        })
    }

    /// Parses a complete value.
    fn take(
        &mut self,
        value: &[u8],
        visit: &mut impl FnMut(ListedToken<'_>) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        self.value = Extent::default();
        match self.state {
            State::Key => {
                let key: Cow<'_, str> = serde_json::from_slice(value).map_err(|_| UNREADABLE)?;
                self.is_clients = key == "clients";
                if self.is_clients && std::mem::replace(&mut self.has_clients, true) {
                    return Err("it has two lists of clients");
                }
                self.state = State::Colon;
            }
            State::Entry => {
                let token: ListedToken<'_> = serde_json::from_slice(value).map_err(|_| UNREADABLE)?;
                // An entry without a client id may be the token that the caller searches for.
                if token.client_id.is_empty() {
                    return Err(UNREADABLE);
                }
                self.tokens += 1;
                self.state = State::AfterEntry;
                visit(token)?;
            }
            _ => {
                serde_json::from_slice::<IgnoredAny>(value).map_err(|_| UNREADABLE)?;
                self.state = State::AfterValue;
            }
        }
        Ok(())
    }
}

impl Extent {
    /// Returns the length of a value whose first bytes these are; `None` if the value may continue.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for &byte in bytes.get(self.scanned..)? {
            self.scanned += 1;
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' if self.is_in_string => self.is_escaped = true,
                b'"' => self.is_in_string = !self.is_in_string,
                _ if self.is_in_string => continue,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 0 => self.depth -= 1,
                // Nothing but the next byte shows that a number is complete.
                b'}' | b']' | b',' if self.depth == 0 => return Some(self.scanned - 1),
                _ if self.depth == 0 && is_space(byte) => return Some(self.scanned - 1),
                _ => continue,
            }
            if self.depth == 0 && !self.is_in_string && matches!(byte, b'}' | b']' | b'"') {
                return Some(self.scanned);
            }
        }
        None
    }
}

/// Whether JSON allows this byte between values.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz {
    use super::*;

    type Entries = Vec<(String, Option<String>)>;

    /// A parsed list has the same client ids and descriptions as the plain JSON, or parsing fails. The result does not
    /// depend on the sizes of the parts that arrive.
    pub(crate) fn fuzz_astra_list(data: &[u8]) {
        let parts = [1, 7, usize::MAX].map(|size| read(data, size));
        assert!(parts[0] == parts[1] && parts[1] == parts[2]);
        let Ok(value) = serde_json::from_slice::<Value>(data) else { return };
        let entry = |token: &Value| match token.as_object()?.get("clientId")? {
            Value::String(id) if !id.is_empty() => Some((id.clone(), token["description"].as_str().map(str::to_owned))),
            _ => None,
        };
        let clients = value.as_object().and_then(|list| list.get("clients")?.as_array()?.iter().map(entry).collect());
        let expected: Option<Entries> = clients.filter(|clients: &Vec<_>| !clients.is_empty());
        assert_eq!(read(value.to_string().as_bytes(), 16), expected);
        // If a member occurs twice, plain JSON uses the last one, and parsing may fail.
        assert!(parts[0].is_none() || parts[0] == expected);
    }

    /// Reads a list that arrives in parts of this size.
    fn read(data: &[u8], size: usize) -> Option<Entries> {
        let (mut list, mut entries) = (TokenList::default(), Vec::new());
        for part in data.chunks(size) {
            list.push(part, |token| {
                let description = match &token.description {
                    Lenient::Text(text) => Some(text.clone().into_owned()),
                    Lenient::Other(_) => None,
                };
                let start = description.as_deref().and_then(|text| text.strip_prefix("vault a/"));
                let marker = start.and_then(|text| text.split(' ').next());
                assert!(marker.is_none_or(|marker| token.is_marked(marker) && !token.is_marked(&format!("{marker}0"))));
                entries.push((token.client_id.into_owned(), description));
                Ok(())
            })
            .ok()?;
        }
        list.finish().ok().map(|()| entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what `pick` picks from a list that arrives in parts of three bytes.
    fn picked<T>(list: &str, pick: impl Fn(ListedToken<'_>) -> Option<T>) -> Result<Vec<T>, &'static str> {
        let (mut reading, mut picked) = (TokenList::default(), Vec::new());
        for part in list.as_bytes().chunks(3) {
            reading.push(part, |token| {
                picked.extend(pick(token));
                Ok(())
            })?;
        }
        reading.finish().map(|()| picked)
    }

    fn found(list: &str, marker: &str) -> Result<Vec<String>, &'static str> {
        picked(list, |token| token.is_marked(marker).then(|| token.client_id.into_owned()))
    }

    #[test]
    fn tokens_are_found_by_the_marker_at_the_beginning_of_their_description() {
        let list = r#"{"clients": [
            {"clientId": "a", "roles": ["r"], "generatedOn": "t"}, {"clientId": "b", "description": null},
            {"clientId": "c", "description": {"id": [1.5]}}, {"clientId": "d", "description": 12345678901234567890123},
            {"clientId": "e", "description": " vault a/m1 "}, {"clientId": "f", "description": "vault a/m1 x"},
            {"clientId": "g\u0041", "description": "vault \u0022/m2 x"}, {"clientId": "h", "description": "x id=m3"},
            {"clientId": "i}]", "description": "vault ]}\\\"/m1"}]}"#;
        for (marker, expected) in
            [("m1", vec!["f", "i}]"]), ("m2", vec!["gA"]), ("m3", vec![]), ("1", vec![]), ("M1", vec![])]
        {
            assert_eq!(found(list, marker).unwrap(), expected, "{marker}");
        }
    }

    #[test]
    fn a_listed_token_has_its_instance_and_its_times() {
        let marker = "0123456789abcdef0123456789abcdef";
        let list = format!(
            r#"{{"clients": [
            {{"clientId": "a", "description": "vault i/{marker} x", "generatedOn": "2026-01-02T03:04:05.6Z",
              "tokenExpiry": "2026-01-03T00:00:00Z"}},
            {{"clientId": "b", "description": "vault i/{marker}", "generatedOn": 5, "tokenExpiry": ""}},
            {{"clientId": "c", "description": "vault i/0123456789abcdef", "generatedOn": "soon", "tokenExpiry": null}},
            {{"clientId": "d", "description": "vault j/{marker} x"}}, {{"clientId": "e", "description": 1}}]}}"#
        );
        let of = |token: ListedToken<'_>| {
            let time = token.generated_on().map(|time| time.to_string());
            (token.marker_of("i").map(|marker| marker.simple().to_string()), time, token.expires())
        };
        let ours = || Some(marker.to_owned());
        let time = Some("2026-01-02T03:04:05.6Z".to_owned());
        let none = || (None, None, false);
        let expected = [(ours(), time, true), (ours(), None, false), none(), none(), none()];
        assert_eq!(picked(&list, |token| Some(of(token))).unwrap(), expected);
    }

    #[test]
    fn other_members_and_white_space_are_skipped() {
        for list in [
            "\n{ \"clients\"\t: [\r\n{\"clientId\":\"a\"}\n] }\n",
            r#"{"total":1,"clients":[{"clientId":"a"}],"next":null,"more":{"clients":[]},"x":"]}","y":-1.5e3 ,"z":[1]}"#,
            r#"{"\u0063lients": [{"clientId": "a"}]}"#,
        ] {
            assert_eq!(picked(list, |token| Some(token.client_id.into_owned())), Ok(vec!["a".to_owned()]), "{list}");
        }
    }

    #[test]
    fn an_array_is_neither_a_list_nor_a_token() {
        for list in [r#"[[{"clientId": "a"}]]"#, r#"{"clients": [["a", "vault a/m1"]]}"#, r#"[[["a"]]]"#] {
            assert_eq!(found(list, "m1"), Err(UNREADABLE), "{list}");
        }
    }

    #[test]
    fn the_roles_of_a_token_are_complete_or_an_error() {
        let list = r#"{"clients": [{"clientId": "a", "roles": ["r", "s"]}, {"clientId": "b", "roles": []},
            {"clientId": "c", "roles": null}, {"clientId": "d"}, {"clientId": "e", "roles": ["r", 1]},
            {"clientId": "f", "roles": ["r", ""]}, {"clientId": "g", "roles": "r"}]}"#;
        let all = picked(list, |token| Some(token.into_roles())).unwrap();
        let roles = |ids: &[&str]| Some(ids.iter().map(|id| (*id).to_owned()).collect());
        let none = || roles(&[]);
        assert_eq!(all, [roles(&["r", "s"]), none(), none(), none(), None, None, None]);
    }

    #[test]
    fn the_dates_of_a_token_are_times_or_missing() {
        let list = r#"{"clients": [
            {"clientId": "a", "generatedOn": "2026-01-02T03:04:05.678Z", "tokenExpiry": "2026-02-02T03:04:05Z"},
            {"clientId": "b", "generatedOn": "2026-01-02T03:04:05.123456789Z", "tokenExpiry": null},
            {"clientId": "c", "generatedOn": "2026-01-02T04:04:05+01:00", "tokenExpiry": ""},
            {"clientId": "d", "generatedOn": 5, "tokenExpiry": "never"}, {"clientId": "e"}]}"#;
        let all = picked(list, |token| Some(token.dates())).unwrap();
        let shown = |time: Option<jiff::Timestamp>| time.map_or_else(String::new, |time| time.as_second().to_string());
        let found: Vec<_> = all.iter().map(|dates| (shown(dates.created_at), shown(dates.expires_at))).collect();
        let (created, expires) = ("1767323045".to_owned(), "1770001445".to_owned());
        let none = String::new;
        let expected = [
            (created.clone(), expires),
            (created.clone(), none()),
            (created, none()),
            (none(), none()),
            (none(), none()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_list_that_is_not_complete_is_an_error() {
        for list in [
            r#"{"clients": []}"#,
            r#"{"clients": [{"clientId": "a"}, {"description": "vault a/m1"}]}"#,
            r#"{"clients": [{"clientId": "a"}, {"clientId": null}]}"#,
            r#"{"clients": [{"clientId": "a"}, {"clientId": ""}]}"#,
            r#"{"clients": [{"clientId": "a"}, "b"]}"#,
            r#"{"clients": [{"clientId": "a"}"#,
            r#"{"clients": [{"clientId": "a"}]"#,
            r#"{"clients": [{"clientId": "a"},]}"#,
            r#"{"clients": [{"clientId": "a"} {"clientId": "b"}]}"#,
            r#"{"clients": [{"clientId": "a"]]}"#,
            r#"{"clients": [{"clientId": "a"}], "clients": [{"clientId": "b"}]}"#,
            r#"{"clients": [{"clientId": "a"}], "x"}"#,
            r#"{"clients": [{"clientId": "a"}], "x":}"#,
            r#"{"clients": [{"clientId": "a"}], "x": no}"#,
            r#"{"clients": [{"clientId": "a"}],}"#,
            r#"{"clients": [{"clientId": "a"}]}}"#,
            r#"{"clients": [{"clientId": "a"}]} {}"#,
            r#"{"clients": null}"#,
            "[]",
            "{}",
            "null",
            "",
        ] {
            assert!(found(list, "m1").is_err(), "{list}");
        }
    }

    #[test]
    fn a_list_is_not_kept_in_memory() {
        let (mut list, mut count) = (TokenList::default(), 0);
        let mut push = |text: &str| {
            let pushed = list.push(text.as_bytes(), |_| {
                count += 1;
                Ok(())
            });
            (pushed, list.rest.capacity())
        };
        push(r#"{"clients": [{"clientId": "root"}"#).0.unwrap();
        for _ in 0..1000 {
            let (pushed, kept) = push(&r#", {"clientId": "a"}"#.repeat(100));
            assert!(pushed.is_ok() && kept < 16 << 10, "{kept}");
        }
        let long = "x".repeat(MAX_ENTRY / 2);
        assert!(push(r#", {"clientId": ""#).0.is_ok() && push(&long).0.is_ok());
        assert_eq!(push(&long).0, Err("one of its entries is longer than 1 MiB"));
        assert_eq!(count, 100_001);
    }
}
