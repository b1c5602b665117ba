//! Connections from the plugin to services of the host, one for each mount (go-plugin's GRPCBroker).
//!
//! There are two ways. Either the host opens a socket for each connection and announces its path ([`Route::Socket`]).
//! Or all connections share the plugin's own socket, and the plugin asks for each connection by a knock
//! ([`Route::Knock`]).

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::cork::Cork;
use super::mtls::NAME;
use super::socket::Socket;
use crate::pb::plugin::{ConnInfo, conn_info::Knock};

/// How long the host may take to announce a connection (go-plugin grpc_broker.go).
const WAIT: Duration = Duration::from_secs(5);

/// How long an answer to a knock may take. The host forgets a knock for which it has no listener after 5 seconds.
const ANSWER: Duration = Duration::from_secs(7);

/// Pause before a refused knock is repeated. The host refuses until its listener is there.
const PAUSE: Duration = Duration::from_millis(50);

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
        let info = self.wait(id, WAIT).await?;
        if info.network != "unix" {
            return Err(io::Error::other(format!("the host serves on {:?}, not on a unix socket", info.network)));
        }
        Ok(Route::Socket(info.address.into()))
    }

    /// Connects to the host. If a connection is lost, the caller can connect again with the same route.
    pub(crate) async fn connect(self: &Arc<Self>, route: &Route) -> io::Result<Box<dyn Io>> {
        match route {
            Route::Socket(path) => self.tls(Box::new(Socket::new(UnixStream::connect(path).await?)?)).await,
            Route::Knock(id) => {
                // In its own task: if the caller gave up between the host's answer and the stream, the host would give the
                // next stream, that of another mount, to this mount's listener.
                let (broker, id) = (self.clone(), *id);
                tokio::spawn(async move { broker.connect_shared(id).await }).await.map_err(io::Error::other)?
            }
        }
    }

    /// Opens a stream of the shared socket for this id.
    async fn connect_shared(&self, id: u32) -> io::Result<Box<dyn Io>> {
        let Some(shared) = &self.shared else { return Err(io::ErrorKind::Unsupported.into()) };
        // The host sees a stream only at its first bytes. So the lock is held until TLS has sent them.
        let turn = shared.lock().await;
        for _ in 0..self.take_late_answers() {
            // The host gives its next stream to the listener that an abandoned knock has opened. This stream is for it.
            drop(self.tls(open(&turn).await?).await);
        }
        let end = Instant::now() + WAIT;
        loop {
            match self.knock(id).await? {
                Ok(()) => return self.tls(open(&turn).await?).await,
                Err(_) if Instant::now() + PAUSE < end => sleep(PAUSE).await,
                Err(reason) => return Err(io::Error::other(format!("the host refused the knock: {reason}"))),
            }
        }
    }

    async fn tls(&self, stream: Box<dyn Io>) -> io::Result<Box<dyn Io>> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let connected = timeout(WAIT, self.connector.connect(name, stream)).await;
        let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Box::new(Cork::new(stream)))
    }

    /// Asks the host to give the next stream to the listener of this id. The inner error is the host's reason to refuse.
    async fn knock(&self, id: u32) -> io::Result<Result<(), String>> {
        let knock = Knock { knock: true, ..Knock::default() };
        let info = ConnInfo { service_id: id, knock: Some(knock), ..ConnInfo::default() };
        self.say.send(info).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        match self.wait(id, ANSWER).await?.knock {
            Some(Knock { ack: true, error, .. }) if error.is_empty() => Ok(Ok(())),
            Some(Knock { error, .. }) => Ok(Err(error)),
            None => Err(io::Error::other("the host did not answer the knock")),
        }
    }

    /// Forgets the answers to knocks for which nobody waits any more. Returns how many listeners they have opened.
    fn take_late_answers(&self) -> usize {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let late = told.extract_if(|_, info| info.knock.is_some());
        late.filter(|(_, info)| info.knock.as_ref().is_some_and(|knock| knock.ack && knock.error.is_empty())).count()
    }

    async fn wait(&self, id: u32, patience: Duration) -> io::Result<ConnInfo> {
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
        timeout(patience, told).await.map_err(|_| {
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

/// Opens a stream of the shared socket.
async fn open(turn: &mpsc::Sender<Open>) -> io::Result<Box<dyn Io>> {
    let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
    let (stream, opened) = oneshot::channel();
    turn.send(stream).await.map_err(|_| gone())?;
    opened.await.map_err(|_| gone())
}

#[cfg(test)]
mod tests {
    use super::super::mtls::tests::plugin;
    use super::*;
    use futures_util::future::join;

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

    /// A broker that knocks, the knocks, and the requests for streams.
    fn knocking() -> (Arc<Broker>, mpsc::Receiver<ConnInfo>, mpsc::Receiver<Open>) {
        let (open, asked) = mpsc::channel(1);
        let (broker, said) = Broker::new(plugin().connector, Some(open));
        (Arc::new(broker), said, asked)
    }

    fn answer(id: u32, error: &str) -> ConnInfo {
        let knock = Some(Knock { knock: true, ack: true, error: error.into() });
        ConnInfo { service_id: id, knock, ..ConnInfo::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_knock_is_repeated_for_five_seconds() {
        let (broker, mut said, _asked) = knocking();
        let hearing = broker.clone();
        let host = tokio::spawn(async move {
            let mut knocks = 0;
            while let Some(info) = said.recv().await {
                hearing.hear(answer(info.service_id, "no listener for id 3"));
                knocks += 1;
            }
            knocks
        });
        let start = Instant::now();
        let error = broker.connect(&Route::Knock(3)).await.err().unwrap();
        assert!(error.to_string().contains("no listener for id 3"), "{error}");
        assert!(start.elapsed() > WAIT - 2 * PAUSE && start.elapsed() <= WAIT, "{:?}", start.elapsed());
        host.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_knock_goes_on_without_its_caller_and_the_next_one_waits() {
        let (broker, mut said, mut asked) = knocking();
        let route = Route::Knock(1);
        let mut first = Box::pin(broker.connect(&route));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert_eq!(said.recv().await.unwrap().service_id, 1);
        drop(first);
        let second = tokio::spawn({
            let broker = broker.clone();
            async move { broker.connect(&Route::Knock(2)).await.map(drop) }
        });
        sleep(Duration::from_secs(1)).await;
        assert!(said.try_recv().is_err(), "a second knock before the first stream was opened");
        broker.hear(answer(1, ""));
        // The stream of the first knock. Its peer is gone at once, so that TLS ends.
        asked.recv().await.unwrap().send(Box::new(tokio::io::duplex(64).0)).ok().unwrap();
        assert_eq!(said.recv().await.unwrap().service_id, 2);
        second.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_gets_the_stream_that_its_listener_takes() {
        let (broker, mut said, mut asked) = knocking();
        let error = broker.connect(&Route::Knock(1)).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(said.recv().await.unwrap().service_id, 1);
        broker.hear(answer(1, ""));
        let hearing = broker.clone();
        let second = tokio::spawn(async move { hearing.connect(&Route::Knock(2)).await.map(drop) });
        let late = asked.recv().await.unwrap();
        assert!(said.try_recv().is_err(), "the knock came before the stream of the late answer");
        late.send(Box::new(tokio::io::duplex(64).0)).ok().unwrap();
        assert_eq!(said.recv().await.unwrap().service_id, 2);
        second.abort();
    }
}
