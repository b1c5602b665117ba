//! The names in Vault of the roles that Astra lists.

use std::collections::BTreeMap;

use super::role_ids::{ROLE_ID, checked_role_id};
use super::shared::ROLE_NAME;
use crate::api::{AstraRole, RoleList};
use crate::names::RoleName;

/// Astra roles by their names in Vault, each id once.
pub(super) type Wanted = BTreeMap<RoleName, Vec<AstraRole>>;

/// Groups Astra's roles by their names in Vault. Also returns the number of entries that cannot be imported.
pub(super) fn by_name(list: RoleList) -> (Wanted, usize) {
    let (mut wanted, mut unreadable) = (Wanted::new(), list.unreadable);
    for role in list.roles {
        let name = RoleName::parse(ROLE_NAME.name(), &safe_name(&role.name));
        match (name, checked_role_id(ROLE_ID.name(), role.id)) {
            (Ok(name), Ok(id)) => {
                let roles = wanted.entry(name).or_default();
                if !roles.iter().any(|other| other.id == id) {
                    roles.push(AstraRole { id, name: role.name });
                }
            }
            _ => unreadable += 1,
        }
    }
    (wanted, unreadable)
}

/// Returns the name of a role in Vault: lower case, and one `_` for each run of characters other than letters and
/// digits.
fn safe_name(name: &str) -> String {
    name.chars().fold(String::with_capacity(name.len()), |mut safe, c| {
        if c.is_ascii_alphanumeric() {
            safe.push(c.to_ascii_lowercase());
        } else if !safe.ends_with('_') {
            safe.push('_');
        }
        safe
    })
}

/// Returns the names of roles in Astra. Sorts them, because the order of Astra's list can change.
pub(super) fn labels(roles: &[AstraRole]) -> Vec<String> {
    let mut labels: Vec<String> = roles.iter().map(AstraRole::label).collect();
    labels.sort();
    labels
}
