//! The proxies that the server's environment names.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::astra::{Astra, Builder, Certificate};
use crate::bao::{Options, Server};
use crate::world::{Token, World};

/// User and password of the proxies.
const LOGIN: &str = "proxy-user:proxy-secret-5812";

/// The same in a header.
const BASIC: &str = "Basic cHJveHktdXNlcjpwcm94eS1zZWNyZXQtNTgxMg==";

/// A proxy that forwards HTTP, makes tunnels, and keeps what clients send.
#[derive(Clone, Default)]
struct Proxy {
    /// The first line of each request.
    lines: Arc<Mutex<Vec<String>>>,
    /// All that clients sent.
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Whether it asks everybody for a login.
    refuses: Arc<AtomicBool>,
}

impl Proxy {
    /// Starts one, and returns its URL as well.
    fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let proxy = Self::default();
        let served = proxy.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let proxy = served.clone();
                // Whoever hangs up is let go.
                std::thread::spawn(move || drop(proxy.serve(stream)));
            }
        });
        (proxy, format!("http://{LOGIN}@{address}"))
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
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
        assert!(known, "the proxy was not given its login: {line}");
        let mut words = line.split(' ');
        let (method, target) = (words.next().expect("a method"), words.next().expect("a target"));
        let mut server = if method == "CONNECT" {
            let server = TcpStream::connect(target)?;
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
            server
        } else {
            let (host, path) =
                target.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("a whole URL");
            let mut server = TcpStream::connect(host)?;
            // One request for a connection, so that its end is the end of the answer.
            write!(server, "{method} /{path} HTTP/1.1\r\nconnection: close\r\n{headers}")?;
            server
        };
        let mut back = (server.try_clone()?, client.try_clone()?);
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

    /// Returns the first lines so far, and forgets them.
    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap())
    }
}

/// Starts a server in an environment, which logs as much as it can.
fn server(variables: &[(&str, &str)]) -> Arc<Server> {
    let env = variables.iter().chain(&[("DATASTAX_ASTRA_VAULT_LOG_LEVEL", "trace")]);
    let env = env.map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Arc::new(Server::dev_with(&Options { log_level: "trace", env, ..Options::default() }))
}

/// A mount whose config calls Astra by a host's name.
struct Mount {
    world: World,
    authority: String,
}

impl Mount {
    fn new(server: &Arc<Server>, host: &str, name: &str, astra: Builder) -> Self {
        server.enable(name);
        let world = World::with_astra(server, name, astra.orgs(1));
        let org = world.next_org();
        let url = world.url().replace("127.0.0.1", host).replace("localhost", host);
        let ca = world.ca_pem().unwrap_or_default().to_owned();
        let fields = json!({"url": url, "ca_cert": ca, "logical_name": "shop", "verify_connection": false, "request_timeout": "5s"});
        world.configure(&org, &fields);
        world.role(&org, "reader", 60, 600);
        let authority = url.split_once("://").expect("a URL").1.to_owned();
        Self { world, authority }
    }

    /// Mints and revokes, which must work.
    fn works(&self) {
        let token = Token::of(self.world.get("creds/shop/reader").ok());
        self.world.revoke(&token).ok();
        assert!(!self.world.is_alive(&token.client_id));
    }

    /// Mints, which must fail, and returns the error.
    fn fails(&self, status: u16) -> String {
        let text = self.world.get("creds/shop/reader").fails(status);
        assert!(!text.contains("proxy-secret") && !text.contains(BASIC), "an error holds the login of a proxy: {text}");
        text
    }
}

fn assert_no_login(server: &Server) {
    let log = server.log();
    assert!(log.contains("created token") && log.contains("[TRACE]"), "the log is another one");
    let line = log.lines().find(|line| line.contains("proxy-secret") || line.contains(BASIC));
    assert!(line.is_none(), "the log holds the login of a proxy: {line:?}");
}

#[test]
fn calls_take_the_proxies_of_the_environment() {
    let (proxy, url) = Proxy::start();
    let server = server(&[("HTTP_PROXY", &url), ("HTTPS_PROXY", &url), ("NO_PROXY", "10.0.0.0/8,127.0.0.1")]);

    let plain = Mount::new(&server, "localhost", "plain", Astra::builder());
    plain.works();
    let lines = proxy.lines();
    let wanted = [
        format!("POST http://{}/v2/clientIdSecrets ", plain.authority),
        format!("DELETE http://{}/v2/", plain.authority),
    ];
    assert!(lines.len() == 2 && lines.iter().zip(&wanted).all(|(line, wanted)| line.starts_with(wanted)), "{lines:?}");

    proxy.bytes.lock().unwrap().clear();
    let tls = Mount::new(&server, "localhost", "tls", Astra::builder().tls(Certificate::Valid));
    tls.works();
    let lines = proxy.lines();
    let tunnel = format!("CONNECT {} HTTP/1.1", tls.authority);
    assert!(!lines.is_empty() && lines.iter().all(|line| *line == tunnel), "{lines:?}");
    let sent = String::from_utf8_lossy(&proxy.bytes.lock().unwrap()).into_owned();
    assert!(sent.contains("CONNECT") && !sent.contains("AstraCS") && !sent.contains("clientIdSecrets"), "in the clear");
    tls.world.assert_no_secret("what the proxy saw", &sent);

    let direct = Mount::new(&server, "127.0.0.1", "direct", Astra::builder());
    direct.works();
    assert!(proxy.lines().is_empty(), "NO_PROXY was not honoured");

    proxy.refuses.store(true, Ordering::SeqCst);
    for mount in [&plain, &Mount::new(&server, "localhost", "new", Astra::builder().tls(Certificate::Valid))] {
        let text = mount.fails(if mount.world.mount == "plain" { 502 } else { 503 });
        assert!(text.contains("proxy"), "{text}");
    }
    direct.works();
    assert_no_login(&server);
}

#[test]
fn the_same_in_lower_case_and_a_proxy_that_is_gone() {
    let (proxy, url) = Proxy::start();
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let gone = format!("http://{LOGIN}@{gone}");
    let server = server(&[("http_proxy", &url), ("https_proxy", &gone), ("no_proxy", "localhost")]);

    let plain = Mount::new(&server, "127.0.0.1", "plain", Astra::builder());
    plain.works();
    assert_eq!(proxy.lines().len(), 2);
    let tls = Mount::new(&server, "127.0.0.1", "tls", Astra::builder().tls(Certificate::Valid));
    assert!(tls.fails(503).contains("Astra cannot be reached"));
    let direct = Mount::new(&server, "localhost", "direct", Astra::builder().tls(Certificate::Valid));
    direct.works();
    assert!(proxy.lines().is_empty(), "no_proxy was not honoured");
    assert_no_login(&server);
}
