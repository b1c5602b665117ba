//! A proxy for HTTP and SOCKS5 that records its traffic.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// User and password of the proxies.
pub(super) const LOGIN: &str = "proxy-user:proxy-secret-5812";

/// The login as the value of a header.
pub(super) const BASIC: &str = "Basic cHJveHktdXNlcjpwcm94eS1zZWNyZXQtNTgxMg==";

/// A proxy that forwards HTTP, opens tunnels, and records the data of clients. It resolves every host name to this
/// machine.
#[derive(Clone, Default)]
pub(super) struct Proxy {
    /// The first line of each request. For SOCKS5: `SOCKS`, host and port.
    lines: Arc<Mutex<Vec<String>>>,
    /// All bytes that clients sent.
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Whether the proxy refuses every login.
    refuses: Arc<AtomicBool>,
    /// The address of the listener.
    address: String,
}

impl Proxy {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let proxy = Self { address, ..Self::default() };
        let served = proxy.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let proxy = served.clone();
                // The client may hang up, so errors are ignored.
                std::thread::spawn(move || drop(proxy.serve(stream)));
            }
        });
        proxy
    }

    /// Returns the proxy's URL, with the login.
    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{LOGIN}@{}", self.address)
    }

    /// Returns the first lines so far, and clears them.
    pub(super) fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }

    /// Returns the sent data so far, and clears it.
    pub(super) fn sent(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.bytes.lock().unwrap())).into_owned()
    }

    /// Refuses every login from now on.
    pub(super) fn refuse(&self) {
        self.refuses.store(true, Ordering::SeqCst);
    }

    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        if reader.fill_buf()?.first() == Some(&5) { self.socks(client, reader) } else { self.http(client, reader) }
    }

    fn http(&self, mut client: TcpStream, mut reader: BufReader<TcpStream>) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        self.bytes.lock().unwrap().extend(&head);
        let text = String::from_utf8_lossy(&head).into_owned();
        let (line, headers) = text.split_once("\r\n").expect("a line");
        self.lines.lock().unwrap().push(line.to_owned());
        if self.refuses.load(Ordering::SeqCst) {
            return client.write_all(b"HTTP/1.1 407 Login\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        }
        let known =
            headers.lines().any(|line| line.to_lowercase().starts_with("proxy-authorization") && line.ends_with(BASIC));
        assert!(known, "the proxy got no login: {line}");
        let mut words = line.split(' ');
        let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
        let server = if method == "CONNECT" {
            let server = connect(target)?;
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            server
        } else {
            let (host, path) =
                target.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a whole URL");
            let mut server = connect(host)?;
            // One request for each connection, so that the end of the connection is the end of the response.
            write!(server, "{method} /{path} HTTP/1.1\r\nconnection: close\r\n{headers}")?;
            server
        };
        self.join(client, reader, server)
    }

    /// Handles SOCKS5 (RFC 1928 and 1929).
    fn socks(&self, mut client: TcpStream, mut reader: BufReader<TcpStream>) -> std::io::Result<()> {
        assert_eq!(bytes(&mut reader, 1)?, [5], "another version of SOCKS");
        assert!(counted(&mut reader)?.contains(&2), "the client offers no login");
        client.write_all(&[5, 2])?;
        assert_eq!(bytes(&mut reader, 1)?, [1], "another version of the login");
        let login = [counted(&mut reader)?, counted(&mut reader)?].join(&b':');
        assert!(login == LOGIN.as_bytes(), "the proxy got no login");
        client.write_all(&[1, 0])?;
        assert_eq!(bytes(&mut reader, 4)?, [5, 1, 0, 3], "not a connection to a host name");
        let host = String::from_utf8(counted(&mut reader)?).expect("a host name");
        let port = u16::from_be_bytes(bytes(&mut reader, 2)?.try_into().expect("two bytes"));
        self.lines.lock().unwrap().push(format!("SOCKS {host}:{port}"));
        let server = connect(&format!("{host}:{port}"))?;
        client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
        self.join(client, reader, server)
    }

    /// Copies all data in both directions.
    fn join(&self, client: TcpStream, mut reader: BufReader<TcpStream>, mut server: TcpStream) -> std::io::Result<()> {
        let mut back = (server.try_clone()?, client);
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back.0, &mut back.1);
            back.1.shutdown(Shutdown::Write)
        });
        let mut buffer = [0; 16 << 10];
        loop {
            match reader.read(&mut buffer)? {
                0 => return server.shutdown(Shutdown::Write),
                length => {
                    self.bytes.lock().unwrap().extend(&buffer[..length]);
                    server.write_all(&buffer[..length])?;
                }
            }
        }
    }
}

/// Connects to the port of `host:port` on this machine.
fn connect(target: &str) -> std::io::Result<TcpStream> {
    let (_, port) = target.rsplit_once(':').expect("a port");
    TcpStream::connect(("127.0.0.1", port.parse().expect("a port")))
}

fn bytes(reader: &mut impl Read, count: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads bytes. The first byte is their number.
fn counted(reader: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let count = bytes(reader, 1)?[0];
    bytes(reader, count.into())
}
