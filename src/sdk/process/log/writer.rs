//! The thread that writes log lines to stderr.
//!
//! A host that does not read its pipe must not stop a request, so lines wait in a bounded queue, and what finds it full
//! is dropped and counted.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tracing::Level;

use super::line::{Record, render};

/// Lines that wait at most.
const QUEUE: usize = 512;

/// How long the end of the process waits for the last lines.
const FLUSH: Duration = Duration::from_millis(500);

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The queue to the writing thread.
#[derive(Clone)]
pub(super) struct Writer {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread. Lines are lost, and nothing else, if the system has no thread to give.
    pub(super) fn start(output: impl Write + Send + 'static) -> Self {
        let (queue, lines) = sync_channel(QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let count = dropped.clone();
        let _ = thread::Builder::new().name("log".into()).spawn(move || write(output, &lines, &count));
        Self { queue, dropped }
    }

    /// Queues a line, or drops it.
    pub(super) fn line(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the lines queued so far are written, but not for long.
    pub(super) fn flush(&self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH);
        }
    }
}

/// Errors of writing are ignored: when the host is gone there is nobody to tell.
fn write(mut output: impl Write, lines: &Receiver<Message>, dropped: &AtomicU64) {
    for message in lines {
        match message {
            Message::Line(line) => {
                let _ = output.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = output.flush();
                let _ = done.try_send(());
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let lost = lost.to_string();
            let record = Record {
                level: Level::WARN,
                time: Timestamp::now(),
                module: "log",
                message: "dropped log lines, because the host did not read them in time",
                fields: vec![("dropped", &lost)],
            };
            let _ = output.write_all(&render(&record, &[]));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Output that lets through one line for each permit, and passes it on.
    struct Gate(Receiver<()>, Sender<String>);

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
        for n in 0..QUEUE + 100 {
            writer.line(format!("{n}\n").into_bytes());
        }
        drop(permit);
        let lines: Vec<String> = (0..QUEUE + 1).map(|_| lines.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        assert_eq!(lines[0], "0\n");
        let warning: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
        let dropped: u64 = warning["dropped"].as_str().unwrap().parse().unwrap();
        // The thread may have taken the first line out of the queue before it was blocked.
        assert!(dropped == 99 || dropped == 100, "{dropped}");
    }

    #[test]
    fn broken_output_is_ignored() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        let writer = Writer::start(Broken);
        writer.line(b"lost".to_vec());
        writer.flush();
        writer.line(b"lost".to_vec());
        writer.flush();
    }
}
