//! The host's side of AutoMTLS (`go-plugin` `mtls.go`): one certificate for each process, used in both directions.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A key and a self-signed certificate like a host's: P-521 with SHA-512, and a CA.
pub struct Identity {
    /// The value of `PLUGIN_CLIENT_CERT`.
    pub pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    pub fn generate() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::OrganizationName, "HashiCorp");
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyAgreement,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(30)).into();
        params.not_after = (now + Duration::from_secs(262_980 * 3600)).into();
        params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: pem(certificate.der()), certificate: certificate.der().clone(), key: key.serialize_der() }
    }

    /// Returns the host's TLS client for the main connection. `plugin` is the certificate from the handshake line.
    ///
    /// Like Go, this also verifies names, validity and key usage.
    pub fn client(&self, plugin: &CertificateDer<'static>) -> ClientConfig {
        let config = client_builder(plugin).with_client_auth_cert(vec![self.certificate.clone()], self.key()).unwrap();
        with_h2(config)
    }

    /// Returns a client that presents this identity's certificate but signs with another key.
    pub fn client_without_key(&self, plugin: &CertificateDer<'static>) -> ClientConfig {
        let other = Self::generate();
        let key = provider().key_provider.load_private_key(other.key()).unwrap();
        let stolen = CertifiedKey::new(vec![self.certificate.clone()], key);
        with_h2(client_builder(plugin).with_client_cert_resolver(Arc::new(Always(Arc::new(stolen)))))
    }

    /// Returns the host's TLS server for a brokered connection.
    pub fn server(&self, plugin: &CertificateDer<'static>) -> ServerConfig {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(pool(plugin)), provider()).build().unwrap();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate.clone()], self.key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Returns a client without a certificate.
pub fn anonymous_client(plugin: &CertificateDer<'static>) -> ClientConfig {
    with_h2(client_builder(plugin).with_no_client_auth())
}

fn client_builder(
    plugin: &CertificateDer<'static>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(pool(plugin))
}

fn with_h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn pool(certificate: &CertificateDer<'static>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    roots
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
