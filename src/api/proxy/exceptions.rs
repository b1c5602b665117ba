//! `NO_PROXY`: the hosts that need no proxy.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::address::{is_name, parse_port};

/// An entry of the list.
pub(super) struct Exception {
    hosts: Hosts,
    /// `None` means every port.
    port: Option<u16>,
}

enum Hosts {
    All,
    Network(IpNet),
    /// All domains below a domain, which is written with a dot in front.
    Below(String),
    /// A domain and all domains below it.
    Domain(String),
}

/// The host and port of a call.
pub(super) struct Target<'a> {
    host: Host<&'a str>,
    port: u16,
}

impl<'a> Target<'a> {
    pub(super) fn of(url: &'a Url) -> Option<Self> {
        Some(Self { host: url.host()?, port: url.port_or_known_default()? })
    }

    /// Whether the host is this machine. A proxy on another machine cannot reach it.
    pub(super) fn is_loopback(&self) -> bool {
        match self.host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(_) | Host::Ipv6(_) => self.ip().is_some_and(|ip| ip.is_loopback()),
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        match self.host {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(ip).to_canonical()),
        }
    }
}

impl Exception {
    pub(super) fn covers(&self, target: &Target<'_>) -> bool {
        let is_host = match (&self.hosts, &target.host, target.ip()) {
            (Hosts::All, ..) => true,
            (Hosts::Network(network), _, Some(ip)) => network.contains(&ip),
            (Hosts::Below(parent), Host::Domain(name), _) => name.ends_with(parent.as_str()),
            (Hosts::Domain(domain), Host::Domain(name), _) => {
                name.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            _ => false,
        };
        is_host && self.port.is_none_or(|port| port == target.port)
    }
}

/// Parses the list. An entry that cannot match any host is `None`.
pub(super) fn parse(list: &str) -> Vec<Option<Exception>> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse_entry).collect()
}

fn parse_entry(entry: &str) -> Option<Exception> {
    let all_ports = |hosts| Some(Exception { hosts, port: None });
    if entry == "*" {
        return all_ports(Hosts::All);
    }
    if let Some((ip, length)) = entry.split_once('/') {
        return all_ports(Hosts::Network(network(ip.parse().ok()?, length)?));
    }
    if let Ok(ip) = entry.parse() {
        return all_ports(Hosts::Network(single(ip)));
    }
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (entry, ""),
    };
    let port = if port.is_empty() { None } else { Some(parse_port(port)?) };
    let host = host.strip_prefix('[').map_or(Some(host), |host| host.strip_suffix(']'))?;
    let hosts = match host.parse() {
        Ok(ip) => Hosts::Network(single(ip)),
        Err(_) => domain(host)?,
    };
    Some(Exception { hosts, port })
}

fn network(ip: IpAddr, length: &str) -> Option<IpNet> {
    let length: u8 = length.parse().ok().filter(|_| length.bytes().all(|byte| byte.is_ascii_digit()))?;
    let network = IpNet::new(ip, length).ok()?;
    // An IPv4 network in IPv6 notation must match IPv4 addresses.
    match (ip.to_canonical(), length.checked_sub(96)) {
        (ip @ IpAddr::V4(_), Some(length)) if network.max_prefix_len() == 128 => IpNet::new(ip, length).ok(),
        _ => Some(network),
    }
}

fn single(ip: IpAddr) -> IpNet {
    IpNet::from(ip.to_canonical())
}

fn domain(text: &str) -> Option<Hosts> {
    let text = text.strip_prefix("*").filter(|rest| rest.starts_with('.')).unwrap_or(text);
    let name = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        match Host::parse(text).ok()? {
            Host::Domain(name) => name,
            Host::Ipv4(_) | Host::Ipv6(_) => return None,
        }
    };
    match name {
        name if !is_name(&name) => None,
        name if name.starts_with('.') => Some(Hosts::Below(name)),
        name => Some(Hosts::Domain(name)),
    }
}
