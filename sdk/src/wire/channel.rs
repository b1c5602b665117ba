//! Connection from a mount to the host's services: requests on one HTTP/2 connection, directly on `h2`.
//!
//! tonic's own channel adds a queue, a task and a task for each call. Calls to the host are many, small and fast, so
//! these additions would cost more than the calls.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Request, Response};
use tonic::Status;

use crate::process::{Io, Pings};

/// How many bytes the host may send before the plugin reads any: for one answer, and for all answers.
const WINDOWS: (u32, u32) = (2 << 20, 4 << 20);

const TICK: Duration = Duration::from_secs(1);

/// Opens a connection to the host.
type Connect = dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync;

/// A connection that all clones share. If the connection is lost, the next call opens a new connection.
#[derive(Clone)]
pub(super) struct Channel(Arc<Shared>);

struct Shared {
    connect: Box<Connect>,
    calls: Arc<Calls>,
    /// The connection. `None` before the first call.
    current: Mutex<Option<SendRequest<Bytes>>>,
    /// Held while a connection is opened.
    turn: tokio::sync::Mutex<()>,
}

impl Channel {
    /// Returns a channel that has not connected yet.
    pub(super) fn new(
        connect: impl Fn() -> BoxFuture<'static, io::Result<Box<dyn Io>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Shared {
            connect: Box::new(connect),
            calls: Arc::default(),
            current: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// Connects, if there is no connection.
    ///
    /// # Errors
    /// If the host is unreachable.
    pub(super) async fn connect(&self) -> io::Result<()> {
        self.0.ready().await.map(drop)
    }

    /// Sends a request, and returns the head of its answer. The whole body is in memory already, so data that the host
    /// does not accept yet can wait there.
    pub(super) async fn send(&self, head: Request<()>, body: Bytes) -> Result<Response<RecvStream>, Status> {
        self.0.calls.count();
        let unreachable = |error: io::Error| Status::unavailable(format!("the host cannot be reached: {error}"));
        let mut connection = self.0.ready().await.map_err(unreachable)?;
        let (answer, mut stream) = connection.send_request(head, false).map_err(broken)?;
        stream.send_data(body, true).map_err(broken)?;
        answer.await.map_err(broken)
    }
}

impl Shared {
    /// Returns a connection that accepts requests.
    async fn ready(&self) -> io::Result<SendRequest<Bytes>> {
        if let Some(connection) = self.usable().await {
            return Ok(connection);
        }
        let _turn = self.turn.lock().await;
        // Another call may have connected while this call waited.
        if let Some(connection) = self.usable().await {
            return Ok(connection);
        }
        let stream = (self.connect)().await?;
        let mut builder = h2::client::Builder::new();
        // A cancelled call is reset, and its answer may already be on the way. By default, the 1024th such answer ends
        // the connection, and with it other calls.
        builder.max_local_error_reset_streams(None).enable_push(false);
        // For the same reason. `h2` counts small DATA frames, and never forgets those of calls that were given up.
        builder.data_frame_budget(usize::MAX);
        builder.initial_window_size(WINDOWS.0).initial_connection_window_size(WINDOWS.1);
        let (requests, connection) = builder.handshake(Pings::of_client(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // The calls themselves report a broken connection.
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &(dyn std::error::Error + 'static), "a connection to the host broke");
            }
        });
        *self.current() = Some(requests.clone());
        Ok(requests)
    }

    async fn usable(&self) -> Option<SendRequest<Bytes>> {
        let connection = self.current().clone()?;
        connection.ready().await.ok()
    }

    fn current(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a short timer running while there are calls.
///
/// Most calls have a deadline of half a minute, and nearly no call reaches it. But if a new deadline is earlier than
/// all others, tokio wakes itself to wait again, which costs two system calls. A timer that ends within a second
/// prevents that: no deadline is earlier.
#[derive(Default)]
struct Calls {
    since_tick: AtomicBool,
    is_ticking: AtomicBool,
}

impl Calls {
    fn count(self: &Arc<Self>) {
        self.since_tick.store(true, Ordering::Relaxed);
        if !self.is_ticking.swap(true, Ordering::Relaxed) {
            let calls = self.clone();
            tokio::spawn(async move {
                while calls.since_tick.swap(false, Ordering::Relaxed) {
                    tokio::time::sleep(TICK).await;
                }
                calls.is_ticking.store(false, Ordering::Relaxed);
            });
        }
    }
}

pub(super) fn broken(error: h2::Error) -> Status {
    Status::unavailable(format!("the connection to the host broke: {error}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc::UnboundedSender;
    use tokio::task::JoinHandle;
    use tonic::Code;
    use tonic::transport::Server;
    use tonic_health::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

    use super::super::unary::Method;
    use super::*;

    /// A host that serves one service, and counts its connections.
    #[derive(Default)]
    struct Host {
        connections: AtomicUsize,
        /// The task that carries the bytes of the last connection.
        cable: Mutex<Option<JoinHandle<()>>>,
        is_gone: AtomicBool,
    }

    impl Host {
        fn channel(self: &Arc<Self>) -> Channel {
            let host = self.clone();
            Channel::new(move || {
                let host = host.clone();
                async move { host.accept() }.boxed()
            })
        }

        fn accept(&self) -> io::Result<Box<dyn Io>> {
            if self.is_gone.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            self.connections.fetch_add(1, Ordering::SeqCst);
            let (near, mut plug) = tokio::io::duplex(64 * 1024);
            let (mut socket, far) = tokio::io::duplex(64 * 1024);
            let cable = tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut plug, &mut socket).await;
            });
            *self.cable.lock().unwrap() = Some(cable);
            tokio::spawn(async move {
                let (reporter, service) = tonic_health::server::health_reporter();
                reporter.set_service_status("there", ServingStatus::Serving).await;
                let incoming = tokio_stream::once(io::Result::Ok(far));
                Server::builder().add_service(service).serve_with_incoming(incoming).await
            });
            Ok(Box::new(near))
        }

        /// Closes the connection.
        async fn hang_up(&self) {
            let cable = self.cable.lock().unwrap().take().unwrap();
            cable.abort();
            let _ = cable.await;
        }
    }

    async fn ask(channel: &Channel, service: &str) -> Result<(), Status> {
        static CHECK: Method<HealthCheckRequest, HealthCheckResponse> = Method::new("/grpc.health.v1.Health/Check");
        CHECK.call(channel, &HealthCheckRequest { service: service.into() }, None).await.map(drop)
    }

    #[tokio::test]
    async fn calls_share_a_connection_and_have_answers_of_their_own() {
        let host = Arc::new(Host::default());
        let channel = host.channel();
        let calls = (0..500).map(|n| {
            let channel = &channel;
            async move { (n, ask(channel, if n % 2 == 0 { "there" } else { "elsewhere" }).await) }
        });
        for (n, answer) in join_all(calls).await {
            let code = answer.err().map(|status| status.code());
            assert_eq!(code, (n % 2 == 1).then_some(Code::NotFound));
        }
        assert_eq!(host.connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_lost_connection_is_made_again() {
        let host = Arc::new(Host::default());
        let channel = host.channel();
        ask(&channel, "there").await.unwrap();
        host.hang_up().await;
        host.is_gone.store(true, Ordering::SeqCst);
        // The first call may be the call that detects the lost connection.
        assert_eq!(ask(&channel, "there").await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(ask(&channel, "there").await.unwrap_err().code(), Code::Unavailable);
        host.is_gone.store(false, Ordering::SeqCst);
        ask(&channel, "there").await.unwrap();
        assert_eq!(host.connections.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn calls_that_are_given_up_end_no_connection() {
        let host = Arc::new(Host::default());
        let channel = host.channel();
        channel.connect().await.unwrap();
        for _ in 0..3000 {
            let mut call = std::pin::pin!(ask(&channel, "there"));
            assert!(call.as_mut().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        ask(&channel, "there").await.unwrap();
        assert_eq!(host.connections.load(Ordering::SeqCst), 1);
    }

    /// Writes a frame without flags other than the end of the headers (RFC 9113, section 4.1).
    fn frame(kind: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, if kind == 1 { 4 } else { 0 }], &stream, payload].concat()
    }

    /// Answers each call after it was given up. Sends a sign for each call, before it is answered.
    async fn answer_late(mut socket: tokio::io::DuplexStream, calls: UnboundedSender<()>) -> io::Result<()> {
        const PREFACE: usize = 24;
        socket.read_exact(&mut [0; PREFACE]).await?;
        socket.write_all(&frame(4, [0; 4], b"")).await?;
        loop {
            let mut header = [0; 9];
            socket.read_exact(&mut header).await?;
            let [a, b, c, kind, _, stream @ ..] = header;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            socket.read_exact(&mut payload).await?;
            match kind {
                1 => calls.send(()).unwrap(),
                // `:status 200` (RFC 7541, appendix A), and small parts of an answer.
                3 => {
                    socket.write_all(&[frame(1, stream, &[0x88]), frame(0, stream, b"x").repeat(100)].concat()).await?
                }
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn late_parts_of_answers_end_no_connection() {
        let connections = Arc::new(AtomicUsize::new(0));
        let (calls, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let channel = {
            let connections = connections.clone();
            Channel::new(move || {
                connections.fetch_add(1, Ordering::SeqCst);
                let (near, far) = tokio::io::duplex(1 << 20);
                tokio::spawn(answer_late(far, calls.clone()));
                async { Ok(Box::new(near) as Box<dyn Io>) }.boxed()
            })
        };
        for _ in 0..200 {
            let mut call = std::pin::pin!(ask(&channel, "there"));
            while seen.try_recv().is_err() {
                assert!(call.as_mut().now_or_never().is_none());
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }
}
