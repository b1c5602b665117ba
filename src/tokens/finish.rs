//! Undoes at a tick the orders whose entry is left: their process stopped, or their undo failed.

use std::sync::Arc;

use vault_plugin_sdk::framework::{Undo, WalEntry, WalKind};
use vault_plugin_sdk::logical;

use super::order::{Event, OrderNote, nothing_identifies, undo};
use crate::backoff::in_tick;
use crate::engine::Engine;
use crate::error::Error;
use crate::journal::{GIVE_UP, Looked, MARGIN, Outcome, can_take_effect_late, longest};

/// Declares the entries of orders.
pub(crate) fn wal_kind<N: OrderNote>() -> WalKind<Engine> {
    WalKind::new(N::KIND, MARGIN, finish::<N>).longer_for(longest)
}

/// Undoes an order at a tick.
async fn finish<N: OrderNote>(engine: Arc<Engine>, entry: WalEntry) -> Result<Undo, logical::Error> {
    let mut note: N = entry.decode()?;
    if nothing_identifies(&note) {
        note.note_lost(&engine).await?;
        note.log(Event::Lost);
        return Ok(Undo::Done);
    }
    let undone = in_tick(async {
        let config = engine.config_for_undo(note.org_id()).await?;
        undo(&engine, &config, &note, Some(&entry.tick)).await
    });
    let undone = undone.await;
    engine.backoff.note(note.org_id(), undone.as_ref().err());
    match undone {
        Ok(outcome) => {
            if outcome == Outcome::Gone {
                note.log(Event::Undone);
            }
            return Ok(look_again(&engine, &entry, &mut note, outcome).await?);
        }
        // Such an entry does not keep the config from being deleted.
        Err(Error::Refused(_)) if note.looked() != Looked::Never => return Ok(Undo::Done),
        Err(error) if note.has_expired() => note.log(Event::Expired(&error)),
        Err(error) if entry.age() > GIVE_UP => note.log(Event::GaveUp(&error)),
        Err(error) => return Err(logical::Error::internal(format!("{}: {error}", note.left()))),
    }
    Ok(Undo::Done)
}

/// Decides whether a later tick looks for the token again. Only the marker leads to a token that Astra mints late.
async fn look_again<N: OrderNote>(
    engine: &Engine,
    entry: &WalEntry,
    note: &mut N,
    outcome: Outcome,
) -> Result<Undo, Error> {
    let by_marker = note.client_id().is_none();
    if by_marker && can_take_effect_late(entry) {
        let looked = if outcome == Outcome::Gone { Looked::Found } else { Looked::NotFound };
        if note.looked() == Looked::Never || looked == Looked::Found && note.looked() != looked {
            note.set_looked(looked);
            engine.wal().rewrite(entry, note).await?;
        }
        return Ok(Undo::Again);
    }
    if outcome == Outcome::NotFound && note.looked() != Looked::Found {
        note.log(Event::NotFound);
    }
    Ok(Undo::Done)
}
