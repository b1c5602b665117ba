//! Mutual TLS with certificates that are valid as long as the process runs (go-plugin's AutoMTLS).
//!
//! Each side knows the other's certificate beforehand. So trust means: the peer shows exactly this certificate and
//! proves that it has the key. Building chains would add nothing. It would also fail, because the host's certificate is
//! a self-signed CA on P-521.

use std::sync::Arc;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig,
    SignatureScheme, version,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The reason why mutual TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("PLUGIN_CLIENT_CERT must hold exactly one PEM certificate")]
    ClientCert,
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Both directions of mutual TLS with one host.
pub(super) struct Mtls {
    /// Our certificate (DER), for the handshake line.
    pub(super) certificate: CertificateDer<'static>,
    /// For connections that the host makes.
    pub(super) acceptor: TlsAcceptor,
    /// For connections to the host.
    pub(super) connector: TlsConnector,
}

impl Mtls {
    /// Creates a key that never leaves the process, and pins the host's certificate.
    pub(super) fn new(client_cert: &str) -> Result<Self, Error> {
        let pinned = Arc::new(Pinned::new(client_cert)?);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new([NAME.to_owned()])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&key)?.der().clone();
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());

        let mut server = ServerConfig::builder_with_provider(pinned.provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(pinned.clone())
            .with_single_cert(vec![certificate.clone()], key.clone_key().into())?;
        let mut client = ClientConfig::builder_with_provider(pinned.provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(pinned)
            .with_client_auth_cert(vec![certificate.clone()], key.into())?;
        // grpc-go refuses a peer that does not choose a protocol.
        server.alpn_protocols = vec![b"h2".to_vec()];
        client.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection lasts as long as its mount, so there are no sessions to resume.
        server.send_tls13_tickets = 0;
        Ok(Self {
            certificate,
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        })
    }
}

/// The name in both certificates.
pub(super) const NAME: &str = "localhost";

/// Accepts exactly one certificate, from a peer that proves possession of its key.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn new(pem: &str) -> Result<Self, Error> {
        let sections: Result<Vec<(SectionKind, Vec<u8>)>, _> = PemObject::pem_slice_iter(pem.as_bytes()).collect();
        let mut sections = sections.map_err(|_| Error::ClientCert)?;
        match (sections.pop(), sections.is_empty()) {
            (Some((SectionKind::Certificate, der)), true) => {
                Ok(Self { certificate: der.into(), provider: Arc::new(aws_lc_rs::default_provider()) })
            }
            _ => Err(Error::ClientCert),
        }
    }

    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if *presented == self.certificate {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    /// Checks the signature. The certificate is in the environment and thus public. Only the signature proves the
    /// peer's identity.
    fn proven(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn only_tls13() -> rustls::Error {
    PeerIncompatible::Tls12NotOfferedOrEnabled.into()
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proven(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proven(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use base64::Engine;
    use rcgen::{BasicConstraints, IsCa, PKCS_ECDSA_P521_SHA512};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// A host as go-plugin makes it: P-521, self-signed, a CA.
    struct Host {
        pem: String,
        der: CertificateDer<'static>,
        key: KeyPair,
    }

    /// Returns the TLS of a plugin, for tests in which the host does not matter.
    pub(in super::super) fn plugin() -> Mtls {
        Mtls::new(&host().pem).unwrap()
    }

    fn host() -> Host {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Host { pem: pem("CERTIFICATE", certificate.der()), der: certificate.der().clone(), key }
    }

    /// Returns the TLS of a plugin, and the TLS of its host for connections from the plugin.
    pub(in super::super) fn pair() -> (Mtls, TlsAcceptor) {
        let host = host();
        let plugin = Mtls::new(&host.pem).unwrap();
        let acceptor = acceptor(&plugin, &host);
        (plugin, acceptor)
    }

    /// The host's side of a connection that the plugin opens.
    fn acceptor(plugin: &Mtls, shown: &Host) -> TlsAcceptor {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let expected = Pinned { certificate: plugin.certificate.clone(), provider: provider.clone() };
        let key = PrivatePkcs8KeyDer::from(shown.key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(expected))
            .with_single_cert(vec![shown.der.clone()], key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn pem(kind: &str, der: &[u8]) -> String {
        let base64 = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {kind}-----\n{base64}\n-----END {kind}-----\n")
    }

    /// The host's side of a connection that shows `certificate` and signs with `key`.
    fn connector(plugin: &Mtls, shown: Option<(&CertificateDer<'static>, &KeyPair)>) -> TlsConnector {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(plugin.certificate.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivatePkcs8KeyDer::from(key.serialize_der());
                let key = provider.key_provider.load_private_key(key.into()).unwrap();
                // Unlike `with_client_auth_cert`, this does not check that the certificate and the key match.
                let certified = rustls::sign::CertifiedKey::new(vec![certificate.clone()], key);
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// Whether the plugin accepts the connection. With TLS 1.3, a client learns of a refusal only at its first read.
    async fn accepted(plugin: &Mtls, connector: TlsConnector) -> bool {
        let (near, far) = duplex(64 * 1024);
        let name = ServerName::try_from(NAME).unwrap();
        let client = async {
            let mut stream = connector.connect(name, far).await?;
            stream.write_all(b"x").await?;
            stream.read_u8().await
        };
        let server = async {
            let mut stream = plugin.acceptor.accept(near).await?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let byte = stream.read_u8().await?;
            stream.write_u8(byte).await
        };
        let (client, server) = tokio::join!(client, server);
        assert_eq!(client.is_ok(), server.is_ok());
        server.is_ok()
    }

    #[tokio::test]
    async fn only_the_pinned_certificate_with_its_key_gets_in() {
        let (host, other) = (host(), host());
        let plugin = Mtls::new(&host.pem).unwrap();
        assert!(accepted(&plugin, connector(&plugin, Some((&host.der, &host.key)))).await);
        assert!(!accepted(&plugin, connector(&plugin, Some((&other.der, &other.key)))).await, "other certificate");
        assert!(!accepted(&plugin, connector(&plugin, Some((&host.der, &other.key)))).await, "without its key");
        assert!(!accepted(&plugin, connector(&plugin, None)).await, "no certificate");
    }

    #[tokio::test]
    async fn plugin_connects_to_the_pinned_host_only() {
        let (host, other) = (host(), host());
        let plugin = Mtls::new(&host.pem).unwrap();
        for (shown, expected) in [(&host, true), (&other, false)] {
            let (near, far) = duplex(64 * 1024);
            let acceptor = acceptor(&plugin, shown);
            let name = ServerName::try_from(NAME).unwrap();
            let (client, server) = tokio::join!(plugin.connector.connect(name, near), acceptor.accept(far));
            assert_eq!(client.is_ok(), expected);
            assert_eq!(server.is_ok(), expected);
        }
    }

    #[test]
    fn client_cert_is_exactly_one_certificate() {
        let host = host();
        let key = pem("PRIVATE KEY", &host.key.serialize_der());
        for pem in [String::new(), "x".into(), format!("{0}{0}", host.pem), key.clone(), format!("{}{key}", host.pem)] {
            assert!(matches!(Mtls::new(&pem), Err(Error::ClientCert)));
        }
        assert!(Mtls::new(&host.pem).is_ok());
    }
}
