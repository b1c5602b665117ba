//! Parses Astra's list of the roles of an org. Astra writes the keys in several styles, and the policy as an object or
//! as text. So this module reads only ids and names, and ignores the letter case of keys.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::body::quote;
use super::error::Error;
use super::error::LIST_ROLES;
use super::types::Lenient;

/// The roles of an org.
pub(crate) struct RoleList {
    /// The roles that have an id and a name, in Astra's order.
    pub(crate) roles: Vec<AstraRole>,
    /// How many entries have no id or no name. A role that is missing in `roles` may be one of these entries.
    pub(crate) unreadable: usize,
}

/// A role in Astra.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AstraRole {
    /// Id in Astra. All known ids are UUIDs.
    pub(crate) id: String,
    /// Name in Astra. It can be any text.
    pub(crate) name: String,
}

/// The most roles in a list. The engine can write each role to storage. Real orgs have a few dozen.
const MAX_ROLES: usize = 10_000;

impl AstraRole {
    /// Returns the name in a form that is safe to show.
    pub(crate) fn label(&self) -> String {
        quote(&self.name)
    }
}

impl RoleList {
    /// Parses a list of roles.
    ///
    /// # Errors
    /// When the answer is not an array, or no role can be parsed. Every org has at least the built-in roles.
    pub(super) fn read(answer: &[u8]) -> Result<Self, Error> {
        let entries: Vec<Entry<'_>> =
            serde_json::from_slice(answer).map_err(|_| Error::garbled(LIST_ROLES, "it is not a list of roles"))?;
        let total = entries.len();
        if total > MAX_ROLES {
            return Err(Error::garbled(LIST_ROLES, format_args!("it has more than {MAX_ROLES} roles")));
        }
        let roles: Vec<AstraRole> = entries.into_iter().filter_map(Entry::into_role).collect();
        match (total, roles.len()) {
            (0, _) => Err(Error::garbled(
                LIST_ROLES,
                "it has no roles, but every org has some; the root token may lack the permission org-role-read",
            )),
            (_, 0) => Err(Error::garbled(LIST_ROLES, "none of its entries has an id and a name")),
            (total, read) => Ok(Self { roles, unreadable: total - read }),
        }
    }
}

/// An entry of the list. The policy is most of its text, and is skipped.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry<'a> {
    Role(#[serde(borrow)] Members<'a>),
    Other(IgnoredAny),
}

/// The members of an entry that this module reads.
#[derive(Default)]
struct Members<'a> {
    id: Lenient<'a>,
    name: Lenient<'a>,
}

impl Entry<'_> {
    fn into_role(self) -> Option<AstraRole> {
        let Self::Role(Members { id, name }) = self else { return None };
        let text = |value: Lenient<'_>| value.into_text().filter(|text| !text.trim().is_empty());
        Some(AstraRole { id: text(id)?, name: text(name)? })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a role")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.to_ascii_lowercase().as_str() {
                "id" => members.id = map.next_value()?,
                "name" => members.name = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn read(list: &Value) -> Result<RoleList, String> {
        RoleList::read(list.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    fn role(id: &str, name: &str) -> AstraRole {
        AstraRole { id: id.to_owned(), name: name.to_owned() }
    }

    /// Generates a word whose letters have any case.
    fn styled(word: &'static str) -> impl Strategy<Value = String> {
        proptest::collection::vec(any::<bool>(), word.len()).prop_map(move |upper| {
            let letter = |(c, upper): (char, bool)| if upper { c.to_ascii_uppercase() } else { c };
            word.chars().zip(upper).map(letter).collect()
        })
    }

    fn policy() -> impl Strategy<Value = Value> {
        let object = json!({"description": "d", "resources": ["drn:astra:org:__ORG_ID__"], "actions": ["a", "a"],
            "effect": "allow", "id": "inner", "Name": "inner", "n": [1.5, 12_345_678_901_234_567_890_u64, null]});
        prop_oneof![
            Just(object.clone()),
            Just(Value::String(object.to_string())),
            Just(Value::Null),
            Just(json!([object]))
        ]
    }

    proptest! {
        #[test]
        fn every_style_of_keys_gives_the_same_roles(
            roles in proptest::collection::vec(
                ("[0-9a-f-]{1,36}", "\\PC{0,10}[a-z]", styled("id"), styled("name"), styled("policy"), policy()), 1..5),
        ) {
            let entry = |(id, name, id_key, name_key, policy_key, policy): &(String, String, String, String, String, Value)| {
                let mut entry = Map::new();
                entry.insert(id_key.clone(), json!(id));
                entry.insert(name_key.clone(), json!(name));
                entry.insert(policy_key.clone(), policy.clone());
                for (key, value) in [("OrgID", "org"), ("orgName", "o"), ("last_update_date_time", "0001-01-01T00:00:00Z"),
                    ("LastUpdateUserID", ""), ("lastUpdateUserId", ""), ("Type", "default"), ("display_name", "d")] {
                    entry.insert(key.to_owned(), json!(value));
                }
                Value::Object(entry)
            };
            let list = Value::Array(roles.iter().map(entry).collect());
            let read = read(&list).unwrap();
            let expected: Vec<AstraRole> = roles.iter().map(|(id, name, ..)| role(id, name)).collect();
            prop_assert_eq!((read.roles, read.unreadable), (expected, 0));
        }
    }

    #[test]
    fn entries_without_id_or_name_are_counted() {
        let list = json!([
            {"id": "1", "name": "One"}, {"id": "2"}, {"name": "Two"}, {"id": 3, "name": "Three"}, {"id": "4", "name": null},
            {"id": "", "name": "Five"}, {"id": "6", "name": " "}, {}, null, 7, "eight", [{"id": "9", "name": "Nine"}],
            {"id": {"id": "10"}, "name": ["Ten"]}, {"Id": "11", "NAME": "Eleven"}, 1.5
        ]);
        let read = read(&list).unwrap();
        assert_eq!(read.roles, [role("1", "One"), role("11", "Eleven")]);
        assert_eq!(read.unreadable, 13);
    }

    #[test]
    fn an_answer_that_is_not_a_list_of_roles_is_an_error() {
        for (list, expected) in [
            (json!([]), "org-role-read"),
            (json!([{}, null]), "none of its entries"),
            (json!({"roles": []}), "not a list"),
            (json!(null), "not a list"),
            (json!("[]"), "not a list"),
        ] {
            let error = read(&list).err().unwrap();
            assert!(error.contains(expected), "{list}: {error}");
        }
        for text in ["", "[", "[{\"id\": \"1\", \"name\": \"One\"}", "[{\"id\": \"1\"}}]"] {
            assert!(RoleList::read(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_contain_no_tokens_or_control_characters() {
        assert_eq!(role("1", "a\nb AstraCS:abc:def").label(), "a b AstraCS:...");
    }
}
