//! Asks DNS servers for addresses: decides which names to ask for, which servers to ask, and how long to wait.
//!
//! Architecture invariant: only `message` knows the wire format, and only `files` knows where the list of servers comes
//! from.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::base::Name;
use domain::base::iana::{Rcode, Rtype};
use futures_util::future::{Either, select};
use tokio::time::timeout;

use super::files::Conf;
use super::message::{self, Query};

/// How long one address family waits for the other. Some firewalls and servers drop questions for IPv6 addresses.
const GRACE: Duration = Duration::from_millis(300);

/// What earlier look-ups learned about the DNS servers.
#[derive(Default)]
pub(super) struct Servers {
    /// Index of the server that sent the last answer. It is asked first, so only one look-up waits for a dead server.
    first: AtomicUsize,
}

/// Why a look-up found no address. [`Trouble::or`] ranks the variants.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The text is not a host name.
    #[error("it is not a valid host name")]
    Invalid,
    /// The name does not exist.
    #[error("name server {0} says that it does not exist (NXDOMAIN)")]
    NoSuchName(IpAddr),
    /// The name exists and has no address.
    #[error("name server {0} says that it has no address")]
    NoAddress(IpAddr),
    /// The server failed or refused.
    #[error("name server {0} answered {1}")]
    Failed(IpAddr, Rcode),
    /// The server cannot be reached.
    #[error("name server {0} cannot be reached: {1}")]
    Unreachable(IpAddr, String),
    /// The server did not answer.
    #[error("name server {0} did not answer within {1:?}")]
    Silent(IpAddr, Duration),
    /// The deadline came before the timeout of the server.
    #[error("name server {0} did not answer in time")]
    Slow(IpAddr),
    /// The deadline came before a server was asked.
    #[error("there was no time to ask a name server")]
    Late,
}

impl Servers {
    /// Returns the addresses of a name, at least one. Notes each trouble in `last`.
    pub(super) async fn search(&self, conf: &Conf, name: &str, last: &Mutex<Trouble>) -> Result<Vec<IpAddr>, Trouble> {
        let mut worst = Trouble::Invalid;
        for candidate in conf.candidates(name) {
            match self.addresses(conf, &candidate, last).await {
                // Another name would fail in the same way.
                Err(trouble) if trouble.is_of_network() => return Err(trouble),
                Err(trouble) => worst = worst.or(trouble),
                found => return found,
            }
        }
        Err(worst)
    }

    async fn addresses(
        &self,
        conf: &Conf,
        name: &Name<Vec<u8>>,
        last: &Mutex<Trouble>,
    ) -> Result<Vec<IpAddr>, Trouble> {
        // Both questions start with the same server. With two counter values and two servers, each question would
        // always go to the same server.
        let first = match conf.rotate {
            true => self.first.fetch_add(1, Ordering::Relaxed),
            false => self.first.load(Ordering::Relaxed),
        };
        let v4 = self.ask(conf, first, Query::new(name, Rtype::A), last);
        if conf.ipv4_only {
            return v4.await;
        }
        let (v4, v6) = (pin!(v4), pin!(self.ask(conf, first, Query::new(name, Rtype::AAAA), last)));
        let (v6, v4) = match select(v6, v4).await {
            Either::Left((v6, v4)) => {
                let v4 = second(&v6, v4).await;
                (v6, v4)
            }
            Either::Right((v4, v6)) => (second(&v4, v6).await, v4),
        };
        match (v6, v4) {
            (Ok(v6), Ok(v4)) => Ok([v6, v4].concat()),
            (Ok(found), Err(_)) | (Err(_), Ok(found)) => Ok(found),
            // A name that does not exist has no address of any kind (RFC 8020).
            (Err(unknown @ Trouble::NoSuchName(_)), Err(_)) | (Err(_), Err(unknown @ Trouble::NoSuchName(_))) => {
                Err(unknown)
            }
            (Err(v6), Err(v4)) => Err(v6.or(v4)),
        }
    }

    /// Asks the servers in turn until a server knows the name. Returns at least one address.
    async fn ask(
        &self,
        conf: &Conf,
        first: usize,
        query: Query,
        last: &Mutex<Trouble>,
    ) -> Result<Vec<IpAddr>, Trouble> {
        let count = conf.servers.len();
        let mut trouble = Trouble::Late;
        for index in (0..conf.attempts * count).map(|turn| first.wrapping_add(turn) % count) {
            let server = conf.servers[index];
            note(last, |last| matches!(last, Trouble::Late).then_some(Trouble::Slow(server.ip())));
            let answer = ask_server(conf, server, &query).await;
            if let Ok(_) | Err(Trouble::NoSuchName(_) | Trouble::NoAddress(_)) = answer {
                if !conf.rotate {
                    self.first.store(index, Ordering::Relaxed);
                }
                return answer;
            }
            if let Err(error) = answer {
                note(last, |_| Some(error.clone()));
                trouble = error;
            }
        }
        Err(trouble)
    }
}

impl Trouble {
    /// Whether the trouble is with the servers, not with the name.
    fn is_of_network(&self) -> bool {
        matches!(self, Self::Unreachable(..) | Self::Silent(..) | Self::Slow(_) | Self::Late)
    }

    /// Returns the trouble that explains more.
    fn or(self, other: Self) -> Self {
        let weight = |trouble: &Self| match trouble {
            Self::Invalid => 0,
            Self::NoSuchName(_) => 1,
            Self::NoAddress(_) => 2,
            Self::Failed(..) => 3,
            Self::Late => 4,
            Self::Slow(_) => 5,
            Self::Unreachable(..) => 6,
            Self::Silent(..) => 7,
        };
        if weight(&other) > weight(&self) { other } else { self }
    }
}

/// Waits for the answer about the second family. If the first answer settles the matter, it waits for [`GRACE`] only.
async fn second(
    first: &Result<Vec<IpAddr>, Trouble>,
    second: impl Future<Output = Result<Vec<IpAddr>, Trouble>>,
) -> Result<Vec<IpAddr>, Trouble> {
    match first {
        Ok(_) | Err(Trouble::NoSuchName(_)) => timeout(GRACE, second).await.unwrap_or(Err(Trouble::Late)),
        Err(_) => second.await,
    }
}

/// Replaces the last trouble if `better` returns a trouble.
fn note(last: &Mutex<Trouble>, better: impl FnOnce(&Trouble) -> Option<Trouble>) {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(better) = better(&last) {
        *last = better;
    }
}

async fn ask_server(conf: &Conf, server: SocketAddr, query: &Query) -> Result<Vec<IpAddr>, Trouble> {
    let address = server.ip();
    let answer = match timeout(conf.timeout, message::exchange(server, query, conf.tcp_only)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(Trouble::Unreachable(address, error.to_string())),
        Err(_) => return Err(Trouble::Silent(address, conf.timeout)),
    };
    match answer.rcode {
        Rcode::NOERROR if answer.addresses.is_empty() => Err(Trouble::NoAddress(address)),
        Rcode::NOERROR => Ok(answer.addresses),
        Rcode::NXDOMAIN => Err(Trouble::NoSuchName(address)),
        rcode => Err(Trouble::Failed(address, rcode)),
    }
}
