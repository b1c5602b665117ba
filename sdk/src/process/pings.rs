//! Holds the answers to the pings with which the host measures its connection.
//!
//! grpc-go sends a ping and a window update after data has arrived, unless such a ping has no answer yet (grpc-go
//! `internal/transport/bdp_estimator.go`). So each call would cost both sides another write, read and wake-up. This
//! module answers such a ping only after [`HOLD`], and until then the host sends no more of them. The host measures for
//! the size of its windows, which it also enlarges as it reads. All other pings are answered at once: those of a graceful
//! stop, and those that check whether the connection is alive.
//!
//! `h2` answers each ping that it sees. So this module takes the pings out of the bytes that arrive.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long an answer is held.
const HOLD: Duration = Duration::from_secs(1);

/// Length of the first bytes of an HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Length of a frame's header (section 4.1).
const HEADER: usize = 9;

/// A ping that measures: the header of a PING frame (section 6.7), then grpc-go's own payload.
const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 2, 4, 16, 16, 9, 14, 7, 7];

/// The answer: the same frame with the flag ACK.
const ANSWER: [u8; 17] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 2, 4, 16, 16, 9, 14, 7, 7];

/// A connection whose answers to measuring pings are held.
pub(crate) struct Pings<S> {
    stream: S,
    incoming: Incoming,
    /// Pings without an answer.
    held: usize,
    /// Ends when the held pings are to be answered.
    hold: Option<Pin<Box<Sleep>>>,
    /// Answers to be written.
    answers: Vec<u8>,
    /// Whether some bytes of the answers are already written. The rest must be written before anything else.
    begun: bool,
}

impl<S> Pings<S> {
    /// Wraps a connection that the host has opened.
    pub(super) fn of_server(stream: S) -> Self {
        Self::new(stream, PREFACE)
    }

    /// Wraps a connection that the plugin has opened.
    pub(crate) fn of_client(stream: S) -> Self {
        Self::new(stream, 0)
    }

    fn new(stream: S, skip: usize) -> Self {
        let incoming = Incoming { skip, header: Vec::with_capacity(HEADER) };
        Self { stream, incoming, held: 0, hold: None, answers: Vec::new(), begun: false }
    }

    /// Looks whether the held pings are to be answered now. Otherwise the task is woken then.
    fn poll_hold(&mut self, cx: &mut Context<'_>) {
        if let Some(hold) = &mut self.hold
            && hold.as_mut().poll(cx).is_ready()
        {
            self.hold = None;
            for _ in 0..std::mem::take(&mut self.held) {
                self.answers.extend_from_slice(&ANSWER);
            }
        }
    }

    fn hold(&mut self, pings: usize) {
        if pings > 0 && self.held == 0 {
            self.hold = Some(Box::pin(sleep(HOLD)));
        }
        self.held += pings;
    }
}

impl<S: AsyncWrite + Unpin> Pings<S> {
    /// Writes the answers. Only whole frames may have been written before.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answers.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.answers))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.answers.drain(..count);
            self.begun = !self.answers.is_empty();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Pings<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let read = Pin::new(&mut self.stream).poll_read(cx, buf)?;
            let arrived = buf.filled().len() - before;
            let (kept, pings) = self.incoming.take_pings(&mut buf.filled_mut()[before..]);
            buf.set_filled(before + kept);
            self.hold(pings);
            if read.is_pending() {
                // The answers are written at the next flush. After each read, `h2` flushes.
                self.poll_hold(cx);
                return Poll::Pending;
            }
            // No bytes would mean that the connection has ended.
            if kept > 0 || arrived == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Pings<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.begun {
            ready!(self.poll_answers(cx))?;
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    /// `h2` flushes only after whole frames.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answers(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Follows the frames that arrive.
struct Incoming {
    /// How many bytes to skip until the next frame.
    skip: usize,
    /// The header of a frame, as far as it has arrived.
    header: Vec<u8>,
}

impl Incoming {
    /// Removes the measuring pings. Returns the number of bytes that are left, and the number of pings. A ping that has
    /// arrived only in part stays, and `h2` answers it at once.
    fn take_pings(&mut self, bytes: &mut [u8]) -> (usize, usize) {
        let (mut from, mut to, mut pings) = (0, 0, 0);
        while from < bytes.len() {
            if self.skip == 0 && self.header.is_empty() && bytes[from..].starts_with(&PING) {
                from += PING.len();
                pings += 1;
                continue;
            }
            let count = self.next(&bytes[from..]);
            bytes.copy_within(from..from + count, to);
            from += count;
            to += count;
        }
        (to, pings)
    }

    /// Returns how many of these bytes, at least one, belong to the current frame or its header.
    fn next(&mut self, bytes: &[u8]) -> usize {
        if self.skip > 0 {
            let count = self.skip.min(bytes.len());
            self.skip -= count;
            return count;
        }
        let count = (HEADER - self.header.len()).min(bytes.len());
        self.header.extend_from_slice(&bytes[..count]);
        if let [a, b, c, _, _, _, _, _, _] = self.header[..] {
            self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
            self.header.clear();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, 0, 0, 0, 0, 0], payload].concat()
    }

    /// Answers of grpc-go to a keepalive, and the first ping of a graceful stop.
    const OTHERS: [[u8; 8]; 3] = [[0; 8], [1, 6, 1, 8, 0, 3, 3, 9], [2, 4, 16, 16, 9, 14, 7, 8]];

    #[test]
    fn only_pings_that_measure_are_taken_out() {
        let mut bytes = vec![b'p'; PREFACE];
        let mut rest = bytes.clone();
        for payload in OTHERS {
            bytes.extend(PING);
            bytes.extend(frame(6, &payload));
            rest.extend(frame(6, &payload));
        }
        // The payload of another frame is no ping, nor is an acknowledgement.
        for other in [frame(0, &PING), ANSWER.to_vec()] {
            bytes.extend(&other);
            rest.extend(&other);
        }
        let mut incoming = Incoming { skip: PREFACE, header: Vec::new() };
        let (kept, pings) = incoming.take_pings(&mut bytes);
        assert_eq!((&bytes[..kept], pings), (&rest[..], 3));
    }

    proptest! {
        /// However the bytes are cut, what is left are the same frames, and only a ping that was cut is left with them.
        #[test]
        fn the_other_frames_are_whole(kinds in prop::collection::vec(0..4_usize, 1..20), cuts in prop::collection::vec(1..40_usize, 1..60)) {
            let frames: Vec<Vec<u8>> = kinds.iter().map(|kind| match kind {
                0 => PING.to_vec(),
                1 => frame(6, &OTHERS[0]),
                2 => frame(0, &[&PING[..], b"data"].concat()),
                _ => frame(8, &[0, 0, 0, 9]),
            }).collect();
            let mut bytes = frames.concat();
            let mut incoming = Incoming { skip: 0, header: Vec::new() };
            let (mut left, mut taken, mut cut) = (Vec::new(), 0, cuts.iter().cycle());
            let mut rest = &mut bytes[..];
            while !rest.is_empty() {
                let (part, after) = rest.split_at_mut(rest.len().min(*cut.next().unwrap()));
                let (kept, pings) = incoming.take_pings(part);
                left.extend_from_slice(&part[..kept]);
                taken += pings;
                rest = after;
            }
            let mut incoming = Incoming { skip: 0, header: Vec::new() };
            let (kept, whole) = incoming.take_pings(&mut left);
            prop_assert_eq!(whole + taken, kinds.iter().filter(|kind| **kind == 0).count());
            let others: Vec<u8> = frames.into_iter().filter(|frame| frame[..] != PING).flatten().collect();
            prop_assert_eq!(&left[..kept], &others[..]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_held_for_a_second_and_all_other_frames_pass() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut pings = Pings::of_client(near);
        let start = Instant::now();
        far.write_all(&[&PING[..], &frame(6, &OTHERS[0])].concat()).await.unwrap();
        let mut read = [0; 17];
        pings.read_exact(&mut read).await.unwrap();
        assert_eq!(&read[..], frame(6, &OTHERS[0]));
        pings.write_all(b"frame").await.unwrap();
        pings.flush().await.unwrap();
        // The connection waits for the next frame, as `h2` does, and flushes whenever it is woken.
        let serving = tokio::spawn(async move {
            std::future::poll_fn(|cx| {
                let mut byte = [0; 1];
                let mut buf = ReadBuf::new(&mut byte);
                let read = Pin::new(&mut pings).poll_read(cx, &mut buf);
                let _ = Pin::new(&mut pings).poll_flush(cx);
                read
            })
            .await
        });
        let mut frame = [0; 5];
        far.read_exact(&mut frame).await.unwrap();
        assert_eq!((&frame, start.elapsed()), (b"frame", Duration::ZERO));
        let mut answer = [0; 17];
        far.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, ANSWER);
        assert!(start.elapsed() >= HOLD && start.elapsed() < 2 * HOLD, "{:?}", start.elapsed());
        drop(far);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_the_peer_takes_in_parts_is_not_mixed_with_a_frame() {
        let (near, mut far) = tokio::io::duplex(10);
        let mut pings = Pings::of_client(near);
        pings.answers = [ANSWER, ANSWER].concat();
        assert!(futures_util::poll!(Box::pin(pings.flush())).is_pending());
        let writing = tokio::spawn(async move { pings.write_all(b"frame").await.map(|()| pings) });
        let mut read = vec![0; 2 * ANSWER.len() + 5];
        far.read_exact(&mut read).await.unwrap();
        assert_eq!(read, [&ANSWER[..], &ANSWER, b"frame"].concat());
        writing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_read_of_nothing_but_a_ping_is_no_end() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut pings = Pings::of_client(near);
        far.write_all(&PING).await.unwrap();
        let mut bytes = [0; 64];
        assert!(futures_util::poll!(Box::pin(pings.read(&mut bytes))).is_pending());
        far.write_all(b"x").await.unwrap();
        assert_eq!(pings.read(&mut bytes).await.unwrap(), 1);
        drop(far);
        assert_eq!(pings.read(&mut bytes).await.unwrap(), 0);
    }
}
