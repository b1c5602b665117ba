//! Deletes the tokens of an org that only Astra or only the inventory has.
//!
//! After a lost answer, a lost record or the restore of a backup, Astra and the inventory can differ. A tidy finds the
//! differences, and deletes them if the caller wants that.
//!
//! Architecture invariant: a tidy deletes only tokens that this instance minted. It deletes nothing unless Astra's list is
//! complete.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::time::Instant;

use super::compare::{Comparison, Differences, Ids, oldest};
use super::find::Target;
use super::revoke::{Reason, delete_in_vault, delete_with_note, require_own_root};
use crate::engine::Engine;
use crate::error::Error;
use crate::names::{ClientId, OrgId, RoleName};
use crate::store::Config;

/// How long a tidy starts deletions.
const BUDGET: Duration = Duration::from_secs(30);

/// No deletion starts later than this after the start of a tidy. The host cancels a request after 90 seconds.
const LONGEST: Duration = Duration::from_secs(80);

/// If Astra's list takes longer, a second list and the deletions may not fit into a request.
const SLOW_LIST: Duration = Duration::from_secs(30);

/// How many tokens are deleted at the same time.
const AT_ONCE: usize = 8;

/// After this number of failures, a tidy starts no more deletions.
const MOST_FAILURES: usize = 8;

/// Fewer missing tokens do not show that something is wrong.
const FEW: usize = 3;

/// What a caller wants of a tidy.
pub(crate) struct TidyRequest {
    /// Whether to delete nothing.
    pub(crate) dry_run: bool,
    /// Younger tokens and records are left alone.
    pub(crate) safety_buffer: Duration,
    /// Whether to delete tokens in Vault although most of the inventory is missing in Astra.
    pub(crate) force: bool,
}

/// The result of a tidy.
pub(crate) struct Tidied {
    /// Tokens in Astra that this instance minted, and that nothing in the mount knows.
    pub(crate) unknown: Ids,
    /// Tokens in the inventory that Astra does not list.
    pub(crate) missing: Ids,
    /// All other tokens in Astra that are not in the inventory.
    pub(crate) foreign: Ids,
    /// Tokens of this mount that do not expire in Astra.
    pub(crate) without_expiry: Ids,
    /// Number of deleted tokens.
    pub(crate) deleted: usize,
    /// Why nothing would be deleted without `force`.
    pub(crate) refusal: Option<Error>,
    /// Number of unknown and missing tokens that are younger than the safety buffer.
    pub(crate) young: usize,
    /// Number of tokens that were not deleted although they should be, and the cause.
    pub(crate) left: Option<(usize, Cause)>,
    /// Keys of the records that cannot be read.
    pub(crate) unreadable: Vec<String>,
}

/// Why tokens were not deleted.
pub(crate) enum Cause {
    /// The time was used up.
    Time,
    /// Only one list of Astra has missed the tokens yet.
    SlowList,
    /// The first error.
    Failed(Error),
}

impl Tidied {
    /// Counts tokens that were not deleted. Keeps the first error as the cause, or else the first cause.
    fn leave(&mut self, tokens: usize, cause: Cause) {
        let Some((left, known)) = &mut self.left else {
            self.left = Some((tokens, cause));
            return;
        };
        *left += tokens;
        if matches!(cause, Cause::Failed(_)) && !matches!(known, Cause::Failed(_)) {
            *known = cause;
        }
    }

    /// Takes the error that fails the request: an error of the host, or any error if no token was deleted.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        match self.left.take() {
            // The host can react to its own errors, for example forward the request.
            Some((_, Cause::Failed(error))) if error.is_of_host() || self.deleted == 0 => Some(error),
            left => {
                self.left = left;
                None
            }
        }
    }
}

/// A token that a tidy deletes.
enum Difference {
    Unknown(ClientId),
    Missing(ClientId),
}

/// The result of deleting one token.
enum Deleted {
    Yes,
    /// Nothing was left to delete, or the token is known by now.
    No,
    Failed(Error),
    /// The time was used up, or too many deletions had failed.
    NotTried,
}

/// Compares Astra's list of the tokens of an org with the inventory. Unless this is a dry run, deletes the unknown tokens in
/// Astra and the missing tokens in Vault. If the caller hangs up, the deletions that have begun are completed.
///
/// # Errors
/// If another tidy of the org is running, if Astra's list cannot be used, or if most of the inventory is missing and the
/// request has no `force`. A failed deletion is a [`Cause`] in the result.
pub(crate) async fn tidy(engine: &Arc<Engine>, config: &Arc<Config>, request: &TidyRequest) -> Result<Tidied, Error> {
    let org = &config.org_id;
    let Some(_running) = engine.locks.tidy(org) else {
        return Err(Error::Refused(format!(
            "a tidy of org_id {:?} is running; wait until it has ended, then try again",
            org.as_str()
        )));
    };
    if !engine.store.inventory_is_complete().await? {
        return Err(Error::inventory_incomplete(None));
    }
    let start = Instant::now();
    let comparison = Comparison::new(engine, config, oldest(request.safety_buffer)).await?;
    let mut differences = comparison.run().await?;
    let missed_before = engine.store.missing_tokens.take(config);
    engine.store.missing_tokens.note(config, &differences.missing);
    let refusal = refusal(org, &differences).filter(|_| !request.force);
    let mut tidied = Tidied {
        unknown: Ids::of(&differences.unknown),
        missing: Ids::of(&differences.missing),
        foreign: std::mem::take(&mut differences.foreign),
        without_expiry: std::mem::take(&mut differences.without_expiry),
        deleted: 0,
        refusal: None,
        young: differences.young,
        left: None,
        unreadable: std::mem::take(&mut differences.unreadable),
    };
    match refusal {
        refusal if request.dry_run => tidied.refusal = refusal,
        Some(refusal) => return Err(refusal),
        None => {
            let Differences { unknown, missing, .. } = differences;
            let (missing, once) = missed_twice(engine, &comparison, missing, &missed_before, start).await?;
            if once > 0 {
                tidied.leave(once, Cause::SlowList);
            }
            let unknown = unknown.into_iter().map(Difference::Unknown);
            let all = unknown.chain(missing.into_iter().map(Difference::Missing));
            let end = (Instant::now() + BUDGET).min(start + LONGEST);
            delete_all(engine, &comparison, all, end, &mut tidied).await;
        }
    }
    Ok(tidied)
}

/// Returns why a tidy must not delete: too much of the inventory is missing. Astra's list may then be of another
/// organization, or not complete.
fn refusal(org: &OrgId, differences: &Differences) -> Option<Error> {
    let (missing, known) = (differences.missing.len(), differences.known);
    (missing >= FEW && missing * 2 > known).then(|| {
        Error::Refused(format!(
            "Astra does not list {missing} of the {known} tokens in the inventory of org_id {:?}, so nothing was deleted; \
             check that url and astra_token of the config are right, then repeat with force=true",
            org.as_str()
        ))
    })
}

/// Returns those of the missing tokens that two lists of Astra have missed: Astra may have listed too little once. Also returns
/// the number of the others. `missed_before` are the tokens that the list of the last tidy missed.
async fn missed_twice(
    engine: &Engine,
    comparison: &Comparison<'_>,
    missing: Vec<ClientId>,
    missed_before: &HashSet<ClientId>,
    start: Instant,
) -> Result<(Vec<ClientId>, usize), Error> {
    let (mut twice, once): (Vec<_>, Vec<_>) = missing.into_iter().partition(|client| missed_before.contains(client));
    if once.is_empty() {
        return Ok((twice, 0));
    }
    if start.elapsed() > SLOW_LIST {
        return Ok((twice, once.len()));
    }
    twice.extend(comparison.still_missing(once).await?);
    engine.store.missing_tokens.note(comparison.config(), &twice);
    Ok((twice, 0))
}

/// Deletes tokens, until `end`.
async fn delete_all(
    engine: &Arc<Engine>,
    comparison: &Comparison<'_>,
    differences: impl Iterator<Item = Difference> + Send,
    end: Instant,
    tidied: &mut Tidied,
) {
    let (org, failed) = (&comparison.config().org_id, &AtomicUsize::new(0));
    let delete_one = |difference: Difference| async move {
        if Instant::now() > end || failed.load(Ordering::Relaxed) >= MOST_FAILURES {
            return Deleted::NotTried;
        }
        let deleted = match difference {
            Difference::Unknown(client) => delete_unknown(engine, comparison, org, client).await,
            Difference::Missing(client) => delete_missing(engine, comparison, org, client).await,
        };
        match deleted {
            Ok(true) => Deleted::Yes,
            Ok(false) => Deleted::No,
            Err(error) => {
                failed.fetch_add(1, Ordering::Relaxed);
                Deleted::Failed(error)
            }
        }
    };
    let mut results = stream::iter(differences).map(delete_one).buffer_unordered(AT_ONCE);
    while let Some(result) = results.next().await {
        match result {
            Deleted::Yes => tidied.deleted += 1,
            Deleted::No => {}
            Deleted::NotTried => tidied.leave(1, Cause::Time),
            Deleted::Failed(error) => tidied.leave(1, Cause::Failed(error)),
        }
    }
}

/// Deletes a token that nothing in the mount knows, as the deletion of a known token does. Returns whether it was deleted.
async fn delete_unknown(
    engine: &Arc<Engine>,
    comparison: &Comparison<'_>,
    org: &OrgId,
    client: ClientId,
) -> Result<bool, Error> {
    // Checked again, although a mint whose entry in the log is gone has stored its token.
    if comparison.is_known(&client).await? {
        return Ok(false);
    }
    let (engine, org_id) = (engine.clone(), org.clone());
    let tasks = engine.tasks.clone();
    let work = async move {
        let target = Target {
            token_id: client.to_string(),
            org_id,
            client_id: client,
            role_name: RoleName::default(),
            may_be_old: false,
            expiry: None,
        };
        let _lock = engine.locks.token(&target.token_id).await;
        let config = config(&engine, &target.org_id).await?;
        if engine.store.has_traces(&target.token_id, &target.org_id, &target.client_id).await? {
            return Ok(false);
        }
        delete_with_note(&engine, &config, &target, Reason::Request, None).await?;
        tracing::info!(org_id = %target.org_id, client_id = %target.client_id,
            "deleted a token in Astra that was not in the inventory");
        Ok(true)
    };
    tasks.run(work).await?
}

/// Deletes a token that Astra does not list, in Vault. Asks Astra nothing: if Astra has the token although it does not list
/// the token, a program may still use it. Returns whether it was deleted.
async fn delete_missing(
    engine: &Arc<Engine>,
    comparison: &Comparison<'_>,
    org: &OrgId,
    client: ClientId,
) -> Result<bool, Error> {
    let Some(record) = engine.store.record(org, &client).await? else { return Ok(false) };
    if !comparison.is_old(record.minted_at()) {
        return Ok(false);
    }
    let (engine, org) = (engine.clone(), org.clone());
    let tasks = engine.tasks.clone();
    let work = async move {
        let _lock = engine.locks.token(&record.token_id).await;
        let config = config(&engine, &org).await?;
        // The revocation of the token may have ended while this waited for the lock.
        if engine.store.record(&org, &client).await?.is_none_or(|now| now.token_id != record.token_id) {
            return Ok(false);
        }
        let target = Target::of_record(&org, &client, record);
        require_own_root(&engine, &config, &target).await?;
        delete_in_vault(&engine, &target).await?;
        tracing::info!(org_id = %target.org_id, role_name = %target.role_name, client_id = %target.client_id,
            "deleted a token in Vault that Astra did not list");
        Ok(true)
    };
    tasks.run(work).await?
}

async fn config(engine: &Engine, org: &OrgId) -> Result<Arc<Config>, Error> {
    let config = engine.store.config(org).await?;
    config.ok_or_else(|| Error::Refused(format!("the config of org_id {:?} was deleted during the tidy", org.as_str())))
}
