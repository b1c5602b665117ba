//! The client of Astra's DevOps API, version 2.
//!
//! Architecture invariant: knows nothing of Vault, and nothing of an answer gets into an error but its status and the
//! message in it.

mod error;
mod types;

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Certificate, Method, Response};
use secrecy::{ExposeSecret, SecretString};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use url::Url;

use self::error::{Body, MINT, quote};
pub(crate) use self::error::{Error, Kind};
pub(crate) use self::types::{CreatedToken, NewToken, TOKEN_PREFIX};
use self::types::{ListedToken, TokenList};

/// Most that is read of an answer about one thing.
const ANSWER_LIMIT: usize = 1 << 20;

/// Most that is read of a listing, which holds a whole org.
const LIST_LIMIT: usize = 64 << 20;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How to reach one org. No `Debug`: it holds the root token.
pub(crate) struct Settings {
    /// URL of the API, with or without `/v2`.
    pub(crate) url: String,
    /// The root token.
    pub(crate) token: SecretString,
    /// PEM of trust roots beside those of the system; may be empty.
    pub(crate) ca_cert: String,
    /// Deadline of each call, from the connection to the last byte.
    pub(crate) timeout: Duration,
    /// Who asks.
    pub(crate) user_agent: String,
}

/// Astra as seen with the root token of one org. It has a pool of connections of its own.
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
    timeout: Duration,
}

impl Client {
    /// Returns a client. This reads the system's CA certificates from disk, so it blocks for some milliseconds.
    ///
    /// # Errors
    /// When `ca_cert` is not PEM, or there are no trust roots at all for an `https` URL.
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        const CALL: &str = "prepare calls to Astra";
        let setup = |error: reqwest::Error| Error::from_setup(CALL, &error);
        let base = parse_url(&settings.url).map_err(|reason| Error::garbled(CALL, reason))?;
        let roots = certificates(&settings.ca_cert).map_err(setup)?;
        let builder = reqwest::Client::builder()
            .user_agent(&settings.user_agent)
            .default_headers(headers(&settings.token).map_err(|reason| Error::garbled(CALL, reason))?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(settings.timeout))
            .timeout(settings.timeout);
        // A machine without CA certificates can still use plain HTTP; the platform's verifier would refuse to start.
        let builder = match base.scheme() {
            "http" => builder.tls_certs_only(roots),
            _ => builder.tls_certs_merge(roots),
        };
        Ok(Self { http: builder.build().map_err(setup)?, base, timeout: settings.timeout })
    }

    /// Returns the id of the org that the root token belongs to.
    pub(crate) async fn current_org(&self) -> Result<String, Error> {
        const CALL: &str = "ask whose token this is";
        let answer = self.call(CALL, Method::GET, &["currentOrg"], None, ANSWER_LIMIT).await?;
        match object(CALL, &answer)?.remove("id") {
            // It is shown to the caller when it is another org's.
            Some(Value::String(id)) if !id.is_empty() => Ok(quote(&id)),
            _ => Err(Error::garbled(CALL, "it has no id")),
        }
    }

    /// Makes a token. Not idempotent: an error other than a refusal may hide a token that was made.
    pub(crate) async fn create_token(&self, token: &NewToken) -> Result<CreatedToken, Error> {
        let body = serde_json::to_vec(token).map_err(|_| Error::garbled(MINT, "the request has no JSON form"))?;
        let answer = self.call(MINT, Method::POST, &["clientIdSecrets"], Some(body), ANSWER_LIMIT).await?;
        Ok(CreatedToken::read(object(MINT, &answer)?))
    }

    /// Deletes a token. One that Astra does not have any more is deleted, too.
    pub(crate) async fn delete_token(&self, client_id: &str) -> Result<(), Error> {
        const CALL: &str = "delete a token";
        let answer = self.call(CALL, Method::DELETE, &["clientIdSecrets", client_id], None, ANSWER_LIMIT).await;
        let (error, is_unclear) = match answer {
            Ok(answer) if answer.is_empty() || serde_json::from_slice::<IgnoredAny>(&answer).is_ok() => return Ok(()),
            // A proxy that asks for a login or tells of its maintenance does so with a success as well.
            Ok(_) => (Error::garbled(CALL, "it is not JSON"), true),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => {
                let is_unclear = error.is_unclear();
                (error, is_unclear)
            }
        };
        // What Astra answers for an unknown token is not documented, and a proxy can say anything. The list is sure.
        if is_unclear && self.has_token(client_id).await.is_ok_and(|there| !there) {
            return Ok(());
        }
        Err(error)
    }

    /// Returns the client id of the token whose description ends with this mark.
    pub(crate) async fn find_token(&self, marker: &str) -> Result<Option<String>, Error> {
        let list = self.tokens().await?;
        let is_marked = |text: &str| text.strip_suffix(marker).is_some_and(|text| text.ends_with(" id="));
        let found = list.into_iter().find(|token| token.description.as_str().is_some_and(is_marked));
        Ok(found.map(|token| token.client_id))
    }

    /// Whether Astra has a token.
    pub(crate) async fn has_token(&self, client_id: &str) -> Result<bool, Error> {
        Ok(self.tokens().await?.iter().any(|token| token.client_id == client_id))
    }

    async fn tokens(&self) -> Result<Vec<ListedToken>, Error> {
        const CALL: &str = "list the tokens";
        let answer = self.call(CALL, Method::GET, &["clientIdSecrets"], None, LIST_LIMIT).await?;
        // One entry that cannot be read may be the one that is looked for, so then none counts.
        let list: TokenList = serde_json::from_slice(&answer)
            .map_err(|_| Error::garbled(CALL, "it is not a list of clients, each with a clientId"))?;
        // Whoever may see the list is in it with the root token. So an empty one says nothing.
        if list.clients.is_empty() {
            return Err(Error::garbled(CALL, "it has no tokens at all"));
        }
        Ok(list.clients)
    }

    async fn call(
        &self,
        call: &'static str,
        method: Method,
        path: &[&str],
        body: Option<Vec<u8>>,
        limit: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v2").extend(path);
        }
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let transport = |error: reqwest::Error| Error::from_transport(call, error, self.timeout);
        let mut response = request.send().await.map_err(transport)?;
        let status = response.status();
        let is_html = is_html(&response);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport)? {
            if body.len() + chunk.len() > limit {
                return Err(Error::garbled(call, format_args!("it is longer than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(body);
        }
        Err(Error::from_answer(call, status.as_u16(), Body::parse(&body, is_html)))
    }
}

/// Reads the URL of the API, and cuts the version off that every call adds.
///
/// # Errors
/// Says what is wrong; never holds the URL, which may hold a password.
pub(crate) fn parse_url(text: &str) -> Result<Url, &'static str> {
    let mut url = Url::parse(text).map_err(|_| "must be a URL such as \"https://api.astra.datastax.com\"")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must begin with \"https://\" or \"http://\" and name a host");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or fragment");
    }
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/v2").unwrap_or(path).trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Reads trust roots.
///
/// # Errors
/// When the text is not PEM.
fn certificates(pem: &str) -> Result<Vec<Certificate>, reqwest::Error> {
    if pem.is_empty() { Ok(Vec::new()) } else { Certificate::from_pem_bundle(pem.as_bytes()) }
}

/// Whether the text is PEM with certificates that can be trusted, and without a key, which nobody shall see.
pub(crate) fn are_certificates(pem: &str) -> bool {
    let trusted = |roots| reqwest::Client::builder().tls_certs_only(roots).build().is_ok();
    !pem.contains("PRIVATE KEY") && certificates(pem).is_ok_and(|roots| !roots.is_empty() && trusted(roots))
}

fn headers(token: &SecretString) -> Result<HeaderMap, &'static str> {
    let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
        .map_err(|_| "the root token has characters that no header can hold")?;
    authorization.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, authorization), (ACCEPT, HeaderValue::from_static("application/json"))]))
}

fn is_html(response: &Response) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.to_ascii_lowercase().contains("html"))
}

/// Reads a JSON object, whatever its content type says: gateways mislabel it.
fn object(call: &'static str, body: &[u8]) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Error::garbled(call, "it is not a JSON object")),
        Err(_) if body.is_empty() => Err(Error::garbled(call, "it is empty")),
        Err(_) => Err(Error::garbled(call, "it is not JSON")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_with_and_without_version_and_slash() {
        for (text, expected) in [
            ("https://api.astra.datastax.com", "https://api.astra.datastax.com/"),
            ("https://api.astra.datastax.com/", "https://api.astra.datastax.com/"),
            ("https://api.astra.datastax.com/v2", "https://api.astra.datastax.com/"),
            ("https://api.astra.datastax.com/v2/", "https://api.astra.datastax.com/"),
            ("http://127.0.0.1:8080/astra/v2//", "http://127.0.0.1:8080/astra"),
        ] {
            assert_eq!(parse_url(text).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn urls_that_are_of_no_use_are_refused() {
        for text in
            ["", "api.astra.datastax.com", "ftp://x", "https://u:p@x", "https://x?a=b", "https://x#a", "https://"]
        {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}
