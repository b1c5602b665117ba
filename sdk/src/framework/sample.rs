//! A small engine for the tests of the framework: a shelf of books to lend.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Backend, Call, Change, Field, FieldSpec, Handler, LeaseCall, Path, SecretType, WRITES, WalEntry, WalKind};
use crate::logical::{self, Answer, Error, Map, Operation, Response, Secret, SpecialPaths};
use crate::testing::{self, FakeSystem, MemoryStorage};

const NOT_DELETE: &[Operation] = &[Operation::Create, Operation::Update, Operation::Patch, Operation::Read];

const NAME: Field<String> = Field::name_string("name", "Name of the book.");
const TITLE: Field<String> = Field::string("title", "Title on the cover.")
    .required()
    .aliases(&["headline"])
    .only(WRITES)
    .shown("Title on the cover.");
const PAGES: Field<i64> =
    Field::int("pages", "Number of pages.").default("100").only(NOT_DELETE).shown("Number of pages.");
const GENRE: Field<String> =
    Field::lowercase("genre", "What it is.").default("novel").allowed(&["novel", "poem", "play"]).only(WRITES);
const KEY: Field<String> = Field::string("key", "Key of the lock on the book.").sensitive().only(NOT_DELETE);
const TAGS: Field<Vec<String>> = Field::comma_strings("tags", "Words to find it by.\nOne or more.").only(WRITES);
const NOTES: Field<BTreeMap<String, String>> = Field::pairs("notes", "Remarks.").only(WRITES);
const TTL: Field<Duration> = Field::duration("ttl", "How long it may be kept.").default("1h");

const BOOK: &[FieldSpec] =
    &[NAME.spec(), TITLE.spec(), PAGES.spec(), GENRE.spec(), KEY.spec(), TAGS.spec(), NOTES.spec()];
const LOAN: &[FieldSpec] = &[NAME.spec(), TTL.spec()];

/// The engine. It records its calls.
#[derive(Default)]
pub(super) struct Shelf {
    pub(super) books: Mutex<BTreeMap<String, Map>>,
    pub(super) events: Mutex<Vec<String>>,
    /// Makes hooks, revocations and undos of "torn" entries fail.
    pub(super) failing: AtomicBool,
}

impl Shelf {
    pub(super) fn note(&self, event: impl Into<String>) {
        self.events.lock().unwrap().push(event.into());
    }

    pub(super) fn events(&self) -> Vec<String> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    fn check(&self, what: &str) -> Result<(), Error> {
        self.note(what);
        if self.failing.load(Ordering::SeqCst) { Err(Error::internal(format!("{what} failed"))) } else { Ok(()) }
    }
}

pub(super) fn backend() -> Backend<Shelf> {
    Backend::new("A shelf of books.\n\nBooks are written once and lent often.")
        .path(
            Path::new("books/?", &[])
                .help("List the books.", "Lists the names of all books.")
                .list(Handler::new("List books", list)),
        )
        .path(
            Path::new(r"books/(?P<name>\w(([\w\-.]+)?\w)?)", BOOK)
                .help("Write and read a book.", "A book has a title.\n\nIt may have a lock.")
                .write(Handler::new("Write a book", write))
                .patch(Handler::new("Change a book", patch))
                .read(Handler::new("Read a book", read).shows_fields())
                .delete(Handler::new("Burn a book", delete))
                .exists(exists),
        )
        .path(
            Path::new(r"lend/(?P<name>\w+)(/now)?", LOAN)
                .help("Lend a book.", "Each answer is a loan.")
                .read(Handler::new("Lend a book", lend).on_active_node()),
        )
        .secret(SecretType::new("loan").renew(renew).revoke(revoke))
        .wal(
            WalKind::new("print", Duration::from_secs(60), undo)
                .longer_for(|entry| Duration::from_secs(entry.data["seconds"].as_u64().unwrap_or(0))),
        )
        .special_paths(SpecialPaths::default().root(["lend/*"]))
        .on_initialize(async |shelf: Arc<Shelf>| shelf.check("initialize"))
        .on_cleanup(async |shelf: Arc<Shelf>| shelf.check("cleanup"))
        .periodic(async |shelf: Arc<Shelf>| shelf.check("periodic"))
        .on_invalidate(|shelf, key| shelf.note(format!("invalidate {key}")))
}

pub(super) struct Mounted {
    pub(super) backend: Arc<dyn logical::Backend>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) storage: Arc<MemoryStorage>,
    pub(super) system: Arc<FakeSystem>,
}

pub(super) fn mounted() -> Mounted {
    let (mount, storage, system) = testing::mount();
    let shelf = Arc::new(Shelf::default());
    Mounted { backend: Arc::new(backend()).mount(shelf.clone(), mount), shelf, storage, system }
}

fn object(value: Value) -> Map {
    value.as_object().cloned().unwrap()
}

fn name_of(call: &Call) -> String {
    call.fields.get(&NAME).unwrap()
}

async fn list(shelf: Arc<Shelf>, _: Call) -> Answer {
    Ok(Some(Response::list(shelf.books.lock().unwrap().keys().cloned())))
}

/// Returns the fields as read, so that tests can check them. Without a title, returns no response.
async fn write(shelf: Arc<Shelf>, call: Call) -> Answer {
    let Some(title) = call.fields.get(&TITLE) else { return Ok(None) };
    let book = object(json!({
        "title": title,
        "pages": call.fields.get(&PAGES),
        "genre": call.fields.get(&GENRE),
        "tags": call.fields.get(&TAGS),
        "notes": call.fields.get(&NOTES),
    }));
    shelf.note(format!("{} {}", call.request.operation.as_str(), name_of(&call)));
    shelf.books.lock().unwrap().insert(name_of(&call), book.clone());
    Ok(Some(Response::new(book).warn("the ink is wet")))
}

async fn patch(shelf: Arc<Shelf>, call: Call) -> Answer {
    let mut books = shelf.books.lock().unwrap();
    let Some(book) = books.get_mut(&name_of(&call)) else { return Ok(None) };
    match call.fields.change(&PAGES) {
        Change::Keep => {}
        Change::Reset => _ = book.remove("pages"),
        Change::Set(pages) => _ = book.insert("pages".into(), pages.into()),
    }
    Ok(Some(Response::new(book.clone())))
}

async fn read(shelf: Arc<Shelf>, call: Call) -> Answer {
    Ok(shelf.books.lock().unwrap().get(&name_of(&call)).cloned().map(Response::new))
}

async fn delete(shelf: Arc<Shelf>, call: Call) -> Answer {
    shelf.books.lock().unwrap().remove(&name_of(&call));
    Ok(None)
}

async fn exists(shelf: Arc<Shelf>, call: Call) -> Result<bool, Error> {
    Ok(shelf.books.lock().unwrap().contains_key(&name_of(&call)))
}

async fn lend(shelf: Arc<Shelf>, call: Call) -> Answer {
    shelf.note(format!("lend {}", name_of(&call)));
    let ttl = call.fields.get(&TTL).unwrap();
    let secret = Secret::new(ttl, ttl, object(json!({ "name": name_of(&call) }))).of_type("loan");
    Ok(Some(Response::new(Map::new()).lease(secret)))
}

async fn renew(_: Arc<Shelf>, call: LeaseCall) -> Answer {
    let mut secret = call.secret;
    secret.internal_data = object(json!({ "name": secret.internal_data["name"], "renewed": true }));
    Ok(Some(Response::new(call.request.data).lease(secret)))
}

async fn revoke(shelf: Arc<Shelf>, call: LeaseCall) -> Result<(), Error> {
    shelf.check(&format!("take back {}", call.secret.internal_data["name"].as_str().unwrap()))
}

async fn undo(shelf: Arc<Shelf>, entry: WalEntry) -> Result<(), Error> {
    let name = entry.data["name"].as_str().unwrap();
    if name == "torn" {
        return shelf.check("undo torn");
    }
    shelf.note(format!("undo {name}"));
    Ok(())
}
