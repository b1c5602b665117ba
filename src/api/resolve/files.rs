//! The two files that configure name look-ups: hosts(5) and resolv.conf(5).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use domain::base::Name;
use resolv_conf::{Config, ScopedIp};

/// How to ask DNS servers.
pub(super) struct Conf {
    /// The servers, at least one.
    pub(super) servers: Vec<SocketAddr>,
    /// How long to wait for an answer of a server.
    pub(super) timeout: Duration,
    /// How often each server is asked.
    pub(super) attempts: usize,
    /// Whether each look-up starts with another server.
    pub(super) rotate: bool,
    /// Whether to ask over TCP only (`use-vc`).
    pub(super) tcp_only: bool,
    /// Whether to ask for IPv4 addresses only (`no-aaaa`).
    pub(super) ipv4_only: bool,
    ndots: usize,
    search: Vec<String>,
}

impl Conf {
    /// Parses `resolv.conf` like the C library: skips invalid lines, and limits the options. An empty file means a
    /// server on this machine.
    pub(super) fn parse(text: &[u8], port: u16) -> Self {
        let (conf, _skipped) = Config::parse_with_errors(text);
        let mut servers: Vec<_> = conf.nameservers.iter().map(|server| address(server, port)).collect();
        if servers.is_empty() {
            servers.push((Ipv4Addr::LOCALHOST, port).into());
        }
        let mut search: Vec<_> = conf.get_last_search_or_domain().cloned().collect();
        if search.is_empty() {
            search.extend(conf.get_system_domain());
        }
        Self {
            servers,
            timeout: Duration::from_secs(conf.timeout.clamp(1, 30).into()),
            attempts: conf.attempts.clamp(1, 5) as usize,
            rotate: conf.rotate,
            tcp_only: conf.use_vc,
            ipv4_only: conf.no_aaaa,
            ndots: conf.ndots.min(15) as usize,
            search,
        }
    }

    /// Returns the full names to ask for, in order. Leaves out text that is not a name.
    pub(super) fn candidates(&self, name: &str) -> Vec<Name<Vec<u8>>> {
        let full = |name: &str| name.parse::<Name<Vec<u8>>>().ok();
        if name.ends_with('.') {
            return full(name).into_iter().collect();
        }
        let searched =
            self.search.iter().filter_map(|domain| full(&format!("{name}.{}", domain.trim_end_matches('.'))));
        match name.matches('.').count() >= self.ndots {
            true => full(name).into_iter().chain(searched).collect(),
            false => searched.chain(full(name)).collect(),
        }
    }
}

/// Returns the addresses of a name in a hosts file.
pub(super) fn addresses_in(hosts: &[u8], name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(hosts).lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        if !found.contains(&address) && words.any(|word| word.eq_ignore_ascii_case(name)) {
            found.push(address);
        }
    }
    found
}

/// Returns the address of a DNS server. A link-local address has the name of its network interface after a `%`.
fn address(server: &ScopedIp, port: u16) -> SocketAddr {
    let index = |scope: &String| {
        let of_name = || std::fs::read_to_string(format!("/sys/class/net/{scope}/ifindex")).ok()?.trim().parse().ok();
        scope.parse().ok().or_else(of_name)
    };
    match server {
        ScopedIp::V4(address) => (*address, port).into(),
        ScopedIp::V6(address, scope) => {
            SocketAddrV6::new(*address, port, 0, scope.as_ref().and_then(index).unwrap_or_default()).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(conf: &str, name: &str) -> Vec<String> {
        Conf::parse(conf.as_bytes(), 53).candidates(name).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_hosts_file_is_read_as_in_the_c_library() {
        let hosts = b"# 9.9.9.9 a\n10.0.0.1\tA b.example # c\n::1 a\nnonsense a\n10.0.0.1 a\n 10.0.0.2   d\xff  e\n";
        let found = |name| addresses_in(hosts, name).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(found("a"), "10.0.0.1 ::1");
        assert_eq!(found("B.Example."), "10.0.0.1");
        assert_eq!(found("e"), "10.0.0.2");
        assert_eq!(found("c"), "");
        assert_eq!(found("example"), "");
        assert_eq!(found(""), "");
    }

    #[test]
    fn short_names_are_looked_up_in_the_search_domains_first() {
        let conf = "search a.test b.test.\noptions ndots:2\n";
        assert_eq!(candidates(conf, "x"), ["x.a.test", "x.b.test", "x"]);
        assert_eq!(candidates(conf, "x.y"), ["x.y.a.test", "x.y.b.test", "x.y"]);
        assert_eq!(candidates(conf, "x.y.z"), ["x.y.z", "x.y.z.a.test", "x.y.z.b.test"]);
        assert_eq!(candidates(conf, "x."), ["x"]);
        assert_eq!(candidates("domain c.test\n", "x.y"), ["x.y", "x.y.c.test"]);
        assert_eq!(candidates(conf, &"x".repeat(64)), [""; 0]);
        assert_eq!(candidates(conf, "x..y"), [""; 0]);
    }

    #[test]
    fn options_are_kept_within_the_limits_of_the_c_library() {
        let conf = |text: &str| Conf::parse(text.as_bytes(), 53);
        let read =
            conf("nameserver 10.0.0.1\nnameserver fe80::1%7\noptions timeout:2 attempts:3 rotate use-vc no-aaaa\n");
        assert_eq!(
            read.servers,
            ["10.0.0.1:53".parse().unwrap(), SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7))]
        );
        assert_eq!((read.timeout.as_secs(), read.attempts), (2, 3));
        assert!(read.rotate && read.tcp_only && read.ipv4_only);
        let read = conf("nameserver nonsense\noptions timeout:0 attempts:0 ndots:99 unknown\ngarbage\n");
        assert_eq!(read.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((read.timeout.as_secs(), read.attempts, read.ndots), (1, 1, 15));
        let read = conf("options timeout:99 attempts:99\n");
        assert_eq!((read.timeout.as_secs(), read.attempts, read.ndots), (30, 5, 1));
    }
}
