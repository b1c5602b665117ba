//! Single requests whose answers are shown as they are. The other calls interpret an answer, and repeat a request.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, DATE, HeaderMap};
use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use tokio::time::Instant;
use url::{Host, Url};

use super::answer::Answer;
use super::body::Body;
use super::connect;
use super::error::{Error, PREPARE};
use super::pool::{Pool, Pools};
use super::resolve::Names;
use super::settings::{Settings, bearer, headers, parse_url};

const ASK: &str = "reach Astra";

/// The most bytes of an answer. The list of tokens is never read here.
const LIMIT: usize = 1 << 20;

/// Sends single requests.
pub(crate) struct Probe {
    pool: Pool,
    base: Url,
    /// The headers of each request, with the root token.
    headers: HeaderMap,
    timeout: Duration,
}

/// An answer of Astra. It can have any status.
pub(crate) struct Answered {
    /// The status.
    pub(crate) status: u16,
    /// Time of the server, in whole seconds, if the answer has it.
    pub(crate) date: Option<SystemTime>,
    /// The form of the body, with its text if that is an error. Holds no token.
    pub(crate) body: String,
}

impl Probe {
    /// As [`Client::new`](super::Client::new).
    pub(crate) fn new(settings: &Settings, pools: &Pools) -> Result<Self, Error> {
        let bad_settings = |reason| Error::bad_settings(PREPARE, reason);
        let base = parse_url(&settings.url).map_err(|reason| bad_settings(format!("the url {reason}")))?;
        let headers = headers(settings).map_err(|reason| bad_settings(reason.to_owned()))?;
        let pool = pools.pool(&base, &settings.ca_cert)?;
        Ok(Self { pool, base, headers, timeout: settings.timeout })
    }

    /// Returns the name of the variable with the proxy, if the calls use one.
    pub(crate) fn proxy(&self) -> Option<&'static str> {
        self.pool.proxy
    }

    /// Returns true if the calls are encrypted.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Returns the addresses of the host; `None` if the URL or a proxy makes a look-up unnecessary.
    ///
    /// # Errors
    /// Says why the name has no address.
    pub(crate) async fn addresses(&self) -> Result<Option<Vec<IpAddr>>, String> {
        match self.base.host() {
            Some(Host::Domain(name)) if self.proxy().is_none() => {
                let found = Names::of_machine().addresses(name, Instant::now() + self.timeout).await;
                found.map(Some).map_err(|failure| failure.to_string())
            }
            _ => Ok(None),
        }
    }

    /// Asks without a token whose token this is. Astra should refuse that.
    pub(crate) async fn ask_without_token(&self) -> Result<Answered, Error> {
        let mut headers = self.headers.clone();
        headers.remove(AUTHORIZATION);
        self.send(Method::GET, &["currentOrg"], headers).await
    }

    /// Asks whose token this is.
    ///
    /// # Errors
    /// Also when the token has characters that no header can hold.
    pub(crate) async fn ask_with(&self, token: &SecretString) -> Result<Answered, Error> {
        let mut headers = self.headers.clone();
        let bearer = bearer(token).map_err(|reason| Error::bad_settings(PREPARE, reason.to_owned()))?;
        headers.insert(AUTHORIZATION, bearer);
        self.send(Method::GET, &["currentOrg"], headers).await
    }

    /// Deletes a token.
    pub(crate) async fn delete(&self, client_id: &str) -> Result<Answered, Error> {
        self.send(Method::DELETE, &["clientIdSecrets", client_id], self.headers.clone()).await
    }

    async fn send(&self, method: Method, path: &[&str], headers: HeaderMap) -> Result<Answered, Error> {
        let (deadline, proxy, timeout) = (Instant::now() + self.timeout, self.pool.proxy, self.timeout);
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v2").extend(path);
        }
        let request = self.pool.http.request(method, url).headers(headers).build();
        let request = request.map_err(|error| Error::from_setup(ASK, &error))?;
        let exchange = async {
            let response = self
                .pool
                .http
                .execute(request)
                .await
                .map_err(|error| Error::from_transport(ASK, &error).through(proxy))?;
            let (status, date) = (response.status(), response.headers().get(DATE));
            let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
            let mut answer = Answer { response, call: ASK, timeout, deadline, proxy };
            let is_html = answer.media_type().contains("html");
            let body = form(status, &answer.bytes(LIMIT).await?, is_html);
            Ok(Answered { status: status.as_u16(), date, body })
        };
        match tokio::time::timeout_at(deadline, connect::within(deadline, exchange)).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::no_answer(ASK, timeout)),
        }
    }
}

/// Says which form a body has. Never quotes the body of a success, because it may hold a token.
fn form(status: StatusCode, body: &[u8], is_html: bool) -> String {
    match Body::parse(body, is_html) {
        Body::Empty => "empty body".to_owned(),
        _ if status.is_success() => "body not shown".to_owned(),
        Body::Api(text) => format!("error of the API: {text:?}"),
        Body::Text(text) => format!("other text: {text:?}"),
        Body::Unknown if is_html => "HTML page".to_owned(),
        Body::Unknown => "body of an unknown form".to_owned(),
    }
}
