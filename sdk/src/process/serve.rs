//! Accepts the host's connections and serves them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::broker::Io;
use super::control::{Control, Counted, Stop};
use super::cork::Cork;
use super::delivery::Frames;
use super::pings::Pings;
use super::server::{self, Services};
use super::socket::Socket;

/// How long a peer may take for the TLS handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Ignores SIGINT and stops on SIGTERM. Ctrl-C reaches the whole process group, but the host still needs the plugin
/// during its own shutdown.
pub(super) fn listen_to_signals(control: &Control) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let control = control.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => control.stop(Stop::Terminated),
            }
        }
    });
    Ok(())
}

/// Accepts connections on the socket.
pub(super) fn accept(listener: UnixListener, tls: TlsAcceptor, control: Control) -> UnboundedReceiver<Connection> {
    let (connections, accepted) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let stream = next(&listener).await;
            tokio::spawn(prove(Box::new(stream), tls.clone(), control.clone(), connections.clone()));
        }
    });
    accepted
}

pub(super) async fn next(listener: &UnixListener) -> Socket {
    loop {
        match listener.accept().await.and_then(|(stream, _)| Socket::new(stream)) {
            Ok(socket) => return socket,
            // Usually the process has no free file descriptors. There may be some again soon.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Accepts TLS on one connection. Each connection has its own task, so that a silent peer does not block other peers.
pub(super) async fn prove(
    stream: Box<dyn Io>,
    tls: TlsAcceptor,
    control: Control,
    connections: UnboundedSender<Connection>,
) {
    match timeout(TLS_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            // Fails only when the process ends, because nobody takes connections then.
            let stream = Pings::of_server(Cork::new(stream));
            let connection = Connection { stream, frames: Frames::new(), _counted: control.connected() };
            let _ = connections.send(connection);
        }
        Ok(Err(error)) => tracing::warn!(%error, "refused a connection: the TLS handshake failed"),
        Err(_) => tracing::warn!("refused a connection: the TLS handshake took too long"),
    }
}

/// Serves all connections.
pub(super) fn serve<S: Services>(services: S, mut connections: UnboundedReceiver<Connection>, control: Control) {
    let services = Arc::new(services);
    tokio::spawn(async move {
        while let Some(connection) = connections.recv().await {
            let (streams, services) = (connection.frames.streams(), services.clone());
            tokio::spawn(async move {
                if let Err(error) = server::serve(connection, streams, services).await {
                    tracing::debug!(
                        error = &error as &(dyn std::error::Error + 'static),
                        "a connection of the host broke"
                    );
                }
            });
        }
        control.stop(Stop::HostGone);
    });
}

/// A connection whose peer is the host.
pub(super) struct Connection {
    stream: Pings<Cork<TlsStream<Box<dyn Io>>>>,
    frames: Frames,
    _counted: Counted,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.frames.read(&buf.filled()[before..]);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
