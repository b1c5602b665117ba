//! Accepts the host's connections and serves them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{future, io};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::broker::Io;
use super::control::{Control, Counted, Stop};
use super::cork::Cork;
use super::socket::Socket;

/// How long a peer may take to prove who it is.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes SIGINT away from the terminal, whose host needs the plugin to stop in order, and hears SIGTERM.
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
            // Usually for want of file descriptors, which may be there again soon.
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Runs in a task of its own for each connection, so that one peer that says nothing does not keep out the others.
pub(super) async fn prove(
    stream: Box<dyn Io>,
    tls: TlsAcceptor,
    control: Control,
    connections: UnboundedSender<Connection>,
) {
    match timeout(TLS_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            // Nobody takes it at the end of the process.
            let _ = connections.send(Connection { stream: Cork::new(stream), _counted: control.connected() });
        }
        Ok(Err(error)) => tracing::warn!(%error, "refused a connection: the TLS handshake failed"),
        Err(_) => tracing::warn!("refused a connection: the TLS handshake took too long"),
    }
}

/// Serves all connections. The answer to `Shutdown` ends the process, so this does not end by itself.
pub(super) fn serve(routes: Routes, connections: UnboundedReceiver<Connection>, control: Control) {
    tokio::spawn(async move {
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_service_status("plugin", tonic_health::ServingStatus::Serving).await;
        let routes = routes.add_service(health_service);
        let incoming = UnboundedReceiverStream::new(connections).map(io::Result::Ok);
        // Requests that many clients give up at once look like an attack to an HTTP/2 server, but the peer is the host,
        // and without this connection the process is of no more use.
        let mut server = Server::builder()
            .http2_max_pending_accept_reset_streams(Some(usize::MAX))
            .http2_max_local_error_reset_streams(Some(usize::MAX));
        let served = server.add_routes(routes).serve_with_incoming(incoming).await;
        if let Err(error) = served {
            tracing::error!(error = &error as &(dyn std::error::Error + 'static), "the server failed");
        }
        control.stop(Stop::HostGone);
        future::pending::<()>().await;
    });
}

/// A connection whose peer is the host.
pub(super) struct Connection {
    stream: Cork<TlsStream<Box<dyn Io>>>,
    _counted: Counted,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
