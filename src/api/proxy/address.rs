//! The URL of a proxy: `[scheme://][user:password@]host[:port][/]`.
//!
//! Stricter than a URL parser. If a password contains `#`, `?` or `/`, a URL parser reads the user name as the host.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use url::Host;

/// The most bytes of a user name or password in SOCKS5 (RFC 1929, section 2).
const SOCKS_LOGIN: usize = 255;

/// How to reach a proxy. No `Debug`: it may hold a password.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Address {
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) login: Option<Login>,
}

/// The protocol that a proxy speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scheme {
    Http,
    Https,
    /// SOCKS5. The proxy resolves host names. As in Go, `socks5` and `socks5h` mean the same.
    Socks,
}

/// A user name and a password, with arbitrary bytes. No `Debug`.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Login {
    pub(super) user: Vec<u8>,
    pub(super) password: Vec<u8>,
}

impl Address {
    /// Reads the value of a variable.
    ///
    /// # Errors
    /// Names the mistake, without any part of the value.
    pub(super) fn parse(value: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
        let scheme = Scheme::parse(scheme).ok_or("its scheme is none of http, https, socks5 and socks5h")?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !matches!(rest, "" | "/") {
            return Err("it has a path, query or fragment; in a password, write / as %2F, ? as %3F and # as %23");
        }
        let (login, place) = match authority.rsplit_once('@') {
            Some((login, place)) => (Some(Login::parse(login)?), place),
            None => (None, authority),
        };
        if let (Scheme::Socks, Some(login)) = (scheme, &login) {
            login.check_socks()?;
        }
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, parse_port(port)),
            _ => (place, Some(scheme.default_port())),
        };
        let port = port.ok_or("its port is not a number from 1 to 65535")?;
        match Host::parse(host) {
            Ok(Host::Domain(name)) if !is_name(&name) => Err(NO_HOST),
            Ok(host) => Ok(Self { scheme, host, port, login }),
            Err(_) => Err(NO_HOST),
        }
    }

    /// Returns this proxy in the type of the HTTP client.
    pub(super) fn to_reqwest(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::all(self.url())?;
        match (self.scheme, &self.login) {
            (Scheme::Http | Scheme::Https, Some(login)) => Ok(match login.header() {
                Some(header) => proxy.custom_http_auth(header),
                None => proxy,
            }),
            _ => Ok(proxy),
        }
    }

    /// Returns the URL for the HTTP client. If the client cannot parse a URL, it makes direct calls, so this URL has no
    /// special characters. It leaves out the login of HTTP proxies, because the client changes bytes that are not
    /// UTF-8.
    pub(super) fn url(&self) -> String {
        let Self { scheme, host, port, login } = self;
        match (scheme, login) {
            (Scheme::Http, _) => format!("http://{host}:{port}"),
            (Scheme::Https, _) => format!("https://{host}:{port}"),
            (Scheme::Socks, None) => format!("socks5h://{host}:{port}"),
            (Scheme::Socks, Some(Login { user, password })) => {
                format!("socks5h://{}:{}@{host}:{port}", encode(user), encode(password))
            }
        }
    }
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Some(Self::Http),
            "https" => Some(Self::Https),
            "socks5" | "socks5h" => Some(Self::Socks),
            _ => None,
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
            Self::Socks => 1080,
        }
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        match (decode(user), decode(password)) {
            (Some(user), Some(password)) => Ok(Self { user, password }),
            _ => Err("its user name or password has a character that must be percent-encoded, such as % as %25"),
        }
    }

    fn check_socks(&self) -> Result<(), &'static str> {
        let is_text = |part: &[u8]| part.len() <= SOCKS_LOGIN && std::str::from_utf8(part).is_ok();
        if self.user.is_empty() || !is_text(&self.user) || !is_text(&self.password) {
            return Err("SOCKS5 takes a user name of 1 to 255 bytes and a password of at most 255, both in UTF-8");
        }
        Ok(())
    }

    fn header(&self) -> Option<HeaderValue> {
        let login = [&self.user[..], b":", &self.password].concat();
        let mut header = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(login))).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

const NO_HOST: &str = "it has no host name or IP address that can be used";

/// Whether a text has only ASCII characters that a host name can have.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Reads a port.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| is_number && port != 0)
}

/// Decodes percent-encoded text; `None` if it has characters that Go rejects in a login.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) => byte,
            _ => return None,
        });
    }
    Some(decoded)
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}
