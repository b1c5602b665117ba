//! A new CA for each simulator, and valid and invalid server certificates.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

/// The certificate of the simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// For `localhost`, the loopback addresses, and `astra.test`, which only a proxy can resolve.
    Valid,
    Expired,
    WrongHost,
}

/// Returns an acceptor and the PEM of the CA that signed its certificate.
pub fn acceptor(certificate: Certificate) -> (TlsAcceptor, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Simulated Astra CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("CA");

    let hosts: &[&str] = match certificate {
        Certificate::WrongHost => &["astra.invalid"],
        Certificate::Valid | Certificate::Expired => &["localhost", "127.0.0.1", "::1", "astra.test"],
    };
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("valid names");
    params.distinguished_name.push(DnType::CommonName, "Simulated Astra");
    if certificate == Certificate::Expired {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    }
    let key = KeyPair::generate().expect("key");
    let leaf = params.signed_by(&key, &ca).expect("certificate");

    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("default versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("matching key");
    (TlsAcceptor::from(Arc::new(config)), pem(ca.der()))
}

// rcgen can write PEM only with an optional feature, and nothing else here needs that feature.
fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
