//! Several servers that share one integrated storage.
//!
//! Since 2.5, OpenBao's standbys serve reads, unless `disable_standby_reads` is set. Vault's standbys serve nothing. A
//! standby forwards all other requests to the active node.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{START, Server, alive, process, wait};

/// Servers with one storage. Each server has its own ports, directory and plugin directory. The plugin is in their
/// catalog.
pub(crate) struct Cluster {
    nodes: [Arc<Server>; 3],
}

/// Which processes of a node are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// Only the server. Its plugins must notice.
    Server,
    /// The server and its plugins.
    Node,
}

impl Cluster {
    /// Starts three nodes. All nodes serve and can become active. The first node is active.
    pub(crate) fn start() -> Self {
        let mut first = Server::raft_node("one", "");
        first.init();
        first.unseal();
        // A node can vote only after it is stable for this time. Without three voters, no node can replace the first
        // active node.
        first.post("sys/storage/raft/autopilot/configuration", &json!({"server_stabilization_time": "1s"})).ok();
        let join = |id| {
            let mut node = Server::raft_node(id, "");
            node.key.clone_from(&first.key);
            node.root = node.root.with_token(&first.token);
            node.post("sys/storage/raft/join", &json!({"leader_api_addr": first.address()})).ok();
            open(&node);
            Arc::new(node)
        };
        let (second, third) = (join("two"), join("three"));
        wait("three voters", START, || {
            let servers = first.get("sys/storage/raft/configuration").data()["config"]["servers"].take();
            let voters = servers.as_array()?.iter().filter(|server| server["voter"] == true);
            (voters.count() == 3).then_some(())
        });
        first.register();
        Self { nodes: [Arc::new(first), second, third] }
    }

    /// Returns all nodes.
    pub(crate) fn nodes(&self) -> &[Arc<Server>; 3] {
        &self.nodes
    }

    /// Waits until a node is active, and returns it.
    pub(crate) fn active_node(&self) -> Arc<Server> {
        wait("an active node", START, || self.nodes.iter().find(|node| state(node) == Some(ACTIVE)).cloned())
    }

    /// Returns the standbys.
    pub(crate) fn standbys(&self) -> Vec<Arc<Server>> {
        self.nodes.iter().filter(|node| state(node) == Some(STANDBY)).cloned().collect()
    }

    /// Returns all nodes except this node.
    pub(crate) fn others(&self, node: &Server) -> Vec<Arc<Server>> {
        self.nodes.iter().filter(|other| other.address() != node.address()).cloned().collect()
    }
}

impl Kill {
    /// Kills a node as a crash would, and waits until its plugins are gone, too.
    pub(crate) fn at(self, node: &Server) {
        let plugins = node.plugins();
        process::signal(node.pid(), Signal::KILL);
        if self == Self::Node {
            plugins.iter().for_each(|&pid| process::signal(pid, Signal::KILL));
        }
        let gone = || !alive(node.pid()) && !plugins.iter().any(|&pid| alive(pid));
        wait("server and plugins to stop", Duration::from_secs(10), || gone().then_some(()));
    }
}

/// Starts a killed node again and waits until it serves.
pub(crate) fn revive(node: &Server) {
    node.restart_sealed();
    open(node);
}

/// Unseals a node and waits until it serves.
fn open(node: &Server) {
    let key = node.key.as_ref().expect("a server with a seal");
    // Once only: the node joins and gets its storage after the first key, and a second key would disturb that.
    node.post("sys/unseal", &json!({"key": key})).ok();
    wait("the node to serve", START, || match state(node)? {
        ACTIVE => Some(()),
        // A standby redirects until it has a connection to the active node.
        STANDBY => (node.get("sys/storage/raft/configuration").status == 200).then_some(()),
        _ => None,
    });
}

/// Returns the health status of a node, or `None` if the node does not answer. All standbys have the same status,
/// whether they serve reads or not.
fn state(node: &Server) -> Option<u16> {
    node.try_http("GET", "sys/health", &Value::Null).ok().map(|reply| reply.status)
}

const ACTIVE: u16 = 200;
const STANDBY: u16 = 429;
