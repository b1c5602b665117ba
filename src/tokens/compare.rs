//! Compares Astra's list of the tokens of an org with the inventory, for a tidy.
//!
//! The order of the reads matters, because mints and revocations go on meanwhile:
//!
//! 1. The client ids in the inventory. Astra minted each of these tokens before the list.
//! 2. Astra's list.
//! 3. The write-ahead log. The entry of a mint or a rotation is removed after its token is stored. So a token in the list
//!    that is about to be stored has an entry, and a token whose entry is gone is stored already.
//! 4. The root tokens, and the record of each token that differs.
//!
//! Of a token that is both in Astra and in the inventory, only one bit is kept in memory beside its client id.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use uuid::Uuid;

use super::time::later;
use crate::api::{ListReader, ListedToken};
use crate::engine::Engine;
use crate::error::{Error, readable};
use crate::journal;
use crate::names::{ClientId, OrgId};
use crate::store::{Config, record_key};

/// How many client ids of each kind an answer shows.
const SHOWN: usize = 1000;

/// How many tokens are checked at the same time.
const CONCURRENT: usize = 32;

/// How many tokens are checked while changes of configs wait.
const LOCKED: usize = 1000;

/// Client ids: their number, and the first of them in byte order.
#[derive(Default)]
pub(crate) struct Ids {
    /// How many there are.
    pub(crate) count: usize,
    /// At most the first 1,000.
    pub(crate) first: BTreeSet<String>,
}

impl Ids {
    fn add(&mut self, id: &str) {
        self.count += 1;
        if self.first.len() < SHOWN || self.first.last().is_some_and(|last| id < last.as_str()) {
            self.first.insert(id.to_owned());
        }
        if self.first.len() > SHOWN {
            self.first.pop_last();
        }
    }

    pub(super) fn of<'a>(ids: impl IntoIterator<Item = &'a ClientId>) -> Self {
        let mut all = Self::default();
        ids.into_iter().for_each(|id| all.add(id.as_str()));
        all
    }
}

/// How Astra's list and the inventory of an org differ.
#[derive(Default)]
pub(super) struct Differences {
    /// Tokens in Astra that this instance minted, and that nothing in the mount knows. Sorted.
    pub(super) unknown: Vec<ClientId>,
    /// Tokens in the inventory that Astra does not list. Sorted.
    pub(super) missing: Vec<ClientId>,
    /// All other tokens in Astra that are not in the inventory.
    pub(super) foreign: Ids,
    /// Tokens of this mount that do not expire in Astra.
    pub(super) without_expiry: Ids,
    /// Number of tokens in the inventory.
    pub(super) known: usize,
    /// Number of unknown and missing tokens that are too young.
    pub(super) young: usize,
    /// Keys of the records that cannot be read.
    pub(super) unreadable: Vec<String>,
}

/// A token in Astra's list that this instance minted and that was not in the inventory before the list.
struct Suspect {
    client_id: ClientId,
    marker: Uuid,
    generated_on: Option<Timestamp>,
    expires: bool,
}

/// What is known of a suspect.
enum Fact {
    /// It is the root token of a config.
    Root,
    /// The mount knows it: it was stored after the inventory was read, or an entry of the write-ahead log is about it.
    Known,
    /// Nothing in the mount knows it.
    Unknown,
}

/// Tokens that Astra did not list, sorted.
struct Missing(Vec<ClientId>);

/// The tokens that the mount knows before it asks Astra.
struct Inventory<'a> {
    /// The instance in the descriptions of the tokens of this mount.
    instance: &'a str,
    /// Client ids in the inventory of the org, sorted.
    own: Vec<ClientId>,
    /// Client ids in the inventories of the orgs that may be the same organization of Astra, and the root token.
    others: HashSet<ClientId>,
}

/// The result of reading Astra's list.
struct Survey {
    /// Whether Astra lists the token with the same index in the inventory.
    seen: Vec<bool>,
    suspects: Vec<Suspect>,
    foreign: Ids,
    without_expiry: Ids,
}

/// A comparison of one org.
pub(super) struct Comparison<'a> {
    engine: &'a Engine,
    config: &'a Arc<Config>,
    /// Younger tokens and records are left alone.
    oldest: Option<Timestamp>,
    /// The other orgs whose tokens Astra may list.
    sharing: Vec<OrgId>,
}

impl<'a> Comparison<'a> {
    /// Prepares a comparison that leaves alone tokens and records of after `oldest`, or none of them.
    pub(super) async fn new(
        engine: &'a Engine,
        config: &'a Arc<Config>,
        oldest: Option<Timestamp>,
    ) -> Result<Self, Error> {
        let sharing = engine.store.orgs_sharing(config).await?;
        Ok(Self { engine, config, oldest, sharing })
    }

    /// Compares Astra's list with the inventory.
    ///
    /// # Errors
    /// If the list is empty or cannot be read, or if the storage fails.
    pub(super) async fn run(&self) -> Result<Differences, Error> {
        let inventory = self.inventory().await?;
        let reader = &inventory;
        let survey = self.engine.call(self.config, |client| async move { client.survey(reader).await }).await?;
        let noted = journal::texts(self.engine.wal()).await?;
        let unseen = inventory.own.iter().zip(&survey.seen).filter(|(_, seen)| !**seen).map(|(id, _)| id.clone());
        let mut differences = Differences {
            known: inventory.own.len(),
            foreign: survey.foreign,
            without_expiry: survey.without_expiry,
            ..Differences::default()
        };
        self.judge_unseen(unseen.collect(), &noted, &mut differences).await?;
        self.judge_suspects(survey.suspects, &noted, &mut differences).await?;
        Ok(differences)
    }

    /// Returns the config of the org.
    pub(super) fn config(&self) -> &'a Arc<Config> {
        self.config
    }

    /// Returns those of these tokens that Astra still does not list.
    pub(super) async fn still_missing(&self, missing: Vec<ClientId>) -> Result<Vec<ClientId>, Error> {
        let reader = &Missing(missing);
        let is_listed = self.engine.call(self.config, |client| async move { client.survey(reader).await }).await?;
        Ok(reader.0.iter().zip(is_listed).filter(|(_, is_listed)| !is_listed).map(|(id, _)| id.clone()).collect())
    }

    /// Whether a token of this time is old enough.
    pub(super) fn is_old(&self, time: Option<Timestamp>) -> bool {
        self.oldest.is_none_or(|oldest| time.is_some_and(|time| time <= oldest))
    }

    async fn inventory(&self) -> Result<Inventory<'_>, Error> {
        let store = &self.engine.store;
        let mut own = store.client_ids(&self.config.org_id).await?;
        own.sort_unstable();
        let read = |org: OrgId| async move { store.client_ids(&org).await };
        let mut others: HashSet<ClientId> = self.config.root_id().map(ClientId::stored).into_iter().collect();
        let mut reads = stream::iter(self.sharing.clone()).map(read).buffer_unordered(CONCURRENT);
        while let Some(ids) = reads.try_next().await? {
            others.extend(ids);
        }
        Ok(Inventory { instance: &self.engine.instance, own, others })
    }

    /// Decides which of the tokens that Astra did not list are missing.
    async fn judge_unseen(
        &self,
        unseen: Vec<ClientId>,
        noted: &HashSet<String>,
        differences: &mut Differences,
    ) -> Result<(), Error> {
        let org = &self.config.org_id;
        let read = |client: ClientId| async move {
            let record = readable(self.engine.store.record(org, &client).await)?;
            Ok::<_, Error>((client, record))
        };
        let mut records = stream::iter(unseen).map(read).buffered(CONCURRENT);
        while let Some((client, (record, damage))) = records.try_next().await? {
            match record {
                None if damage.is_some() => differences.unreadable.push(record_key(org, &client)),
                // Its revocation or deletion was completed meanwhile, or its mint is not complete yet.
                None => {}
                Some(record) if noted.contains(&record.marker) => {}
                Some(record) if self.is_old(record.minted_at()) => differences.missing.push(client),
                Some(_) => differences.young += 1,
            }
        }
        Ok(())
    }

    /// Decides which suspects are unknown.
    async fn judge_suspects(
        &self,
        mut suspects: Vec<Suspect>,
        noted: &HashSet<String>,
        differences: &mut Differences,
    ) -> Result<(), Error> {
        if suspects.is_empty() {
            return Ok(());
        }
        let roots = &self.roots().await?;
        while !suspects.is_empty() {
            // While the engine learns an organization, its records move from one org to another.
            let _records_stay = self.engine.locks.configs().await;
            let judge = |suspect: Suspect| async move {
                let fact = self.fact(&suspect, noted, roots).await?;
                Ok::<_, Error>((suspect, fact))
            };
            let some = suspects.split_off(suspects.len().saturating_sub(LOCKED));
            let mut judged = stream::iter(some).map(judge).buffer_unordered(CONCURRENT);
            while let Some((suspect, fact)) = judged.try_next().await? {
                self.add(suspect, &fact, differences);
            }
        }
        differences.unknown.sort_unstable();
        differences.unknown.dedup();
        Ok(())
    }

    fn add(&self, suspect: Suspect, fact: &Fact, differences: &mut Differences) {
        if !suspect.expires && !matches!(fact, Fact::Root) {
            differences.without_expiry.add(suspect.client_id.as_str());
        }
        match fact {
            Fact::Unknown if self.is_old(suspect.generated_on) => differences.unknown.push(suspect.client_id),
            Fact::Unknown => differences.young += 1,
            Fact::Root | Fact::Known => {}
        }
    }

    async fn fact(&self, suspect: &Suspect, noted: &HashSet<String>, roots: &HashSet<ClientId>) -> Result<Fact, Error> {
        let client = &suspect.client_id;
        if roots.contains(client) {
            return Ok(Fact::Root);
        }
        if noted.contains(client.as_str()) || noted.contains(&suspect.marker.simple().to_string()) {
            return Ok(Fact::Known);
        }
        let is_known = is_known(self.engine, &self.config.org_id, &self.sharing, client).await?;
        Ok(if is_known { Fact::Known } else { Fact::Unknown })
    }

    /// Returns the root tokens of all configs that may be of this organization of Astra.
    async fn roots(&self) -> Result<HashSet<ClientId>, Error> {
        let read = |org: OrgId| async move { self.engine.store.config(&org).await };
        let mut orgs = self.sharing.clone();
        orgs.push(self.config.org_id.clone());
        let mut configs = stream::iter(orgs).map(read).buffer_unordered(CONCURRENT);
        let mut roots = HashSet::new();
        while let Some(config) = configs.try_next().await? {
            roots.extend(config.as_deref().and_then(Config::root_id).map(ClientId::stored));
        }
        Ok(roots)
    }

    /// Whether a token has a record or an entry by now.
    pub(super) async fn is_known(&self, client: &ClientId) -> Result<bool, Error> {
        is_known(self.engine, &self.config.org_id, &self.sharing, client).await
    }
}

async fn is_known(engine: &Engine, org: &OrgId, sharing: &[OrgId], client: &ClientId) -> Result<bool, Error> {
    if engine.store.has_traces(client.as_str(), org, client).await? {
        return Ok(true);
    }
    for org in sharing {
        if engine.store.has_record(org, client).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl ListReader for Missing {
    /// Whether Astra lists the token with the same index.
    type All = Vec<bool>;

    fn begin(&self) -> Self::All {
        vec![false; self.0.len()]
    }

    fn add(&self, is_listed: &mut Self::All, token: &ListedToken<'_>) {
        if let Some(index) = position(&self.0, &token.client_id) {
            is_listed[index] = true;
        }
    }
}

impl ListReader for Inventory<'_> {
    type All = Survey;

    fn begin(&self) -> Survey {
        Survey {
            seen: vec![false; self.own.len()],
            suspects: Vec::new(),
            foreign: Ids::default(),
            without_expiry: Ids::default(),
        }
    }

    fn add(&self, survey: &mut Survey, token: &ListedToken<'_>) {
        let id = &*token.client_id;
        if let Some(index) = position(&self.own, id) {
            survey.seen[index] = true;
            if !token.expires() {
                survey.without_expiry.add(id);
            }
            return;
        }
        let client_id = ClientId::stored(id);
        if self.others.contains(&client_id) {
            return;
        }
        match token.marker_of(self.instance) {
            None => survey.foreign.add(id),
            Some(marker) => {
                let (generated_on, expires) = (token.generated_on(), token.expires());
                survey.suspects.push(Suspect { client_id, marker, generated_on, expires });
            }
        }
    }
}

/// Returns the index of a client id in a sorted list.
fn position(ids: &[ClientId], id: &str) -> Option<usize> {
    ids.binary_search_by(|other| other.as_str().cmp(id)).ok()
}

/// Returns the latest time of tokens that are old enough; `None` if all are.
pub(super) fn oldest(safety_buffer: std::time::Duration) -> Option<Timestamp> {
    let now = Timestamp::now();
    (!safety_buffer.is_zero()).then(|| {
        let back = later(now, safety_buffer).duration_since(now);
        now.checked_sub(back).unwrap_or(Timestamp::MIN)
    })
}
