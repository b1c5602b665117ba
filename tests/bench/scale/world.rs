//! The stored entries of many orgs and tokens, in the form in which the engine writes them.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::astra::{Astra, Org};
use crate::wire::ROLE_ID;

/// The role of each org.
pub(super) const ROLE: &str = "reader";

/// How many tokens of a mount have no lease any more.
pub(super) const OVERDUE: usize = 100;

/// An entry: its key and its value.
pub(super) type Entry = (String, String);

/// Returns the entries of an org: its config and its role.
pub(super) fn org_entries(astra: &Astra, org: &Org, number: usize) -> [Entry; 2] {
    const HOUR: u64 = 3_600_000_000_000;
    let config = json!({"astra_token": org.root_token, "url": astra.url(), "org_id": org.id, "astra_org_id": org.id,
        "logical_name": org_name(number), "caller_mode": 1, "ca_cert": astra.ca_pem().unwrap_or_default()});
    let role = json!({"role_name": ROLE, "role_id": ROLE_ID, "org_id": org.id, "ttl": HOUR, "max_ttl": 10 * HOUR});
    [(format!("config/{}", org.id), config.to_string()), (format!("role/{}:{ROLE}", org.id), role.to_string())]
}

/// Returns the logical name of an org.
pub(super) fn org_name(number: usize) -> String {
    format!("org-{number:05}")
}

/// The tokens of one mount.
#[derive(Clone, Copy)]
pub(super) struct Tokens<'a> {
    pub(super) orgs: &'a [Org],
    pub(super) count: usize,
    /// How many of them have no lease any more. They are spread over all tokens.
    pub(super) overdue: usize,
    /// The beginning of the client ids. No two mounts have tokens with the same client id.
    pub(super) prefix: &'static str,
}

impl Tokens<'_> {
    pub(super) fn client_id(&self, number: usize) -> String {
        format!("{}{number:012}", self.prefix)
    }

    /// Returns the token and its record. The tokens of an org come one after another.
    pub(super) fn entries(&self, number: usize) -> [Entry; 2] {
        let (client_id, name) = (self.client_id(number), format!("service-{number}"));
        let org = &self.org(number).id;
        let token_id = hex(&format!("{org}:{ROLE}:{name}"));
        let token = json!({"clientId": client_id, "secret": hex(&client_id), "orgId": org, "roleName": ROLE,
            "roles": [ROLE_ID], "token": self.text(number), "generatedOn": "2026-01-02T03:04:05.678901234Z",
            "logicalName": name, "metadata": null});
        let expires_at = if self.is_overdue(number) { "2026-01-02T05:04:05Z" } else { "2126-01-02T03:04:05Z" };
        let record = json!({"token_id": token_id, "role_name": ROLE, "logical_name": name, "metadata": {},
            "generated_on": "2026-01-02T03:04:05.678901234Z", "created_at": "2026-01-02T03:04:05Z",
            "display_name": "token", "entity_id": "", "expires_at": expires_at, "marker": ""});
        [(format!("token/{token_id}"), token.to_string()), (format!("client/{org}/{client_id}"), record.to_string())]
    }

    /// Returns the numbers of the overdue tokens.
    pub(super) fn overdue(&self) -> Vec<usize> {
        (0..self.count).filter(|&number| self.is_overdue(number)).collect()
    }

    /// Creates the overdue tokens in Astra, where the sweep deletes them.
    pub(super) fn adopt_overdue(&self, astra: &Astra) {
        self.overdue().into_iter().for_each(|number| astra.adopt(&self.org(number).id, &self.text(number)));
    }

    /// Returns how many of the overdue tokens Astra still has.
    pub(super) fn overdue_left(&self, astra: &Astra) -> usize {
        let is_live = |number| astra.token(&self.client_id(number)).is_some_and(|token| token.live);
        self.overdue().into_iter().filter(|&number| is_live(number)).count()
    }

    fn org(&self, number: usize) -> &Org {
        &self.orgs[number * self.orgs.len() / self.count]
    }

    pub(super) fn is_overdue(&self, number: usize) -> bool {
        number * self.overdue % self.count < self.overdue
    }

    fn text(&self, number: usize) -> String {
        format!("AstraCS:{}:{}", self.client_id(number), hex(&self.client_id(number)))
    }
}

/// Returns the entry that marks the inventory as complete.
pub(super) fn inventory() -> Entry {
    ("client-index".to_owned(), json!({"version": 1}).to_string())
}

/// Returns a record with this much metadata.
pub(super) fn large_record(org: &Org, number: usize, bytes: usize) -> Entry {
    let client_id = format!("Large{number:012}");
    let record: Value = json!({"token_id": client_id, "role_name": ROLE, "logical_name": "",
        "metadata": {"text": "x".repeat(bytes)}, "generated_on": "2026-01-02T03:04:05.678901234Z",
        "created_at": "2026-01-02T03:04:05Z", "display_name": "token", "entity_id": "",
        "expires_at": "2126-01-02T03:04:05Z", "marker": ""});
    (format!("client/{}/{client_id}", org.id), record.to_string())
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
