//! `pb.Backend`: the instances of this process, one for each mount, and the host's calls to them.

use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use tokio::time::timeout;
use tonic::Status;
use tracing::Instrument as _;

use super::channel::Channel;
use super::limits::Gate;
use super::storage::{RemoteStorage, SNAPSHOT_ID};
use super::system::RemoteSystem;
use super::watch::Watched;
use super::{answer, convert, early};
use crate::context::{self, Context};
use crate::logical::{Backend, Factory, HangUp, Mount, Operation, Request, Resolver, Response};
use crate::pb::pb;
use crate::plugin::{Limits, Plugin};
use crate::process::{Broker, Call, UNDO_WINDOW, frame};
use crate::tasks::{Budget, Tasks};

/// A secrets engine, as opposed to an auth method (`sdk/logical`, `TypeLogical`).
const TYPE_LOGICAL: u32 = 1;

/// The metadata key for the name of an instance.
const MULTIPLEX_ID: &str = "multiplex_id";

const _: () = assert!(UNDO_WINDOW.as_nanos() == Response::UNDELIVERED_WINDOW.as_nanos());

/// The name of the only instance, if the host does not name instances. Names from a host have ten characters.
const SINGLE: &str = "single";

/// The operation by which OpenBao asks which path a request means. Backends do not get it as a request.
const RESOLVE_PATH: &str = "resolve-path";

/// How long connecting to the host may take after the host has announced its address.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a cleanup may take. The host waits for the cleanup while it unmounts or seals.
const CLEANUP: Duration = Duration::from_secs(5);

/// The service.
pub(super) struct Service {
    broker: Arc<Broker>,
    plugin: Plugin,
    factory: Factory,
    /// How long the cleanups of all mounts have waited for unfinished work.
    budget: Budget,
    /// Whether any instance resolves paths. Engines rarely do, and OpenBao asks before each request.
    resolves: AtomicBool,
    /// The answer to an operation that backends do not support.
    unsupported: Bytes,
    /// Never held across an await.
    instances: RwLock<HashMap<String, Arc<Instance>>>,
}

/// One mount, for as long as the host keeps it set up.
struct Instance {
    backend: Arc<dyn Backend>,
    resolver: Option<Resolver>,
    gate: Gate,
    /// Id of the mount. The name of the instance changes with each set-up.
    uuid: Arc<str>,
}

impl Instance {
    fn new(backend: Arc<dyn Backend>, limits: Limits, uuid: String) -> Self {
        Self { resolver: backend.resolver(), backend, gate: Gate::new(limits), uuid: uuid.into() }
    }

    fn context(&self, operation: Operation, request: &pb::Request, snapshot: Option<Arc<str>>) -> Arc<Context> {
        Arc::new(Context {
            mount: request.mount_point.clone(),
            backend_uuid: self.uuid.clone(),
            request_id: request.id.clone(),
            operation: operation.as_str(),
            snapshot,
        })
    }
}

impl Service {
    pub(super) fn new(broker: Arc<Broker>, plugin: Plugin, factory: Factory) -> Self {
        Self {
            broker,
            plugin,
            factory,
            budget: Budget::default(),
            resolves: AtomicBool::new(false),
            unsupported: frame(&answer::unsupported()).unwrap_or_default(),
            instances: RwLock::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<Instance>>> {
        self.instances.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Arc<Instance>>> {
        self.instances.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, name: String, instance: Instance) {
        self.resolves.fetch_or(instance.resolver.is_some(), Ordering::Relaxed);
        self.write().insert(name, Arc::new(instance));
    }

    /// Returns the answer to a request with an operation that backends do not get. It needs only the start of the message:
    /// any client can send such requests, even without a Vault token, and OpenBao sends one before each request.
    pub(super) fn early(&self, call: &Call, start: &[u8]) -> Option<Bytes> {
        let start = early::read(start)?;
        if Operation::parse(start.operation).is_some() {
            return None;
        }
        if !self.resolves(start.operation) {
            return Some(self.unsupported.clone());
        }
        match self.resolved(&call.headers, start.path?) {
            Some(reply) => frame(&reply).ok(),
            None => Some(self.unsupported.clone()),
        }
    }

    /// Whether this operation asks which path a request means, and an instance may answer it.
    fn resolves(&self, operation: &str) -> bool {
        operation == RESOLVE_PATH && self.resolves.load(Ordering::Relaxed)
    }

    /// Returns the reply to the question which path a request means, or `None` if the path stands for itself, or if the
    /// engine panics.
    fn resolved(&self, headers: &HeaderMap, path: &str) -> Option<pb::HandleRequestReply> {
        let resolver = self.instance(headers).ok()?.resolver.clone()?;
        catch_unwind(AssertUnwindSafe(|| resolver(path))).ok()?.map(answer::resolved)
    }

    fn instance(&self, headers: &HeaderMap) -> Result<Arc<Instance>, Status> {
        let name = instance_name(headers)?;
        self.read().get(name).cloned().ok_or_else(|| Status::not_found("no backend instance found"))
    }

    async fn setup_instance(&self, args: pb::SetupArgs) -> Result<Instance, String> {
        let channel = self.connect(args.broker_id).await?;
        let (storage, system) = (RemoteStorage::new(channel.clone()), RemoteSystem::new(channel));
        let mount = Mount::new(self.plugin, Arc::new(storage), Arc::new(system))
            .uuid(args.backend_uuid.clone())
            .tasks(Tasks::sharing(self.budget.clone()))
            .options(args.config.into_iter().collect());
        let factory = self.factory.clone();
        let (uuid, limits) = (args.backend_uuid, self.plugin.limits);
        match catch(async move { factory(mount).map(|backend| Instance::new(backend, limits, uuid)) }).await {
            Some(Ok(instance)) => Ok(instance),
            Some(Err(error)) => {
                tracing::error!(error = &error as &(dyn std::error::Error + 'static), "the mount could not be set up");
                Err(error.to_string())
            }
            None => Err("internal error".into()),
        }
    }

    /// Connects to the host's services for a mount.
    async fn connect(&self, broker_id: u32) -> Result<Channel, String> {
        let told = |error: &dyn std::fmt::Display| format!("cannot reach the host's services: {error}");
        let route = self.broker.route(broker_id).await.map_err(|error| told(&error))?;
        let broker = self.broker.clone();
        let channel = Channel::new(move || {
            let (broker, route) = (broker.clone(), route.clone());
            async move { broker.connect(&route).await }.boxed()
        });
        match timeout(CONNECT, channel.connect()).await {
            Ok(connected) => connected.map(|()| channel).map_err(|error| told(&error)),
            Err(_) => Err(told(&"no connection in time")),
        }
    }
}

/// The methods of the service.
impl Service {
    pub(super) async fn setup(&self, call: &Call, args: pb::SetupArgs) -> Result<pb::SetupReply, Status> {
        let name = instance_name(&call.headers)?;
        let err = match self.setup_instance(args).await {
            Ok(instance) => {
                self.insert(name.to_owned(), instance);
                String::new()
            }
            Err(error) => error,
        };
        Ok(pb::SetupReply { err })
    }

    pub(super) fn r#type(call: &Call) -> Result<pb::TypeReply, Status> {
        instance_name(&call.headers)?;
        Ok(pb::TypeReply { r#type: TYPE_LOGICAL })
    }

    pub(super) async fn special_paths(&self, call: &Call) -> Result<pb::SpecialPathsReply, Status> {
        let instance = self.instance(&call.headers)?;
        let paths = catch(async move { instance.backend.special_paths() }).await.ok_or_else(panicked)?;
        Ok(pb::SpecialPathsReply { paths: Some(convert::special_paths(paths)) })
    }

    pub(super) async fn initialize(&self, call: &Call) -> Result<pb::InitializeReply, Status> {
        let instance = self.instance(&call.headers)?;
        let span = tracing::error_span!("initialize", backend_uuid = &*instance.uuid);
        let run = async move { answer::initialized(instance.backend.initialize().await) };
        catch(run.instrument(span)).await.ok_or_else(panicked)
    }

    pub(super) async fn cleanup(&self, call: &Call) -> Result<pb::Empty, Status> {
        let name = instance_name(&call.headers)?;
        let instance = self.write().remove(name);
        // The host cleans up twice when it unmounts.
        if let Some(instance) = instance {
            let span = tracing::error_span!("cleanup", backend_uuid = &*instance.uuid);
            let run = async move { timeout(CLEANUP, instance.backend.cleanup()).await };
            if let Some(Err(_)) = catch(run.instrument(span.clone())).await {
                span.in_scope(|| tracing::warn!("cleaning up took too long and was given up"));
            }
        }
        Ok(pb::Empty {})
    }

    pub(super) async fn invalidate_key(&self, call: &Call, args: pb::InvalidateKeyArgs) -> Result<pb::Empty, Status> {
        let instance = self.instance(&call.headers)?;
        let key = args.key;
        catch(async move { instance.backend.invalidate(&key) }).await.ok_or_else(panicked)?;
        Ok(pb::Empty {})
    }

    pub(super) async fn handle_request(
        &self,
        call: Call,
        args: pb::HandleRequestArgs,
    ) -> Result<pb::HandleRequestReply, Status> {
        let request = args.request.unwrap_or_default();
        // As in `early`, for a message whose start does not show its operation.
        let Some(operation) = Operation::parse(&request.operation) else {
            let is_asked = self.resolves(&request.operation);
            let resolved = is_asked.then(|| self.resolved(&call.headers, &request.path)).flatten();
            return Ok(resolved.unwrap_or_else(answer::unsupported));
        };
        let instance = self.instance(&call.headers)?;
        let snapshot = call.headers.get(SNAPSHOT_ID).and_then(|id| id.to_str().ok()).map(Arc::from);
        let Call { deadline, stream, .. } = call;
        let _place = match instance.gate.admit(operation, request.data.len()) {
            Ok(place) => place,
            Err(error) => return Ok(answer::reply(operation, Err(error), None)),
        };
        let context = instance.context(operation, &request, snapshot);
        let renewed = (operation == Operation::Renew).then(|| {
            let options = request.secret.as_ref().and_then(|secret| secret.lease_options.as_ref());
            (request.data.clone(), options.and_then(|options| options.issue_time))
        });
        let hang_up = HangUp::default();
        let left = OnDrop(Some(hang_up.clone()));
        let run = async move {
            let mut answer = match convert::request(operation, request) {
                Ok(request) => Watched::new(instance.backend.handle(Request { deadline, hang_up, ..request })).await,
                Err(error) => Err(error),
            };
            left.disarm();
            let undelivered = answer.as_mut().ok().and_then(|response| response.as_mut()?.undelivered.take());
            if let Some(undelivered) = undelivered {
                let context = context::current();
                stream.if_dropped(move || context::sync_scope(context, || undelivered.run()));
            }
            answer::reply(operation, answer, renewed)
        };
        Ok(catch(context::scope(context, run)).await.unwrap_or_else(answer::panicked))
    }

    pub(super) async fn handle_existence_check(
        &self,
        call: &Call,
        args: pb::HandleExistenceCheckArgs,
    ) -> Result<pb::HandleExistenceCheckReply, Status> {
        let instance = self.instance(&call.headers)?;
        let request = args.request.unwrap_or_default();
        let Some(operation) = Operation::parse(&request.operation) else {
            return Ok(pb::HandleExistenceCheckReply::default());
        };
        let context = instance.context(operation, &request, None);
        let run = async move {
            answer::existence(match convert::request(operation, request) {
                Ok(request) => instance.backend.exists(request).await,
                Err(error) => Err(error),
            })
        };
        Ok(catch(context::scope(context, run)).await.unwrap_or_else(answer::existence_panicked))
    }
}

/// Returns the name of the instance for a call.
fn instance_name(headers: &HeaderMap) -> Result<&str, Status> {
    let mut names = headers.get_all(MULTIPLEX_ID).iter();
    let Some(name) = names.next() else { return Ok(SINGLE) };
    match name.to_str() {
        Ok(name) if !name.is_empty() && names.next().is_none() => Ok(name),
        _ => Err(Status::invalid_argument("multiplex_id must be one value that is not empty")),
    }
}

/// Says that the caller is gone, if it is dropped before its request has an answer.
struct OnDrop(Option<HangUp>);

impl OnDrop {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(hang_up) = &self.0 {
            hang_up.end();
        }
    }
}

/// Returns `None` if the future panics. The panic hook has logged the panic, and other requests continue.
async fn catch<T>(run: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(run).catch_unwind().await.ok()
}

fn panicked() -> Status {
    Status::internal("internal error")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use async_trait::async_trait;
    use tonic::Code;

    use super::*;
    use crate::logical::{Answer, Error, Map, Response as Reply, SpecialPaths};
    use crate::process::tests::{broker, call, connection, frame as raw, logged_and_spans};

    /// Answers with its name, and panics if the request asks for it. Counts the answers that were not delivered.
    struct Echo(&'static str, Arc<AtomicUsize>);

    #[async_trait]
    impl Backend for Echo {
        async fn handle(&self, request: Request) -> Answer {
            assert!(request.path != "panic", "told to");
            let (undone, reply) = (self.1.clone(), Reply::new(Map::from_iter([("name".to_owned(), self.0.into())])));
            Ok(Some(reply.on_undelivered(move || {
                undone.fetch_add(1, Ordering::SeqCst);
            })))
        }

        async fn exists(&self, request: Request) -> Result<Option<bool>, Error> {
            assert!(request.path != "panic", "told to");
            Ok(Some(true))
        }

        fn resolver(&self) -> Option<Resolver> {
            (self.0 == "folding").then(|| -> Resolver {
                Arc::new(|path| {
                    assert!(path != "panic", "told to");
                    let lower = path.to_lowercase();
                    (lower != path).then_some(lower)
                })
            })
        }

        fn special_paths(&self) -> SpecialPaths {
            SpecialPaths { local_storage: vec!["wal/".into()], ..SpecialPaths::default() }
        }

        async fn initialize(&self) -> Result<(), Error> {
            Err(Error::invalid(self.0))
        }

        async fn cleanup(&self) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }

        fn invalidate(&self, key: &str) {
            assert!(key != "panic", "told to");
        }
    }

    fn service(instances: &[&'static str]) -> Service {
        let service =
            Service::new(broker(), Plugin::new("echo", "1.0.0"), Arc::new(|_| Err(Error::internal("unused"))));
        for &name in instances {
            let instance = Instance::new(Arc::new(Echo(name, Arc::default())), Limits::NONE, format!("uuid-{name}"));
            service.insert(name.to_owned(), instance);
        }
        service
    }

    fn to(instance: &str) -> Call {
        let mut call = call(1);
        call.headers.insert(MULTIPLEX_ID, instance.parse().unwrap());
        call
    }

    /// Asks twice: with the whole message, and with its start only if that is enough.
    async fn ask(service: &Service, instance: &str, operation: &str, path: &str, data: &str) -> pb::HandleRequestReply {
        let request =
            pb::Request { operation: operation.into(), path: path.into(), data: data.into(), ..pb::Request::default() };
        let args = pb::HandleRequestArgs { storage_id: 0, request: Some(request) };
        let start = prost::Message::encode_to_vec(&args);
        let early = service.early(&to(instance), &start);
        let reply = service.handle_request(to(instance), args).await.unwrap();
        let is_early = Operation::parse(operation).is_none() && !operation.is_empty();
        assert_eq!(early.is_some(), is_early, "{operation}");
        if let Some(early) = early {
            assert_eq!(early, frame(&reply).unwrap());
        }
        reply
    }

    fn err_type(reply: &pb::HandleRequestReply) -> Option<u32> {
        reply.err.as_ref().map(|err| err.err_type)
    }

    #[tokio::test]
    async fn requests_reach_the_instance_they_name() {
        let service = service(&["a", "b", SINGLE]);
        for name in ["a", "b"] {
            let reply = ask(&service, name, "read", "x", "null").await;
            assert_eq!(reply.response.unwrap().data, format!(r#"{{"name":"{name}"}}"#));
        }
        let unnamed = service.special_paths(&call(1)).await.unwrap();
        assert_eq!(unnamed.paths.unwrap().local_storage, ["wal/"]);
    }

    #[tokio::test]
    async fn instance_must_be_known_and_named_once() {
        let service = service(&["a"]);
        let unknown = service.special_paths(&to("b")).await.unwrap_err();
        assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "no backend instance found"));
        let mut twice = to("a");
        twice.headers.append(MULTIPLEX_ID, "a".parse().unwrap());
        for call in [twice, to("")] {
            assert_eq!(service.special_paths(&call).await.unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[tokio::test]
    async fn unknown_operation_is_refused_before_its_data_is_read() {
        let service = service(&["a"]);
        for operation in ["resolve-path", "header", "foo", ""] {
            let reply = ask(&service, "a", operation, "panic", "{no json").await;
            assert_eq!(err_type(&reply), Some(5), "{operation}");
        }
    }

    #[tokio::test]
    async fn a_path_is_resolved_by_the_engine_that_folds_and_by_no_other() {
        let service = service(&["a", "folding"]);
        let reply = ask(&service, "folding", RESOLVE_PATH, "Roles/ADMIN", "{no json").await;
        assert_eq!((reply.response.unwrap().data.as_str(), reply.err), (r#"{"path":"roles/admin"}"#, None));
        for (name, path) in [("folding", "roles/admin"), ("folding", "panic"), ("a", "ADMIN"), ("unknown", "ADMIN")] {
            assert_eq!(err_type(&ask(&service, name, RESOLVE_PATH, path, "").await), Some(5), "{name} {path}");
        }
        assert_eq!(err_type(&ask(&service, "folding", "header", "ADMIN", "").await), Some(5));
    }

    #[tokio::test]
    async fn panic_spoils_one_request_only() {
        let service = service(&["a"]);
        assert_eq!(err_type(&ask(&service, "a", "read", "panic", "").await), Some(2));
        assert!(ask(&service, "a", "read", "x", "").await.response.is_some());
        let request = pb::Request { operation: "update".into(), path: "panic".into(), ..pb::Request::default() };
        let args = pb::HandleExistenceCheckArgs { storage_id: 0, request: Some(request) };
        let reply = service.handle_existence_check(&to("a"), args).await.unwrap();
        assert_eq!(reply.err.unwrap().err_type, 2);
        let args = pb::InvalidateKeyArgs { key: "panic".into() };
        assert!(service.invalidate_key(&to("a"), args).await.is_err());
    }

    #[tokio::test]
    async fn data_that_cannot_be_read_is_a_400_or_tried_again() {
        let service = service(&["a"]);
        let reply = ask(&service, "a", "update", "x", "{\"n\":1e400}").await;
        assert!(reply.response.unwrap().data.contains("\"error\""));
        assert_eq!(err_type(&ask(&service, "a", "revoke", "x", "[]").await), Some(4));
    }

    #[tokio::test]
    async fn an_answer_is_taken_back_if_the_host_resets_its_stream() {
        let (service, undone) = (service(&[]), Arc::new(AtomicUsize::new(0)));
        service.insert("a".to_owned(), Instance::new(Arc::new(Echo("a", undone.clone())), Limits::NONE, String::new()));
        let request = pb::Request { operation: "read".into(), path: "x".into(), ..pb::Request::default() };
        let args = pb::HandleRequestArgs { storage_id: 0, request: Some(request) };
        let mut frames = connection();
        let mut call = to("a");
        call.stream = frames.streams().stream(7);
        service.handle_request(call, args).await.unwrap();
        assert_eq!(undone.load(Ordering::SeqCst), 0);
        frames.read(&raw(3, 7, &[0, 0, 0, 8]));
        assert_eq!(undone.load(Ordering::SeqCst), 1);
    }

    /// Shows the context of its request to the test, and never answers the path `wait`.
    struct Shown(tokio::sync::mpsc::UnboundedSender<(Request, Option<String>)>);

    #[async_trait]
    impl Backend for Shown {
        async fn handle(&self, request: Request) -> Answer {
            let is_long = request.path == "wait";
            let _ =
                self.0.send((request, context::current().and_then(|now| now.snapshot.as_deref().map(str::to_owned))));
            if is_long { std::future::pending().await } else { Ok(None) }
        }
    }

    #[tokio::test]
    async fn a_request_knows_its_snapshot_its_deadline_and_whether_its_caller_is_gone() {
        let (service, (shown, mut requests)) = (service(&[]), tokio::sync::mpsc::unbounded_channel());
        service.insert("a".to_owned(), Instance::new(Arc::new(Shown(shown)), Limits::NONE, String::new()));
        let args = |path: &str| {
            let wrap_info = Some(pb::RequestWrapInfo { ttl: 60_000_000_000, format: "jwt".into(), seal_wrap: false });
            let request = pb::Request {
                operation: "read".into(),
                path: path.into(),
                requires_snapshot_id: "6c1f".into(),
                mount_accessor: "tested_1".into(),
                wrap_info,
                unauthenticated: true,
                ..pb::Request::default()
            };
            pb::HandleRequestArgs { storage_id: 0, request: Some(request) }
        };
        let caller = || {
            let mut call = to("a");
            call.deadline = Some(Instant::now() + Duration::from_secs(90));
            call.headers.insert(SNAPSHOT_ID, "6c1f".parse().unwrap());
            call
        };
        service.handle_request(caller(), args("now")).await.unwrap();
        let (request, snapshot) = requests.recv().await.unwrap();
        assert_eq!((request.snapshot_id.as_deref(), snapshot.as_deref()), (Some("6c1f"), Some("6c1f")));
        assert!(request.deadline.is_some() && request.unauthenticated && request.mount_accessor == "tested_1");
        assert_eq!(request.wrap.map(|wrap| (wrap.ttl.as_secs(), wrap.format)), Some((60, "jwt".to_owned())));
        assert!(!request.hang_up.is_over(), "the caller got the answer");

        let mut waiting = Box::pin(service.handle_request(caller(), args("wait")));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        let (request, _) = requests.recv().await.unwrap();
        assert!(!request.hang_up.is_over());
        drop(waiting);
        request.hang_up.wait().await;
        assert!(request.hang_up.is_over());
    }

    /// Logs in the handler, in a task, in a span, and if its answer is not delivered.
    struct Talking(Tasks);

    #[async_trait]
    impl Backend for Talking {
        async fn handle(&self, _: Request) -> Answer {
            tracing::info!("handler");
            self.0.run(async { tracing::info!("task") }).await.unwrap();
            tracing::error_span!("inner", mount = "own/").in_scope(|| tracing::info!("span"));
            Ok(Some(Reply::default().on_undelivered(|| tracing::info!("undelivered"))))
        }
    }

    #[test]
    fn lines_of_a_request_name_it_although_it_makes_no_span() {
        let service = service(&[]);
        service.insert("a".to_owned(), Instance::new(Arc::new(Talking(Tasks::default())), Limits::NONE, "u1".into()));
        let request = pb::Request {
            id: "r1".into(),
            operation: "read".into(),
            mount_point: "cards/".into(),
            ..pb::Request::default()
        };
        let mut frames = connection();
        let mut call = to("a");
        call.stream = frames.streams().stream(7);
        let (lines, spans) = logged_and_spans(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let args = pb::HandleRequestArgs { storage_id: 0, request: Some(request) };
            runtime.block_on(service.handle_request(call, args)).unwrap();
            frames.read(&raw(3, 7, &[0, 0, 0, 8]));
            tracing::info!("after");
        });
        let member = |line: &serde_json::Value, name: &str| line[name].as_str().unwrap_or("none").to_owned();
        let names = ["@message", "operation", "request_id", "backend_uuid", "mount"];
        let shown: Vec<String> = lines.iter().map(|line| names.map(|name| member(line, name)).join(" ")).collect();
        assert_eq!(
            shown,
            [
                "handler read r1 u1 cards/",
                "task read r1 u1 cards/",
                "span read r1 u1 own/",
                "undelivered read r1 u1 cards/",
                "after none none none none",
            ]
        );
        assert_eq!(spans, 1, "only the engine's own span");
    }

    #[tokio::test]
    async fn initialize_tells_its_error() {
        let reply = service(&["a"]).initialize(&to("a")).await.unwrap();
        assert_eq!(reply.err.unwrap().err_msg, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn cleanup_is_bounded_and_may_come_twice() {
        let service = service(&["a", "b"]);
        for _ in 0..2 {
            service.cleanup(&to("a")).await.unwrap();
        }
        assert!(service.special_paths(&to("a")).await.is_err());
        assert!(service.special_paths(&to("b")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn setup_without_a_way_to_the_host_tells_so() {
        let service = service(&[]);
        let reply = service.setup(&to("a"), pb::SetupArgs::default()).await.unwrap();
        assert!(reply.err.contains("the host did not say where it serves"), "{}", reply.err);
        assert!(service.read().is_empty());
    }
}
