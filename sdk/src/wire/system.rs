//! The host's facts and services, asked of the host.
//!
//! A fact that the host cannot give is an error. A zero instead would silently change TTLs, or the behaviour of a
//! standby.

use std::time::Duration;

use async_trait::async_trait;
use prost::Message;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::channel::Channel;
use super::convert;
use super::unary::Method;
use crate::logical::{
    Entity, Error, Event, Group, HostVersion, IdentityToken, Map, ReplicationState, RotationJob, SystemView, Wrapped,
};
use crate::pb::logical::EventData;
use crate::pb::pb::{
    CachingDisabledReply, ClusterInfoReply, DeregisterRotationJobRequest, DeregisterRotationRequestInput, Empty,
    EntityInfoArgs, EntityInfoReply, GenerateIdentityTokenRequest, GenerateIdentityTokenResponse,
    GeneratePasswordFromPolicyReply, GeneratePasswordFromPolicyRequest, GroupsForEntityReply, LocalMountReply,
    MlockEnabledReply, PluginEnvReply, RecordObservationRequest, RegisterRotationJobRequest,
    RegisterRotationJobResponse, ReplicationStateReply, ResponseWrapDataArgs, ResponseWrapDataReply, RotationJobInput,
    SendEventRequest, TaintedReply, TtlReply,
};

static DEFAULT_LEASE_TTL: Method<Empty, TtlReply> = Method::new("/pb.SystemView/DefaultLeaseTTL");
static MAX_LEASE_TTL: Method<Empty, TtlReply> = Method::new("/pb.SystemView/MaxLeaseTTL");
static REPLICATION_STATE: Method<Empty, ReplicationStateReply> = Method::new("/pb.SystemView/ReplicationState");
static LOCAL_MOUNT: Method<Empty, LocalMountReply> = Method::new("/pb.SystemView/LocalMount");
static TAINTED: Method<Empty, TaintedReply> = Method::new("/pb.SystemView/Tainted");
static CACHING_DISABLED: Method<Empty, CachingDisabledReply> = Method::new("/pb.SystemView/CachingDisabled");
static PLUGIN_ENV: Method<Empty, PluginEnvReply> = Method::new("/pb.SystemView/PluginEnv");
static ENTITY_INFO: Method<EntityInfoArgs, EntityInfoReply> = Method::new("/pb.SystemView/EntityInfo");
static GROUPS_FOR_ENTITY: Method<EntityInfoArgs, GroupsForEntityReply> = Method::new("/pb.SystemView/GroupsForEntity");
static MLOCK_ENABLED: Method<Empty, MlockEnabledReply> = Method::new("/pb.SystemView/MlockEnabled");
static RESPONSE_WRAP_DATA: Method<ResponseWrapDataArgs, ResponseWrapDataReply> =
    Method::new("/pb.SystemView/ResponseWrapData");
static GENERATE_IDENTITY_TOKEN: Method<GenerateIdentityTokenRequest, GenerateIdentityTokenResponse> =
    Method::new("/pb.SystemView/GenerateIdentityToken");
static REGISTER_ROTATION_JOB: Method<RegisterRotationJobRequest, RegisterRotationJobResponse> =
    Method::new("/pb.SystemView/RegisterRotationJob");
static DEREGISTER_ROTATION_JOB: Method<DeregisterRotationJobRequest, Empty> =
    Method::new("/pb.SystemView/DeregisterRotationJob");
static CLUSTER_INFO: Method<Empty, ClusterInfoReply> = Method::new("/pb.SystemView/ClusterInfo");
static GENERATE_PASSWORD_FROM_POLICY: Method<GeneratePasswordFromPolicyRequest, GeneratePasswordFromPolicyReply> =
    Method::new("/pb.SystemView/GeneratePasswordFromPolicy");
static SEND_EVENT: Method<SendEventRequest, Empty> = Method::new("/pb.Events/SendEvent");
static RECORD_OBSERVATION: Method<RecordObservationRequest, Empty> = Method::new("/pb.Observations/RecordObservation");

const TIMEOUT: Duration = Duration::from_secs(10);

const ROTATION_JOBS: &str = "rotation jobs";
const WRAPPING: &str = "response wrapping";

/// Parts of the errors with which a host declines a service that it lacks, although it knows the call: Vault without
/// Enterprise, and any host that needs a namespace to wrap a response, which the call does not carry.
const LACKING: &[&str] = &["not supported in Vault community edition", "no namespace"];

/// Facts about one mount, and services for it.
pub(super) struct RemoteSystem {
    channel: Channel,
}

impl RemoteSystem {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// Asks for a fact that each host has.
    async fn ask<A, R>(&self, what: &str, method: &Method<A, R>, args: A) -> Result<R, Error>
    where
        A: Message,
        R: Message + Default,
    {
        self.call(method, &args).await.map_err(|status| refused(what, status.message()))
    }

    /// Asks for a service that not every host has.
    async fn offered<A, R>(&self, what: &'static str, method: &Method<A, R>, args: A) -> Result<R, Error>
    where
        A: Message,
        R: Message + Default,
    {
        self.call(method, &args).await.map_err(|status| match status.code() {
            Code::Unimplemented => Error::UnsupportedByHost(what),
            _ => declined(what, status.message()),
        })
    }

    async fn call<A, R>(&self, method: &Method<A, R>, args: &A) -> Result<R, Status>
    where
        A: Message,
        R: Message + Default,
    {
        match timeout(TIMEOUT, method.call(&self.channel, args, None)).await {
            Ok(answer) => answer,
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    }
}

#[async_trait]
impl SystemView for RemoteSystem {
    async fn default_lease_ttl(&self) -> Result<Duration, Error> {
        let reply = self.ask("the default lease ttl", &DEFAULT_LEASE_TTL, Empty {}).await?;
        Ok(convert::duration(reply.ttl))
    }

    async fn max_lease_ttl(&self) -> Result<Duration, Error> {
        let reply = self.ask("the maximum lease ttl", &MAX_LEASE_TTL, Empty {}).await?;
        Ok(convert::duration(reply.ttl))
    }

    async fn replication_state(&self) -> Result<ReplicationState, Error> {
        let reply = self.ask("the replication state", &REPLICATION_STATE, Empty {}).await?;
        Ok(ReplicationState(reply.state))
    }

    async fn local_mount(&self) -> Result<bool, Error> {
        Ok(self.ask("whether the mount is local", &LOCAL_MOUNT, Empty {}).await?.local)
    }

    async fn tainted(&self) -> Result<bool, Error> {
        Ok(self.ask("whether the mount is tainted", &TAINTED, Empty {}).await?.tainted)
    }

    async fn caching_disabled(&self) -> Result<bool, Error> {
        Ok(self.ask("whether caches are off", &CACHING_DISABLED, Empty {}).await?.disabled)
    }

    async fn host_version(&self) -> Result<HostVersion, Error> {
        let what = "its version";
        let reply = self.ask(what, &PLUGIN_ENV, Empty {}).await?;
        check(what, &reply.err)?;
        let told = reply.plugin_environment.unwrap_or_default();
        let mut version = HostVersion::new(told.vault_version);
        version.prerelease = told.vault_version_prerelease;
        version.metadata = told.vault_version_metadata;
        Ok(version)
    }

    async fn entity(&self, id: &str) -> Result<Option<Entity>, Error> {
        let what = "the identity entity";
        let reply = self.ask(what, &ENTITY_INFO, EntityInfoArgs { entity_id: id.into() }).await?;
        check(what, &reply.err)?;
        Ok(reply.entity.map(convert::entity))
    }

    async fn groups_of_entity(&self, id: &str) -> Result<Vec<Group>, Error> {
        let what = "the groups of an entity";
        let reply = self.ask(what, &GROUPS_FOR_ENTITY, EntityInfoArgs { entity_id: id.into() }).await?;
        check(what, &reply.err)?;
        Ok(reply.groups.into_iter().map(convert::group).collect())
    }

    async fn mlock_enabled(&self) -> Result<bool, Error> {
        Ok(self.ask("whether memory is locked", &MLOCK_ENABLED, Empty {}).await?.enabled)
    }

    async fn wrap_response(&self, data: &Map, ttl: Duration, jwt: bool) -> Result<Wrapped, Error> {
        let data =
            serde_json::to_string(data).map_err(|error| Error::internal("cannot wrap the data").caused_by(error))?;
        let args = ResponseWrapDataArgs { data, ttl: convert::nanoseconds(ttl), jwt };
        let reply = self.offered(WRAPPING, &RESPONSE_WRAP_DATA, args).await?;
        check_offered(WRAPPING, &reply.err)?;
        let info = reply.wrap_info.unwrap_or_default();
        Ok(Wrapped { token: info.token, accessor: info.accessor, ttl: convert::duration(info.ttl) })
    }

    async fn identity_token(&self, audience: &str, ttl: Duration) -> Result<IdentityToken, Error> {
        let args = GenerateIdentityTokenRequest { audience: audience.into(), ttl: seconds(ttl) };
        let reply = self.offered("identity tokens", &GENERATE_IDENTITY_TOKEN, args).await?;
        let ttl = Duration::from_secs(reply.ttl.try_into().unwrap_or(0));
        Ok(IdentityToken { token: reply.token, ttl })
    }

    async fn register_rotation_job(&self, job: &RotationJob) -> Result<String, Error> {
        let job = RotationJobInput {
            name: job.name.clone(),
            mount_point: job.mount_point.clone(),
            path: job.path.clone(),
            rotation_schedule: job.schedule.clone(),
            rotation_window: seconds(job.window),
            rotation_period: seconds(job.period),
        };
        let args = RegisterRotationJobRequest { job: Some(job) };
        let reply = self.offered(ROTATION_JOBS, &REGISTER_ROTATION_JOB, args).await?;
        check_offered(ROTATION_JOBS, &reply.err)?;
        Ok(reply.rotation_id)
    }

    async fn deregister_rotation_job(&self, mount_point: &str, path: &str) -> Result<(), Error> {
        let req = DeregisterRotationRequestInput { mount_point: mount_point.into(), req_path: path.into() };
        let args = DeregisterRotationJobRequest { req: Some(req) };
        self.offered(ROTATION_JOBS, &DEREGISTER_ROTATION_JOB, args).await.map(drop)
    }

    async fn send_event(&self, event_type: &str, event: &Event) -> Result<(), Error> {
        let event = EventData {
            id: event.id.clone(),
            metadata: Some(convert::structure(&event.metadata)),
            entity_ids: event.entity_ids.clone(),
            note: event.note.clone(),
        };
        let args = SendEventRequest { event_type: event_type.into(), event: Some(event) };
        self.offered("events", &SEND_EVENT, args).await.map(drop)
    }

    async fn record_observation(&self, observation_type: &str, data: &Map) -> Result<(), Error> {
        let data = Some(convert::structure(data));
        let args = RecordObservationRequest { observation_type: observation_type.into(), data };
        self.offered("observations", &RECORD_OBSERVATION, args).await.map(drop)
    }

    async fn cluster_id(&self) -> Result<String, Error> {
        let what = "the id of the cluster";
        let reply = self.ask(what, &CLUSTER_INFO, Empty {}).await?;
        check(what, &reply.err)?;
        Ok(reply.cluster_id)
    }

    async fn generate_password(&self, policy: &str) -> Result<String, Error> {
        let request = GeneratePasswordFromPolicyRequest { policy_name: policy.into() };
        Ok(self.ask("a password", &GENERATE_PASSWORD_FROM_POLICY, request).await?.password)
    }
}

/// Writes whole seconds.
fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn check(what: &str, err: &str) -> Result<(), Error> {
    if err.is_empty() { Ok(()) } else { Err(refused(what, err)) }
}

fn check_offered(what: &'static str, err: &str) -> Result<(), Error> {
    if err.is_empty() { Ok(()) } else { Err(declined(what, err)) }
}

/// Returns the error of a service that not every host has.
fn declined(what: &'static str, reason: &str) -> Error {
    if LACKING.iter().any(|part| reason.contains(part)) {
        return Error::UnsupportedByHost(what);
    }
    Error::internal(format!("the host failed to provide {what}")).caused_by(reason)
}

fn refused(what: &str, reason: &str) -> Error {
    Error::internal(format!("the host did not tell {what}")).caused_by(reason)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use serde_json::json;
    use tokio::sync::mpsc;
    use tonic::transport::Server;
    use tonic::{Request, Response};

    use super::*;
    use crate::pb::pb::Empty;
    use crate::pb::pb::events_server::{Events, EventsServer};
    use crate::process::Io;

    /// The events of Vault.
    struct Subscriber(mpsc::UnboundedSender<SendEventRequest>);

    #[async_trait]
    impl Events for Subscriber {
        async fn send_event(&self, request: Request<SendEventRequest>) -> Result<Response<Empty>, Status> {
            let _ = self.0.send(request.into_inner());
            Ok(Response::new(Empty {}))
        }
    }

    /// Returns the services of a host that has events, and nothing else.
    fn system() -> (RemoteSystem, mpsc::UnboundedReceiver<SendEventRequest>) {
        let (events, sent) = mpsc::unbounded_channel();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let incoming = tokio_stream::once(std::io::Result::Ok(far));
        let server = Server::builder().add_service(EventsServer::new(Subscriber(events)));
        tokio::spawn(server.serve_with_incoming(incoming));
        let near = Mutex::new(Some(near));
        let channel = Channel::new(move || {
            let near = near.lock().unwrap().take();
            std::future::ready(
                near.map(|near| Box::new(near) as Box<dyn Io>).ok_or(std::io::ErrorKind::NotConnected.into()),
            )
            .boxed()
        });
        (RemoteSystem::new(channel), sent)
    }

    #[test]
    fn the_methods_are_those_of_the_generated_clients() {
        let generated = include_str!("../pb/pb.rs");
        DEFAULT_LEASE_TTL.check(generated);
        MAX_LEASE_TTL.check(generated);
        REPLICATION_STATE.check(generated);
        LOCAL_MOUNT.check(generated);
        TAINTED.check(generated);
        CACHING_DISABLED.check(generated);
        PLUGIN_ENV.check(generated);
        ENTITY_INFO.check(generated);
        GROUPS_FOR_ENTITY.check(generated);
        MLOCK_ENABLED.check(generated);
        RESPONSE_WRAP_DATA.check(generated);
        GENERATE_IDENTITY_TOKEN.check(generated);
        REGISTER_ROTATION_JOB.check(generated);
        DEREGISTER_ROTATION_JOB.check(generated);
        CLUSTER_INFO.check(generated);
        GENERATE_PASSWORD_FROM_POLICY.check(generated);
        SEND_EVENT.check(generated);
        RECORD_OBSERVATION.check(generated);
    }

    #[tokio::test]
    async fn an_event_reaches_the_host_with_its_facts() {
        let (system, mut sent) = system();
        let metadata = json!({"n": 1, "deep": {"list": [true, null, "x"]}}).as_object().cloned().unwrap();
        let event = Event { id: "e1".into(), metadata, entity_ids: vec!["creds/a".into()], note: "made".into() };
        system.send_event("engine/made", &event).await.unwrap();
        let request = sent.recv().await.unwrap();
        let event = request.event.unwrap();
        assert_eq!(
            (request.event_type.as_str(), event.id.as_str(), event.note.as_str()),
            ("engine/made", "e1", "made")
        );
        assert_eq!(event.entity_ids, ["creds/a"]);
        let fields = event.metadata.unwrap().fields;
        assert_eq!(fields["n"].kind, Some(prost_types::value::Kind::NumberValue(1.0)));
        assert!(matches!(fields["deep"].kind, Some(prost_types::value::Kind::StructValue(_))));
    }

    #[test]
    fn a_host_that_knows_a_call_can_still_lack_the_service() {
        // As Vault 1.21.1 answers.
        for reason in [
            "failed to generate plugin identity token: plugin workload identity not supported in Vault community edition",
            "error registering rotation job: rotation manager capabilities not supported in Vault community edition",
            "no namespace",
        ] {
            assert!(matches!(declined("it", reason), Error::UnsupportedByHost("it")), "{reason}");
            assert!(matches!(check_offered("it", reason), Err(Error::UnsupportedByHost("it"))), "{reason}");
        }
        assert!(matches!(declined("it", "context deadline exceeded"), Error::Internal { .. }));
        assert!(check_offered("it", "").is_ok());
    }

    #[tokio::test]
    async fn a_service_that_the_host_lacks_is_unsupported() {
        let (system, _sent) = system();
        let (hour, data) = (Duration::from_secs(3600), Map::new());
        let errors = [
            system.wrap_response(&data, hour, false).await.err(),
            system.identity_token("service", hour).await.err(),
            system.register_rotation_job(&RotationJob::default()).await.err(),
            system.deregister_rotation_job("m/", "p").await.err(),
            system.record_observation("engine/seen", &data).await.err(),
        ];
        let texts = errors.map(|error| match error {
            Some(error @ Error::UnsupportedByHost(_)) => error.to_string(),
            _ => panic!("the host has this service"),
        });
        let missing = ["response wrapping", "identity tokens", "rotation jobs", "rotation jobs", "observations"];
        assert_eq!(texts, missing.map(|service| format!("this host does not support {service}")));
        assert!(matches!(system.mlock_enabled().await, Err(Error::Internal { .. })), "each host has this fact");
    }
}
