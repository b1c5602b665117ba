//! The data of the write-ahead log: the notes that are written before a change in Astra, their ages, and the outcomes
//! of an undo.
//!
//! Architecture invariant: this module only describes WAL entries. [`tokens`](super::tokens) and
//! [`rotate`](super::rotate) process them.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use vault_plugin_sdk::framework::{Wal, WalEntry};

use super::error::{Error, readable};
use super::names::{ClientId, OrgId, RoleName};
use super::store::log_skipped;

/// Kind of the entries of mints.
pub(crate) const MINT: &str = "token-mint";

/// Kind of the entries of deletions and revocations.
pub(crate) const DELETION: &str = "token-delete";

/// Kind of the entries of root token rotations.
pub(crate) const ROTATION: &str = "root-rotate";

/// Kind of the entries of root tokens that a write of the config replaced.
pub(crate) const REPLACED_ROOT: &str = "root-replaced";

/// A request of another node can take effect until this long after the deadline of its call.
pub(crate) const MARGIN: Duration = Duration::from_secs(10);

/// No entry is undone earlier. With the default `request_timeout`, this is the longest time of a mint.
const FLOOR: Duration = Duration::from_secs(55);

/// A request whose answer was lost can take effect for at least this long: a gateway may send it late, and twice.
const LATE: Duration = Duration::from_secs(15 * 60);

/// The tick gives up on entries that are older.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(30 * 86400);

/// How many entries are read at the same time.
const CONCURRENT: usize = 32;

/// An unfinished mint.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct MintNote {
    /// The org.
    pub(crate) org_id: OrgId,
    /// The role in Vault.
    pub(crate) role_name: RoleName,
    /// Identifies the mint.
    pub(crate) marker: String,
    /// Whether the token's description begins with the marker.
    pub(crate) described: bool,
    /// Id of the token in Vault, if it is not the client id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_id: Option<String>,
    /// Client id of the token, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_id: Option<ClientId>,
    /// Client id of the token with the same name that the new token replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replaces: Option<ClientId>,
    /// When the token expires in Astra (RFC 3339), if Astra is told an expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    /// What the tick has found so far.
    #[serde(default, skip_serializing_if = "Looked::is_never")]
    pub(crate) looked: Looked,
    /// Display name of the caller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) display_name: String,
    /// Entity id of the caller.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) entity_id: String,
    /// The static role that gets the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) static_role: Option<RoleName>,
    /// Deadline of one call to Astra.
    pub(crate) timeout_seconds: u64,
}

impl MintNote {
    /// Whether the token has expired in Astra.
    pub(crate) fn has_expired(&self) -> bool {
        let expiry = self.expires_at.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        expiry.is_some_and(|time| time < Timestamp::now())
    }
}

/// An unfinished deletion or revocation.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeletionNote {
    /// The org.
    pub(crate) org_id: OrgId,
    /// The token.
    pub(crate) client_id: ClientId,
    /// Id of the token in Vault.
    pub(crate) token_id: String,
    /// Role of the token in Vault.
    #[serde(default)]
    pub(crate) role_name: RoleName,
    /// Deadline of one call to Astra.
    pub(crate) timeout_seconds: u64,
}

/// An unfinished rotation of a root token.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RotationNote {
    /// The org.
    pub(crate) org_id: OrgId,
    /// Client id of the old root token.
    pub(crate) old: ClientId,
    /// Identifies the rotation.
    pub(crate) marker: String,
    /// Whether the description of the new root token begins with the marker.
    pub(crate) described: bool,
    /// Client id of the new root token, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) new: Option<ClientId>,
    /// Whether the config may have held the new root token. If so, the old root token must be deleted.
    #[serde(default)]
    pub(crate) stored: bool,
    /// What the tick has found so far.
    #[serde(default, skip_serializing_if = "Looked::is_never")]
    pub(crate) looked: Looked,
    /// Deadline of one call to Astra.
    pub(crate) timeout_seconds: u64,
}

/// What the engine found when it looked in Astra's list for the token of an order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Looked {
    /// The engine has not looked yet.
    #[default]
    Never,
    /// Astra did not list a token.
    NotFound,
    /// Astra listed a token, and the engine deleted it.
    Found,
}

impl Looked {
    fn is_never(&self) -> bool {
        *self == Self::Never
    }
}

/// The result of looking for a token that Astra may have minted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// Astra had minted a token, and the engine deleted the token.
    Deleted,
    /// The outcome is still unknown. The tick looks again.
    Later,
    /// Nothing identifies a token that Astra may have minted.
    Never,
}

/// The outcome of an undo.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The token was deleted. Or the note leads to a token of another order, which stays.
    Gone,
    /// Astra does not list the token. If the request has not reached Astra yet, Astra may list the token later.
    NotFound,
}

/// Returns how long another process may still work on an entry.
pub(crate) fn longest(entry: &WalEntry) -> Duration {
    (timeout(entry).saturating_mul(3) / 2 + MARGIN).max(FLOOR)
}

/// Whether the request of an entry can still take effect, although the engine has looked for its token.
pub(crate) fn can_take_effect_late(entry: &WalEntry) -> bool {
    entry.age() < timeout(entry).saturating_mul(10).max(LATE)
}

/// Returns the deadline of one call to Astra.
fn timeout(entry: &WalEntry) -> Duration {
    Duration::from_secs(entry.data["timeout_seconds"].as_u64().unwrap_or(0))
}

/// Whether a mint, a rotation or another replacement of the root token is unfinished, so that a token may be left in Astra. Entries whose token
/// the engine has looked for do not count.
pub(crate) async fn is_unfinished(wal: Wal<'_>, org: &OrgId) -> Result<bool, Error> {
    has_entry(wal, |entry| {
        matches!(entry.kind.as_str(), MINT | ROTATION | REPLACED_ROOT)
            && entry.data["org_id"] == org.as_str()
            && entry.data.get("looked").is_none()
    })
    .await
}

/// Returns true if Astra may have minted, or may still mint, a root token that nothing identifies.
pub(crate) async fn has_lost_rotation(wal: Wal<'_>, org: &OrgId) -> Result<bool, Error> {
    has_entry(wal, |entry| {
        let note = entry.decode::<RotationNote>().ok().filter(|_| entry.kind == ROTATION);
        note.is_some_and(|note| note.org_id == *org && !note.described && note.new.is_none())
    })
    .await
}

async fn has_entry(wal: Wal<'_>, is_wanted: impl Fn(&WalEntry) -> bool) -> Result<bool, Error> {
    let mut entries = pin!(entries(&wal).await?);
    while let Some(entry) = entries.try_next().await? {
        if is_wanted(&entry) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the markers of the mints that have an entry.
pub(crate) async fn mint_markers(wal: Wal<'_>) -> Result<HashSet<String>, Error> {
    texts_of_mints(wal, "marker").await
}

/// Returns the client ids of the tokens that unfinished mints replace.
pub(crate) async fn replaced_by_mints(wal: Wal<'_>) -> Result<HashSet<ClientId>, Error> {
    Ok(texts_of_mints(wal, "replaces").await?.into_iter().map(ClientId::stored).collect())
}

/// Returns the texts of a member of the entries of mints.
async fn texts_of_mints(wal: Wal<'_>, member: &str) -> Result<HashSet<String>, Error> {
    let (mut entries, mut texts) = (pin!(entries(&wal).await?), HashSet::new());
    while let Some(entry) = entries.try_next().await? {
        if entry.kind == MINT {
            texts.extend(text(&entry.data[member]));
        }
    }
    Ok(texts)
}

/// Returns the texts in the data of all entries. The marker and the client id of each token that an entry is about are
/// among them.
pub(crate) async fn texts(wal: Wal<'_>) -> Result<HashSet<String>, Error> {
    let (mut entries, mut texts) = (pin!(entries(&wal).await?), HashSet::new());
    while let Some(entry) = entries.try_next().await? {
        texts.extend(entry.data.as_object().into_iter().flat_map(|data| data.values().filter_map(text)));
    }
    Ok(texts)
}

/// Returns a text that identifies something. An empty text identifies nothing, and the records of the Go plugin's tokens have an
/// empty marker.
fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Reads all entries, in any order. Skips entries that cannot be read: nothing tells the org of such an entry, and the tick cannot
/// process it.
async fn entries<'a>(wal: &'a Wal<'_>) -> Result<impl Stream<Item = Result<WalEntry, Error>> + Send + use<'a>, Error> {
    let read = move |id: String| async move {
        let (entry, reason) = readable(wal.get(&id).await.map_err(Error::from))?;
        reason.iter().for_each(log_skipped);
        Ok(entry)
    };
    let entries = stream::iter(wal.list().await?).map(read).buffer_unordered(CONCURRENT);
    Ok(entries.try_filter_map(|entry| async move { Ok(entry) }))
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    use super::*;
    use crate::fuzz::{decode, encode};

    /// An entry is stored unchanged or rejected, no rejection quotes the entry, and no undo comes too early.
    pub(crate) fn fuzz_wal(data: &[u8]) {
        let Some(entry) = decode::<WalEntry>(data) else { return };
        let stored = encode(&entry);
        assert!(decode::<WalEntry>(&stored).is_some_and(|entry| encode(&entry) == stored));
        assert!(longest(&entry) >= MARGIN && entry.age() <= Duration::from_secs(u64::MAX));
        if let Ok(mint) = entry.decode::<MintNote>() {
            let stored = encode(&mint);
            assert!(decode::<MintNote>(&stored).is_some_and(|mint| encode(&mint) == stored));
            assert!(longest(&entry).as_secs() > mint.timeout_seconds.min(1 << 60));
            assert!(!mint.has_expired() || mint.expires_at.is_some());
        }
        if let Ok(deletion) = entry.decode::<DeletionNote>() {
            let stored = encode(&deletion);
            assert!(decode::<DeletionNote>(&stored).is_some_and(|deletion| encode(&deletion) == stored));
            assert!(longest(&entry).as_secs() > deletion.timeout_seconds.min(1 << 60));
        }
        if let Ok(rotation) = entry.decode::<RotationNote>() {
            let stored = encode(&rotation);
            assert!(decode::<RotationNote>(&stored).is_some_and(|rotation| encode(&rotation) == stored));
            assert!(longest(&entry).as_secs() > rotation.timeout_seconds.min(1 << 60));
        }
    }
}
