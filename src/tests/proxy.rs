//! Calls to Astra as proxies see them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::aws_lc_rs};

use super::{ORG, ROOT};
use crate::api::{Client, Error, Pools, Proxies, Settings};

/// Names below `.test` cannot be resolved, so a call reaches this host only through a proxy.
const NAME: &str = "astra.test";

/// Every byte that a password can hold.
fn odd_password() -> Vec<u8> {
    (1..=u8::MAX).collect()
}

fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
}

/// Returns a client whose environment names a proxy.
fn client(url: &str, variable: &'static str, proxy: String) -> Result<Client, Error> {
    trusting(&certificate(), url, variable, proxy)
}

fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed([NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap()
}

/// Returns a client whose environment names a proxy, and that trusts a certificate.
fn trusting(
    trusted: &rcgen::CertifiedKey<rcgen::KeyPair>,
    url: &str,
    variable: &'static str,
    proxy: String,
) -> Result<Client, Error> {
    let der = STANDARD.encode(trusted.cert.der());
    let settings = Settings {
        url: url.to_owned(),
        token: ROOT.into(),
        astra_org_id: String::new(),
        ca_cert: format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n"),
        timeout: Duration::from_secs(30),
        user_agent: "test".to_owned(),
    };
    Client::new(&settings, &Pools::new(Proxies::new(&[(variable, proxy)])), Arc::default())
}

/// Starts a proxy that serves one connection. Returns its address, and a task that returns the result of `serve`.
async fn proxy<F>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> (String, JoinHandle<F::Output>)
where
    F: Future<Output: Send + 'static> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (address, tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await }))
}

/// Answers one request with the id of the org. Returns the head of the request.
async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let head = head(&mut connection).await;
    let body = json!({"id": ORG}).to_string();
    let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    connection.write_all(answer.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    head
}

async fn head(connection: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Acts as a SOCKS5 proxy (RFC 1928 and 1929), but connects to nothing. Returns user name, password, host and port.
async fn socks(connection: &mut TcpStream) -> (Vec<u8>, Vec<u8>, String, u16) {
    async fn text(connection: &mut TcpStream) -> Vec<u8> {
        let mut text = vec![0; connection.read_u8().await.unwrap().into()];
        connection.read_exact(&mut text).await.unwrap();
        text
    }

    assert_eq!(connection.read_u8().await.unwrap(), 5);
    assert!(text(connection).await.contains(&2), "no login is offered");
    connection.write_all(&[5, 2]).await.unwrap();
    assert_eq!(connection.read_u8().await.unwrap(), 1);
    let (user, password) = (text(connection).await, text(connection).await);
    connection.write_all(&[1, 0]).await.unwrap();
    let mut request = [0; 4];
    connection.read_exact(&mut request).await.unwrap();
    assert_eq!(request, [5, 1, 0, 3], "it does not ask for a host name");
    let host = String::from_utf8(text(connection).await).unwrap();
    let port = connection.read_u16().await.unwrap();
    connection.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    (user, password, host, port)
}

fn assert_login(head: &str, password: &[u8]) {
    let login = STANDARD.encode([b"user:", password].concat());
    let wanted = format!("Basic {login}");
    let sent = head.lines().filter_map(|line| line.split_once(": "));
    let sent: Vec<_> = sent.filter(|(name, _)| name.eq_ignore_ascii_case("proxy-authorization")).collect();
    assert!(matches!(sent[..], [(_, value)] if value == wanted), "the proxy was given another login");
}

#[tokio::test]
async fn a_proxy_for_http_gets_full_urls_and_its_login() {
    let (address, seen) = proxy(answer).await;
    let login = format!("user:{}", encoded(&odd_password()));
    let client = client("http://astra.test:8080", "HTTP_PROXY", format!("http://{login}@{address}")).unwrap();
    assert_eq!(client.current_org().await.unwrap(), ORG);
    let head = seen.await.unwrap();
    assert!(head.starts_with("GET http://astra.test:8080/v2/currentOrg HTTP/1.1\r\n"));
    assert_login(&head, &odd_password());
}

#[tokio::test]
async fn a_proxy_for_https_gets_only_host_port_and_its_login() {
    let (address, seen) = proxy(async |mut connection| {
        let head = head(&mut connection).await;
        connection.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.unwrap();
        head
    })
    .await;
    let login = format!("user:{}", encoded(&odd_password()));
    let client = client("https://astra.test", "HTTPS_PROXY", format!("http://{login}@{address}")).unwrap();
    // The proxy is gone at the next attempts.
    let error = client.current_org().await.unwrap_err().to_string();
    let head = seen.await.unwrap();
    assert!(head.starts_with("CONNECT astra.test:443 HTTP/1.1\r\n"), "{error}");
    assert!(!head.contains("Bearer") && !head.to_lowercase().contains("\r\nauthorization"));
    assert_login(&head, &odd_password());
    assert!(error.contains("through the proxy in HTTPS_PROXY"), "{error}");
}

#[tokio::test]
async fn a_proxy_with_an_https_url_is_called_over_tls() {
    let made = certificate();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(made.cert.der().to_vec())], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (address, seen) = proxy(async move |connection| answer(acceptor.accept(connection).await.unwrap()).await).await;
    let login = format!("user:{}", encoded(&odd_password()));
    let client = trusting(&made, "http://astra.test", "http_proxy", format!("https://{login}@{address}")).unwrap();
    assert_eq!(client.current_org().await.unwrap(), ORG);
    let head = seen.await.unwrap();
    assert!(head.starts_with("GET http://astra.test/v2/currentOrg HTTP/1.1\r\n"));
    assert_login(&head, &odd_password());
}

#[tokio::test]
async fn a_socks5_proxy_gets_the_host_name_user_and_password() {
    let odd = b"p@s:s/w#r?d%41 \xc3\xa9".to_vec();
    // User name, password and host name have 249 bytes together, the maximum in the documents.
    let long = vec![b'x'; 249 - "us@er".len() - NAME.len()];
    for (scheme, password) in [("socks5", odd), ("socks5h", long)] {
        let (address, seen) = proxy(async |mut connection| {
            let asked = socks(&mut connection).await;
            answer(connection).await;
            asked
        })
        .await;
        let login = format!("us%40er:{}", encoded(&password));
        let client = client("http://astra.test:8080", "ALL_PROXY", format!("{scheme}://{login}@{address}")).unwrap();
        assert_eq!(client.current_org().await.unwrap(), ORG);
        assert_eq!(seen.await.unwrap(), (b"us@er".to_vec(), password, NAME.to_owned(), 8080));
    }
}
