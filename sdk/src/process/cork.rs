//! Collects writes to a connection, so that one system call and one TLS record carry many writes.
//!
//! HTTP/2 flushes after each burst of frames. Without this module, a window update or the answer to a ping leaves just
//! before the answer to the request that came with it. That doubles the system calls, the records and the host's wake-ups.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Upper limit of the buffer: a full frame with its header. More data is worth a separate system call.
const LIMIT: usize = 16 * 1024 + 9;

/// A stream that delays the first flush of a burst until all ready tasks have run.
pub(super) struct Cork<S> {
    stream: S,
    /// The buffer. Bytes before `written` are already written.
    gathered: Vec<u8>,
    written: usize,
    /// Whether the flush of this burst has waited.
    waited: bool,
}

impl<S: AsyncWrite + Unpin> Cork<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, gathered: Vec::new(), written: 0, waited: false }
    }

    /// Writes the buffer.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.gathered.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.gathered.len() + buf.len() > LIMIT {
            ready!(self.poll_drain(cx))?;
            if buf.len() >= LIMIT {
                return Pin::new(&mut self.stream).poll_write(cx, buf);
            }
        }
        self.gathered.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.gathered.is_empty() && !self.waited {
            self.waited = true;
            // Queues this task behind the ready tasks, such as the handler of a request that was just read.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.waited = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Counts the writes.
    struct Counting<S>(S, &'static AtomicUsize);

    impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let written = Pin::new(&mut self.0).poll_write(cx, buf);
            if written.is_ready() {
                self.1.fetch_add(1, Ordering::SeqCst);
            }
            written
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn what_is_written_before_the_flush_is_through_goes_out_at_once() {
        static WRITES: AtomicUsize = AtomicUsize::new(0);
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut cork = Cork::new(Counting(near, &WRITES));
        cork.write_all(b"pong ").await.unwrap();
        let flushed = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut cork).poll_flush(cx))).await;
        assert!(flushed.is_pending(), "the flush did not wait");
        cork.write_all(b"answer").await.unwrap();
        assert_eq!(WRITES.load(Ordering::SeqCst), 0);
        cork.flush().await.unwrap();
        assert_eq!(WRITES.load(Ordering::SeqCst), 1);
        let mut read = [0; 11];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"pong answer");
    }

    #[tokio::test]
    async fn any_sizes_arrive_in_order_through_a_slow_pipe() {
        static WRITES: AtomicUsize = AtomicUsize::new(0);
        let (near, mut far) = tokio::io::duplex(1000);
        let sizes = [1, LIMIT - 1, 1, LIMIT, 7, 3 * LIMIT, 0, LIMIT + 1, 17];
        let sent: Vec<u8> = (0..sizes.iter().sum::<usize>()).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writing = tokio::spawn(async move {
            let mut cork = Cork::new(Counting(near, &WRITES));
            let mut rest = &sent[..];
            for size in sizes {
                let (part, after) = rest.split_at(size);
                cork.write_all(part).await.unwrap();
                cork.flush().await.unwrap();
                rest = after;
            }
            cork.write_all(b"last, not flushed").await.unwrap();
            cork.shutdown().await.unwrap();
        });
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        writing.await.unwrap();
        assert!(read == [&expected[..], b"last, not flushed"].concat());
    }
}
