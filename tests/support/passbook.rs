//! The engine of the conformance tests: accounts of a bank, and cards that are lent for a while.
//!
//! ```text
//! accounts/:name   create, update, patch, read, delete; each type of field
//! accounts         list
//! cards/:name      read: lends a card of an account under a lease that can be renewed and revoked
//! teller/:errand   update: panics, sleeps, and hostile log lines, on demand
//! ```
//!
//! It uses every part of [`sdk`]. For an engine that is easy to read, see `docs/examples/second-engine`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use vault_plugin_sdk::framework::{
    Backend, Call, Change, Field, FieldSpec, Handler, LeaseCall, Path, SecretType, WalEntry, WalKind, format_duration,
};
use vault_plugin_sdk::locks::KeyedLocks;
use vault_plugin_sdk::logical::{
    Answer, Error, Map, Mount, Response, Secret, SpecialPaths, Storage, StorageError, StorageExt,
};
use vault_plugin_sdk::{self as sdk, Plugin};

fn main() -> ExitCode {
    // All mounts share the declaration. Each mount has its own `Passbook`.
    sdk::serve(PLUGIN, declaration().factory(Passbook::new))
}

/// The plugin's description of itself.
const PLUGIN: Plugin = Plugin::new("passbook", "0.1.0")
    .description("Accounts, and cards that are lent for a while")
    .log_level_variable("PASSBOOK_LOG_LEVEL")
    .log_target(env!("CARGO_CRATE_NAME"))
    .redact(&["pin-"]);

/// The engine on one mount.
struct Passbook {
    mount: Mount,
    /// Locks by account name, held from reading an account to writing it.
    locks: KeyedLocks,
}

impl Passbook {
    fn new(mount: &Mount) -> Self {
        Self { mount: mount.clone(), locks: KeyedLocks::default() }
    }

    fn storage(&self) -> &dyn Storage {
        &*self.mount.storage
    }

    async fn account(&self, name: &str) -> Result<Option<Account>, StorageError> {
        self.mount.storage.get_json(&format!("accounts/{name}")).await
    }
}

/// The declaration of the whole engine.
fn declaration() -> Backend<Passbook> {
    Backend::new("Keeps accounts, and lends cards of them for a while.")
        .path(
            Path::new("accounts/?", &[])
                .help("Lists the accounts.", "The answer has the name of each account.")
                .list(Handler::new("List the accounts.", list)),
        )
        .path(
            Path::new(r"accounts/(?P<name>\w(?:[\w\-.]*\w)?)", ACCOUNT)
                .help("Keeps an account.", "A write changes the fields that it names; a patch can also reset them.")
                .exists(exists)
                // Changes are detached: they continue when the caller hangs up.
                .write(Handler::new("Open or change an account.", write).detached())
                .patch(Handler::new("Change an account.", write).detached())
                .read(Handler::new("Read an account.", read).returns(&[("owner", "Who owns the account.")]))
                .delete(Handler::new("Close an account.", delete).detached()),
        )
        .path(
            Path::new(r"cards/(?P<name>\w(?:[\w\-.]*\w)?)", CARDS)
                .help("Lends a card of an account.", "The lease can be renewed until the mount's maximum is reached.")
                // A handler that creates a lease must run on the node that can store it.
                .read(Handler::new("Lend a card.", lend).on_active_node().detached()),
        )
        .path(
            Path::new(r"teller/(?P<errand>\w+)", TELLER)
                .help(
                    "Does what goes wrong in real engines.",
                    "Panics, sleeps, or logs what no log should have to bear.",
                )
                .write(Handler::new("Run an errand.", errand)),
        )
        .secret(SecretType::new(CARD).renew(renew).revoke(revoke))
        .wal(WalKind::new(CARD, Duration::from_secs(60), undo))
        .special_paths(SpecialPaths::default().local_storage(["wal/"]).seal_wrap_storage(["accounts/"]))
}

const NAME: Field<String> = Field::string("name", "Name of the account.").required();
const OWNER: Field<String> = Field::string("owner", "Who owns the account.");
const CURRENCY: Field<String> = Field::lowercase("currency", "Currency of the account.").default("eur");
const LIMIT: Field<i64> = Field::int("limit", "How much may be overdrawn.");
const RATE: Field<f64> = Field::float("rate", "Interest in percent.");
const ACTIVE: Field<bool> = Field::bool("active", "Whether cards are lent.").default("true");
const GRACE: Field<Duration> = Field::duration("grace", "How long a debt may last.").default("1h");
const LABELS: Field<BTreeMap<String, String>> = Field::pairs("labels", "The owner's own key=value pairs.");
const NOTES: Field<Vec<String>> = Field::strings("notes", "Remarks.");
const TAGS: Field<Vec<String>> = Field::comma_strings("tags", "Words to find the account by.");
const BRANCHES: Field<Vec<i64>> = Field::comma_ints("branches", "Numbers of the branches that know the account.");
const TERMS: Field<Map> = Field::map("terms", "Whatever else was agreed on.");
const PIN: Field<String> = Field::string("pin", "Secret number. It is never shown.").sensitive();
const TTL: Field<Duration> = Field::duration("ttl", "How long the card is lent.").default("10m");
const ERRAND: Field<String> = Field::string("errand", "One of abandon, fail, log, panic and sleep.").required();
const MILLISECONDS: Field<i64> = Field::int("milliseconds", "How long to sleep.");
const TEXT: Field<String> = Field::string("text", "What to log.");

const ACCOUNT: &[FieldSpec] = &[
    NAME.spec(),
    OWNER.spec(),
    CURRENCY.spec(),
    LIMIT.spec(),
    RATE.spec(),
    ACTIVE.spec(),
    GRACE.spec(),
    LABELS.spec(),
    NOTES.spec(),
    TAGS.spec(),
    BRANCHES.spec(),
    TERMS.spec(),
    PIN.spec(),
];
const CARDS: &[FieldSpec] = &[NAME.spec(), TTL.spec()];
const TELLER: &[FieldSpec] = &[ERRAND.spec(), MILLISECONDS.spec(), TEXT.spec()];

/// Name of the type of lease, and of the kind of WAL entry. The name is stored, so it must never change.
const CARD: &str = "card";

/// A stored account. With `default`, entries of older versions can be read.
#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Account {
    owner: String,
    currency: String,
    limit: i64,
    rate: f64,
    active: bool,
    /// In seconds.
    grace: u64,
    labels: BTreeMap<String, String>,
    notes: Vec<String>,
    tags: Vec<String>,
    branches: Vec<i64>,
    terms: Map,
    pin: String,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            owner: String::new(),
            currency: "eur".into(),
            limit: 0,
            rate: 0.0,
            active: true,
            grace: 3600,
            labels: BTreeMap::new(),
            notes: Vec::new(),
            tags: Vec::new(),
            branches: Vec::new(),
            terms: Map::new(),
            pin: String::new(),
        }
    }
}

fn name(call: &Call) -> String {
    call.fields.get(&NAME).unwrap_or_default()
}

async fn list(engine: Arc<Passbook>, _: Call) -> Answer {
    let mut names = engine.storage().list("accounts/").await?;
    names.sort();
    Ok(Some(Response::list(names)))
}

async fn exists(engine: Arc<Passbook>, call: Call) -> Result<bool, Error> {
    Ok(engine.account(&name(&call)).await?.is_some())
}

async fn read(engine: Arc<Passbook>, call: Call) -> Answer {
    // A missing account is not an error: the host returns 404.
    let Some(account) = engine.account(&name(&call)).await? else { return Ok(None) };
    let grace = format_duration(Duration::from_secs(account.grace));
    let mut data = object(json!(account));
    data.remove(PIN.name());
    data.insert(GRACE.name().into(), grace.into());
    Ok(Some(Response::new(data)))
}

async fn write(engine: Arc<Passbook>, call: Call) -> Answer {
    let (name, fields) = (name(&call), &call.fields);
    let _guard = engine.locks.lock(&name).await;
    let stored = engine.account(&name).await?;
    if stored.is_none() && !fields.is_given(&OWNER) {
        return Err(Error::invalid(format!("account {name:?} does not exist; to open it, name its owner")));
    }
    let mut account = stored.unwrap_or_default();
    let new = Account::default();
    fields.change(&OWNER).apply(&mut account.owner, || new.owner);
    fields.change(&CURRENCY).apply(&mut account.currency, || new.currency);
    fields.change(&LIMIT).apply(&mut account.limit, || new.limit);
    fields.change(&RATE).apply(&mut account.rate, || new.rate);
    fields.change(&ACTIVE).apply(&mut account.active, || new.active);
    fields.change(&LABELS).apply(&mut account.labels, || new.labels);
    fields.change(&NOTES).apply(&mut account.notes, || new.notes);
    fields.change(&TAGS).apply(&mut account.tags, || new.tags);
    fields.change(&BRANCHES).apply(&mut account.branches, || new.branches);
    fields.change(&TERMS).apply(&mut account.terms, || new.terms);
    fields.change(&PIN).apply(&mut account.pin, || new.pin);
    match fields.change(&GRACE) {
        Change::Keep => {}
        Change::Reset => account.grace = new.grace,
        Change::Set(grace) => account.grace = grace.as_secs(),
    }
    engine.mount.storage.put_json(&format!("accounts/{name}"), &account).await?;
    Ok(None)
}

async fn delete(engine: Arc<Passbook>, call: Call) -> Answer {
    let name = name(&call);
    let _guard = engine.locks.lock(&name).await;
    engine.storage().delete(&format!("accounts/{name}")).await?;
    Ok(None)
}

async fn lend(engine: Arc<Passbook>, call: Call) -> Answer {
    let account = name(&call);
    let stored = engine.account(&account).await?;
    // 400 and not 404: on a read, clients hide the text of a 404.
    let stored = stored.ok_or_else(|| Error::invalid(format!("account {account:?} does not exist")))?;
    if !stored.active {
        return Err(Error::status(409, format!("account {account:?} is not active")));
    }
    // The host caps the lease only after this handler, so the card's time is capped here.
    let max_ttl = engine.mount.system.max_lease_ttl().await?;
    let ttl = call.fields.get(&TTL).unwrap_or_default().min(max_ttl);
    // If this function does not reach its end, `undo` deletes the card by this WAL entry.
    let card = uuid::Uuid::new_v4().to_string();
    let wal = engine.mount.wal();
    let entry = wal.put(CARD, &card).await?;
    engine.mount.storage.put_json(&format!("cards/{card}"), &account).await?;
    wal.delete(&entry).await?;
    tracing::info!(account, card, "lent a card");
    let data = object(json!({"account": account, "card": card}));
    // Holds all data for a revocation, because the account may be closed by then.
    let secret = Secret::new(ttl, max_ttl, object(json!({"card": card}))).of_type(CARD);
    Ok(Some(Response::new(data).lease(secret)))
}

async fn renew(engine: Arc<Passbook>, call: LeaseCall) -> Answer {
    let max_ttl = engine.mount.system.max_lease_ttl().await?;
    // The response replaces the stored data and lease, so both are complete.
    Ok(Some(Response::new(call.request.data).lease(call.secret.max_ttl(max_ttl))))
}

async fn revoke(engine: Arc<Passbook>, call: LeaseCall) -> Result<(), Error> {
    let card = call.secret.internal_data.get("card").and_then(Value::as_str).unwrap_or_default();
    // Deleting a missing entry is not an error, so the host can repeat a revocation.
    Ok(engine.storage().delete(&format!("cards/{card}")).await?)
}

async fn undo(engine: Arc<Passbook>, entry: WalEntry) -> Result<(), Error> {
    let card: String = entry.decode()?;
    Ok(engine.storage().delete(&format!("cards/{card}")).await?)
}

async fn errand(engine: Arc<Passbook>, call: Call) -> Answer {
    let text = call.fields.get(&TEXT).unwrap_or_default();
    match call.fields.get(&ERRAND).unwrap_or_default().as_str() {
        "abandon" => {
            drop(engine.mount.wal().put(CARD, &"abandoned").await?);
            engine.mount.storage.put_json("cards/abandoned", &text).await?;
        }
        "fail" => return Err(Error::internal("the till is jammed")),
        "log" => {
            tracing::warn!(
                "@message" = 5,
                "@level" = "fatal",
                "@timestamp" = false,
                "a \"b\"\n" = text,
                "hostile\nname"
            );
            tracing::info!(text, length = text.len(), ratio = f64::NAN, "{text}");
        }
        #[expect(clippy::panic, reason = "shows what becomes of a panic")]
        "panic" => panic!("{text}"),
        "sleep" => {
            let milliseconds = call.fields.get(&MILLISECONDS).unwrap_or_default();
            tracing::info!(milliseconds, "sleeps");
            tokio::time::sleep(Duration::from_millis(milliseconds.unsigned_abs())).await;
        }
        other => return Err(Error::invalid(format!("no errand {other:?}"))),
    }
    Ok(None)
}

fn object(value: Value) -> Map {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
