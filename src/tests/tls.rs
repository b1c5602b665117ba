//! An Astra with its own certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{ORG, ROOT, World, ok, refused};

/// An Astra that answers `GET /v2/currentOrg` over TLS until the test ends.
struct Server {
    url: String,
    /// The PEM of its certificate.
    pem: String,
    /// How many connections it accepted.
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// The config of an org of this Astra.
    fn config(&self, org: &str) -> Value {
        json!({"org_id": org, "astra_token": ROOT, "url": self.url, "ca_cert": self.pem})
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn server() -> Server {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let connections: Arc<AtomicUsize> = Arc::default();
    let accepted = connections.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                // A client that does not trust the certificate closes the connection.
                let Ok(mut connection) = acceptor.accept(connection).await else { return };
                accepted.fetch_add(1, Ordering::Relaxed);
                // A request has no body, and is sent in one piece.
                while connection.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
                    let body = json!({"id": ORG}).to_string();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    let _ = connection.write_all(answer.as_bytes()).await;
                    let _ = connection.flush().await;
                }
            });
        }
    });
    let der = base64::engine::general_purpose::STANDARD.encode(made.cert.der());
    let pem = format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n");
    Server { url, pem, connections }
}

#[tokio::test]
async fn a_certificate_in_the_config_is_trusted() {
    let server = server().await;
    let world = World::new().await;
    let config = json!({"org_id": ORG, "astra_token": ROOT, "url": server.url});
    let text = refused(world.write("config", config).await);
    assert!(text.contains("ca_cert") && text.contains("certificate"), "{text}");
    assert!(ok(world.write("config", server.config(ORG)).await).is_none());
    // A change of the connection to Astra is verified again.
    let text = refused(world.write("config", json!({"org_id": ORG, "ca_cert": ""})).await);
    assert!(text.contains("ca_cert"), "{text}");
}

#[tokio::test]
async fn orgs_share_connections_and_a_config_write_closes_none() {
    let server = server().await;
    let world = World::new().await;
    // Each write asks Astra for the organization of the root token.
    for n in 0..200 {
        ok(world.write("config", server.config(&format!("org-{n}"))).await);
    }
    let renewed = ROOT.replace("ONq", "NEW");
    for change in [json!({"astra_token": renewed}), json!({"request_timeout": "20s"}), json!({"logical_name": "x"})] {
        let mut change = change;
        change["org_id"] = json!("org-7");
        change["verify_connection"] = json!(true);
        ok(world.write("config", change).await);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_not_used_after_its_ca_cert_was_removed() {
    let server = server().await;
    let world = World::new().await;
    ok(world.write("config", server.config("org-1")).await);
    ok(world.write("config", server.config("org-2")).await);
    let text = refused(world.write("config", json!({"org_id": "org-1", "ca_cert": ""})).await);
    assert!(text.contains("certificate"), "{text}");
}
