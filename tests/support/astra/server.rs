//! Listeners and connections.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::armed::{Context, Stage};
use super::fault::Kind;
use super::http::{Connection, Io};
use super::state::Shared;

/// Serves the API until it is dropped, which ends all connections.
pub async fn serve(shared: Arc<Shared>, mut listener: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<()> {
    let address = listener.local_addr()?;
    let mut refuse = shared.refuse.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let connect = |stream| connection(Arc::clone(&shared), stream, tls.clone());
        tokio::select! {
            result = accept(&listener, &mut connections, connect) => result?,
            _ = refuse.wait_for(|refuse| *refuse) => {}
        }
        drop(listener);
        // A bound socket that does not listen refuses connections.
        let socket = bind(address)?;
        connections.shutdown().await;
        shared.update(|state| state.listening = false);
        // The guard that comes back would block the next change of the value.
        drop(refuse.wait_for(|refuse| !*refuse).await);
        listener = socket.listen(BACKLOG)?;
        shared.update(|state| state.listening = true);
    }
}

/// Accepts for ever; the connections end with the set they are put into.
pub async fn accept<F>(
    listener: &TcpListener,
    connections: &mut JoinSet<io::Result<()>>,
    mut connect: impl FnMut(TcpStream) -> F,
) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(connect(accepted?.0));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(shared: Arc<Shared>, stream: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let due = shared.update(|state| {
        state.log.connections += 1;
        let now = state.now();
        state.faults.take(Stage::Accept, &Context::default(), now)
    });
    if let Some(Kind::SlowTls { delay_ms }) = due.main {
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    let stream: Box<dyn Io> = match tls {
        Some(tls) => Box::new(tls.accept(stream).await?),
        None => Box::new(stream),
    };
    let mut connection = Connection::new(stream);
    let mut served = 0;
    while let Some(request) = connection.read_request().await? {
        served += 1;
        let (announced, last) = {
            let knobs = &shared.lock().knobs;
            (knobs.connection_close, knobs.max_requests_per_connection.is_some_and(|max| served >= max))
        };
        let close = announced || request.wants_close();
        // The last request of a connection is not announced as such: the client must find the connection dead.
        if !shared.exchange(&mut connection, &request, close).await? || last {
            break;
        }
    }
    Ok(())
}

/// Binds a socket. Any number of sockets can be bound to the same address, of which at most one listens.
pub fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

const BACKLOG: u32 = 1024;
