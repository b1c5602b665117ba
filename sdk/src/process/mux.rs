//! One socket for all connections (yamux). The host uses this for a plugin in a container.
//!
//! Architecture invariant: the only module that knows yamux, and the only one behind the feature `mux`.

use std::future::poll_fn;
use std::task::Poll;

use tokio::net::UnixListener;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_rustls::TlsAcceptor;
use tokio_util::compat::{FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use super::broker::{Io, Open};
use super::control::{Control, Stop};
use super::serve::{Connection, next, prove};
use super::socket::Socket;

/// How many streams the shared socket can have at a time.
const STREAMS: usize = 1 << 20;

/// Accepts one connection on the socket. This connection carries all other connections.
pub(super) fn accept(
    listener: UnixListener,
    tls: TlsAcceptor,
    control: Control,
    asked: mpsc::Receiver<Open>,
) -> UnboundedReceiver<Connection> {
    let (connections, accepted) = mpsc::unbounded_channel();
    let (opened, mut streams) = mpsc::unbounded_channel();
    let ended = control.clone();
    tokio::spawn(async move {
        share(next(&listener).await, asked, opened).await;
        ended.stop(Stop::HostGone);
    });
    tokio::spawn(async move {
        while let Some(stream) = streams.recv().await {
            tokio::spawn(prove(stream, tls.clone(), control.clone(), connections.clone()));
        }
    });
    accepted
}

/// Drives the shared socket: opens streams that the plugin asks for, and passes on streams that the host opens. Returns
/// when the host is gone.
async fn share(socket: Socket, mut asked: mpsc::Receiver<Open>, opened_by_host: mpsc::UnboundedSender<Box<dyn Io>>) {
    let mut config = yamux::Config::default();
    // The host has streams for each mount. By default, the 513th stream ends the session, and with it the process.
    config.set_max_connection_receive_window(None).set_max_num_streams(STREAMS);
    let mut session = yamux::Connection::new(socket.compat(), config, yamux::Mode::Server);
    let mut waiting: Option<Open> = None;
    poll_fn(|cx| {
        loop {
            if waiting.is_none()
                && let Poll::Ready(Some(open)) = asked.poll_recv(cx)
            {
                waiting = Some(open);
            }
            if let Some(open) = waiting.take() {
                match session.poll_new_outbound(cx) {
                    Poll::Ready(Ok(stream)) => {
                        // If the request was dropped, nobody waits. The stream then closes when it is dropped.
                        let _ = open.send(Box::new(stream.compat()));
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => waiting = Some(open),
                }
            }
            match session.poll_next_inbound(cx) {
                Poll::Ready(Some(Ok(stream))) => {
                    if opened_by_host.send(Box::new(stream.compat())).is_err() {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::broker::{Broker, Route};
    use super::super::mtls::tests::pair;
    use super::*;

    #[tokio::test]
    async fn knocks_go_out_one_at_a_time_and_open_a_stream() {
        let (mtls, acceptor) = pair();
        let (open, asked) = mpsc::channel(1);
        let (broker, mut said) = Broker::new(mtls.connector, Some(open));
        let broker = Arc::new(broker);
        let (near, far) = UnixStream::pair().unwrap();
        let (inbound, _inbound) = mpsc::unbounded_channel();
        tokio::spawn(share(Socket::new(near).unwrap(), asked, inbound));
        let mut session = yamux::Connection::new(far.compat(), yamux::Config::default(), yamux::Mode::Client);
        let (opened, mut streams) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(stream)) = poll_fn(|cx| session.poll_next_inbound(cx)).await {
                opened.send(stream.compat()).unwrap();
            }
        });
        let host = async {
            for _ in 0..2 {
                let mut info = said.recv().await.unwrap();
                assert!(said.try_recv().is_err(), "a second knock before the first was answered");
                let (id, knock) = (info.service_id, info.knock.as_mut().unwrap());
                assert!(knock.knock && !knock.ack);
                knock.ack = true;
                broker.hear(info);
                let mut stream = acceptor.accept(streams.recv().await.unwrap()).await.unwrap();
                stream.write_u32(id).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        };
        let connect = async |id| broker.connect(&Route::Knock(id)).await.unwrap().read_u32().await.unwrap();
        let ((one, two), ()) = join(join(connect(1), connect(2)), host).await;
        assert_eq!((one, two), (1, 2));
    }

    #[tokio::test]
    async fn many_streams_of_the_host_end_nothing() {
        const MANY: usize = 600;
        let (_open, asked) = mpsc::channel(1);
        let (near, far) = UnixStream::pair().unwrap();
        let (inbound, mut streams) = mpsc::unbounded_channel();
        tokio::spawn(share(Socket::new(near).unwrap(), asked, inbound));
        let mut config = yamux::Config::default();
        config.set_max_connection_receive_window(None).set_max_num_streams(2 * MANY);
        let mut session = yamux::Connection::new(far.compat(), config, yamux::Mode::Client);
        let (opened, mut outbound) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut left = MANY;
            poll_fn(|cx| {
                while left > 0 {
                    let Poll::Ready(stream) = session.poll_new_outbound(cx) else { break };
                    let _ = opened.send(stream.unwrap().compat());
                    left -= 1;
                }
                session.poll_next_inbound(cx).map(drop)
            })
            .await;
        });
        let mut open = Vec::new();
        for n in 0..MANY {
            let mut stream = outbound.recv().await.unwrap();
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
            let mut here = streams.recv().await.unwrap_or_else(|| panic!("stream {n} ended the session"));
            // The first data acknowledge the stream. Only so many streams may wait for that.
            here.write_all(b"y").await.unwrap();
            here.flush().await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'y');
            open.push((stream, here));
        }
    }
}
