//! The host's facts, read from the host.
//!
//! A fact that the host cannot give is an error. A zero instead would silently change TTLs, or the behaviour of a
//! standby.

use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::channel::{Channel, origin};
use super::convert;
use crate::logical::{Entity, Error, ReplicationState, SystemView};
use crate::pb::pb::system_view_client::SystemViewClient;
use crate::pb::pb::{Empty, EntityInfoArgs, GeneratePasswordFromPolicyRequest};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Facts about one mount.
pub(super) struct RemoteSystem(SystemViewClient<Channel>);

impl RemoteSystem {
    pub(super) fn new(channel: Channel) -> Self {
        Self(SystemViewClient::with_origin(channel, origin()))
    }

    fn client(&self) -> SystemViewClient<Channel> {
        self.0.clone()
    }
}

#[async_trait]
impl SystemView for RemoteSystem {
    async fn default_lease_ttl(&self) -> Result<Duration, Error> {
        let reply = ask("the default lease ttl", self.client().default_lease_ttl(Empty {})).await?;
        Ok(convert::duration(reply.ttl))
    }

    async fn max_lease_ttl(&self) -> Result<Duration, Error> {
        let reply = ask("the maximum lease ttl", self.client().max_lease_ttl(Empty {})).await?;
        Ok(convert::duration(reply.ttl))
    }

    async fn replication_state(&self) -> Result<ReplicationState, Error> {
        let reply = ask("the replication state", self.client().replication_state(Empty {})).await?;
        Ok(ReplicationState(reply.state))
    }

    async fn local_mount(&self) -> Result<bool, Error> {
        Ok(ask("whether the mount is local", self.client().local_mount(Empty {})).await?.local)
    }

    async fn tainted(&self) -> Result<bool, Error> {
        Ok(ask("whether the mount is tainted", self.client().tainted(Empty {})).await?.tainted)
    }

    async fn caching_disabled(&self) -> Result<bool, Error> {
        Ok(ask("whether caches are off", self.client().caching_disabled(Empty {})).await?.disabled)
    }

    async fn host_version(&self) -> Result<String, Error> {
        let what = "its version";
        let reply = ask(what, self.client().plugin_env(Empty {})).await?;
        check(what, &reply.err)?;
        let version = reply.plugin_environment.unwrap_or_default();
        let prerelease = version.vault_version_prerelease;
        Ok(if prerelease.is_empty() {
            version.vault_version
        } else {
            format!("{}-{prerelease}", version.vault_version)
        })
    }

    async fn entity(&self, id: &str) -> Result<Option<Entity>, Error> {
        let what = "the identity entity";
        let reply = ask(what, self.client().entity_info(EntityInfoArgs { entity_id: id.into() })).await?;
        check(what, &reply.err)?;
        Ok(reply.entity.map(|entity| Entity {
            id: entity.id,
            name: entity.name,
            disabled: entity.disabled,
            metadata: entity.metadata.into_iter().collect(),
        }))
    }

    async fn cluster_id(&self) -> Result<String, Error> {
        let what = "the id of the cluster";
        let reply = ask(what, self.client().cluster_info(Empty {})).await?;
        check(what, &reply.err)?;
        Ok(reply.cluster_id)
    }

    async fn generate_password(&self, policy: &str) -> Result<String, Error> {
        let request = GeneratePasswordFromPolicyRequest { policy_name: policy.into() };
        Ok(ask("a password", self.client().generate_password_from_policy(request)).await?.password)
    }
}

async fn ask<T>(what: &str, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
    match timeout(TIMEOUT, answer).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(refused(what, status.message())),
        Err(_) => Err(refused(what, "no answer in time")),
    }
}

fn check(what: &str, err: &str) -> Result<(), Error> {
    if err.is_empty() { Ok(()) } else { Err(refused(what, err)) }
}

fn refused(what: &str, reason: &str) -> Error {
    Error::internal(format!("the host did not tell {what}")).caused_by(reason)
}
