//! The connection between host and plugin: mutual TLS, the two long-lived streams, and the broker.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Status, Streaming};

use super::brokered::{Brokered, accept};
use super::estimator::{Measured, Pings, WINDOW};
use super::mount::{Mount, Setup};
use super::mux::Session;
use super::pb::pb::storage_server::StorageServer;
use super::pb::pb::system_view_server::SystemViewServer;
use super::pb::plugin::grpc_broker_client::GrpcBrokerClient;
use super::pb::plugin::grpc_controller_client::GrpcControllerClient;
use super::pb::plugin::grpc_stdio_client::GrpcStdioClient;
use super::pb::plugin::{ConnInfo, Empty, StdioData, conn_info::Knock};
use super::pb::pluginutil::multiplexing::MultiplexingSupportRequest;
use super::pb::pluginutil::multiplexing::plugin_multiplexing_client::PluginMultiplexingClient;
use super::process::{Handshake, Launch, PATIENCE, Plugin};
use super::resets::{Resets, Watched};
use super::{Storage, System};

/// A stream of bytes over any transport.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The result of a TLS handshake.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agreed {
    pub version: Option<rustls::ProtocolVersion>,
    pub alpn: Option<Vec<u8>>,
    /// The certificates of the plugin.
    pub peer: Vec<CertificateDer<'static>>,
    /// The name that the client asked for. Only the server knows it.
    pub server_name: Option<String>,
}

/// The transport of connections to and from the plugin.
enum Carrier {
    /// One socket for each connection.
    Sockets,
    /// One yamux session for all connections.
    Session(Session),
}

/// A host with a connection to a plugin.
pub struct Host {
    pub plugin: Plugin,
    pub handshake: Handshake,
    /// The result of the main connection's TLS handshake.
    pub agreed: Agreed,
    /// The connection, for calls without a method here.
    pub channel: Channel,
    /// The cancelled requests on the connection.
    pub resets: Resets,
    /// The pings that the host has sent on the connection.
    pub pings: Pings,
    cables: Cables,
    broker: mpsc::Sender<ConnInfo>,
    next_broker_id: AtomicU32,
    carrier: Arc<Carrier>,
    knocks: Knocks,
    answers: JoinHandle<Result<(), Status>>,
    stdio: Streaming<StdioData>,
    /// All served storages, checked at the end.
    storages: Mutex<Vec<Storage>>,
}

impl Host {
    /// Starts a plugin, connects to it and makes the calls that every host makes at first.
    pub async fn start(launch: Launch) -> Self {
        let mut plugin = launch.spawn();
        let handshake = plugin.handshake().await;
        // The line shows the plugin's abilities. The host decides.
        let multiplexed = plugin.wants_one_socket();
        assert!(!multiplexed || handshake.line.ends_with("|true"), "the plugin cannot share its socket");
        Self::connect(plugin, handshake, multiplexed).await
    }

    async fn connect(plugin: Plugin, handshake: Handshake, multiplexed: bool) -> Self {
        let carrier = Arc::new(if multiplexed {
            Carrier::Session(Session::new(UnixStream::connect(&handshake.socket).await.unwrap()))
        } else {
            Carrier::Sockets
        });
        let (resets, pings) = (Resets::default(), Pings::default());
        let (channel, agreed, cables) = dial(&carrier, &plugin, &handshake, &resets, &pings).await;
        let (broker, offers) = mpsc::channel(16);
        let knocks = Arc::default();
        // A real host makes these three calls at the same time, in any order.
        let mut stdio = GrpcStdioClient::new(channel.clone());
        let mut streams = GrpcBrokerClient::new(channel.clone());
        let mut multiplexing = PluginMultiplexingClient::new(channel.clone());
        let calls = async {
            tokio::try_join!(
                stdio.stream_stdio(()),
                streams.start_stream(ReceiverStream::new(offers)),
                multiplexing.multiplexing_support(MultiplexingSupportRequest {}),
            )
        };
        let (stdio, answers, multiplexing) = timeout(PATIENCE, calls)
            .await
            .expect("a call at the start is not answered")
            .expect("a call at the start fails");
        assert!(multiplexing.into_inner().supported, "MultiplexingSupport");
        let answers =
            tokio::spawn(answer_knocks(answers.into_inner(), broker.clone(), carrier.clone(), Arc::clone(&knocks)));
        Self {
            plugin,
            handshake,
            agreed,
            channel,
            resets,
            pings,
            cables,
            broker,
            next_broker_id: AtomicU32::new(1),
            carrier,
            knocks,
            answers,
            stdio: stdio.into_inner(),
            storages: Mutex::default(),
        }
    }

    /// Mounts a working instance, as `secrets enable` does.
    pub async fn mount(&self) -> Mount {
        let mount = self.mount_with(Setup::default()).await.expect("Setup");
        mount.finish().await;
        mount
    }

    /// Calls only `Setup` for an instance.
    ///
    /// # Errors
    /// The text of `SetupReply.err`.
    pub async fn mount_with(&self, setup: Setup) -> Result<Mount, String> {
        Mount::new(self, setup).await
    }

    /// Takes the next broker id.
    pub(super) fn broker_id(&self) -> u32 {
        self.next_broker_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Serves storage and facts to the plugin. Returns the announcement of their address.
    pub(super) async fn serve(&self, id: u32, storage: Storage, system: System) -> (ConnInfo, Brokered) {
        self.storages.lock().unwrap().push(storage.clone());
        let (streams, incoming) = mpsc::channel::<Box<dyn Io>>(4);
        let mut info = ConnInfo { service_id: id, ..ConnInfo::default() };
        let mut tasks = Vec::new();
        match &*self.carrier {
            Carrier::Session(_) => drop(self.knocks.lock().unwrap().insert(id, streams)),
            Carrier::Sockets => {
                let path = self.plugin.directory("broker").join(format!("plugin{id}"));
                let listener = UnixListener::bind(&path).unwrap();
                info.network = "unix".into();
                info.address = path.to_str().unwrap().into();
                tasks.push(tokio::spawn(async move {
                    while let Ok((stream, _)) = listener.accept().await {
                        if streams.send(Box::new(stream)).await.is_err() {
                            return;
                        }
                    }
                }));
            }
        }
        let (seen, pings) = (Arc::default(), Pings::default());
        let acceptor = TlsAcceptor::from(Arc::new(self.plugin.identity().server(&self.handshake.certificate)));
        let (accepted, connections) = mpsc::channel(4);
        tasks.push(tokio::spawn(accept(incoming, acceptor, accepted, Arc::clone(&seen), pings.clone())));
        let storage = StorageServer::new(storage).max_decoding_message_size(usize::MAX);
        let mut server = Server::builder().initial_connection_window_size(WINDOW);
        let server = server.add_service(storage).add_service(SystemViewServer::new(system));
        tasks.push(tokio::spawn(
            async move { server.serve_with_incoming(ReceiverStream::new(connections)).await.unwrap() },
        ));
        (info, Brokered { seen, tasks, pings })
    }

    /// Announces to the plugin where a broker id is served. With one session for all connections, the plugin asks by
    /// itself.
    pub(super) async fn offer(&self, info: ConnInfo) {
        if matches!(*self.carrier, Carrier::Sockets) {
            self.broker.send(info).await.expect("the broker stream has ended");
        }
    }

    /// Calls `Shutdown`.
    pub async fn shutdown(&self) -> Result<(), Status> {
        let mut controller = GrpcControllerClient::new(self.channel.clone());
        let answer = timeout(PATIENCE, controller.shutdown(Empty {})).await.expect("Shutdown is not answered");
        answer.map(drop)
    }

    /// Checks that the two long-lived streams are open and silent.
    pub async fn streams_are_open(&mut self) {
        let silent = timeout(Duration::from_millis(50), self.stdio.message()).await;
        assert!(silent.is_err(), "StreamStdio has ended or sent something: {:?}", silent.map(|item| item.map(drop)));
        assert!(!self.answers.is_finished(), "the plugin has ended StartStream");
    }

    /// Stops the plugin as a host does when it unmounts or seals, and checks that the plugin stops cleanly.
    pub async fn stop(mut self) {
        self.streams_are_open().await;
        let Self { mut plugin, channel, cables, broker, answers, storages, .. } = self;
        storages.into_inner().unwrap().iter().for_each(Storage::check);
        // The order of go-plugin's Kill (`client.go`): the broker, then Shutdown whose result is ignored, then the
        // connection.
        answers.abort();
        drop(broker);
        let mut controller = GrpcControllerClient::new(channel);
        let _ = timeout(PATIENCE, controller.shutdown(Empty {})).await.expect("Shutdown is not answered");
        cut(&cables);
        plugin.assert_clean_exit().await;
    }

    /// Drops the connection without notice, as a dying host does.
    pub fn hang_up(self) -> Plugin {
        cut(&self.cables);
        self.answers.abort();
        self.plugin
    }
}

/// Connects with any TLS client, starts HTTP/2, and returns the plugin's first bytes. They are empty if the plugin
/// refuses the client. In TLS 1.3, the client's handshake ends before the server has checked the client, so only these
/// bytes show the result.
pub async fn first_bytes(socket: &Path, config: ClientConfig) -> Vec<u8> {
    let mut answer = vec![0; 64];
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        // The preface of HTTP/2 and an empty SETTINGS frame.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read(&mut answer).await
    };
    let count = timeout(PATIENCE, exchange).await.expect("neither an answer nor a closed connection").unwrap_or(0);
    answer.truncate(count);
    answer
}

pub(super) fn agreed(connection: &rustls::CommonState, server_name: Option<String>) -> Agreed {
    Agreed {
        version: connection.protocol_version(),
        alpn: connection.alpn_protocol().map(ToOwned::to_owned),
        peer: connection.peer_certificates().unwrap_or_default().to_vec(),
        server_name,
    }
}

async fn dial(
    carrier: &Arc<Carrier>,
    plugin: &Plugin,
    handshake: &Handshake,
    resets: &Resets,
    pings: &Pings,
) -> (Channel, Agreed, Cables) {
    let config = Arc::new(plugin.identity().client(&handshake.certificate));
    let (sender, mut receiver) = mpsc::channel(1);
    let (carrier, socket) = (carrier.clone(), handshake.socket.clone());
    let cables = Cables::default();
    if let Carrier::Session(session) = &*carrier {
        cables.lock().unwrap().push(session.driver.clone());
    }
    let (laid, resets, pings) = (cables.clone(), resets.clone(), pings.clone());
    let connector = tower::service_fn(move |_| {
        let (carrier, socket, config, sender) = (carrier.clone(), socket.clone(), config.clone(), sender.clone());
        let (cables, resets, pings) = (laid.clone(), resets.clone(), pings.clone());
        async move {
            let stream: Box<dyn Io> = match &*carrier {
                Carrier::Sockets => Box::new(UnixStream::connect(&socket).await?),
                Carrier::Session(session) => Box::new(session.open().await.ok_or(io::ErrorKind::ConnectionAborted)?),
            };
            let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
            let stream = TlsConnector::from(config).connect(name, stream).await?;
            // Only the first connection matters.
            let _ = sender.try_send(agreed(stream.get_ref().1, None));
            let (near, far) = tokio::io::duplex(64 * 1024);
            cables.lock().unwrap().push(tokio::spawn(join(far, stream)).abort_handle());
            Ok::<_, io::Error>(TokioIo::new(Measured::of_client(Watched::new(near, resets), pings)))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost").initial_connection_window_size(WINDOW);
    let connecting = endpoint.connect_with_connector(connector);
    let channel = timeout(PATIENCE, connecting).await.expect("no connection in time").expect("the main connection");
    (channel, receiver.recv().await.unwrap(), cables)
}

/// The tasks that carry the connections to the plugin. Aborting them closes the connections, even if the channel is
/// still in use.
type Cables = Arc<Mutex<Vec<AbortHandle>>>;

fn cut(cables: &Cables) {
    cables.lock().unwrap().drain(..).for_each(|cable| cable.abort());
}

/// Copies bytes in both directions until the task ends.
async fn join(mut far: DuplexStream, mut stream: tokio_rustls::client::TlsStream<Box<dyn Io>>) {
    // Both ends see how the connection ended.
    let _ = tokio::io::copy_bidirectional(&mut far, &mut stream).await;
}

type Knocks = Arc<Mutex<HashMap<u32, mpsc::Sender<Box<dyn Io>>>>>;

/// Reads the plugin's messages on the broker stream: one knock for each connection that the plugin wants to open.
async fn answer_knocks(
    mut stream: Streaming<ConnInfo>,
    broker: mpsc::Sender<ConnInfo>,
    carrier: Arc<Carrier>,
    knocks: Knocks,
) -> Result<(), Status> {
    while let Some(info) = stream.message().await? {
        let Carrier::Session(session) = &*carrier else { panic!("a ConnInfo from a plugin that has nothing to offer") };
        let door = knocks.lock().unwrap().get(&info.service_id).cloned();
        let error = if door.is_some() { String::new() } else { format!("unknown id {}", info.service_id) };
        let knock = Some(Knock { knock: true, ack: true, error });
        drop(broker.send(ConnInfo { service_id: info.service_id, knock, ..ConnInfo::default() }).await);
        if let (Some(door), Some(stream)) = (door, session.accept().await) {
            drop(door.send(Box::new(stream)).await);
        }
    }
    Ok(())
}
