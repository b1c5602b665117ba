//! How a config changes its root token, and which root tokens it never holds again.

use jiff::Timestamp;
use secrecy::SecretString;

use super::entries::Config;
use crate::names::ClientId;

/// How many replaced root tokens a config remembers, apart from those that an operator wrote.
const FORMER_ROOTS_KEPT: usize = 10;

impl Config {
    /// Sets a root token that an operator writes.
    pub(crate) fn write_root(&mut self, astra_token: SecretString) {
        let former = self.root_id().map(str::to_owned);
        self.astra_token = astra_token;
        if former.as_deref() != self.root_id() {
            self.root.forget_dates();
        }
    }

    /// Replaces the root token in a rotation, and remembers the client id of the former one.
    pub(crate) fn replace_root(&mut self, astra_token: SecretString, former: &ClientId) {
        if self.root.made.as_ref() != Some(former) {
            self.root.remember_given(former);
        }
        self.write_root(astra_token);
        self.root.made = self.root_id().map(ClientId::stored);
        self.remember_root(former);
    }

    /// Remembers a root token that the engine deletes in Astra, so that the config never holds it again.
    pub(crate) fn remember_root(&mut self, former: &ClientId) {
        self.former_roots.retain(|root| root != former);
        self.former_roots.push(former.clone());
        let surplus = self.former_roots.len().saturating_sub(FORMER_ROOTS_KEPT);
        self.former_roots.drain(..surplus);
    }

    /// Whether the engine replaced this root token.
    pub(crate) fn has_replaced(&self, root_id: &str) -> bool {
        self.former_roots.iter().chain(&self.root.given).any(|root| root.as_str() == root_id)
    }

    /// Returns the client id of the root token, if the engine made the root token.
    pub(crate) fn made_root(&self) -> Option<&ClientId> {
        self.root.made.as_ref().filter(|made| self.is_root(made))
    }

    /// Returns when the engine rotates the root token on its own, if it does.
    pub(crate) fn next_rotation(&self) -> Option<Timestamp> {
        self.root.next_rotation(&self.org_id)
    }
}
