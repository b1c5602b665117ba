//! Counts the requests that the host cancels, when the cancellation is written. Later messages arrive after the
//! cancellation. Also cancels a request whose answer has arrived.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::timeout;

use super::process::PATIENCE;

/// Length of the first bytes of an HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Length of a frame's header: length, type, flags and stream (section 4.1).
const HEADER: usize = 9;

/// The types of the frames that begin and cancel a stream (sections 6.2 and 6.4).
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;

/// The number of requests cancelled so far.
#[derive(Clone, Default)]
pub struct Resets {
    count: Arc<watch::Sender<u64>>,
    /// The stream of the latest request, and frames to write before the next frame.
    latest: Arc<Mutex<([u8; 4], Vec<u8>)>>,
}

impl Resets {
    pub fn count(&self) -> u64 {
        *self.count.borrow()
    }

    /// Cancels the latest request, although its answer has arrived. The plugin learns of it before the next request.
    ///
    /// A Go host does this if its caller hangs up while the answer travels. The client of this host never does.
    pub fn cancel_answered(&self) {
        let mut latest = self.latest.lock().unwrap();
        let frame = [&[0, 0, 4, RST_STREAM, 0], &latest.0[..], &8_u32.to_be_bytes()].concat();
        latest.1.extend(frame);
    }

    /// Waits until the number exceeds `count`.
    pub async fn exceed(&self, count: u64) {
        let mut resets = self.count.subscribe();
        let more = timeout(PATIENCE, resets.wait_for(|resets| *resets > count)).await;
        more.expect("no request was given up in time").expect("the sender lives as long as this");
    }
}

/// A connection that reads the headers of the frames that are written.
pub struct Watched<S> {
    stream: S,
    resets: Resets,
    /// How many bytes to skip until the next frame header.
    skip: usize,
    header: Vec<u8>,
}

impl<S> Watched<S> {
    pub fn new(stream: S, resets: Resets) -> Self {
        Self { stream, resets, skip: PREFACE, header: Vec::with_capacity(HEADER) }
    }

    fn look_at(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let (start, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
            self.header.extend_from_slice(start);
            bytes = rest;
            if let [a, b, c, kind, _, stream @ ..] = &self.header[..]
                && let Ok(stream) = <[u8; 4]>::try_from(stream)
            {
                let (a, b, c, kind) = (*a, *b, *c, *kind);
                self.skip = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap();
                self.header.clear();
                if kind == RST_STREAM {
                    self.resets.count.send_modify(|resets| *resets += 1);
                } else if kind == HEADERS {
                    self.resets.latest.lock().unwrap().0 = stream;
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.skip == 0 && self.header.is_empty() {
            let resets = self.resets.clone();
            let frames = &mut resets.latest.lock().unwrap().1;
            while !frames.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, frames))?;
                frames.drain(..written);
            }
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.look_at(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}
