//! How to reach one org: the settings of a client, and what must hold for them.

use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// The most bytes of a URL.
const MAX_URL: usize = 2048;

/// How to reach one org. No `Debug`: it holds the root token.
pub(crate) struct Settings {
    /// URL of the API, with or without `/v2`.
    pub(crate) url: String,
    /// The root token.
    pub(crate) token: SecretString,
    /// Astra's id of the organization that the root token should belong to; empty if this is not known.
    pub(crate) astra_org_id: String,
    /// PEM of CA certificates to trust, in addition to those of the system; may be empty.
    pub(crate) ca_cert: String,
    /// Time limit of each call. It includes the wait for a permit, all attempts and the last byte of the answer. A list of
    /// tokens may take longer, as long as it makes progress.
    pub(crate) timeout: Duration,
    /// The `User-Agent` of each request.
    pub(crate) user_agent: String,
}

/// Whether a URL can contain this client id. URL parsers resolve the segments `.` and `..` to another path.
pub(crate) fn can_name(client_id: &str) -> bool {
    !matches!(client_id, "" | "." | "..") && client_id.len() <= MAX_URL
}

/// Parses the URL of the API. Removes the version, because every call adds it.
///
/// # Errors
/// Names the mistake. Never holds the URL, because the URL may hold a password.
pub(crate) fn parse_url(text: &str) -> Result<Url, &'static str> {
    if text.len() > MAX_URL {
        return Err("must not be longer than 2048 bytes");
    }
    // The URL parser removes some of these characters silently. The stored URL would then differ from the called URL.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("must not contain spaces or control characters");
    }
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

/// Returns the headers of each request.
pub(super) fn headers(settings: &Settings) -> Result<HeaderMap, &'static str> {
    let authorization = bearer(&settings.token)?;
    let user_agent = HeaderValue::from_str(&settings.user_agent).map_err(|_| "the user agent fits no header")?;
    let accept = HeaderValue::from_static("application/json");
    Ok(HeaderMap::from_iter([(AUTHORIZATION, authorization), (ACCEPT, accept), (USER_AGENT, user_agent)]))
}

/// Returns the header with a token.
pub(super) fn bearer(token: &SecretString) -> Result<HeaderValue, &'static str> {
    let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
        .map_err(|_| "the root token has characters that no header can hold")?;
    authorization.set_sensitive(true);
    Ok(authorization)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_valid_with_and_without_version_and_slash() {
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
    fn unusable_urls_are_rejected() {
        for text in
            ["", "api.astra.datastax.com", "ftp://x", "https://u:p@x", "https://x?a=b", "https://x#a", "https://"]
        {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}
