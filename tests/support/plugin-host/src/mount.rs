//! One mounted instance: sends the host's requests.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::brokered::Brokered;
use super::estimator::Counts;
use super::pb::logical::Empty as VersionArgs;
use super::pb::logical::plugin_version_client::PluginVersionClient;
use super::pb::pb::backend_client::BackendClient;
use super::pb::pb::{self, Empty};
use super::process::PATIENCE;
use super::wire::{Agreed, Host};
use super::{Reply, Storage, System};

/// When the host announces storage and facts to the plugin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offer {
    /// Before `Setup`.
    Before,
    /// This long after `Setup` was called.
    After(Duration),
    /// Never.
    Never,
}

/// The input of `Setup`.
pub struct Setup {
    pub storage: Storage,
    pub system: System,
    pub offer: Offer,
    /// Id of the mount. Empty at registration.
    pub uuid: String,
    pub config: HashMap<String, String>,
}

impl Default for Setup {
    fn default() -> Self {
        let config = [("plugin_name", "engine"), ("plugin_type", "secret"), ("plugin_version", "")];
        Self {
            storage: Storage::default(),
            system: System::default(),
            offer: Offer::Before,
            uuid: uuid::Uuid::new_v4().to_string(),
            config: config.map(|(name, value)| (name.into(), value.into())).into(),
        }
    }
}

impl Setup {
    /// Returns the input during registration.
    pub fn registration() -> Self {
        Self {
            storage: Storage::missing(),
            system: System::missing(),
            uuid: String::new(),
            config: HashMap::new(),
            ..Self::default()
        }
    }
}

/// One instance.
pub struct Mount {
    /// Value of `multiplex_id`.
    pub id: String,
    pub storage: Storage,
    pub system: System,
    client: BackendClient<Channel>,
    channel: Channel,
    brokered: Brokered,
}

/// The answer to an existence check.
pub struct Existence {
    /// Whether the path tells creates from updates.
    pub check_found: bool,
    pub exists: bool,
    pub err: Option<pb::ProtoError>,
}

impl Mount {
    pub(super) async fn new(host: &Host, setup: Setup) -> Result<Self, String> {
        let Setup { storage, system, offer, uuid, config } = setup;
        let broker_id = host.broker_id();
        let (info, brokered) = host.serve(broker_id, storage.clone(), system.clone()).await;
        let id = uuid::Uuid::new_v4().simple().to_string()[..10].to_owned();
        let client = BackendClient::new(host.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let mount = Self { id, storage, system, client, channel: host.channel.clone(), brokered };
        let request = mount.tagged(pb::SetupArgs { broker_id, config, backend_uuid: uuid });
        if offer == Offer::Before {
            host.offer(info.clone()).await;
        }
        let mut client = mount.client.clone();
        let offering = async {
            if let Offer::After(delay) = offer {
                sleep(delay).await;
                host.offer(info).await;
            }
        };
        let (reply, ()) = tokio::join!(timeout(PATIENCE, client.setup(request)), offering);
        let reply = reply.expect("Setup is not answered").map_err(|status| format!("gRPC status: {status}"))?;
        let err = reply.into_inner().err;
        if !err.is_empty() {
            return Err(err);
        }
        Ok(mount)
    }

    /// Makes the calls that follow `Setup` when a mount is enabled.
    pub(super) async fn finish(&self) {
        assert_eq!(self.kind().await, 1, "Type");
        drop(self.special_paths().await);
        self.initialize().await;
    }

    /// Calls `Type`.
    pub async fn kind(&self) -> u32 {
        self.client.clone().r#type(self.tagged(Empty {})).await.expect("Type").into_inner().r#type
    }

    /// Whether the process answers a call of `Type`.
    pub async fn answers(&self) -> bool {
        self.client.clone().r#type(self.tagged(Empty {})).await.is_ok()
    }

    /// Calls `SpecialPaths`.
    pub async fn special_paths(&self) -> pb::Paths {
        let reply = self.client.clone().special_paths(self.tagged(Empty {})).await.expect("SpecialPaths");
        reply.into_inner().paths.unwrap_or_default()
    }

    /// Calls `Initialize`.
    pub async fn initialize(&self) {
        let reply = self.client.clone().initialize(self.tagged(pb::InitializeArgs {})).await.expect("Initialize");
        let err = reply.into_inner().err;
        assert!(err.is_none(), "Initialize failed: {}", err.unwrap_or_default().err_msg);
    }

    /// Calls `Version`.
    pub async fn version(&self) -> String {
        let mut client = PluginVersionClient::new(self.channel.clone());
        client.version(self.tagged(VersionArgs {})).await.expect("Version").into_inner().plugin_version
    }

    /// Calls `Cleanup`.
    ///
    /// # Errors
    /// The gRPC status, such as for a missing instance.
    pub async fn cleanup(&self) -> Result<(), Status> {
        let mut client = self.client.clone();
        let call = client.cleanup(self.tagged(Empty {}));
        timeout(PATIENCE, call).await.expect("Cleanup is not answered").map(drop)
    }

    /// Calls `InvalidateKey`.
    pub async fn invalidate(&self, key: &str) {
        let args = pb::InvalidateKeyArgs { key: key.into() };
        self.client.clone().invalidate_key(self.tagged(args)).await.expect("InvalidateKey");
    }

    /// Returns the result of each of the plugin's connections to storage and facts.
    pub fn connections(&self) -> Vec<Result<Agreed, String>> {
        self.brokered.connections()
    }

    /// Returns the pings of the host on the connection for storage and facts.
    pub fn pings(&self) -> Counts {
        self.brokered.pings.counts()
    }

    /// Sends a request unchanged.
    ///
    /// # Errors
    /// The gRPC status.
    pub async fn send(&self, request: pb::Request) -> Result<Reply, Status> {
        self.send_within(request, PATIENCE).await
    }

    /// Sends a request unchanged, and waits for the answer this long.
    ///
    /// # Errors
    /// The gRPC status.
    pub async fn send_within(&self, request: pb::Request, patience: Duration) -> Result<Reply, Status> {
        let operation = request.operation.clone();
        let args = pb::HandleRequestArgs { storage_id: 0, request: Some(request) };
        let mut client = self.client.clone();
        let call = client.handle_request(self.tagged(args));
        let reply = timeout(patience, call).await.expect("a request is not answered")?;
        Ok(Reply::new(&operation, reply.into_inner()))
    }

    /// Sends a client's request.
    pub async fn call(&self, operation: &str, path: &str, data: &Value) -> Reply {
        self.send(request(operation, path, data)).await.unwrap_or_else(|status| panic!("{operation} {path}: {status}"))
    }

    /// Reads.
    pub async fn read(&self, path: &str) -> Reply {
        self.call("read", path, &Value::Null).await
    }

    /// Lists. `path` has no trailing slash; hosts append it.
    pub async fn list(&self, path: &str) -> Reply {
        self.call("list", &format!("{path}/"), &Value::Null).await
    }

    /// Deletes.
    pub async fn delete(&self, path: &str) -> Reply {
        self.call("delete", path, &Value::Null).await
    }

    /// Writes, after the two calls that hosts make before a write.
    pub async fn write(&self, path: &str, data: Value) -> Reply {
        let resolved = self.call("resolve-path", path, &data).await;
        assert_eq!(resolved.error_type(), Some(5), "resolve-path {path}");
        let existence = self.exists(path, &data).await;
        if let Some(err) = existence.err {
            assert_eq!(err.err_type, 1, "existence check of {path}: {}", err.err_msg);
            // The host shows the text of a user's mistake and stops.
            let data = json!({ "error": err.err_msg }).to_string();
            let response = Some(pb::Response { data, ..pb::Response::default() });
            return Reply::new("update", pb::HandleRequestReply { response, err: None });
        }
        let operation = if existence.check_found && !existence.exists { "create" } else { "update" };
        self.call(operation, path, &data).await
    }

    /// Checks whether the target of a write exists.
    pub async fn exists(&self, path: &str, data: &Value) -> Existence {
        self.send_existence(request("update", path, data)).await
    }

    /// Sends an existence check unchanged.
    pub async fn send_existence(&self, request: pb::Request) -> Existence {
        let args = pb::HandleExistenceCheckArgs { storage_id: 0, request: Some(request) };
        let mut client = self.client.clone();
        let call = client.handle_existence_check(self.tagged(args));
        let reply = timeout(PATIENCE, call).await.expect("an existence check is not answered");
        let pb::HandleExistenceCheckReply { check_found, exists, err } = reply.expect("existence check").into_inner();
        Existence { check_found, exists, err }
    }

    /// Renews a lease as the lease manager does: the reply replaces the stored data.
    pub async fn renew(&self, lease: &mut Lease, increment: Duration) -> Reply {
        let reply = self.send(lease.request("renew", increment)).await.expect("renew");
        if reply.err.is_none() && reply.response.as_ref().is_some_and(|response| response.secret.is_some()) {
            lease.store(&reply);
        }
        reply
    }

    /// Revokes a lease.
    pub async fn revoke(&self, lease: &Lease) -> Reply {
        self.send(lease.request("revoke", Duration::ZERO)).await.expect("revoke")
    }

    /// Sends the host's tick.
    pub async fn rollback(&self, data: &Value) -> Reply {
        self.send(tick(data)).await.expect("rollback")
    }

    /// Adds the id of the instance to a message.
    fn tagged<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let id = MetadataValue::try_from(self.id.as_str()).unwrap();
        request.metadata_mut().insert("multiplex_id", id);
        request
    }
}

/// Returns a client's request in the form in which a plugin gets it.
pub fn request(operation: &str, path: &str, data: &Value) -> pb::Request {
    let mut request = pb::Request {
        operation: operation.into(),
        path: path.into(),
        data: data.to_string(),
        mount_point: "engine/".into(),
        ..pb::Request::default()
    };
    if operation != "resolve-path" {
        request.id = uuid::Uuid::new_v4().to_string();
        request.client_token = "7cb1d8eaf4ea9b1b7fa6bb3c9f1e7f57a4c1e6a3".into();
        request.client_token_accessor = "Zb0GhmjYrfYFMkdmLh3pDCTr".into();
        request.display_name = "token".into();
        request.mount_type = "engine".into();
        request.connection = Some(pb::Connection { remote_addr: "127.0.0.1".into(), remote_port: 45678 });
    }
    request
}

/// Returns the host's tick, which has no caller.
pub fn tick(data: &Value) -> pb::Request {
    pb::Request { operation: "rollback".into(), data: data.to_string(), ..pb::Request::default() }
}

/// A lease in the host's lease manager.
pub struct Lease {
    path: String,
    issued: SystemTime,
    data: Value,
    secret: pb::Secret,
}

impl Lease {
    /// Creates the lease that a reply asks for.
    pub fn new(path: &str, reply: &Reply) -> Self {
        let mut lease =
            Self { path: path.into(), issued: SystemTime::now(), data: Value::Null, secret: pb::Secret::default() };
        lease.store(reply);
        lease
    }

    /// Moves the issue time back, as if time had passed.
    #[must_use]
    pub fn aged(mut self, age: Duration) -> Self {
        self.issued -= age;
        self
    }

    fn store(&mut self, reply: &Reply) {
        self.data = reply.data();
        self.secret = reply.secret().clone();
    }

    /// Returns a request of the lease manager. It contains the stored data, and has no caller.
    pub fn request(&self, operation: &str, increment: Duration) -> pb::Request {
        let mut secret = self.secret.clone();
        let options = secret.lease_options.get_or_insert_default();
        options.increment = increment.as_nanos().try_into().unwrap();
        options.issue_time = Some(self.issued.into());
        pb::Request {
            operation: operation.into(),
            path: self.path.clone(),
            data: self.data.to_string(),
            secret: Some(secret),
            mount_point: "engine/".into(),
            ..pb::Request::default()
        }
    }
}
