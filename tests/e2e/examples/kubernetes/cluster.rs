//! A stand-in for the API server of a cluster. It issues tokens and reviews them, and checks audiences and bindings as the
//! API server does.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::bao::redact;

/// Issuer of the tokens, and the audience that a caller of the API server needs.
pub(super) const AUDIENCE: &str = "https://kubernetes.default.svc.cluster.local";

const REVIEWS: &str = "POST /apis/authentication.k8s.io/v1/tokenreviews";

/// A token that the API server has issued.
#[derive(Clone)]
struct Issued {
    user: String,
    uid: String,
    audiences: Vec<String>,
    expires: u64,
}

#[derive(Default)]
struct State {
    issued: HashMap<String, Issued>,
    /// Users with the role `system:auth-delegator`.
    delegators: Vec<String>,
    /// The user who asked for each review, and the status that the API server returned.
    reviews: Vec<(String, u16)>,
}

/// A cluster. Its API server runs until the tests end.
pub(super) struct Cluster {
    /// PEM of the authority that signed the API server's certificate.
    pub(super) ca_pem: String,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Cluster {
    /// Starts the API server on a free port.
    pub(super) fn start() -> Self {
        Self::start_at("127.0.0.1:0")
    }

    /// Starts the API server at an address.
    pub(super) fn start_at(address: &str) -> Self {
        let (config, ca_pem) = tls();
        let listener = TcpListener::bind(address).expect("listen");
        let address = listener.local_addr().expect("an address");
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let (config, state) = (Arc::clone(&config), Arc::clone(&shared));
                // A caller that hangs up is not a fault of the test.
                thread::spawn(move || serve(stream, config, &state));
            }
        });
        Self { ca_pem, address, state }
    }

    /// Returns the URL of the API server.
    pub(super) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Applies objects as `kubectl apply` does. Returns the token of the last Secret for a service account token.
    pub(super) fn apply(&self, objects: &[Value]) -> Option<String> {
        let mut token = None;
        for object in objects {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            match object["kind"].as_str().expect("a kind") {
                "ClusterRoleBinding" if object["roleRef"]["name"] == "system:auth-delegator" => {
                    let subjects = object["subjects"].as_array().expect("subjects").iter();
                    lock(&self.state).delegators.extend(subjects.map(|subject| {
                        let part = |name: &str| subject[name].as_str().expect("a text").to_owned();
                        format!("system:serviceaccount:{}:{}", part("namespace"), part("name"))
                    }));
                }
                "Secret" if object["type"] == "kubernetes.io/service-account-token" => {
                    let account = &object["metadata"]["annotations"]["kubernetes.io/service-account.name"];
                    token = Some(self.secret_token(namespace, account.as_str().expect("an account")));
                }
                _ => {}
            }
        }
        token
    }

    /// Returns a token as in a projected volume, or from a TokenRequest.
    pub(super) fn token(&self, namespace: &str, account: &str, audience: &str) -> String {
        let uid = format!("uid-of-{namespace}-{account}");
        let expires = now() + 3600;
        let claims = json!({
            "aud": [audience], "exp": expires, "iat": now(), "nbf": now(), "iss": AUDIENCE,
            "jti": fastrand::u64(..).to_string(),
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": format!("{account}-0"), "uid": "uid-of-the-pod"},
                "serviceaccount": {"name": account, "uid": uid},
            },
        });
        self.issue(&claims, uid, audience, expires)
    }

    /// Returns the token of a Secret. It has no audience and does not expire. The API server accepts it for itself.
    fn secret_token(&self, namespace: &str, account: &str) -> String {
        let uid = format!("uid-of-{namespace}-{account}");
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": account,
            "kubernetes.io/serviceaccount/service-account.name": account,
            "kubernetes.io/serviceaccount/service-account.uid": uid,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
        });
        self.issue(&claims, uid, AUDIENCE, u64::MAX)
    }

    fn issue(&self, claims: &Value, uid: String, audience: &str, expires: u64) -> String {
        let part = |value: &[u8]| URL_SAFE_NO_PAD.encode(value);
        let head = part(json!({"alg": "RS256", "kid": "test"}).to_string().as_bytes());
        // Nobody checks the signature: the API server knows its tokens, and Vault has no key to check with.
        let token = format!("{head}.{}.{}", part(claims.to_string().as_bytes()), part(&[7; 256]));
        redact::hide(&token);
        let user = claims["sub"].as_str().expect("a subject").to_owned();
        lock(&self.state)
            .issued
            .insert(token.clone(), Issued { user, uid, audiences: vec![audience.to_owned()], expires });
        token
    }

    /// Returns the user who asked for each review so far, and the status that the API server returned.
    pub(super) fn reviews(&self) -> Vec<(String, u16)> {
        lock(&self.state).reviews.clone()
    }
}

impl State {
    /// Returns a token that is valid for one of these audiences.
    fn authenticate(&self, token: &str, audiences: &[&str]) -> Result<&Issued, &'static str> {
        let issued = self.issued.get(token).ok_or("invalid bearer token")?;
        if issued.expires <= now() {
            return Err("service account token has expired");
        }
        let valid = issued.audiences.iter().any(|audience| audiences.contains(&audience.as_str()));
        valid.then_some(issued).ok_or("token audiences are invalid for the target audiences")
    }

    /// Answers a request for a review.
    fn review(&mut self, bearer: &str, request: &Value) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": reason, "reason": reason, "code": code}),
            )
        };
        let caller = match self.authenticate(bearer, &[AUDIENCE]) {
            Ok(issued) => issued.user.clone(),
            Err(_) => {
                let user = self.issued.get(bearer).map(|issued| issued.user.clone()).unwrap_or_default();
                self.reviews.push((user, 401));
                return failure(401, "Unauthorized");
            }
        };
        if !self.delegators.contains(&caller) {
            self.reviews.push((caller, 403));
            return failure(403, "Forbidden");
        }
        let given = request["spec"]["audiences"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut audiences: Vec<&str> = given.iter().filter_map(Value::as_str).collect();
        if audiences.is_empty() {
            audiences.push(AUDIENCE);
        }
        let status = match self.authenticate(request["spec"]["token"].as_str().unwrap_or_default(), &audiences) {
            Ok(issued) => json!({
                "authenticated": true, "audiences": issued.audiences,
                "user": {"username": issued.user, "uid": issued.uid, "groups": ["system:serviceaccounts"]},
            }),
            Err(error) => json!({"user": {}, "error": error}),
        };
        self.reviews.push((caller, 201));
        (
            201,
            json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "status": status}),
        )
    }
}

/// Answers one request of a connection.
fn serve(stream: TcpStream, config: Arc<ServerConfig>, state: &Mutex<State>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream);
    let mut received = Vec::new();
    let (head, body) = loop {
        if let Some(request) = whole(&received) {
            break request;
        }
        let mut part = [0; 4096];
        match stream.read(&mut part)? {
            0 => return Ok(()),
            length => received.extend_from_slice(&part[..length]),
        }
    };
    let header = |name: &str| {
        let found =
            head.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    };
    let (code, answer) = if head.starts_with(REVIEWS) {
        let bearer = header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        lock(state).review(bearer, &serde_json::from_str(&body)?)
    } else {
        (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}))
    };
    let answer = answer.to_string();
    let length = answer.len();
    write!(
        stream,
        "HTTP/1.1 {code} Status\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}"
    )?;
    stream.conn.send_close_notify();
    stream.flush()
}

/// Returns head and body of a request, if the request is complete.
fn whole(received: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(received);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    (body.len() >= length.unwrap_or(0)).then(|| (head.to_owned(), body.to_owned()))
}

/// Returns a configuration with a certificate for the API server's names, and the PEM of its authority.
fn tls() -> (Arc<ServerConfig>, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("CA");
    let names = ["kubernetes.default.svc", "127.0.0.1"].map(String::from);
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(names).expect("valid names");
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    let leaf = params.signed_by(&key, &ca).expect("certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS #8");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("default versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("matching key");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(ca.der()));
    (Arc::new(config), pem)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
