//! Whole requests through the backend, with storage in memory and a stand-in for Astra.

mod astra;
mod config;
mod creds;
mod damaged;
mod echo;
mod events;
mod failures;
mod filters;
mod help;
mod input;
mod interrupted;
mod inventory;
mod labels;
mod lease;
mod limits;
mod listing;
mod logs;
mod lookup;
mod many_orgs;
mod metadata;
mod metrics;
mod old_leases;
mod old_names;
mod orgs;
mod outage;
mod peer;
mod proxy;
mod races;
mod replace;
mod replaced_root;
mod retries;
mod role;
mod role_ids;
mod rollback;
mod root_expiry;
mod root_token;
mod rotate_root;
mod scheduled_rotation;
mod static_faults;
mod static_roles;
mod status;
mod storage_faults;
mod sync;
mod takeover;
mod tidy;
mod tls;
mod token;
mod trial;
mod uses;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use vault_plugin_sdk::logical::{
    Answer, Backend, Caller, Error, Map, Mount, Operation, Request, Response, Secret, Storage,
};
use vault_plugin_sdk::tasks::Tasks;
use vault_plugin_sdk::testing::{self, FakeSystem, MemoryStorage, mount_on};

use self::astra::Astra;

/// An `org_id` in the form of the user guide.
const ORG: &str = "ccd999999_facd_4ad3_bbb99903d999999999999999d";
const OTHER_ORG: &str = "6a4c2d1e-5c0f-4b8e-9a57-000000000002";
const ROOT: &str = "AstraCS:ONqZCOAAAAAAAAAAAAAAAAe:608ba9999999999999190219";
const ROLE_ID: &str = "946cfbde-24cc-4953-9355-d57bfd61bf39";

/// Returns a request at the mount `astra/`.
fn request(operation: Operation, path: &str, data: Value) -> Request {
    testing::request(operation, path, data).mount_point("astra/")
}

/// One mount, its host and its Astra.
struct World {
    backend: Arc<dyn Backend>,
    storage: Arc<MemoryStorage>,
    system: Arc<FakeSystem>,
    astra: Arc<Astra>,
    tasks: Tasks,
}

impl World {
    /// A new mount with a complete inventory.
    async fn new() -> Self {
        let world = Self::unprepared().await;
        world.initialize().await;
        world
    }

    /// A mount that was not initialized.
    async fn unprepared() -> Self {
        Self::with(Arc::default(), Arc::new(Astra::start(ORG).await))
    }

    /// A new process with this storage and this Astra.
    fn with(storage: Arc<MemoryStorage>, astra: Arc<Astra>) -> Self {
        Self::of_mount(None, storage, astra)
    }

    /// A new process of the mount with this UUID. All other worlds are processes of one mount.
    fn of_mount(uuid: Option<&str>, storage: Arc<MemoryStorage>, astra: Arc<Astra>) -> Self {
        let (mut mount, system) = mount_on(storage.clone());
        mount.plugin = crate::PLUGIN;
        mount.uuid = uuid.map_or(mount.uuid, str::to_owned);
        let tasks = mount.tasks.clone();
        let backend = super::factory()(mount).unwrap_or_else(|error| panic!("{error}"));
        Self { backend, storage, system, astra, tasks }
    }

    /// A mount with a config and a role, as in the user guide.
    async fn with_role(mode: &str) -> Self {
        let world = Self::new().await;
        world.write_config(mode).await;
        world.write_role(json!({"ttl": "3600", "max_ttl": "36000"})).await;
        world
    }

    /// The same mount in a new process.
    async fn remounted(self) -> Self {
        let (host, _) = mount_on(self.storage.clone());
        let host = Mount::new(crate::PLUGIN, host.storage, self.system.clone());
        let tasks = host.tasks.clone();
        let backend = super::factory()(host).unwrap_or_else(|error| panic!("{error}"));
        let world = Self { backend, tasks, ..self };
        world.initialize().await;
        world
    }

    async fn initialize(&self) {
        self.backend.initialize().await.expect("initializes");
        eventually(|| self.storage.keys().contains(&"client-index".to_owned())).await;
    }

    async fn write_config(&self, mode: &str) {
        let config = json!({"org_id": ORG, "astra_token": ROOT, "url": self.astra.url(), "caller_mode": mode,
            "logical_name": "retailOrg"});
        assert!(ok(self.write("config", config).await).is_none());
    }

    async fn write_role(&self, ttls: Value) {
        let mut role = json!({"org_id": ORG, "role_name": "R_W_User", "role_id": ROLE_ID});
        role.as_object_mut().unwrap().append(&mut ttls.as_object().unwrap().clone());
        ok(self.write("role", role).await);
    }

    /// Mints a token in standard mode.
    async fn mint(&self, name: &str) -> Response {
        some(self.write("org/token", order(name)).await)
    }

    /// Starts a mint in standard mode. Astra mints the token at once and answers late. Returns when the token, which
    /// must be the only live token, exists in Astra.
    async fn minting(&self, name: &str, delay: Duration) -> JoinHandle<Answer> {
        self.astra.delay("POST", delay);
        let (backend, order) = (self.backend.clone(), request(Operation::Update, "org/token", order(name)));
        let caller = tokio::spawn(async move { backend.handle(order).await });
        eventually(|| self.astra.live() == 1).await;
        caller
    }

    async fn write(&self, path: &str, data: Value) -> Answer {
        self.ask(Operation::Update, path, data).await
    }

    async fn read(&self, path: &str, data: Value) -> Answer {
        self.ask(Operation::Read, path, data).await
    }

    async fn list(&self, path: &str, data: Value) -> Map {
        some(self.ask(Operation::List, path, data).await).whole_data().unwrap()
    }

    async fn ask(&self, operation: Operation, path: &str, data: Value) -> Answer {
        let caller = Caller::new("token-bob").entity_id("entity-1");
        self.backend.handle(request(operation, path, data).caller(caller)).await
    }

    async fn revoke(&self, secret: &Secret) -> Answer {
        self.backend.handle(lease_request(Operation::Revoke, secret, Value::Null)).await
    }

    async fn renew(&self, secret: &Secret, data: Value) -> Answer {
        self.backend.handle(lease_request(Operation::Renew, secret, data)).await
    }

    /// Stores an entry as an older version did.
    async fn stored(&self, key: &str, value: Value) {
        let entry = vault_plugin_sdk::logical::Entry::json(key, &value).expect("has a JSON form");
        self.storage.put(entry).await.expect("stores");
    }

    /// The stored keys with this prefix, sorted.
    fn keys(&self, prefix: &str) -> Vec<String> {
        self.storage.keys().into_iter().filter(|key| key.starts_with(prefix)).collect()
    }
}

fn lease_request(operation: Operation, secret: &Secret, data: Value) -> Request {
    request(operation, "org/token", data).secret(secret.clone())
}

#[track_caller]
fn ok(answer: Answer) -> Option<Response> {
    answer.unwrap_or_else(|error| panic!("failed: {error}"))
}

#[track_caller]
fn some(answer: Answer) -> Response {
    ok(answer).expect("there is a response")
}

#[track_caller]
fn data(answer: Answer) -> Value {
    Value::Object(some(answer).whole_data().expect("there is data"))
}

#[track_caller]
fn failed(answer: Answer) -> Error {
    match answer {
        Ok(_) => panic!("succeeded"),
        Err(error) => error,
    }
}

/// Returns the text of a 400.
#[track_caller]
fn refused(answer: Answer) -> String {
    match failed(answer) {
        Error::InvalidRequest(text) => text,
        error => panic!("not a 400: {error}"),
    }
}

#[track_caller]
fn status(answer: Answer) -> (u16, String) {
    match failed(answer) {
        Error::Status { status, message } => (status, message),
        Error::InvalidRequest(message) => (400, message),
        Error::Internal { message, .. } => (500, message),
        error => panic!("no status: {error}"),
    }
}

/// The parameters of a mint.
fn order(name: &str) -> Value {
    json!({"org_id": ORG, "role_name": "r_w_user", "logical_name": name})
}

/// Returns the members of a JSON object.
fn map(object: Value) -> Map {
    object.as_object().cloned().expect("a JSON object")
}

fn lease(response: &Response) -> Secret {
    response.secret.clone().expect("there is a lease")
}

fn text(response: &Response, member: &str) -> String {
    response.whole_data().unwrap()[member].as_str().unwrap().to_owned()
}

/// Waits until another task makes a condition true.
async fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
