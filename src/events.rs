//! Events for the subscribers of the host. Vault has them, OpenBao does not.
//!
//! An event is sent beside the request that it tells of, and may be lost: the queue is bounded, and is not stored. After the
//! first answer that the host has no events, nothing is sent any more.
//!
//! Architecture invariant: an event holds ids and names, never a token.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::json;
use uuid::Uuid;
use vault_plugin_sdk::logical::{Error, Event, Map, SystemView};

use super::names::{ClientId, OrgId, RoleName, fits_path};
use super::store::Config;

/// The most events that wait. The host gets them one after the other.
const MOST_WAITING: usize = 1024;

/// What happened.
pub(crate) enum Occasion<'a> {
    /// A token was minted.
    Created { role: &'a RoleName, client: &'a ClientId },
    /// A token was revoked, deleted or undone.
    Revoked { role: &'a RoleName, client: &'a ClientId },
    /// The root token was replaced.
    Rotated { old: &'a ClientId, new: &'a ClientId },
    /// The root token could not be replaced.
    RotationFailed { reason: String },
    /// Astra's list and the inventory were compared, and this many tokens were deleted.
    Tidied { deleted: String },
}

/// The events of a mount.
pub(crate) struct Events(Arc<Shared>);

struct Shared {
    system: Arc<dyn SystemView>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(&'static str, Event)>,
    /// Whether a task sends the waiting events.
    is_sending: bool,
    /// Whether the host has no events.
    is_off: bool,
}

impl Events {
    pub(crate) fn new(system: Arc<dyn SystemView>) -> Self {
        Self(Arc::new(Shared { system, queue: Mutex::default() }))
    }

    /// Sends an event about an org, without a wait. If too many events wait, drops it.
    pub(crate) fn send(&self, org: &OrgId, config: Option<&Config>, occasion: &Occasion<'_>) {
        let mut queue = self.0.lock();
        if queue.is_off || queue.waiting.len() >= MOST_WAITING {
            return;
        }
        queue.waiting.push_back(occasion.event(org, config));
        if !std::mem::replace(&mut queue.is_sending, true) {
            tokio::spawn(self.0.clone().send_waiting());
        }
    }
}

impl Shared {
    /// Sends the waiting events, until none waits.
    async fn send_waiting(self: Arc<Self>) {
        loop {
            let next = {
                let mut queue = self.lock();
                let next = queue.waiting.pop_front();
                queue.is_sending = next.is_some();
                next
            };
            let Some((kind, event)) = next else { return };
            match self.system.send_event(kind, &event).await {
                Ok(()) => {}
                Err(Error::UnsupportedByHost(_)) => {
                    let mut queue = self.lock();
                    *queue = Queue { is_off: true, ..Queue::default() };
                    return;
                }
                Err(error) => tracing::debug!(kind, error = %error, "failed to send an event"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Occasion<'_> {
    /// Returns the type and the content of the event. Vault puts the path of the mount before the paths.
    fn event(&self, org: &OrgId, config: Option<&Config>) -> (&'static str, Event) {
        let name = config.and_then(Config::path_name);
        let of_token = |client: &ClientId| match name {
            Some(name) if fits_path(client.as_str()) => format!("orgs/{name}/tokens/{client}"),
            _ => "org/token".to_owned(),
        };
        let of_tokens = || name.map_or_else(|| "org/tokens".to_owned(), |name| format!("orgs/{name}/tokens"));
        let of_root = || name.map_or_else(|| "config".to_owned(), |name| format!("orgs/{name}"));
        let (kind, operation, path, members) = match self {
            Self::Created { role, client } => (
                "astra/token-create",
                "create",
                of_token(client),
                vec![("role_name", role.as_str()), ("client_id", client.as_str())],
            ),
            Self::Revoked { role, client } => (
                "astra/token-revoke",
                "delete",
                of_token(client),
                vec![("role_name", role.as_str()), ("client_id", client.as_str())],
            ),
            Self::Rotated { old, new } => (
                "astra/root-rotate",
                "update",
                of_root(),
                vec![("client_id", new.as_str()), ("old_client_id", old.as_str())],
            ),
            Self::Tidied { deleted } => ("astra/tidy", "update", of_tokens(), vec![("deleted", deleted.as_str())]),
            Self::RotationFailed { reason } => {
                ("astra/root-rotate-fail", "update", of_root(), vec![("error", reason.as_str())])
            }
        };
        let is_change = match self {
            Self::RotationFailed { .. } => false,
            Self::Tidied { deleted } => deleted != "0",
            _ => true,
        };
        let common = [
            ("org_id", org.as_str()),
            ("operation", operation),
            ("path", &path),
            ("data_path", &path),
            ("modified", if is_change { "true" } else { "false" }),
        ];
        let metadata: Map =
            common.into_iter().chain(members).map(|(name, text)| (name.to_owned(), json!(text))).collect();
        let mut event = Event { id: Uuid::new_v4().to_string(), metadata, ..Event::default() };
        event.entity_ids.push(path);
        (kind, event)
    }
}
