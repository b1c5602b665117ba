//! The host's side of brokered connections: accepts the plugin's TLS connections and serves them with tonic.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;

use super::estimator::{Measured, Pings};
use super::wire::{Agreed, Io, agreed};

/// The host's side of a brokered connection.
pub struct Brokered {
    pub(super) seen: Arc<Mutex<Vec<Result<Agreed, String>>>>,
    pub(super) tasks: Vec<JoinHandle<()>>,
    /// The pings that the host has sent.
    pub pings: Pings,
}

impl Brokered {
    /// Returns the result of each TLS handshake with the plugin.
    pub fn connections(&self) -> Vec<Result<Agreed, String>> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Brokered {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Accepts TLS on streams, and records the results.
pub(super) async fn accept(
    mut incoming: mpsc::Receiver<Box<dyn Io>>,
    acceptor: TlsAcceptor,
    accepted: mpsc::Sender<io::Result<Served>>,
    seen: Arc<Mutex<Vec<Result<Agreed, String>>>>,
    pings: Pings,
) {
    while let Some(stream) = incoming.recv().await {
        match acceptor.accept(stream).await {
            Err(error) => seen.lock().unwrap().push(Err(error.to_string())),
            Ok(stream) => {
                let name = stream.get_ref().1.server_name().map(ToOwned::to_owned);
                seen.lock().unwrap().push(Ok(agreed(stream.get_ref().1, name)));
                drop(accepted.send(Ok(Served(Measured::of_server(stream, pings.clone())))).await);
            }
        }
    }
}

/// A TLS connection that tonic can serve.
pub(super) struct Served(Measured<tokio_rustls::server::TlsStream<Box<dyn Io>>>);

impl Connected for Served {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Served {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Served {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
