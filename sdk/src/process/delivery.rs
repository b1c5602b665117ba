//! Notices that the host drops an answer.
//!
//! A caller can hang up while the answer travels. The host then drops the answer and resets the stream, although the
//! plugin has already ended the stream. `h2` ignores such a reset. This module therefore reads the headers of the frames
//! that arrive. A host that has read the end of an answer never resets the stream.
//!
//! Architecture invariant: knows nothing of the messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Length of the first bytes of an HTTP/2 client (RFC 9113, section 3.4).
const PREFACE: usize = 24;

/// Length of a frame's header: length, type, flags and stream (section 4.1).
const HEADER: usize = 9;

/// The type of the frames read here (section 6.4).
const RST_STREAM: u8 = 3;

/// The error code of a reset whose caller has hung up (section 7).
const CANCEL: [u8; 4] = 8_u32.to_be_bytes();

/// How many resets before the answer are kept.
const RESETS: usize = 256;

/// How long after its answer a reset counts. It arrives within milliseconds, unless the host is stopped.
pub(crate) const WINDOW: Duration = Duration::from_secs(5);

/// Reads the frames of one connection.
pub(crate) struct Frames {
    streams: Streams,
    /// How many bytes to skip until the next frame.
    skip: usize,
    /// The header of a frame and the kept bytes of its payload, as far as they have arrived.
    frame: Vec<u8>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self { streams: Streams::default(), skip: PREFACE, frame: Vec::with_capacity(HEADER + CANCEL.len()) }
    }

    /// Returns the streams of the connection.
    pub(crate) fn streams(&self) -> Streams {
        self.streams.clone()
    }

    /// Reads bytes that have arrived.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let missing = HEADER + self.layout().map_or(0, |(kept, _)| kept) - self.frame.len();
            let (taken, rest) = bytes.split_at(missing.min(bytes.len()));
            self.frame.extend_from_slice(taken);
            bytes = rest;
            if let Some((kept, skipped)) = self.layout()
                && self.frame.len() == HEADER + kept
            {
                self.end_frame();
                self.skip = skipped;
                self.frame.clear();
            }
        }
    }

    /// Returns how many bytes of the payload to keep, and how many to skip. `None` before the header is complete.
    fn layout(&self) -> Option<(usize, usize)> {
        let [a, b, c, kind, _, _, _, _, _, ..] = self.frame[..] else { return None };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let kept = match kind {
            RST_STREAM => length.min(CANCEL.len()),
            _ => 0,
        };
        Some((kept, length - kept))
    }

    fn end_frame(&self) {
        let [_, _, _, RST_STREAM, _, a, b, c, d, ref payload @ ..] = self.frame[..] else { return };
        if *payload == CANCEL {
            self.streams.reset(u32::from_be_bytes([a, b, c, d]) & (u32::MAX >> 1));
        }
    }
}

/// The streams of one connection. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The latest streams that were reset before their answer. Their handlers may still return an answer.
    reset: VecDeque<u32>,
    /// The answered streams, the oldest first.
    answered: VecDeque<Answered>,
}

struct Answered {
    stream: u32,
    at: Instant,
    undo: Box<dyn FnOnce() + Send>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset(&self, stream: u32) {
        let mut state = self.lock();
        state.forget_old();
        let Some(position) = state.answered.iter().position(|answered| answered.stream == stream) else {
            if state.reset.len() == RESETS {
                state.reset.pop_front();
            }
            return state.reset.push_back(stream);
        };
        let answered = state.answered.remove(position);
        drop(state);
        if let Some(answered) = answered {
            (answered.undo)();
        }
    }

    /// Returns the stream with this number.
    pub(crate) fn stream(&self, id: u32) -> Stream {
        Stream { id, streams: self.clone() }
    }
}

impl State {
    fn forget_old(&mut self) {
        while self.answered.front().is_some_and(|answered| answered.at.elapsed() > WINDOW) {
            self.answered.pop_front();
        }
    }
}

/// The stream of one request.
pub(crate) struct Stream {
    id: u32,
    streams: Streams,
}

impl Stream {
    /// Runs `undo` if the host drops the answer, which is sent after this call.
    pub(crate) fn if_dropped(self, undo: impl FnOnce() + Send + 'static) {
        let mut state = self.streams.lock();
        state.forget_old();
        if state.reset.contains(&self.id) {
            drop(state);
            return undo();
        }
        state.answered.push_back(Answered { stream: self.id, at: Instant::now(), undo: Box::new(undo) });
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Returns a frame of a stream.
    pub(crate) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, 0], &stream.to_be_bytes(), payload].concat()
    }

    /// Returns a frame with a part of a message, which looks like a reset.
    fn data(stream: u32) -> Vec<u8> {
        frame(0, stream, &cancel(stream).repeat(30))
    }

    fn cancel(stream: u32) -> Vec<u8> {
        frame(RST_STREAM, stream, &CANCEL)
    }

    /// Returns a connection that has read its preface.
    pub(crate) fn connection() -> Frames {
        let mut frames = Frames::new();
        frames.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frames
    }

    /// Answers this stream. Returns how often the answer was undone.
    fn answer(frames: &Frames, stream: u32) -> Arc<AtomicUsize> {
        let undone = Arc::new(AtomicUsize::new(0));
        let counter = undone.clone();
        frames.streams().stream(stream).if_dropped(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        undone
    }

    fn count(undone: &AtomicUsize) -> usize {
        undone.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn a_reset_undoes_the_answer_of_its_stream_once() {
        let mut frames = connection();
        frames.read(&[data(1), data(3)].concat());
        let (first, second) = (answer(&frames, 1), answer(&frames, 3));
        frames.read(&[cancel(3), cancel(3), cancel(5)].concat());
        assert_eq!((count(&first), count(&second)), (0, 1));
    }

    #[tokio::test]
    async fn a_reset_before_the_answer_undoes_it_too() {
        let mut frames = connection();
        frames.read(&[data(1), cancel(1)].concat());
        assert_eq!(count(&answer(&frames, 1)), 1);
    }

    #[tokio::test]
    async fn frames_are_read_in_parts_of_any_size() {
        let headers = frame(1, 1, &[7; 90]);
        // A window update, and an empty frame.
        let rest = [frame(8, 0, &[0, 0, 0, 9]), frame(0, 1, b"")].concat();
        let (before, after) = ([headers, data(1), rest].concat(), cancel(1));
        for size in 1..=before.len() {
            let mut frames = connection();
            let undone = answer(&frames, 1);
            before.chunks(size).for_each(|part| frames.read(part));
            assert_eq!(count(&undone), 0, "{size}");
            after.chunks(size).for_each(|part| frames.read(part));
            assert_eq!(count(&undone), 1, "{size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_and_late_resets_undo_nothing() {
        let mut frames = connection();
        let undone = answer(&frames, 1);
        frames.read(&frame(RST_STREAM, 1, &[0, 0, 0, 0]));
        tokio::time::advance(WINDOW + Duration::from_millis(1)).await;
        frames.read(&cancel(1));
        assert_eq!(count(&undone), 0);
        assert_eq!(Arc::strong_count(&undone), 1, "the undo is dropped when it cannot run any more");
    }

    #[tokio::test]
    async fn nothing_is_kept_without_limit() {
        let mut frames = connection();
        for stream in 0..10_000 {
            frames.read(&[data(2 * stream + 1), cancel(2 * stream + 1)].concat());
        }
        assert_eq!(frames.streams().lock().reset.len(), RESETS);
    }
}
