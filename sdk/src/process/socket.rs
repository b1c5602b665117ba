//! A connected unix socket that wakes its task only for events that the task waits for.
//!
//! tokio's own socket registers for both directions from the start. So each read of the peer wakes the plugin to report
//! that the socket is writable, although it nearly always is. These were half of all wake-ups.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// The socket.
pub(super) struct Socket {
    stream: AsyncFd<UnixStream>,
    /// Set while the socket is full. Reports when the socket is writable again.
    full: Option<AsyncFd<UnixStream>>,
}

impl Socket {
    /// Takes over a socket of tokio's.
    ///
    /// # Errors
    /// If the socket cannot be registered again.
    pub(super) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Ok(Self { stream: register(stream.into_std()?, Interest::READABLE)?, full: None })
    }

    fn poll_io(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(full) = &self.full {
                ready!(full.poll_write_ready(cx))?.clear_ready();
            }
            match write(self.stream.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.full.is_none() {
                        let socket = self.stream.get_ref().try_clone()?;
                        self.full = Some(register(socket, Interest::WRITABLE)?);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => {
                    self.full = None;
                    return Poll::Ready(written);
                }
            }
        }
    }
}

#[expect(deprecated, reason = "what succeeds it is unsafe, for types that do not own what they name; this one does")]
fn register(stream: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    AsyncFd::with_interest(stream, interest)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            let size = room.len();
            match ready.try_io(|stream| stream.get_ref().read(room)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => {
                    let read = read?;
                    // If the read did not fill the buffer, no data is left. The kernel reports new data (epoll(7),
                    // question 9).
                    if read > 0 && read < size {
                        ready.clear_ready();
                    }
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // The socket was not readable after all.
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |mut stream| stream.write(buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |mut stream| stream.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.stream.get_ref().shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (Socket, Socket) {
        let (one, two) = tokio::net::UnixStream::pair().unwrap();
        (Socket::new(one).unwrap(), Socket::new(two).unwrap())
    }

    #[tokio::test]
    async fn more_than_the_socket_holds_arrives_whole_both_ways() {
        let (mut near, far) = pair();
        let sent: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut read, mut write) = tokio::io::split(far);
        let echo = tokio::spawn(async move {
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut back = Vec::new();
        let (mut read, mut write) = tokio::io::split(&mut near);
        let write = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, count) = tokio::join!(write, read.read_to_end(&mut back));
        echo.await.unwrap();
        assert_eq!(count.unwrap(), sent.len());
        assert!(back == sent);
        assert!(near.full.is_none(), "still waits to write");
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_an_end_or_an_error() {
        let (mut near, far) = pair();
        drop(far);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
