//! Listeners and connections.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::armed::{Context, Stage};
use super::fault::Kind;
use super::http::{Connection, Io};
use super::state::Shared;

/// Serves the API. Dropping this future closes all connections.
pub async fn serve(shared: Arc<Shared>, mut listener: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<()> {
    let mut refuse = shared.refuse.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let connect = |stream| connection(Arc::clone(&shared), stream, tls.clone());
        tokio::select! {
            result = accept(&listener, &mut connections, connect) => result?,
            _ = refuse.wait_for(|refuse| *refuse) => {}
        }
        // Closing the listener is not enough: a process that a test starts at this moment holds a copy of the listener
        // until it executes its program, so the port stays open. A shutdown acts on all copies.
        let socket = listener.into_std()?;
        SockRef::from(&socket).shutdown(Shutdown::Both)?;
        connections.shutdown().await;
        shared.update(|state| state.listening = false);
        // The returned guard must be dropped: it blocks changes of the value.
        drop(refuse.wait_for(|refuse| !*refuse).await);
        SockRef::from(&socket).listen(BACKLOG)?;
        listener = TcpListener::from_std(socket)?;
        shared.update(|state| state.listening = true);
    }
}

/// Accepts connections forever, and adds them to `connections`. Dropping the set closes them.
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
        // The answer does not announce the close after the last request: the client must meet a closed connection.
        if !shared.exchange(&mut connection, &request, close).await? || last {
            break;
        }
    }
    Ok(())
}

const BACKLOG: i32 = 1024;
