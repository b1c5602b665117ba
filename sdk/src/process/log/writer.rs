//! Writes log lines to stderr.
//!
//! A host that does not read its pipe must not stop a request. So a line is written at once only if writing cannot
//! block. Otherwise the line waits in a bounded queue for a thread that may block. If the queue is full, the line is
//! dropped and counted.
//!
//! A line is not kept back until the answer of its request has left. Otherwise the server could have an answer, such as a
//! new token, without its line, if the process is killed in between. A write takes less than 10 µs.

use std::io::Write;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::Level;

use super::line::{Line, Origin, render};

/// How many bytes can wait in the queue.
const QUEUE: usize = 1 << 20;

/// Longest line that a pipe accepts as a whole if the pipe is writable (POSIX `PIPE_BUF` on Linux).
const AT_ONCE: usize = 4096;

/// How long the process waits for the last lines before it ends.
const FLUSH: Duration = Duration::from_millis(500);

/// The destination of lines.
pub(super) trait Output: Write + Send + 'static {
    /// Whether writing a line of up to 4096 bytes cannot block.
    fn is_ready(&self) -> bool;
}

impl Output for std::io::Stderr {
    fn is_ready(&self) -> bool {
        is_ready(self)
    }
}

fn is_ready(output: &impl AsFd) -> bool {
    let mut output = [PollFd::new(output, PollFlags::OUT)];
    matches!(poll(&mut output, Some(&Timespec::default())), Ok(1)) && output[0].revents() == PollFlags::OUT
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Writes lines to the output. Clones share the queue.
#[derive(Clone)]
pub(super) struct Writer {
    output: Arc<Mutex<dyn Output>>,
    queue: Sender<Message>,
    /// Bytes in the queue or being written from it. While there are any, a new line must not overtake them.
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread. If the system cannot start a thread, only log lines are lost.
    pub(super) fn start(output: impl Output) -> Self {
        let (queue, lines) = channel();
        let output = Arc::new(Mutex::new(output));
        let writer = Self { output, queue, waiting: Arc::default(), dropped: Arc::default() };
        let (output, waiting, dropped) = (writer.output.clone(), writer.waiting.clone(), writer.dropped.clone());
        let _ = thread::Builder::new().name("log".into()).spawn(move || write(&output, &lines, &waiting, &dropped));
        writer
    }

    /// Writes a line, queues it, or drops it.
    pub(super) fn line(&self, line: &[u8]) {
        if self.write_at_once(line) {
            return;
        }
        let size = line.len();
        let waiting = self.waiting.fetch_add(size, Ordering::AcqRel) + size;
        if waiting > QUEUE || self.queue.send(Message::Line(line.to_vec())).is_err() {
            self.waiting.fetch_sub(size, Ordering::AcqRel);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes a line if the write does not block and does not overtake another line.
    fn write_at_once(&self, line: &[u8]) -> bool {
        let mut output = match self.output.try_lock() {
            Ok(output) => output,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if line.len() > AT_ONCE || self.waiting.load(Ordering::Acquire) > 0 || !output.is_ready() {
            return false;
        }
        let _ = output.write_all(line);
        true
    }

    /// Waits a short time until the queued lines are written.
    pub(super) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

/// Ignores write errors: if the host is gone, there is nobody to report them to.
fn write(output: &Mutex<dyn Output>, lines: &Receiver<Message>, waiting: &AtomicUsize, dropped: &AtomicU64) {
    for message in lines {
        let mut output: MutexGuard<'_, dyn Output> = output.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Message::Line(line) => {
                let _ = output.write_all(&line);
                waiting.fetch_sub(line.len(), Ordering::AcqRel);
            }
            Message::Flush(done) => {
                let _ = output.flush();
                let _ = done.try_send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let origin = Origin { level: Level::WARN, time: Timestamp::now(), module: "log" };
            let fields = |line: &mut Line| {
                line.message(format_args!("dropped log lines, because the host did not read them in time"));
                line.field("dropped", format_args!("{lost}"));
            };
            render(origin, &[], fields, |line| {
                let _ = output.write_all(line);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Output that passes on one line for each permit.
    struct Gate(Receiver<()>, Sender<String>);

    impl Output for Gate {
        fn is_ready(&self) -> bool {
            false
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocked_output_drops_lines_and_says_so() {
        let ((permit, gate), (passed, lines)) = (channel(), channel());
        let writer = Writer::start(Gate(gate, passed));
        const LINE: usize = 8192;
        for n in 0..QUEUE / LINE + 100 {
            writer.line(format!("{n:<width$}\n", width = LINE - 1).as_bytes());
        }
        drop(permit);
        let lines: Vec<String> =
            (0..=QUEUE / LINE).map(|_| lines.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        assert_eq!(lines[0].trim_end(), "0");
        let warning: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!(warning["dropped"], "100");
    }

    #[test]
    fn a_flush_waits_for_the_lines_of_a_full_queue() {
        let ((permit, gate), (passed, lines)) = (channel(), channel());
        let writer = Writer::start(Gate(gate, passed));
        let count = QUEUE / 4096;
        (0..count).for_each(|_| writer.line(&[b'x'; 4096]));
        let flushing = thread::spawn(move || writer.flush());
        (0..count).for_each(|_| permit.send(()).unwrap());
        flushing.join().unwrap();
        assert_eq!(lines.try_iter().count(), count);
    }

    /// A pipe, as stderr is one in production.
    struct Pipe(std::io::PipeWriter);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Output for Pipe {
        fn is_ready(&self) -> bool {
            is_ready(&self.0)
        }
    }

    #[test]
    fn a_line_is_in_the_pipe_before_its_caller_goes_on() {
        use std::io::Read as _;

        let (mut read, write) = std::io::pipe().unwrap();
        let writer = Writer::start(Pipe(write));
        for n in 0..100 {
            let line = format!("{n:03}\n");
            writer.line(line.as_bytes());
            assert!(poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&Timespec::default())) == Ok(1), "{line}");
            let mut written = [0; 4];
            read.read_exact(&mut written).unwrap();
            assert_eq!(written, line.as_bytes());
        }
    }

    #[test]
    fn lines_of_all_threads_pass_a_slow_pipe_whole_and_in_order() {
        use std::io::{BufRead as _, BufReader};

        const LINES: usize = 2000;
        let (read, write) = std::io::pipe().unwrap();
        let writer = Writer::start(Pipe(write));
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let writer = writer.clone();
                std::thread::spawn(move || {
                    for n in 0..LINES / 4 {
                        // Some lines are too long to be written at once. A full queue would drop lines.
                        let text = "x".repeat(if n % 50 == 0 { 9000 } else { n % 300 });
                        while writer.waiting.load(Ordering::Acquire) > QUEUE / 2 {
                            std::thread::yield_now();
                        }
                        writer.line(format!("{thread} {n} {text}\n").as_bytes());
                    }
                })
            })
            .collect();
        let mut next = [0; 4];
        let mut lines = BufReader::new(read).lines();
        for _ in 0..LINES {
            let line = lines.next().unwrap().unwrap();
            let words: Vec<&str> = line.split(' ').collect();
            let (thread, n): (usize, usize) = (words[0].parse().unwrap(), words[1].parse().unwrap());
            assert_eq!(n, next[thread], "lines of one thread out of order");
            assert_eq!(words[2].len(), if n % 50 == 0 { 9000 } else { n % 300 });
            next[thread] += 1;
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(next, [LINES / 4; 4]);
    }

    #[test]
    fn a_full_pipe_is_not_ready_and_stops_no_caller() {
        let (read, write) = std::io::pipe().unwrap();
        let writer = Writer::start(Pipe(write));
        for _ in 0..((1 << 20) + QUEUE) / AT_ONCE + 10 {
            writer.line(&[b'x'; AT_ONCE]);
        }
        assert!(writer.dropped.load(Ordering::Relaxed) > 0);
        drop(read);
    }

    #[test]
    fn broken_output_is_ignored() {
        struct Broken;
        impl Output for Broken {
            fn is_ready(&self) -> bool {
                true
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        let writer = Writer::start(Broken);
        writer.line(b"lost");
        writer.flush();
        writer.line(b"lost");
        writer.flush();
    }
}
