//! Chooses the proxy for calls to Astra from the environment variables that Go reads.
//!
//! The rules are those of Go (`golang.org/x/net/http/httpproxy`), with two differences. First, if a value cannot be
//! parsed, every call that needs the variable fails. Go ignores some of these values. From others it takes the wrong
//! host, which would then get the root token. Second, `ALL_PROXY` applies if the variable for the URL's scheme is not
//! set.
//!
//! Architecture invariant: does not read the environment and resolves no name. No error contains any part of a value,
//! because it may be a password.

mod address;
mod exceptions;
#[cfg(test)]
mod tests;

use reqwest::ClientBuilder;
use url::Url;

use self::address::{Address, Scheme};
use self::exceptions::Target;

/// The variables. No `Debug`: they may hold passwords.
#[derive(Default)]
pub(crate) struct Proxies {
    http: Option<Variable>,
    https: Option<Variable>,
    all: Option<Variable>,
    no: Option<Variable>,
    /// Whether the process answers a request to a web server (CGI). In that case, a client can set `HTTP_PROXY`.
    is_cgi: bool,
}

struct Variable {
    name: &'static str,
    value: String,
}

/// Why a variable cannot be used. Holds no part of its value.
#[derive(Debug, thiserror::Error)]
#[error("{variable} in the environment of the plugin cannot be used: {reason}")]
pub(super) struct Unusable {
    variable: &'static str,
    reason: String,
}

/// A proxy, and the variable that names it. No `Debug`: it may hold a password.
pub(super) struct Proxy {
    /// Name of the variable.
    pub(super) variable: &'static str,
    address: Address,
}

impl Proxies {
    /// Reads the variables that are set. As in `net/http` of Go 1.26, a name in upper case wins, and an empty value counts
    /// as not set.
    pub(crate) fn new(variables: &[(&'static str, String)]) -> Self {
        let find = |names: [&str; 2]| {
            let set = |name| variables.iter().find(|(known, value)| *known == name && !value.is_empty());
            names.into_iter().find_map(set).map(|(name, value)| Variable { name, value: value.clone() })
        };
        Self {
            http: find(["HTTP_PROXY", "http_proxy"]),
            https: find(["HTTPS_PROXY", "https_proxy"]),
            all: find(["ALL_PROXY", "all_proxy"]),
            no: find(["NO_PROXY", "no_proxy"]),
            is_cgi: variables.iter().any(|(name, value)| *name == "REQUEST_METHOD" && !value.is_empty()),
        }
    }

    /// Returns the proxy for calls to a URL; `None` if they need no proxy.
    ///
    /// # Errors
    /// When these calls need a variable that cannot be used.
    pub(super) fn for_url(&self, url: &Url) -> Result<Option<Proxy>, Unusable> {
        let own = if url.scheme() == "http" { &self.http } else { &self.https };
        let Some(variable) = own.as_ref().or(self.all.as_ref()) else { return Ok(None) };
        let Some(target) = Target::of(url).filter(|target| !target.is_loopback()) else { return Ok(None) };
        let exceptions = match &self.no {
            Some(no) => exceptions::parse(&no.value),
            None => Vec::new(),
        };
        if exceptions.iter().flatten().any(|exception| exception.covers(&target)) {
            return Ok(None);
        }
        let address = Address::parse(&variable.value).map_err(|reason| variable.unusable(reason))?;
        if self.is_cgi && variable.name.eq_ignore_ascii_case("HTTP_PROXY") {
            return Err(variable.unusable("REQUEST_METHOD is set, so a client of a web server may have set it"));
        }
        if let (Some(no), Some(entry)) = (&self.no, exceptions.iter().position(Option::is_none)) {
            return Err(no.unusable(format!("entry {} is no host name, IP address or network", entry + 1)));
        }
        Ok(Some(Proxy { variable: variable.name, address }))
    }
}

impl Proxy {
    /// Whether the connection to the proxy itself is encrypted.
    pub(super) fn uses_tls(&self) -> bool {
        self.address.scheme == Scheme::Https
    }
}

impl Variable {
    fn unusable(&self, reason: impl Into<String>) -> Unusable {
        Unusable { variable: self.name, reason: reason.into() }
    }
}

/// Makes a client use this proxy, or no proxy. The client never reads the environment.
///
/// # Errors
/// When the client cannot use the proxy.
pub(super) fn apply(proxy: Option<&Proxy>, builder: ClientBuilder) -> reqwest::Result<ClientBuilder> {
    let builder = builder.no_proxy();
    match proxy {
        Some(proxy) => Ok(builder.proxy(proxy.address.to_reqwest()?)),
        None => Ok(builder),
    }
}
