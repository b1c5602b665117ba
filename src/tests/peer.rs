//! A minimal HTTP server whose connections can fail in every way.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The reaction to one request.
#[derive(Clone)]
pub(super) enum Act {
    /// Send this, and keep the connection open.
    Answer(String),
    /// Wait for a permit, use it up, then send this.
    When(Arc<Semaphore>, String),
    /// Send this, then close the connection.
    Close(String),
    /// Break the connection.
    Reset,
    /// Send nothing.
    Hang,
    /// Send one byte of an answer every 100 ms, without end.
    Drip,
    /// Send this list of tokens.
    List(List),
}

/// A list of tokens that is too long to be kept in memory.
#[derive(Clone)]
pub(super) struct List {
    /// How many tokens come before the last one.
    pub(super) tokens: usize,
    /// The last entry and the end of the list.
    pub(super) end: &'static str,
    /// The pause before each thousand tokens.
    pub(super) pause: Duration,
}

/// One request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    /// Number of the connection of the request.
    pub(super) connection: usize,
}

/// The server, which stops when it is dropped.
pub(super) struct Peer {
    pub(super) url: String,
    log: Arc<Mutex<Log>>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Log {
    seen: Vec<Seen>,
    in_flight: usize,
    most: usize,
}

impl Peer {
    /// Starts a server that calls a function for each request, with the number of earlier requests.
    pub(super) async fn start(act: impl Fn(&Seen, usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log: Arc<Mutex<Log>> = Arc::default();
        let (act, shared) = (Arc::new(act), log.clone());
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (connection, _) = listener.accept().await.unwrap();
                let (act, log) = (act.clone(), shared.clone());
                connections.spawn(async move { serve(connection, number, &*act, &log).await });
            }
        });
        Self { url, log, _server: server }
    }

    /// Starts a server with the same reaction to all requests.
    pub(super) async fn always(act: Act) -> Self {
        Self::start(move |_, _| act.clone()).await
    }

    /// The requests so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().seen.clone()
    }

    /// The number of requests with a method.
    pub(super) fn count(&self, method: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == method).count()
    }

    /// The highest number of unanswered requests at any time.
    pub(super) fn most(&self) -> usize {
        self.log.lock().unwrap().most
    }
}

async fn serve(connection: TcpStream, number: usize, act: &(dyn Fn(&Seen, usize) -> Act + Sync), log: &Mutex<Log>) {
    let mut connection = BufReader::new(connection);
    while let Some((method, path)) = request(&mut connection).await {
        let seen = Seen { method, path, connection: number };
        let before = {
            let mut log = log.lock().unwrap();
            log.seen.push(seen.clone());
            log.in_flight += 1;
            log.most = log.most.max(log.in_flight);
            log.seen.len() - 1
        };
        let answer = match act(&seen, before) {
            Act::Answer(text) => text,
            Act::When(gate, text) => {
                gate.acquire().await.unwrap().forget();
                text
            }
            Act::Close(text) => {
                let _ = connection.write_all(text.as_bytes()).await;
                return;
            }
            Act::Reset => return connection.get_ref().set_zero_linger().unwrap(),
            Act::Hang => return std::future::pending().await,
            Act::Drip => return drip(&mut connection).await,
            Act::List(list) => return drop(send(&mut connection, &list).await),
        };
        // A client that reads the answer can send the next request at once.
        log.lock().unwrap().in_flight -= 1;
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Reads a request. Returns `None` if the client has closed the connection.
async fn request(connection: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let mut first = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        match line {
            "" => break,
            _ if first.is_empty() => first = line.to_owned(),
            _ => {}
        }
    }
    connection.read_exact(&mut vec![0; length]).await.ok()?;
    let mut words = first.split(' ').map(str::to_owned);
    words.next().zip(words.next())
}

async fn drip(connection: &mut BufReader<TcpStream>) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{\"id\": \"";
    let mut sent = connection.write_all(head.as_bytes()).await;
    while sent.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        sent = connection.write_all(b"x").await;
    }
}

/// Sends a list of tokens, then closes the connection. Each token takes 240 bytes.
async fn send(connection: &mut BufReader<TcpStream>, list: &List) -> std::io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{\"clients\": [";
    connection.write_all(head.as_bytes()).await?;
    for first in (0..list.tokens).step_by(1000) {
        let tokens = (first..list.tokens.min(first + 1000)).map(|n| {
            format!("{{\"clientId\": \"id{n}\", \"roles\": [\"r\"], \"description\": \"{:164}id={n:07}\"}},\n", "")
        });
        tokio::time::sleep(list.pause).await;
        connection.write_all(tokens.collect::<String>().as_bytes()).await?;
    }
    connection.write_all(list.end.as_bytes()).await
}

/// Returns an answer with a status, headers (each with its line end) and a body.
pub(super) fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Status\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// Returns an answer in JSON.
pub(super) fn json(status: u16, body: &str) -> String {
    answer(status, "content-type: application/json; charset=UTF-8\r\n", body)
}
