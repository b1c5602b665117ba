//! Several servers that share one integrated storage.
//!
//! OpenBao's standbys serve reads since 2.5, unless they are told not to (`disable_standby_reads`). Vault's serve nothing. What
//! a standby cannot do itself it passes on to the node that leads.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{START, Server, alive, process, wait};

/// Servers with one storage, each with ports, directory and plugin directory of its own. The plugin is in their catalog.
pub(crate) struct Cluster {
    nodes: [Arc<Server>; 3],
}

/// Which processes of a node die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kill {
    /// The server alone; its plugins are left to notice.
    Server,
    /// The server and its plugins.
    Node,
}

impl Cluster {
    /// Starts three nodes. All of them serve and may lead; the first one does.
    pub(crate) fn start() -> Self {
        let mut first = Server::raft_node("one");
        first.init();
        first.unseal();
        // A node votes once it has been stable for so long, and without three voters nobody follows the first leader.
        first.post("sys/storage/raft/autopilot/configuration", &json!({"server_stabilization_time": "1s"})).ok();
        let join = |id| {
            let mut node = Server::raft_node(id);
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

    /// Returns the node that leads, as soon as one does.
    pub(crate) fn leader(&self) -> Arc<Server> {
        wait("a leader", START, || self.nodes.iter().find(|node| state(node) == Some(ACTIVE)).cloned())
    }

    /// Returns the nodes that serve and do not lead.
    pub(crate) fn standbys(&self) -> Vec<Arc<Server>> {
        self.nodes.iter().filter(|node| state(node) == Some(STANDBY)).cloned().collect()
    }

    /// Returns all nodes but one.
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
        wait("server and plugins to end", Duration::from_secs(10), || gone().then_some(()));
    }
}

/// Starts a killed node again and waits until it serves.
pub(crate) fn revive(node: &Server) {
    node.restart_sealed();
    open(node);
}

/// Opens the seal of a node and waits until it serves.
fn open(node: &Server) {
    let key = node.key.as_ref().expect("a server with a seal");
    // Once only: a node that joins gets its storage after that, and a second key would meet it half way.
    node.post("sys/unseal", &json!({"key": key})).ok();
    wait("the node to serve", START, || match state(node)? {
        ACTIVE => Some(()),
        // Until it has a connection to the node that leads it redirects to that node.
        STANDBY => (node.get("sys/storage/raft/configuration").status == 200).then_some(()),
        _ => None,
    });
}

/// Returns the status of a node's health; nothing if it does not answer. Standbys have one status, whether they serve
/// reads or not.
fn state(node: &Server) -> Option<u16> {
    node.try_http("GET", "sys/health", &Value::Null).ok().map(|reply| reply.status)
}

const ACTIVE: u16 = 200;
const STANDBY: u16 = 429;
