//! Takes back a mint whose answer the host has dropped, because the caller hung up while the answer travelled.

use std::sync::Arc;

use super::order::Order;
use crate::engine::Engine;
use crate::error::Error;
use crate::journal::MintNote;
use crate::names::{ClientId, OrgId};
use crate::store::Config;

/// Returns a function that starts the undo of a completed mint.
pub(super) fn take_back(
    engine: &Arc<Engine>,
    config: &Arc<Config>,
    note: &MintNote,
    client_id: &ClientId,
) -> impl Fn() + Send + Sync + 'static {
    let (engine, config, client_id) = (engine.clone(), config.clone(), client_id.clone());
    // With the client id, the tick can repeat the undo without the list of tokens.
    let note = MintNote { client_id: Some(client_id.clone()), ..note.clone() };
    move || {
        if let Some(old) = &note.replaces {
            // At once: the undo has to write to the storage first, and the old token must not be deleted meanwhile.
            engine.store.replaced.hold(&note.org_id, old);
        }
        let work = undo(engine.clone(), config.clone(), note.clone(), client_id.clone());
        // While the mount is cleaned up, nothing starts. The sweep finds the token later.
        drop(engine.tasks.start(work));
    }
}

/// Deletes the token. Its WAL entry was already removed, so a new entry is written first.
async fn undo(engine: Arc<Engine>, config: Arc<Config>, note: MintNote, client_id: ClientId) {
    let mut order = match Order::begin(&engine, &config, note).await {
        Ok(order) => order,
        Err(error) => return log_without_entry(&config.org_id, &client_id, &error),
    };
    if order.undo(&client_id, None).await.is_ok() {
        log_hang_up(&order.note, &client_id);
    }
}

pub(super) fn log_without_entry(org_id: &OrgId, client_id: &ClientId, error: &Error) {
    tracing::error!(org_id = %org_id, client_id = %client_id, error = %error, "failed to write the WAL entry of an undo");
}

pub(super) fn log_hang_up(note: &MintNote, client_id: &ClientId) {
    tracing::warn!(org_id = %note.org_id, role_name = %note.role_name, client_id = %client_id,
        display_name = note.display_name, entity_id = note.entity_id, "undid a mint whose caller hung up");
}
