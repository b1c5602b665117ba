//! Looks up host names without the C library.
//!
//! The release binary is linked statically against glibc. The `getaddrinfo` of glibc loads NSS modules of the machine,
//! and a module of another glibc build crashes the process. This resolver uses only what every machine has: the hosts
//! file, then the DNS servers of `resolv.conf`. It reads both files for each look-up, so a change needs no restart.
//!
//! Architecture invariant: only this module turns a name into addresses. It never calls the C library.

mod dns;
mod files;
mod message;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::{Instant, timeout_at};

use self::dns::{Servers, Trouble};
use self::files::{Conf, addresses_in};
use super::connect;

/// The resolver of this machine. All organizations share it, and benefit from what it learns about the DNS servers.
static MACHINE: LazyLock<Names> =
    LazyLock::new(|| Names(Arc::new(Resolver::new("/etc/hosts", "/etc/resolv.conf", DNS_PORT))));

/// `resolv.conf` cannot name another port.
const DNS_PORT: u16 = 53;

/// Resolves the host names of new connections.
#[derive(Clone)]
pub(super) struct Names(Arc<Resolver>);

/// Finds the addresses of host names.
struct Resolver {
    hosts: PathBuf,
    conf: PathBuf,
    /// Port of the DNS servers.
    port: u16,
    servers: Servers,
}

/// A host name without an address.
#[derive(Debug, thiserror::Error)]
#[error("the host name {name:?} cannot be resolved: {trouble}")]
pub(super) struct Failure {
    name: String,
    trouble: Trouble,
}

impl Names {
    /// Returns the resolver of this machine.
    pub(super) fn of_machine() -> Self {
        MACHINE.clone()
    }

    /// Returns the addresses of a name, at least one, the preferred one first.
    ///
    /// # Errors
    /// When the name has no address, or no server has answered by the deadline.
    pub(super) async fn addresses(&self, name: &str, deadline: Instant) -> Result<Vec<IpAddr>, Failure> {
        self.0.addresses(name, deadline).await
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.0.clone();
        Box::pin(async move {
            let lookup = connect::Lookup::begin();
            let found = resolver.addresses(name.as_str(), lookup.deadline()).await?;
            let addresses = lookup.end(found).into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

impl Resolver {
    fn new(hosts: impl Into<PathBuf>, conf: impl Into<PathBuf>, port: u16) -> Self {
        Self { hosts: hosts.into(), conf: conf.into(), port, servers: Servers::default() }
    }

    /// Returns the addresses of a name, at least one, the preferred one first.
    ///
    /// # Errors
    /// When the name has no address, or no server has answered by the deadline.
    async fn addresses(&self, name: &str, deadline: Instant) -> Result<Vec<IpAddr>, Failure> {
        let failure = |trouble| Failure { name: name.to_owned(), trouble };
        // At the deadline, the last trouble is the best explanation.
        let last = Mutex::new(Trouble::Late);
        match timeout_at(deadline, self.search(name, &last)).await {
            Ok(found) => found.map_err(failure),
            Err(_) => Err(failure(last.into_inner().unwrap_or_else(PoisonError::into_inner))),
        }
    }

    async fn search(&self, name: &str, last: &Mutex<Trouble>) -> Result<Vec<IpAddr>, Trouble> {
        let (hosts, conf, wanted) = (self.hosts.clone(), self.conf.clone(), name.to_owned());
        // A missing file counts as an empty file, as in the C library. A hosts file can be long.
        let read = move || {
            let hosts = std::fs::read(hosts).unwrap_or_default();
            (addresses_in(&hosts, &wanted), std::fs::read(conf).unwrap_or_default())
        };
        let (found, conf) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        if !found.is_empty() {
            return Ok(found);
        }
        if is_localhost(name) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        self.servers.search(&Conf::parse(&conf, self.port), name, last).await
    }
}

impl Failure {
    /// Whether the look-up failed because no server answered in time.
    pub(super) fn is_timeout(&self) -> bool {
        matches!(self.trouble, Trouble::Silent(..) | Trouble::Slow(_) | Trouble::Late)
    }
}

/// Whether a name always means this machine (RFC 6761, section 6.3).
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}
