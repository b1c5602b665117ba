//! The host's facts about a mount and its node. A test can set the values.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::gate::Gate;
use super::pb::{logical, pb};

type Answer<T> = Result<Response<T>, Status>;

/// State of an active OpenBao node without replication.
pub const ACTIVE: i32 = 12288;

/// State of a node that only serves reads.
pub const STANDBY: i32 = 24576;

/// The values.
#[derive(Clone)]
pub struct Facts {
    /// Whether every call fails, as during registration.
    pub missing: bool,
    pub default_lease_ttl: Duration,
    pub max_lease_ttl: Duration,
    pub replication_state: i32,
    pub local_mount: bool,
    pub tainted: bool,
    pub caching_disabled: bool,
    pub version: String,
    pub entity: Option<logical::Entity>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            missing: false,
            default_lease_ttl: Duration::from_secs(768 * 3600),
            max_lease_ttl: Duration::from_secs(768 * 3600),
            replication_state: ACTIVE,
            local_mount: false,
            tainted: false,
            caching_disabled: false,
            version: "2.7.2".into(),
            entity: None,
        }
    }
}

/// Facts of one mount. Clones share the facts.
#[derive(Clone, Default)]
pub struct System(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    facts: Facts,
    calls: usize,
    gate: Gate,
}

impl System {
    /// Facts during registration: every call fails.
    pub fn missing() -> Self {
        let system = Self::default();
        system.set(|facts| facts.missing = true);
        system
    }

    /// The default facts, behind a gate.
    pub fn behind(gate: &Gate) -> Self {
        let system = Self::default();
        system.state().gate = gate.clone();
        system
    }

    /// Changes values.
    pub fn set(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.state().facts);
    }

    /// Returns the number of calls so far, and resets it.
    pub fn take_calls(&self) -> usize {
        std::mem::take(&mut self.state().calls)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    async fn answer<T>(&self, call: &str, make: impl FnOnce(Facts) -> T) -> Answer<T> {
        let (facts, gate) = {
            let mut state = self.state();
            state.calls += 1;
            (state.facts.clone(), state.gate.clone())
        };
        if facts.missing {
            return Err(Status::unknown("missing system view implementation: this method should not be called"));
        }
        // A cleanup asks `tainted` only if work still runs, so this call comes at another time in each run.
        if call != "tainted" {
            // Reading a fact has no effect, so there is only one phase.
            gate.enter(call).await.map_err(Status::unknown)?;
        }
        Ok(Response::new(make(facts)))
    }
}

fn nanos(duration: Duration) -> i64 {
    duration.as_nanos().try_into().unwrap()
}

#[tonic::async_trait]
impl pb::system_view_server::SystemView for System {
    async fn default_lease_ttl(&self, _: Request<pb::Empty>) -> Answer<pb::TtlReply> {
        self.answer("default_lease_ttl", |facts| pb::TtlReply { ttl: nanos(facts.default_lease_ttl) }).await
    }

    async fn max_lease_ttl(&self, _: Request<pb::Empty>) -> Answer<pb::TtlReply> {
        self.answer("max_lease_ttl", |facts| pb::TtlReply { ttl: nanos(facts.max_lease_ttl) }).await
    }

    async fn tainted(&self, _: Request<pb::Empty>) -> Answer<pb::TaintedReply> {
        self.answer("tainted", |facts| pb::TaintedReply { tainted: facts.tainted }).await
    }

    async fn caching_disabled(&self, _: Request<pb::Empty>) -> Answer<pb::CachingDisabledReply> {
        self.answer("caching_disabled", |facts| pb::CachingDisabledReply { disabled: facts.caching_disabled }).await
    }

    async fn replication_state(&self, _: Request<pb::Empty>) -> Answer<pb::ReplicationStateReply> {
        self.answer("replication_state", |facts| pb::ReplicationStateReply { state: facts.replication_state }).await
    }

    async fn mlock_enabled(&self, _: Request<pb::Empty>) -> Answer<pb::MlockEnabledReply> {
        self.answer("mlock_enabled", |_| pb::MlockEnabledReply { enabled: false }).await
    }

    async fn local_mount(&self, _: Request<pb::Empty>) -> Answer<pb::LocalMountReply> {
        self.answer("local_mount", |facts| pb::LocalMountReply { local: facts.local_mount }).await
    }

    async fn entity_info(&self, request: Request<pb::EntityInfoArgs>) -> Answer<pb::EntityInfoReply> {
        let id = request.into_inner().entity_id;
        self.answer("entity_info", |facts| pb::EntityInfoReply {
            entity: facts.entity.filter(|entity| entity.id == id),
            err: String::new(),
        })
        .await
    }

    async fn groups_for_entity(&self, _: Request<pb::EntityInfoArgs>) -> Answer<pb::GroupsForEntityReply> {
        self.answer("groups_for_entity", |_| pb::GroupsForEntityReply { groups: Vec::new(), err: String::new() }).await
    }

    async fn plugin_env(&self, _: Request<pb::Empty>) -> Answer<pb::PluginEnvReply> {
        self.answer("plugin_env", |facts| pb::PluginEnvReply {
            plugin_environment: Some(logical::PluginEnvironment {
                vault_version: facts.version,
                ..logical::PluginEnvironment::default()
            }),
            err: String::new(),
        })
        .await
    }

    async fn generate_password_from_policy(
        &self,
        request: Request<pb::GeneratePasswordFromPolicyRequest>,
    ) -> Answer<pb::GeneratePasswordFromPolicyReply> {
        if request.into_inner().policy_name.is_empty() {
            return Err(Status::invalid_argument("no password policy name provided"));
        }
        Err(Status::internal("failed to generate password"))
    }

    async fn cluster_info(&self, _: Request<pb::Empty>) -> Answer<pb::ClusterInfoReply> {
        self.answer("cluster_info", |_| pb::ClusterInfoReply {
            cluster_name: String::new(),
            cluster_id: "6f1c5a52-5f0a-4a0e-9e0f-6d2c1c3b2a10".into(),
            err: String::new(),
        })
        .await
    }

    async fn response_wrap_data(&self, _: Request<pb::ResponseWrapDataArgs>) -> Answer<pb::ResponseWrapDataReply> {
        Err(Status::internal("no namespace"))
    }

    async fn generate_identity_token(
        &self,
        _: Request<pb::GenerateIdentityTokenRequest>,
    ) -> Answer<pb::GenerateIdentityTokenResponse> {
        Err(Status::unimplemented("unknown method GenerateIdentityToken"))
    }

    async fn register_rotation_job(
        &self,
        _: Request<pb::RegisterRotationJobRequest>,
    ) -> Answer<pb::RegisterRotationJobResponse> {
        Err(Status::unimplemented("unknown method RegisterRotationJob"))
    }

    async fn deregister_rotation_job(&self, _: Request<pb::DeregisterRotationJobRequest>) -> Answer<pb::Empty> {
        Err(Status::unimplemented("unknown method DeregisterRotationJob"))
    }
}
