//! Look-ups with files and DNS servers of the tests.

use std::fs;
use std::time::Duration;

use domain::base::iana::Rcode;
use tempfile::TempDir;

use super::*;

#[path = "../../../tests/support/dns/mod.rs"]
mod server;

use server::{Behaviour, Dns, Zone};

const LIMIT: Duration = Duration::from_secs(20);

/// A machine with one or two DNS servers, on different addresses.
struct Machine {
    resolver: Resolver,
    servers: Vec<Dns>,
    dir: TempDir,
}

impl Machine {
    fn with(options: &str, zones: Vec<Zone>) -> Self {
        let servers = servers(&zones);
        let dir = tempfile::tempdir().unwrap();
        let (hosts, conf) = (dir.path().join("hosts"), dir.path().join("resolv.conf"));
        let port = servers[0].address().port();
        let machine = Self { resolver: Resolver::new(hosts, conf, port), servers, dir };
        machine.configure(&(1..=zones.len()).collect::<Vec<_>>(), options);
        machine
    }

    /// Writes the servers into `resolv.conf`, given the last byte of their addresses.
    fn configure(&self, servers: &[usize], options: &str) {
        let servers: String = servers.iter().map(|last| format!("nameserver 127.0.0.{last}\n")).collect();
        fs::write(self.dir.path().join("resolv.conf"), format!("{servers}options timeout:1 attempts:2\n{options}\n"))
            .unwrap();
    }

    async fn found(&self, name: &str) -> String {
        match self.resolver.addresses(name, Instant::now() + LIMIT).await {
            Ok(found) => found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(failure) => failure.to_string(),
        }
    }
}

/// Starts servers on the same port, which must be free on all their addresses.
fn servers(zones: &[Zone]) -> Vec<Dns> {
    let try_all = || {
        let first = Dns::start((Ipv4Addr::LOCALHOST, 0).into(), &zones[0])?;
        let port = first.address().port();
        let others = zones[1..]
            .iter()
            .zip(2..)
            .map(|(zone, last)| Dns::start((Ipv4Addr::new(127, 0, 0, last), port).into(), zone));
        let others: Option<Vec<_>> = others.collect();
        Some(std::iter::once(first).chain(others?).collect())
    };
    (0..100).find_map(|_| try_all()).expect("a port that is free on all addresses")
}

fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
}

#[tokio::test]
async fn each_kind_of_answer_gives_addresses_or_an_error() {
    let zone = vec![
        ("both.test", Behaviour::Has(ips("10.0.0.1 10.0.0.2 fd00::1"))),
        ("four.test", Behaviour::Has(ips("10.0.0.1"))),
        ("six.test", Behaviour::Has(ips("fd00::1"))),
        ("none.test", Behaviour::Has(vec![])),
        ("alias.test", Behaviour::IsAlias("real.test", ips("10.0.0.3"))),
        ("long.test", Behaviour::IsLong(ips("10.0.0.4 fd00::4"))),
        ("drops.test", Behaviour::DropsIpv6(Behaviour::Has(ips("10.0.0.5")).into())),
        ("forged.test", Behaviour::AfterForgeries(ips("10.0.0.6"))),
        ("broken.test", Behaviour::Fails(Rcode::SERVFAIL)),
        ("refused.test", Behaviour::Refuses),
    ];
    let machine = Machine::with("", vec![zone]);
    let cannot =
        |name: &str, why: &str| format!("the host name {name:?} cannot be resolved: name server 127.0.0.1 {why}");
    for (name, expected) in [
        ("both.test", "fd00::1 10.0.0.1 10.0.0.2".to_owned()),
        ("BOTH.test.", "fd00::1 10.0.0.1 10.0.0.2".to_owned()),
        ("four.test", "10.0.0.1".to_owned()),
        ("six.test", "fd00::1".to_owned()),
        ("alias.test", "10.0.0.3".to_owned()),
        ("long.test", "fd00::4 10.0.0.4".to_owned()),
        ("drops.test", "10.0.0.5".to_owned()),
        ("forged.test", "10.0.0.6".to_owned()),
        ("none.test", cannot("none.test", "says that it has no address")),
        ("unknown.test", cannot("unknown.test", "says that it does not exist (NXDOMAIN)")),
        ("broken.test", cannot("broken.test", "answered SERVFAIL")),
        ("refused.test", cannot("refused.test", "answered REFUSED")),
        ("x..test", "the host name \"x..test\" cannot be resolved: it is not a valid host name".to_owned()),
    ] {
        assert_eq!(machine.found(name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn the_hosts_file_and_localhost_come_before_the_servers() {
    let machine = Machine::with("search test", vec![vec![("known.test", Behaviour::Has(ips("10.0.0.1")))]]);
    assert_eq!(machine.found("localhost").await, "127.0.0.1 ::1");
    assert_eq!(machine.found("db.LOCALHOST.").await, "127.0.0.1 ::1");
    fs::write(machine.dir.path().join("hosts"), "10.9.9.9 known.test\n::1 localhost\n").unwrap();
    assert_eq!(machine.found("known.test").await, "10.9.9.9");
    assert_eq!(machine.found("localhost").await, "::1");
    assert_eq!(machine.servers[0].asked(), [""; 0]);
}

#[tokio::test]
async fn the_next_look_up_uses_changed_files() {
    let zones = ["10.0.0.1", "10.0.0.2"].map(|ip| vec![("a.test", Behaviour::Has(ips(ip)))]);
    let machine = Machine::with("", zones.into());
    machine.configure(&[1], "");
    assert_eq!(machine.found("a.test").await, "10.0.0.1");
    machine.configure(&[2], "");
    assert_eq!(machine.found("a.test").await, "10.0.0.2");
    let hosts = machine.dir.path().join("hosts");
    fs::write(&hosts, "10.0.0.3 a.test\n").unwrap();
    assert_eq!(machine.found("a.test").await, "10.0.0.3");
    fs::remove_file(hosts).unwrap();
    assert_eq!(machine.found("a.test").await, "10.0.0.2");
}

#[tokio::test]
async fn after_a_failure_the_next_server_is_asked_and_comes_first_from_then_on() {
    for part in [Behaviour::Fails(Rcode::SERVFAIL), Behaviour::Refuses, Behaviour::Silent] {
        let machine =
            Machine::with("", vec![vec![("a.test", part)], vec![("a.test", Behaviour::Has(ips("10.0.0.1 fd00::1")))]]);
        assert_eq!(machine.found("a.test").await, "fd00::1 10.0.0.1");
        assert_eq!(machine.servers[0].asked().len(), 2);
        assert_eq!(machine.found("a.test").await, "fd00::1 10.0.0.1");
        assert_eq!(machine.servers[0].asked().len(), 2, "it was asked first again");
    }
}

#[tokio::test]
async fn a_closed_port_fails_at_once() {
    let machine = Machine::with("", vec![vec![("a.test", Behaviour::Has(ips("10.0.0.1")))]]);
    // Nothing listens on 127.0.0.77 at this port: the servers of other tests use other ports.
    machine.configure(&[77, 1], "");
    let begin = Instant::now();
    assert_eq!(machine.found("a.test").await, "10.0.0.1");
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    machine.configure(&[77], "");
    let failure = machine.found("a.test").await;
    assert!(failure.contains("name server 127.0.0.77 cannot be reached: Connection refused"), "{failure}");
}

#[tokio::test]
async fn silent_servers_are_named_at_the_deadline_or_before() {
    let machine = Machine::with("", vec![vec![("a.test", Behaviour::Silent)]]);
    let named = "the host name \"a.test\" cannot be resolved: name server 127.0.0.1 did not answer within 1s";
    assert_eq!(machine.found("a.test").await, named);
    let failure = machine.resolver.addresses("a.test", Instant::now() + Duration::from_millis(1500)).await.unwrap_err();
    assert!(failure.is_timeout() && failure.to_string() == named, "{failure}");
    let failure = machine.resolver.addresses("a.test", Instant::now() + Duration::from_millis(100)).await.unwrap_err();
    assert!(
        failure.is_timeout() && failure.to_string().ends_with("name server 127.0.0.1 did not answer in time"),
        "{failure}"
    );
}

#[tokio::test]
async fn the_search_goes_on_after_a_name_without_an_address() {
    let zone = || {
        vec![
            ("a.first.test", Behaviour::Has(vec![])),
            ("a.second.test", Behaviour::Has(ips("10.0.0.2"))),
            ("b.first.test", Behaviour::Fails(Rcode::SERVFAIL)),
            ("b.second.test", Behaviour::Has(ips("10.0.0.3"))),
            ("c.first.test", Behaviour::Silent),
            ("c.second.test", Behaviour::Has(ips("10.0.0.4"))),
        ]
    };
    let machine = Machine::with("search first.test second.test", vec![zone()]);
    assert_eq!(machine.found("a").await, "10.0.0.2");
    assert_eq!(machine.found("b").await, "10.0.0.3");
    // The look-up must not go on to `c.second.test`: that is another host than the one that the caller means.
    assert!(machine.found("c").await.contains("did not answer"));
}

#[tokio::test]
async fn a_name_that_does_not_exist_does_not_wait_for_a_dropped_question() {
    let unknown = || Behaviour::DropsIpv6(Behaviour::Fails(Rcode::NXDOMAIN).into());
    let zone = vec![("a.first.test", unknown()), ("a.second.test", Behaviour::Has(ips("10.0.0.1"))), ("b", unknown())];
    let machine = Machine::with("search first.test second.test", vec![zone]);
    let begin = Instant::now();
    assert_eq!(machine.found("a").await, "10.0.0.1");
    assert!(machine.found("b.").await.contains("NXDOMAIN"));
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn both_families_rotate_together() {
    let silent = vec![("a.test", Behaviour::Silent)];
    let machine =
        Machine::with("options rotate", vec![vec![("a.test", Behaviour::Has(ips("10.0.0.1 fd00::1")))], silent]);
    for _ in 0..4 {
        assert_eq!(machine.found("a.test").await, "fd00::1 10.0.0.1");
    }
}

#[tokio::test]
async fn options_of_the_file_are_followed() {
    let zone = || vec![("a.test", Behaviour::Has(ips("10.0.0.1 fd00::1")))];
    let machine = Machine::with("options use-vc", vec![zone(), zone()]);
    assert_eq!(machine.found("a.test").await, "fd00::1 10.0.0.1");
    assert!(machine.servers[0].asked().iter().all(|asked| asked.ends_with(" TCP")));
    machine.configure(&[1], "options no-aaaa");
    assert_eq!(machine.found("a.test").await, "10.0.0.1");
    machine.configure(&[1, 2], "options rotate no-aaaa");
    for _ in 0..4 {
        assert_eq!(machine.found("a.test").await, "10.0.0.1");
    }
    assert_eq!(machine.servers[1].asked().len(), 2);
}
