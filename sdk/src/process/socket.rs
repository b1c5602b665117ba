//! A connected unix socket that wakes its task only for events that the task waits for.
//!
//! tokio's own socket registers for both directions from the start. So each read of the peer wakes the plugin to report
//! that the socket is writable, although it nearly always is. These were half of all wake-ups.
//!
//! The socket also reads ahead: rustls asks for 4 KiB at a time and has no setting for that, so a large message would take
//! hundreds of system calls.

use std::cell::RefCell;
use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// How many bytes are read ahead at most. A TLS record has up to 16 KiB.
const AHEAD: usize = 64 * 1024;

thread_local! {
    /// The destination of a read beyond the bytes that were asked for. All sockets of a thread share it, since most reads
    /// do not need it.
    static BEYOND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The socket.
pub(super) struct Socket {
    stream: AsyncFd<UnixStream>,
    /// Bytes that were read ahead. The buffer is freed once all are taken.
    ahead: Bytes,
    /// Whether the last read filled its buffer. If it did, the next read also fills `ahead`.
    is_flooded: bool,
    /// Set while the socket is full. Reports when the socket is writable again.
    full: Option<AsyncFd<UnixStream>>,
}

impl Socket {
    /// Takes over a socket of tokio's.
    ///
    /// # Errors
    /// If the socket cannot be registered again.
    pub(super) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: register(stream.into_std()?, Interest::READABLE)?,
            ahead: Bytes::new(),
            is_flooded: false,
            full: None,
        })
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

/// Reads into `room`, and beyond it. Returns the number of bytes, and the bytes beyond.
fn read_ahead(mut stream: &UnixStream, room: &mut [u8]) -> io::Result<(usize, Bytes)> {
    BEYOND.with_borrow_mut(|beyond| {
        beyond.resize(AHEAD, 0);
        let size = room.len();
        let read = stream.read_vectored(&mut [IoSliceMut::new(room), IoSliceMut::new(beyond)])?;
        Ok((read, Bytes::copy_from_slice(&beyond[..read.saturating_sub(size)])))
    })
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.ahead.is_empty() {
            buf.put_slice(&this.ahead.split_to(this.ahead.len().min(buf.remaining())));
            if this.ahead.is_empty() {
                this.ahead = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        loop {
            let mut ready = ready!(this.stream.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            let size = room.len();
            let is_flooded = this.is_flooded;
            let asked = if is_flooded { size + AHEAD } else { size };
            let read = ready.try_io(|stream| {
                let mut stream = stream.get_ref();
                if is_flooded { read_ahead(stream, room) } else { Ok((stream.read(room)?, Bytes::new())) }
            });
            match read {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => {
                    let (read, ahead) = read?;
                    // If the read did not fill its buffers, no data is left. The kernel reports new data (epoll(7),
                    // question 9).
                    if read > 0 && read < asked {
                        ready.clear_ready();
                    }
                    this.is_flooded = read >= size;
                    this.ahead = ahead;
                    buf.advance(read.min(size));
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
    async fn a_large_message_is_read_by_few_calls() {
        let (mut near, mut far) = pair();
        let sent: Vec<u8> = (0..50_000_u32).map(|n| (n % 251) as u8).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut read = vec![0; 4096];
        near.read_exact(&mut read[..2048]).await.unwrap();
        assert!(near.ahead.is_empty(), "a short message is not read ahead");
        near.read_exact(&mut read[2048..]).await.unwrap();
        assert_eq!(near.ahead.len(), sent.len() - read.len(), "the second call has read the rest");
        near.read_to_end(&mut read).await.unwrap();
        assert!(read == sent);
        assert!(near.ahead.is_empty());
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_an_end_or_an_error() {
        let (mut near, far) = pair();
        drop(far);
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(near.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
