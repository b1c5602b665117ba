//! The variant with one socket for all connections (`go-plugin` `internal/grpcmux`): the host is the yamux client.

use std::future::poll_fn;
use std::task::Poll;

use tokio::net::UnixStream;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};
use yamux::{Config, Connection, Mode};

/// One stream of the session.
pub type Stream = Compat<yamux::Stream>;

/// A yamux session over the plugin's socket.
pub struct Session {
    open: mpsc::Sender<oneshot::Sender<Stream>>,
    inbound: Mutex<mpsc::Receiver<Stream>>,
    /// Stops the task that drives the session.
    pub driver: AbortHandle,
}

impl Session {
    /// Starts a session.
    pub fn new(socket: UnixStream) -> Self {
        let connection = Connection::new(socket.compat(), Config::default(), Mode::Client);
        let (open, requests) = mpsc::channel(1);
        let (arrived, inbound) = mpsc::channel(16);
        let driver = tokio::spawn(drive(connection, requests, arrived)).abort_handle();
        Self { open, inbound: Mutex::new(inbound), driver }
    }

    /// Opens a stream to the plugin.
    pub async fn open(&self) -> Option<Stream> {
        let (sender, receiver) = oneshot::channel();
        self.open.send(sender).await.ok()?;
        receiver.await.ok()
    }

    /// Waits for the next stream that the plugin opens.
    pub async fn accept(&self) -> Option<Stream> {
        self.inbound.lock().await.recv().await
    }
}

/// Drives the session until it ends. A session makes progress only while it is polled.
async fn drive(
    mut connection: Connection<Compat<UnixStream>>,
    mut requests: mpsc::Receiver<oneshot::Sender<Stream>>,
    arrived: mpsc::Sender<Stream>,
) {
    let mut waiting: Option<oneshot::Sender<Stream>> = None;
    let mut hung_up = false;
    poll_fn(|cx| {
        loop {
            if waiting.is_none() && !hung_up {
                match requests.poll_recv(cx) {
                    Poll::Ready(Some(request)) => waiting = Some(request),
                    Poll::Ready(None) => hung_up = true,
                    Poll::Pending => {}
                }
            }
            if hung_up {
                return connection.poll_close(cx).map(drop);
            }
            if waiting.is_some()
                && let Poll::Ready(opened) = connection.poll_new_outbound(cx)
            {
                let (Ok(stream), Some(request)) = (opened, waiting.take()) else { return Poll::Ready(()) };
                // The caller may have gone. The stream then closes again.
                let _ = request.send(stream.compat());
                continue;
            }
            match connection.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => drop(arrived.try_send(stream.compat())),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
