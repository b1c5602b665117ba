//! An Astra with its own certificate.

use std::sync::Arc;

use base64::Engine as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{ORG, ROOT, World, ok, refused};

/// Serves `GET /v2/currentOrg` over TLS until the test ends. Returns its URL and the PEM of its certificate.
async fn server() -> (String, String) {
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
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // A client that does not trust the certificate closes the connection.
            let Ok(mut connection) = acceptor.accept(connection).await else { continue };
            let _ = connection.read(&mut [0; 4096]).await;
            let body = json!({"id": ORG}).to_string();
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let _ = connection.write_all(answer.as_bytes()).await;
            let _ = connection.shutdown().await;
        }
    });
    let der = base64::engine::general_purpose::STANDARD.encode(made.cert.der());
    (url, format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n"))
}

#[tokio::test]
async fn a_certificate_in_the_config_is_trusted() {
    let (url, pem) = server().await;
    let world = World::new().await;
    let config = json!({"org_id": ORG, "astra_token": ROOT, "url": url});
    let text = refused(world.write("config", config.clone()).await);
    assert!(text.contains("ca_cert") && text.contains("certificate"), "{text}");
    let mut trusting = config;
    trusting["ca_cert"] = json!(pem);
    assert!(ok(world.write("config", trusting).await).is_none());
    // A change of the connection to Astra is verified again.
    let text = refused(world.write("config", json!({"org_id": ORG, "ca_cert": ""})).await);
    assert!(text.contains("ca_cert"), "{text}");
}
