//! Pools of connections to Astra. Orgs share a pool if their connections need the same CA certificates and the same
//! proxy. So the number of orgs changes neither the memory for CA certificates nor the number of TLS handshakes.
//!
//! A request carries its root token itself. A connection has no identity, so any org can use it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use reqwest::ClientBuilder;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};
use url::Url;

use super::connect;
use super::error::{Error, PREPARE};
use super::proxy::{self, Proxies, Proxy};
use super::resolve;

/// Pools of at most this many different settings are kept.
const KEPT: std::num::NonZeroUsize = std::num::NonZeroUsize::new(256).unwrap();

/// How many connections to one host stay open without a request. An org has at most this many calls at a time.
const IDLE: usize = 64;

/// How long a connection stays open without a request.
const IDLE_TIME: Duration = Duration::from_secs(90);

/// How long the CA certificates of the machine are used before they are read again for a new client.
const FRESH: Duration = Duration::from_secs(60);

/// The pools of a process. No `Debug`: a proxy may hold a password.
pub(crate) struct Pools {
    proxies: Proxies,
    /// Locked while files are read, so only threads that may block lock it.
    state: Mutex<State>,
}

struct State {
    kept: LruCache<Settings, Pool>,
    machine: Option<Machine>,
}

/// The settings that all connections of a pool share.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
struct Settings {
    /// SHA-256 of the CA certificates of the config.
    ca_cert: [u8; 32],
    /// Whether the connections also trust the CA certificates of the machine.
    trusts_machine: bool,
    /// Name of the environment variable with the proxy.
    proxy: Option<&'static str>,
}

/// A pool of connections.
#[derive(Clone)]
pub(super) struct Pool {
    pub(super) http: reqwest::Client,
    /// Name of the environment variable with the proxy for the calls.
    pub(super) proxy: Option<&'static str>,
}

/// The CA certificates of the machine.
struct Machine {
    roots: RootCertStore,
    sha256: [u8; 32],
    read_at: Instant,
}

impl Pools {
    /// Returns no pools yet.
    pub(crate) fn new(proxies: Proxies) -> Self {
        Self { proxies, state: Mutex::new(State { kept: LruCache::new(KEPT), machine: None }) }
    }

    /// Returns the pool for calls to a URL. Can read the CA certificates of the machine from disk, so this blocks for
    /// some milliseconds.
    ///
    /// # Errors
    /// When `ca_cert` is not PEM, when there is no CA certificate to trust for an `https` URL, or when the proxy in the
    /// environment cannot be used.
    pub(super) fn pool(&self, url: &Url, ca_cert: &str) -> Result<Pool, Error> {
        let proxy = self.proxies.for_url(url).map_err(|reason| Error::from_proxy(PREPARE, &reason))?;
        // A machine without CA certificates can still use plain HTTP.
        let trusts_machine = url.scheme() == "https" || proxy.as_ref().is_some_and(Proxy::uses_tls);
        let settings = Settings {
            ca_cert: Sha256::digest(ca_cert).into(),
            trusts_machine,
            proxy: proxy.as_ref().map(|proxy| proxy.variable),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if trusts_machine {
            state.refresh();
        }
        if let Some(pool) = state.kept.get(&settings) {
            return Ok(pool.clone());
        }
        let roots = trusted(state.machine.as_ref(), trusts_machine, ca_cert)?;
        let http = build(roots, proxy.as_ref())?;
        let pool = Pool { http, proxy: settings.proxy };
        state.kept.put(settings, pool.clone());
        Ok(pool)
    }
}

impl Default for Pools {
    fn default() -> Self {
        Self::new(Proxies::default())
    }
}

impl State {
    /// Reads the CA certificates of the machine, if this was long ago or found none.
    fn refresh(&mut self) {
        let is_fresh = |machine: &Machine| !machine.roots.is_empty() && machine.read_at.elapsed() < FRESH;
        if !self.machine.as_ref().is_some_and(is_fresh) {
            self.trust(rustls_native_certs::load_native_certs().certs);
        }
    }

    /// Takes the CA certificates that were read. If they changed, drops the pools that trust the earlier ones.
    fn trust(&mut self, certificates: Vec<CertificateDer<'_>>) {
        let mut sha256 = Sha256::new();
        certificates.iter().for_each(|certificate| sha256.update(certificate));
        let sha256: [u8; 32] = sha256.finalize().into();
        if let Some(machine) = self.machine.as_mut().filter(|machine| machine.sha256 == sha256) {
            machine.read_at = Instant::now();
            return;
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates);
        self.machine = Some(Machine { roots, sha256, read_at: Instant::now() });
        let outdated: Vec<Settings> =
            self.kept.iter().map(|(settings, _)| *settings).filter(|settings| settings.trusts_machine).collect();
        for settings in outdated {
            self.kept.pop(&settings);
        }
    }
}

/// Returns the certificates to trust. TLS needs at least one.
fn trusted(machine: Option<&Machine>, trusts_machine: bool, ca_cert: &str) -> Result<RootCertStore, Error> {
    let machine = machine.filter(|_| trusts_machine);
    match roots(machine, ca_cert) {
        Ok(roots) if trusts_machine && roots.is_empty() => {
            Err(Error::no_tls(PREPARE, "this machine has no CA certificates"))
        }
        roots => roots.map_err(|reason| Error::no_tls(PREPARE, reason)),
    }
}

/// Returns the certificates of the machine and of the config.
fn roots(machine: Option<&Machine>, ca_cert: &str) -> Result<RootCertStore, String> {
    let mut roots = machine.map_or_else(RootCertStore::empty, |machine| machine.roots.clone());
    for certificate in CertificateDer::pem_slice_iter(ca_cert.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the ca_cert of the config is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("the ca_cert of the config: {error}"))?;
    }
    Ok(roots)
}

/// Whether the text is PEM with usable CA certificates. Rejects a private key, because reading the config shows the
/// text.
pub(crate) fn are_certificates(pem: &str) -> bool {
    !pem.contains("PRIVATE KEY") && roots(None, pem).is_ok_and(|roots| !roots.is_empty())
}

fn build(roots: RootCertStore, proxy: Option<&Proxy>) -> Result<reqwest::Client, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::no_tls(PREPARE, error))?;
    let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let setup = |error: reqwest::Error| Error::from_setup(PREPARE, &error);
    proxy::apply(proxy, ClientBuilder::new())
        .map_err(setup)?
        .tls_backend_preconfigured(tls)
        .pool_max_idle_per_host(IDLE)
        .pool_idle_timeout(IDLE_TIME)
        .redirect(reqwest::redirect::Policy::none())
        // Only `retry` decides which requests are sent again.
        .retry(reqwest::retry::never())
        .dns_resolver(resolve::Names::of_machine())
        .connector_layer(connect::Limit { through_proxy: proxy.is_some() })
        .build()
        .map_err(setup)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (CertificateDer<'static>, String) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, made.cert.der());
        (made.cert.der().clone(), format!("-----BEGIN CERTIFICATE-----\n{pem}\n-----END CERTIFICATE-----\n"))
    }

    /// Asks for the pools of an https URL, the same URL with a `ca_cert`, and an http URL. Returns how many are kept.
    fn kept(pools: &Pools, pem: &str) -> usize {
        for (url, ca_cert) in
            [("https://a.test", ""), ("https://b.test", pem), ("https://c.test", pem), ("http://d", "")]
        {
            pools.pool(&Url::parse(url).unwrap(), ca_cert).unwrap();
        }
        pools.state.lock().unwrap().kept.len()
    }

    #[test]
    fn there_is_one_pool_for_each_ca_cert() {
        let (pools, (machine, pem)) = (Pools::default(), certificate());
        pools.state.lock().unwrap().trust(vec![machine]);
        assert_eq!((kept(&pools, &pem), kept(&pools, &pem)), (3, 3));
    }

    #[test]
    fn after_a_change_of_the_machines_certificates_no_new_client_uses_the_earlier_ones() {
        let (pools, (machine, pem)) = (Pools::default(), certificate());
        let trust = |certificate: &CertificateDer<'static>| {
            let mut state = pools.state.lock().unwrap();
            state.trust(vec![certificate.clone()]);
            state.kept.len()
        };
        assert_eq!((trust(&machine), kept(&pools, &pem)), (0, 3));
        assert_eq!(trust(&machine), 3, "the certificates did not change");
        // The pool of the http URL trusts no certificate of the machine.
        assert_eq!(trust(&certificate().0), 1);
    }

    #[test]
    fn without_ca_certificates_only_plain_http_is_possible() {
        let none = || Some(Machine { roots: RootCertStore::empty(), sha256: [0; 32], read_at: Instant::now() });
        let trusted = |trusts_machine: bool, ca_cert: &str| {
            trusted(none().as_ref(), trusts_machine, ca_cert)
                .map(|roots| roots.len())
                .map_err(|error| error.to_string())
        };
        let error = trusted(true, "").unwrap_err();
        assert!(error.contains("no CA certificates"), "{error}");
        assert_eq!((trusted(false, ""), trusted(true, &certificate().1)), (Ok(0), Ok(1)));
    }
}
