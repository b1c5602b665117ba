//! Facts of a host.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::fault::{Gate, HostFault};
use crate::logical::{Entity, Error, HostVersion, ReplicationState, SystemView};

/// Facts of a host, set by the test. They start as the facts of an active node with Vault's default TTLs.
pub struct FakeSystem {
    facts: Mutex<Facts>,
    entities: Mutex<BTreeMap<String, Entity>>,
    gate: Gate,
}

#[derive(Clone, Copy)]
struct Facts {
    default_lease_ttl: Duration,
    max_lease_ttl: Duration,
    state: ReplicationState,
    tainted: bool,
}

impl FakeSystem {
    /// Returns the number of calls so far. With a real host, each call is a round trip.
    pub fn calls(&self) -> usize {
        self.gate.calls()
    }

    /// Sets a fault, which replaces the previous fault.
    pub fn inject(&self, fault: HostFault) {
        self.gate.set(Some(fault));
    }

    /// Removes the fault.
    pub fn heal(&self) {
        self.gate.set(None);
    }

    /// Sets the TTL of leases if the engine asks for none.
    pub fn set_default_lease_ttl(&self, ttl: Duration) {
        self.facts().default_lease_ttl = ttl;
    }

    /// Sets the max TTL of leases.
    pub fn set_max_lease_ttl(&self, ttl: Duration) {
        self.facts().max_lease_ttl = ttl;
    }

    /// Sets the replication state of the node.
    pub fn set_state(&self, state: ReplicationState) {
        self.facts().state = state;
    }

    /// Sets whether the mount is being removed.
    pub fn set_tainted(&self, tainted: bool) {
        self.facts().tainted = tainted;
    }

    /// Adds an identity entity, or replaces the one with its id.
    pub fn set_entity(&self, entity: Entity) {
        self.entities.lock().unwrap_or_else(PoisonError::into_inner).insert(entity.id.clone(), entity);
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell<T: Send>(&self, fact: impl FnOnce(Facts) -> T + Send) -> Result<T, Error> {
        let told = self.gate.pass(false, || fact(*self.facts())).await;
        told.map_err(|error| Error::internal(error.to_string()))
    }
}

impl Default for FakeSystem {
    fn default() -> Self {
        let month = Duration::from_secs(768 * 3600);
        let facts =
            Facts { default_lease_ttl: month, max_lease_ttl: month, state: ReplicationState::PRIMARY, tainted: false };
        Self { facts: Mutex::new(facts), entities: Mutex::default(), gate: Gate::default() }
    }
}

#[async_trait]
impl SystemView for FakeSystem {
    async fn default_lease_ttl(&self) -> Result<Duration, Error> {
        self.tell(|facts| facts.default_lease_ttl).await
    }

    async fn max_lease_ttl(&self) -> Result<Duration, Error> {
        self.tell(|facts| facts.max_lease_ttl).await
    }

    async fn replication_state(&self) -> Result<ReplicationState, Error> {
        self.tell(|facts| facts.state).await
    }

    async fn local_mount(&self) -> Result<bool, Error> {
        self.tell(|_| false).await
    }

    async fn tainted(&self) -> Result<bool, Error> {
        self.tell(|facts| facts.tainted).await
    }

    async fn entity(&self, id: &str) -> Result<Option<Entity>, Error> {
        let entity = self.entities.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        self.tell(|_| entity).await
    }

    async fn host_version(&self) -> Result<HostVersion, Error> {
        self.tell(|_| HostVersion::new("2.7.2")).await
    }
}
