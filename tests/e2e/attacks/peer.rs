//! A hostile peer in place of Astra.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A listener that handles each connection with its own function, until the tests end.
pub(super) struct Peer {
    pub(super) url: String,
    connections: Arc<AtomicU64>,
}

impl Peer {
    /// Starts a peer that calls `answer` after each request.
    pub(super) fn start(answer: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let connections = Arc::new(AtomicU64::new(0));
        let (count, answer) = (Arc::clone(&connections), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || serve(stream, &*answer));
            }
        });
        Self { url, connections }
    }

    /// Starts a peer that sends the same answer to every client, and then closes the connection.
    pub(super) fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |stream| stream.write_all(&answer))
    }

    /// Starts a peer that sends `start`, and then sends `more` until the client hangs up.
    pub(super) fn never_ending(start: &'static str, more: &'static str) -> Self {
        Self::start(move |stream| {
            stream.write_all(start.as_bytes())?;
            let more = more.repeat(1 + (16 << 10) / more.len());
            loop {
                stream.write_all(more.as_bytes())?;
            }
        })
    }

    /// Returns the number of connections so far.
    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads a request and answers. Ignores errors, because the client may hang up.
fn serve(mut stream: TcpStream, answer: &dyn Fn(&mut TcpStream) -> std::io::Result<()>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let _ = stream.read_exact(&mut vec![0; length.unwrap_or(0)]);
    // If unread data is left when a socket is closed, the kernel discards the sent data.
    let _ = answer(&mut stream).and_then(|()| stream.shutdown(Shutdown::Write));
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}
