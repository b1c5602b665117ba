//! Measures a connection as grpc-go does (`internal/transport/bdp_estimator.go`): after data from the plugin, the host sends
//! a window update and a ping, unless such a ping has no answer yet. The client and the server of tonic send neither, so
//! this module adds the frames.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Length of the first bytes of an HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// The types of frames that matter here (sections 6.1 and 6.7).
const DATA: u8 = 0;
const PING: u8 = 6;

/// The payload of a ping that measures.
pub const PAYLOAD: [u8; 8] = [2, 4, 16, 16, 9, 14, 7, 7];

/// The window of a measured connection, in bytes. The connection of the host does not know of the added window updates, so
/// the plugin can send more than it allows. It must never come near the end of this window.
pub const WINDOW: u32 = 1 << 30;

/// The pings of a connection, or of all connections to one broker id.
#[derive(Clone, Default)]
pub struct Pings(Arc<Mutex<Counts>>);

/// Numbers of pings so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub sent: u64,
    pub answered: u64,
    /// The longest time until an answer.
    pub longest: Duration,
}

impl Pings {
    pub fn counts(&self) -> Counts {
        *self.0.lock().unwrap()
    }
}

/// A connection that is measured.
pub struct Measured<S> {
    stream: S,
    pings: Pings,
    /// When the ping without an answer was sent.
    pending: Option<Instant>,
    incoming: Frames,
    outgoing: Frames,
    /// Bytes of data since the last window update.
    data: u32,
    /// Frames to be written between two frames of the host.
    added: Vec<u8>,
    /// Whether some bytes of `added` are already written.
    begun: bool,
}

impl<S> Measured<S> {
    /// Wraps a connection that the host has opened.
    pub fn of_client(stream: S, pings: Pings) -> Self {
        Self::new(stream, pings, 0, PREFACE)
    }

    /// Wraps a connection that the plugin has opened.
    pub fn of_server(stream: S, pings: Pings) -> Self {
        Self::new(stream, pings, PREFACE, 0)
    }

    fn new(stream: S, pings: Pings, incoming: usize, outgoing: usize) -> Self {
        let (incoming, outgoing) = (Frames::after(incoming), Frames::after(outgoing));
        Self { stream, pings, pending: None, incoming, outgoing, data: 0, added: Vec::new(), begun: false }
    }

    fn read(&mut self, bytes: &[u8]) {
        for Frame { kind, acknowledges, length, payload } in self.incoming.follow(bytes) {
            if kind == PING && acknowledges && payload == PAYLOAD {
                let sent = self.pending.take().expect("the plugin has answered a ping that was not sent");
                let mut counts = self.pings.0.lock().unwrap();
                counts.answered += 1;
                counts.longest = counts.longest.max(sent.elapsed());
            }
            if kind != DATA || length == 0 {
                continue;
            }
            self.data += length;
            if self.pending.is_none() {
                self.pending = Some(Instant::now());
                self.pings.0.lock().unwrap().sent += 1;
                self.added.extend([0, 0, 4, 8, 0, 0, 0, 0, 0]);
                self.added.extend(self.data.to_be_bytes());
                self.added.extend([0, 0, 8, PING, 0, 0, 0, 0, 0]);
                self.added.extend(PAYLOAD);
                self.data = 0;
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Measured<S> {
    fn poll_added(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.added.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.added))?;
            self.added.drain(..written);
            self.begun = !self.added.is_empty();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Measured<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.read(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Measured<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.begun || self.outgoing.is_between() {
            ready!(self.poll_added(cx))?;
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.outgoing.follow(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    /// `h2` flushes after each read, and only between two frames.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.begun || self.outgoing.is_between() {
            ready!(self.poll_added(cx))?;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A frame that has arrived.
struct Frame {
    kind: u8,
    acknowledges: bool,
    length: u32,
    /// The payload of a ping. Other frames have none here.
    payload: Vec<u8>,
}

/// Follows the frames in one direction.
struct Frames {
    /// How many bytes to skip until the next frame.
    skip: usize,
    /// The bytes of a header, and of the payload of a ping, as far as they have arrived.
    begun: Vec<u8>,
}

impl Frames {
    fn after(skip: usize) -> Self {
        Self { skip, begun: Vec::new() }
    }

    /// Whether the last frame is complete and the next one has not begun.
    fn is_between(&self) -> bool {
        self.skip == 0 && self.begun.is_empty()
    }

    /// Reads bytes, and returns the frames whose header is complete. A ping is complete with its payload.
    fn follow(&mut self, mut bytes: &[u8]) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.begun.push(bytes[0]);
            bytes = &bytes[1..];
            let [a, b, c, kind, flags, _, _, _, _, payload @ ..] = &self.begun[..] else { continue };
            let length = u32::from_be_bytes([0, *a, *b, *c]);
            if *kind == PING && payload.len() < PAYLOAD.len() {
                continue;
            }
            self.skip = if *kind == PING { 0 } else { length as usize };
            frames.push(Frame { kind: *kind, acknowledges: flags & 1 == 1, length, payload: payload.to_vec() });
            self.begun.clear();
        }
        frames
    }
}
