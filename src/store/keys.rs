//! The keys of stored entries.

use sha2::{Digest, Sha256};

use crate::names::{ClientId, LogicalName, OrgId, RoleName, segment};

pub(super) const CONFIGS: &str = "config/";
pub(super) const ROLES: &str = "role/";
pub(super) const TOKENS: &str = "token/";
pub(super) const RECORDS: &str = "client/";
pub(super) const LIVE: &str = "live/";

/// The org and the name of a role.
pub(super) type RoleKey = (OrgId, RoleName);

/// Returns the id of a named token. No two live tokens have the same id.
pub(crate) fn named_token_id(org: &OrgId, role: &RoleName, name: &LogicalName) -> String {
    format!("{:x}", Sha256::digest(format!("{org}:{role}:{name}")))
}

/// Returns a text that identifies a token in a key, whatever its names contain and however long they are.
pub(crate) fn token_digest(org: &OrgId, client: &ClientId) -> String {
    format!("{:x}", Sha256::digest(record_key(org, client)))
}

pub(crate) fn config_key(org: &OrgId) -> String {
    format!("{CONFIGS}{org}")
}

pub(crate) fn role_key(org: &OrgId, name: &RoleName) -> String {
    format!("{ROLES}{org}:{name}")
}

pub(super) fn token_key(id: &str) -> String {
    format!("{TOKENS}{id}")
}

/// Whether a role key has exactly one colon, so that the colon separates the org from the role name.
pub(super) fn has_one_colon(key: &str) -> bool {
    key.matches(':').count() == 1
}

/// Returns the children of a folder that are entries. Skips subfolders, and the empty child of a key that is the folder
/// itself.
pub(super) fn leaves(keys: Vec<String>) -> impl Iterator<Item = String> {
    keys.into_iter().filter(|key| !key.is_empty() && !key.ends_with('/'))
}

/// Returns the key of a record.
pub(crate) fn record_key(org: &OrgId, client: &ClientId) -> String {
    format!("{}{}", records_folder(org), segment(client.as_str()))
}

/// Returns the folder of the records of an org.
pub(super) fn records_folder(org: &OrgId) -> String {
    format!("{RECORDS}{}/", segment(org.as_str()))
}

/// Returns the key of the entry that counts a token towards the limit of its role.
pub(super) fn live_key(role: &RoleKey, client: &ClientId) -> String {
    format!("{}{}", live_folder(role), segment(client.as_str()))
}

/// Returns the folder of the entries that count the tokens of a role.
pub(super) fn live_folder((org, role): &RoleKey) -> String {
    format!("{LIVE}{}/{}/", segment(org.as_str()), segment(role.as_str()))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use super::*;
    use vault_plugin_sdk::framework::to_lower;

    /// A key has each name in its own segment, a role key can be split into its names again, and each name has only
    /// one spelling. Each line of the input is a name.
    pub(crate) fn fuzz_names(data: &[u8]) {
        let Ok(text) = std::str::from_utf8(data) else { return };
        let lines: Vec<&str> = text.split('\n').collect();
        let [one, two, three, ..] = lines[..] else { return };
        let (org, client) = (OrgId::parse("org_id", one), ClientId::parse("client_id", two));
        let (role, name) = (RoleName::parse("role_name", two), LogicalName::parse("logical_name", three));
        for error in [org.as_ref().err(), client.as_ref().err(), role.as_ref().err()].into_iter().flatten() {
            assert_eq!(error.to_string().matches("must not").count(), 1);
        }
        let Ok(org) = org else { return };
        assert!(org.as_str() == one && has_segments(&config_key(&org), &["config", one]));
        if let Ok(client) = client {
            assert!(client.as_str() == two && has_segments(&token_key(two), &["token", two]));
            assert!(has_segments(&record_key(&org, &client), &["client", one, two]));
        }
        let Ok(role) = role else { return };
        let key = role_key(&org, &role);
        assert!(has_segments(&key, &["role", &format!("{org}:{role}")]));
        assert_eq!(key.strip_prefix(ROLES).and_then(|key| key.split_once(':')), Some((one, role.as_str())));
        assert!(RoleName::parse("role_name", role.as_str()).is_ok_and(|again| again == role), "{:?}", role.as_str());
        let Ok(name) = name else { return };
        let id = named_token_id(&org, &role, &name);
        assert!(id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
        assert_eq!(id, named_token_id(&org, &role, &LogicalName::stored(to_lower(three))));
    }

    /// Whether a key has exactly these segments, and the host accepts the key.
    fn has_segments(key: &str, parts: &[&str]) -> bool {
        let fits = |part: &&str| !part.is_empty() && *part != "." && part.len() <= 2 * 255 + 1;
        key.split('/').eq(parts.iter().copied()) && parts.iter().all(fits) && !key.contains("..")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns every key that contains these names; `None` if a name is not valid.
    fn keys(org: &str, role: &str, client: &str) -> Option<[String; 5]> {
        let org = OrgId::parse("org_id", org).ok()?;
        let role = RoleName::parse("role_name", role).ok()?;
        let client = ClientId::parse("client_id", client).ok()?;
        let live = live_key(&(org.clone(), role.clone()), &client);
        Some([config_key(&org), role_key(&org, &role), token_key(client.as_str()), record_key(&org, &client), live])
    }

    proptest! {
        #[test]
        fn different_names_have_different_keys(
            one in ("[a-c/:.]{0,4}", "[a-c/:.]{0,4}", "[a-c/:.]{0,4}"),
            two in ("[a-c/:.]{0,4}", "[a-c/:.]{0,4}", "[a-c/:.]{0,4}"),
        ) {
            let (first, second) = (keys(&one.0, &one.1, &one.2), keys(&two.0, &two.1, &two.2));
            if let (Some(first), Some(second)) = (first, second) {
                prop_assert_eq!(first == second, one == two);
                prop_assert_eq!(first[1] == second[1], (&one.0, &one.1) == (&two.0, &two.1));
                prop_assert_eq!(first[3] == second[3], (&one.0, &one.2) == (&two.0, &two.2));
                prop_assert_eq!(first[4] == second[4], one == two);
                for key in first {
                    prop_assert!(!key.contains("..") && !key.contains("//") && !key.ends_with('/'));
                }
            }
        }
    }
}
