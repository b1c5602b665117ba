//! Connections from the plugin to services of the host, one for each mount (go-plugin's GRPCBroker).
//!
//! There are two ways. Either the host opens a socket for each connection and announces its path ([`Route::Socket`]).
//! Or all connections share the plugin's own socket, and the plugin asks for each connection by a knock
//! ([`Route::Knock`]).

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::cork::Cork;
use super::mtls::NAME;
use super::socket::Socket;
use crate::pb::plugin::{ConnInfo, conn_info::Knock};

/// How long the host may take to announce a connection (go-plugin grpc_broker.go).
const WAIT: Duration = Duration::from_secs(5);

/// A byte stream to the host, before TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The way to the host's services for one mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Route {
    /// A separate socket of the host.
    Socket(PathBuf),
    /// The shared socket, after a knock for this id.
    Knock(u32),
}

/// A request to the owner of the shared socket for a new stream.
pub(super) type Open = oneshot::Sender<Box<dyn Io>>;

/// The plugin's half of the broker.
pub(crate) struct Broker {
    connector: TlsConnector,
    /// Announcements of the host that no mount has used yet. An announcement can arrive before or after the request
    /// that needs it.
    told: Mutex<HashMap<u32, ConnInfo>>,
    news: Notify,
    /// Messages of the plugin to the host.
    say: mpsc::Sender<ConnInfo>,
    /// New streams of the shared socket. The lock is held for a whole knock, because the host expects one knock at a
    /// time.
    shared: Option<tokio::sync::Mutex<mpsc::Sender<Open>>>,
}

impl Broker {
    /// Returns the broker, and the messages for the host. `shared` is set if all connections share one socket.
    pub(super) fn new(connector: TlsConnector, shared: Option<mpsc::Sender<Open>>) -> (Self, mpsc::Receiver<ConnInfo>) {
        let (say, said) = mpsc::channel(16);
        let shared = shared.map(tokio::sync::Mutex::new);
        (Self { connector, told: Mutex::default(), news: Notify::new(), say, shared }, said)
    }

    /// Stores an announcement of the host.
    pub(super) fn hear(&self, info: ConnInfo) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(info.service_id, info);
        self.news.notify_waiters();
    }

    /// Returns the way to the service with this id. Waits up to 5 seconds for the host's announcement.
    pub(crate) async fn route(&self, id: u32) -> io::Result<Route> {
        if self.shared.is_some() {
            return Ok(Route::Knock(id));
        }
        let info = self.wait(id).await?;
        if info.network != "unix" {
            return Err(io::Error::other(format!("the host serves on {:?}, not on a unix socket", info.network)));
        }
        Ok(Route::Socket(info.address.into()))
    }

    /// Connects to the host. If a connection is lost, the caller can connect again with the same route.
    pub(crate) async fn connect(&self, route: &Route) -> io::Result<Box<dyn Io>> {
        match (route, &self.shared) {
            (Route::Socket(path), _) => self.tls(Box::new(Socket::new(UnixStream::connect(path).await?)?)).await,
            (Route::Knock(id), Some(shared)) => {
                // The host sees a stream only at its first bytes. So the lock is held until TLS has sent them.
                let turn = shared.lock().await;
                self.tls(self.knock(*id, &turn).await?).await
            }
            (Route::Knock(_), None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn tls(&self, stream: Box<dyn Io>) -> io::Result<Box<dyn Io>> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let connected = timeout(WAIT, self.connector.connect(name, stream)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Box::new(Cork::new(stream)))
    }

    async fn knock(&self, id: u32, open: &mpsc::Sender<Open>) -> io::Result<Box<dyn Io>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        // Discards a late answer to an earlier knock.
        self.take(id);
        let knock = Knock { knock: true, ..Knock::default() };
        let info = ConnInfo { service_id: id, knock: Some(knock), ..ConnInfo::default() };
        self.say.send(info).await.map_err(|_| gone(()))?;
        match self.wait(id).await?.knock {
            Some(Knock { ack: true, error, .. }) if error.is_empty() => {}
            Some(Knock { error, .. }) => return Err(io::Error::other(format!("the host refused the knock: {error}"))),
            None => return Err(io::Error::other("the host did not answer the knock")),
        }
        let (stream, opened) = oneshot::channel();
        open.send(stream).await.map_err(|_| gone(()))?;
        opened.await.map_err(|_| gone(()))
    }

    async fn wait(&self, id: u32) -> io::Result<ConnInfo> {
        let told = async {
            loop {
                let mut news = pin!(self.news.notified());
                // From here on, no announcement is missed, not even before the await.
                news.as_mut().enable();
                if let Some(info) = self.take(id) {
                    return info;
                }
                news.await;
            }
        };
        timeout(WAIT, told).await.map_err(|_| {
            // If the host cannot create its own socket, only the host's log says so (go-plugin grpc_broker.go,
            // AcceptAndServe).
            let advice = "see its log for \"acceptAndServe error\": it may have a TMPDIR that it cannot write to";
            let text = format!("the host did not say where it serves connection {id}; {advice}");
            io::Error::new(io::ErrorKind::TimedOut, text)
        })
    }

    fn take(&self, id: u32) -> Option<ConnInfo> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join;
    use tokio::time::{Instant, sleep};

    use super::super::mtls::tests::plugin;
    use super::*;

    fn broker() -> Arc<Broker> {
        Arc::new(Broker::new(plugin().connector, None).0)
    }

    fn serves(id: u32, path: &str) -> ConnInfo {
        ConnInfo { service_id: id, network: "unix".into(), address: path.into(), knock: None }
    }

    #[tokio::test(start_paused = true)]
    async fn host_tells_before_it_is_asked() {
        let broker = broker();
        broker.hear(serves(7, "/seven"));
        broker.hear(serves(8, "/eight"));
        assert_eq!(broker.route(8).await.unwrap(), Route::Socket("/eight".into()));
        assert_eq!(broker.route(7).await.unwrap(), Route::Socket("/seven".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn host_tells_after_it_is_asked() {
        let broker = broker();
        let tell = async {
            sleep(Duration::from_secs(4)).await;
            broker.hear(serves(2, "/two"));
            broker.hear(serves(1, "/one"));
        };
        let (route, ()) = join(broker.route(1), tell).await;
        assert_eq!(route.unwrap(), Route::Socket("/one".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn silent_host_is_given_up_after_5_seconds() {
        let start = Instant::now();
        let error = broker().route(1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn refused_knock_is_an_error_and_a_late_answer_does_not_count() {
        let (open, _asked) = mpsc::channel(1);
        let (broker, mut said) = Broker::new(plugin().connector, Some(open.clone()));
        let answer = |ack, error: &str| ConnInfo {
            service_id: 3,
            knock: Some(Knock { knock: true, ack, error: error.into() }),
            ..ConnInfo::default()
        };
        broker.hear(answer(true, ""));
        let host = async {
            said.recv().await.unwrap();
            broker.hear(answer(true, "no such listener"));
        };
        let (knock, ()) = join(broker.knock(3, &open), host).await;
        assert!(knock.err().unwrap().to_string().contains("no such listener"));
    }
}
